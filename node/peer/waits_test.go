package peer_test

import (
	"context"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/node/peer"
	"github.com/pheromone-run/pheromone/spec"
)

// Its connection does not break, and its handler has no bound of its own.
func TestABodyThatDoesNotGoOnIsGivenUp(t *testing.T) {
	a := listen(t, "a", func(c *peer.Config) { c.PieceWait = 50 * time.Millisecond })
	b := listen(t, "b")
	read := make(chan error, 1)
	service(t, a, func(_ context.Context, c *peer.Call) (peer.Answer, error) {
		_, err := io.ReadAll(c.Body)
		if err != nil {
			read <- err
		}
		return peer.Answer{}, err
	})
	caller := peer.NewCaller(b)
	body, hangs := io.Pipe()
	ctx := timeout(t)
	context.AfterFunc(ctx, func() { _ = hangs.Close() })
	go func() { _, _ = hangs.Write([]byte("a piece, and no more")) }()
	if _, err := caller.Call(ctx, a.Address(), "put", nil, body, nil); spec.CodeOf(err) != spec.CodeTimeout || ctx.Err() != nil {
		t.Errorf("it was answered: %v", err)
	}
	select {
	case err := <-read:
		if spec.CodeOf(err) != spec.CodeTimeout {
			t.Errorf("its handler read: %v", err)
		}
	case <-timeout(t).Done():
		t.Error("its handler goes on")
	}
}

// What bounded the body does not bound the wait for what comes after it.
func TestABodyThatWasReadLeavesItsConnectionToTheNextRequest(t *testing.T) {
	const pieceWait = 300 * time.Millisecond
	a := listen(t, "a", func(c *peer.Config) { c.PieceWait = pieceWait })
	var dials atomic.Int32
	b := listen(t, "b", counting(&dials))
	service(t, a, echo)
	caller := peer.NewCaller(b)
	put := func() error {
		var got string
		body, err := caller.Call(timeout(t), a.Address(), "echo", echoArgs{"x"}, strings.NewReader("whole"), &got)
		if err != nil {
			return err
		}
		if data, err := io.ReadAll(body); string(data) != "whole" || err != nil {
			t.Errorf("%q came back, %v", data, err)
		}
		return body.Close()
	}
	for ctx := timeout(t); ; {
		err := put()
		if err == nil {
			break
		}
		if spec.CodeOf(err) != spec.CodeTimeout || ctx.Err() != nil { // a busy machine may not send it in time
			t.Fatal(err)
		}
	}
	before := dials.Load()
	<-time.After(pieceWait + 100*time.Millisecond)
	var got string
	if _, err := caller.Call(timeout(t), a.Address(), "echo", echoArgs{"next"}, nil, &got); err != nil || got != "next" {
		t.Errorf("the next request: %q, %v", got, err)
	}
	if n := dials.Load() - before; n != 0 {
		t.Errorf("the next request took %d connections of its own", n)
	}
}

func TestAConnectionThatIsNotUsedAgainEnds(t *testing.T) {
	a := listen(t, "a")
	ended := make(chan struct{})
	b := listen(t, "b", func(c *peer.Config) {
		c.IdleFor = 50 * time.Millisecond
		c.Dialer = func(ctx context.Context, address string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
			return &ending{Conn: conn, ended: ended}, err
		}
	})
	service(t, a, echo)
	caller := peer.NewCaller(b)
	var got string
	if _, err := caller.Call(timeout(t), a.Address(), "echo", echoArgs{"1"}, nil, &got); err != nil {
		t.Fatal(err)
	}
	select {
	case <-ended:
	case <-timeout(t).Done():
		t.Fatal("it is kept")
	}
	if _, err := caller.Call(timeout(t), a.Address(), "echo", echoArgs{"2"}, nil, &got); err != nil || got != "2" {
		t.Errorf("the next request: %q, %v", got, err)
	}
}

// ending tells once that a connection was closed.
type ending struct {
	net.Conn
	ended chan struct{}
	once  atomic.Bool
}

func (e *ending) Close() error {
	if e.once.CompareAndSwap(false, true) {
		select {
		case <-e.ended: // by another one
		default:
			close(e.ended)
		}
	}
	return e.Conn.Close()
}
