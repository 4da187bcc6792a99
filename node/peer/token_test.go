package peer_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/node/peer"
)

const secret = "correct horse battery staple"

func withToken(token string) func(*peer.Config) { return func(c *peer.Config) { c.Token = token } }

func TestNodesWithTheSameTokenTalk(t *testing.T) {
	a, b := listen(t, "a", withToken(secret)), listen(t, "b", withToken(secret))
	for _, ch := range []peer.Channel{peer.Control, peer.Shards, peer.Calls} {
		conn, err := b.Dial(timeout(t), ch, a.Address())
		if err != nil {
			t.Fatalf("channel %d: %v", ch, err)
		}
		if _, err := conn.Write([]byte("hi")); err != nil {
			t.Fatal(err)
		}
		accepted, err := a.Channel(ch).Accept()
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 2)
		if _, err := io.ReadFull(accepted, got); err != nil || string(got) != "hi" {
			t.Errorf("channel %d got %q, %v", ch, got, err)
		}
	}
}

func TestWithoutTheTokenNobodyIsLetIn(t *testing.T) {
	for name, c := range map[string]struct{ called, caller, says string }{
		"another token":             {secret, secret + "!", "the join token of node b is not that of node a"},
		"none, and one is asked":    {secret, "", "node a asks for a join token, node b has none"},
		"one, and none is asked":    {"", secret, "node a has no join token, node b has one"},
		"another name for the same": {secret, strings.ToUpper(secret), "the join token of node b is not that of node a"},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := listen(t, "a", withToken(c.called)), listen(t, "b", withToken(c.caller), ofCluster("another"))
			_, err := b.Dial(timeout(t), peer.Calls, a.Address())
			var refusal *peer.Refusal
			if !errors.As(err, &refusal) || refusal.Reason != peer.ReasonToken || !strings.Contains(refusal.Message, c.says) {
				t.Fatalf("error %v, want reason %d that says %q: the token comes before the cluster", err, peer.ReasonToken, c.says)
			}
		})
	}
}

// A node that only repeats what it is told has proved nothing.
func TestAProofCantBeHandedBack(t *testing.T) {
	a := listen(t, "a", withToken(secret))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var served sync.WaitGroup
	defer served.Wait()
	defer func() { _ = l.Close() }()
	served.Go(func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(wait))
		greeting := make([]byte, 512)
		if _, err := conn.Read(greeting); err != nil {
			t.Error(err)
			return
		}
		_, _ = conn.Write(append([]byte{0xff}, bytes.Repeat([]byte{7}, 32)...))
		proof := make([]byte, 32)
		if _, err := io.ReadFull(conn, proof); err != nil {
			t.Error(err)
			return
		}
		_, _ = conn.Write(append([]byte{0}, proof...))
		_, _ = io.Copy(io.Discard, conn)
	})
	_, err = a.Dial(timeout(t), peer.Calls, l.Addr().String())
	var refusal *peer.Refusal
	if !errors.As(err, &refusal) || refusal.Reason != peer.ReasonToken {
		t.Fatalf("error %v, want reason %d", err, peer.ReasonToken)
	}
}

// What was heard on the way in is of no use for another connection.
func TestAProofIsOfNoUseASecondTime(t *testing.T) {
	a := listen(t, "a", withToken(secret))
	heard := &bytes.Buffer{}
	tapped := listen(t, "b", withToken(secret), func(c *peer.Config) { c.Dialer = tap(heard) })
	if _, err := tapped.Dial(timeout(t), peer.Calls, a.Address()); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", a.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(wait))
	if _, err := conn.Write(heard.Bytes()); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil || len(answer) < 34 || answer[0] != 0xff || peer.Reason(answer[33]) != peer.ReasonToken {
		t.Fatalf("answer %q, %v", answer, err)
	}
}

// tap dials and keeps what is sent.
func tap(into io.Writer) func(context.Context, string) (net.Conn, error) {
	return func(ctx context.Context, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		return &tappedConn{conn, into}, err
	}
}

type tappedConn struct {
	net.Conn
	into io.Writer
}

func (c *tappedConn) Write(p []byte) (int, error) {
	_, _ = c.into.Write(p)
	return c.Conn.Write(p)
}
