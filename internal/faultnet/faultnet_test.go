package faultnet_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/internal/faultnet"
	"github.com/pheromone-run/pheromone/node/peer"
)

// pair is two nodes that know each other by their proxies.
type pair struct {
	network *faultnet.Network
	a, b    *peer.Network
	toB     string
}

func twoNodes(t *testing.T) *pair {
	t.Helper()
	p := &pair{network: faultnet.New()}
	t.Cleanup(p.network.Close)
	for _, node := range []struct {
		name string
		at   **peer.Network
	}{{"a", &p.a}, {"b", &p.b}} {
		n, err := peer.Listen(peer.Config{Address: "127.0.0.1:0", Node: node.name})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = n.Close() })
		*node.at = n
	}
	var err error
	if p.toB, err = p.network.Front("b", p.b.Address()); err != nil {
		t.Fatal(err)
	}
	return p
}

// connect opens a connection from a to b and returns both of its ends.
func (p *pair) connect(t *testing.T) (a, b net.Conn) {
	t.Helper()
	a, err := p.a.Dial(bounded(t), peer.Calls, p.toB)
	if err != nil {
		t.Fatal(err)
	}
	b, err = p.b.Channel(peer.Calls).Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func say(t *testing.T, to net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(to, text); err != nil {
		t.Fatal(err)
	}
}

func hear(t *testing.T, from net.Conn, want string) {
	t.Helper()
	_ = from.SetReadDeadline(time.Now().Add(time.Minute))
	got := make([]byte, len(want))
	if _, err := io.ReadFull(from, got); err != nil || string(got) != want {
		t.Fatalf("heard %q (%v), want %q", got, err, want)
	}
}

// silence tells that nothing comes for a while.
func silence(t *testing.T, from net.Conn) {
	t.Helper()
	_ = from.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := from.Read(make([]byte, 1)); n != 0 || !isTimeout(err) {
		t.Fatalf("%d bytes came (%v) through a way that is cut", n, err)
	}
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}

func TestASoundNetworkCarriesBothDirectionsAndTheirEnds(t *testing.T) {
	a, b := twoNodes(t).connect(t)
	say(t, a, "ping")
	hear(t, b, "ping")
	say(t, b, "pong")
	hear(t, a, "pong")
	_ = a.Close()
	_ = b.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := b.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the end of the connection arrives as %v", err)
	}
}

// One direction is cut, on a connection that the cut side has opened and on one
// that it has not; what was said arrives once the way is whole.
func TestACutHoldsOneDirectionBackUntilItHeals(t *testing.T) {
	p := twoNodes(t)
	a, b := p.connect(t)
	p.network.Set("a", "b", faultnet.Fault{Cut: true})
	say(t, a, "ping")
	say(t, b, "pong")
	hear(t, a, "pong")
	silence(t, b)
	p.network.Set("a", "b", faultnet.Fault{})
	p.network.Set("b", "a", faultnet.Fault{Cut: true})
	hear(t, b, "ping")
	say(t, b, "late")
	silence(t, a)
	p.network.Heal()
	hear(t, a, "late")
}

func TestACutOfOtherNodesIsNoMatter(t *testing.T) {
	p := twoNodes(t)
	p.network.Between("b", "c", faultnet.Fault{Cut: true})
	a, b := p.connect(t)
	say(t, a, "ping")
	hear(t, b, "ping")
}

func TestNoNewConnectionComesThroughACut(t *testing.T) {
	p := twoNodes(t)
	p.network.Set("a", "b", faultnet.Fault{Cut: true})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if c, err := p.a.Dial(ctx, peer.Calls, p.toB); err == nil {
		_ = c.Close()
		t.Error("a connection was made")
	}
	p.network.Heal()
	p.connect(t)
}

func TestARefusalBreaksConnections(t *testing.T) {
	p := twoNodes(t)
	a, b := p.connect(t)
	p.network.Between("a", "b", faultnet.Fault{Refuse: true})
	say(t, a, "ping")
	for name, c := range map[string]net.Conn{"a": a, "b": b} {
		_ = c.SetReadDeadline(time.Now().Add(time.Minute))
		if n, err := c.Read(make([]byte, 1)); n != 0 || err == nil || isTimeout(err) {
			t.Errorf("%s reads %d bytes, %v", name, n, err)
		}
	}
	if c, err := p.a.Dial(bounded(t), peer.Calls, p.toB); err == nil {
		_ = c.Close()
		t.Error("a connection was made")
	}
}

func TestADelayHoldsBytesForAsLongAsItSays(t *testing.T) {
	p := twoNodes(t)
	a, b := p.connect(t)
	p.network.Set("a", "b", faultnet.Fault{Delay: 80 * time.Millisecond, Jitter: time.Millisecond})
	began := time.Now()
	say(t, a, "ping")
	hear(t, b, "ping")
	if took := time.Since(began); took < 80*time.Millisecond {
		t.Errorf("it took %v", took)
	}
}

// Whatever is late or slow or lost for a while: the stream's bytes and their order
// stay as they are.
func TestBytesArriveWholeAndInOrderOverABadNetwork(t *testing.T) {
	for name, f := range map[string]faultnet.Fault{
		"late": {Delay: time.Millisecond, Jitter: 20 * time.Millisecond},
		"slow": {BytesPerSecond: 4 << 20},
		"lost": {Loss: 0.05},
	} {
		t.Run(name, func(t *testing.T) {
			p := twoNodes(t)
			a, b := p.connect(t)
			p.network.Set("a", "b", f)
			want := make([]byte, 1<<20)
			_, _ = rand.Read(want)
			go func() {
				_, _ = a.Write(want)
				_ = a.Close()
			}()
			_ = b.SetReadDeadline(time.Now().Add(time.Minute))
			got, err := io.ReadAll(b)
			if f.Loss > 0 && !bytes.Equal(got, want) { // losses may break the connection
				want = want[:len(got)]
			} else if err != nil {
				t.Errorf("the stream ended in %v", err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%d bytes came that are not those that were sent", len(got))
			}
		})
	}
}
