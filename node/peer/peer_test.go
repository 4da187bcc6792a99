package peer_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/node/peer"
	"github.com/pheromone-run/pheromone/spec"
)

const wait = time.Minute

func listen(t *testing.T, name string, change ...func(*peer.Config)) *peer.Network {
	t.Helper()
	cfg := peer.Config{Address: "127.0.0.1:0", Node: name, Cluster: func() string { return "c1" }}
	for _, c := range change {
		c(&cfg)
	}
	n, err := peer.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	return n
}

// counting counts connections, and keeps each that may be kept: a busy machine may take
// its time to say that a request is sent.
func counting(dials *atomic.Int32) func(*peer.Config) {
	return func(c *peer.Config) {
		c.SendLag = wait
		c.Dialer = func(ctx context.Context, address string) (net.Conn, error) {
			dials.Add(1)
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		}
	}
}

func ofCluster(id string) func(*peer.Config) {
	return func(c *peer.Config) { c.Cluster = func() string { return id } }
}

func timeout(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	t.Cleanup(cancel)
	return ctx
}

func TestEachChannelGetsTheConnectionsThatAreForIt(t *testing.T) {
	defer nodetest.NoGoroutinesLeft(t)
	a, err := peer.Listen(peer.Config{Address: "127.0.0.1:0", Node: "a", Cluster: func() string { return "c1" }})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	b, err := peer.Listen(peer.Config{Address: "127.0.0.1:0", Node: "b", Cluster: func() string { return "c1" }})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = b.Close() }()
	for _, ch := range []peer.Channel{peer.Shards, peer.Control, peer.Calls} {
		conn, err := b.Dial(timeout(t), ch, a.Address())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(conn, "for %d", ch); err != nil {
			t.Fatal(err)
		}
		accepted, err := a.Channel(ch).Accept()
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 5)
		if _, err := io.ReadFull(accepted, got); err != nil || string(got) != fmt.Sprintf("for %d", ch) {
			t.Errorf("channel %d got %q, %v", ch, got, err)
		}
	}
}

func TestAConnectionThatIsNotTakenIsToldWhy(t *testing.T) {
	for name, c := range map[string]struct {
		channel peer.Channel
		node    string
		cluster string
		reason  peer.Reason
		says    string
	}{
		"another cluster":                  {peer.Calls, "b", "c2", peer.ReasonCluster, "node b belongs to cluster c2, node a to cluster c1"},
		"the same name":                    {peer.Calls, "a", "c1", peer.ReasonName, `both nodes are named "a"`},
		"raft without a cluster":           {peer.Shards, "b", "", peer.ReasonEarly, "does not belong to the cluster"},
		"a channel that nobody knows here": {200, "b", "c1", peer.ReasonVersion, "channel 200"},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := listen(t, "a"), listen(t, c.node, ofCluster(c.cluster))
			_, err := b.Dial(timeout(t), c.channel, a.Address())
			var refusal *peer.Refusal
			if !errors.As(err, &refusal) || refusal.Reason != c.reason || !strings.Contains(refusal.Message, c.says) {
				t.Fatalf("error %v, want reason %d that says %q", err, c.reason, c.says)
			}
		})
	}
	t.Run("another version", func(t *testing.T) {
		a := listen(t, "a")
		conn, err := net.Dial("tcp", a.Address())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		if _, err := conn.Write([]byte("PHRM\x09\x03\x00\x01b")); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(conn)
		if len(answer) < 3 || peer.Reason(answer[0]) != peer.ReasonVersion || !strings.Contains(string(answer[3:]), "version 9") {
			t.Fatalf("answer %q, %v", answer, err)
		}
	})
	t.Run("a node without a cluster may call", func(t *testing.T) {
		a, b := listen(t, "a"), listen(t, "b", ofCluster(""))
		if _, err := b.Dial(timeout(t), peer.Calls, a.Address()); err != nil {
			t.Fatal(err)
		}
	})
	t.Run("a stranger is dropped", func(t *testing.T) {
		a := listen(t, "a")
		conn, err := net.Dial("tcp", a.Address())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		if _, err := conn.Write([]byte("GET / HTTP/1.1\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		if answer, err := io.ReadAll(conn); err == nil && len(answer) > 0 {
			t.Fatalf("answer %q, %v", answer, err)
		}
	})
}

func TestAnAddressThatIsTheNodesOwnIsTold(t *testing.T) {
	a := listen(t, "a")
	_, err := a.Dial(timeout(t), peer.Calls, a.Address())
	var refusal *peer.Refusal
	if !errors.As(err, &refusal) || refusal.Reason != peer.ReasonSelf {
		t.Fatalf("error %v, want reason %d", err, peer.ReasonSelf)
	}
}

// service answers the calls of a network.
func service(t *testing.T, n *peer.Network, handle peer.Handler) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- peer.Serve(n, handle) }()
	t.Cleanup(func() {
		_ = n.Close()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

type echoArgs struct {
	Text string `json:"text"`
}

func echo(_ context.Context, c *peer.Call) (peer.Answer, error) {
	var args echoArgs
	if err := c.Args(&args); err != nil {
		return peer.Answer{}, err
	}
	if c.Body == nil {
		return peer.Answer{Result: args.Text}, nil
	}
	data, err := io.ReadAll(c.Body)
	if err != nil {
		return peer.Answer{}, err
	}
	return peer.Answer{Result: args.Text, Body: io.NopCloser(bytes.NewReader(data))}, nil
}

func TestCallsCarryArgumentsBodiesAndAnswersOnFewConnections(t *testing.T) {
	var dials atomic.Int32
	a := listen(t, "a")
	b := listen(t, "b", counting(&dials))
	service(t, a, echo)
	caller := peer.NewCaller(b)
	large := make([]byte, 3<<20)
	_, _ = rand.Read(large)
	for i := range 50 {
		var got string
		body, err := caller.Call(timeout(t), a.Address(), "echo", echoArgs{fmt.Sprint("call ", i)}, nil, &got)
		if err != nil || body != nil || got != fmt.Sprint("call ", i) {
			t.Fatalf("answer %q, body %v, %v", got, body, err)
		}
		body, err = caller.Call(timeout(t), a.Address(), "echo", echoArgs{"with a body"}, bytes.NewReader(large[:i*61_681]), &got)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(body)
		if err != nil || !bytes.Equal(data, large[:i*61_681]) {
			t.Fatalf("%d bytes came back of %d, %v", len(data), i*61_681, err)
		}
		if err := body.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n := dials.Load(); n != 1 {
		t.Errorf("100 calls one after the other took %d connections", n)
	}
	var callers sync.WaitGroup
	for i := range 32 {
		callers.Go(func() {
			for range 20 {
				var got string
				if _, err := caller.Call(timeout(t), a.Address(), "echo", echoArgs{fmt.Sprint(i)}, nil, &got); err != nil || got != fmt.Sprint(i) {
					t.Errorf("caller %d got %q, %v", i, got, err)
				}
			}
		})
	}
	callers.Wait()
	if n := dials.Load(); n > 32 {
		t.Errorf("32 callers took %d connections", n)
	}
}

func TestAnErrorComesBackAsItWasMade(t *testing.T) {
	a, b := listen(t, "a"), listen(t, "b")
	service(t, a, func(_ context.Context, c *peer.Call) (peer.Answer, error) {
		if c.Method == "panic" {
			panic("no")
		}
		return peer.Answer{}, spec.Errorf(spec.CodeConflict, "taken").WithField("key").WithHint("another one")
	})
	caller := peer.NewCaller(b)
	_, err := caller.Call(timeout(t), a.Address(), "x", nil, nil, nil)
	var known *spec.Error
	if !errors.As(err, &known) || known.Code != spec.CodeConflict || known.Message != "taken" || known.Field != "key" || known.Hint != "another one" {
		t.Errorf("error %#v", err)
	}
	if _, err := caller.Call(timeout(t), a.Address(), "panic", nil, nil, nil); spec.CodeOf(err) != spec.CodeInternal {
		t.Errorf("error of a panic: %v", err)
	}
	if _, err := caller.Call(timeout(t), a.Address(), "x", nil, strings.NewReader("never read"), nil); spec.CodeOf(err) != spec.CodeConflict {
		t.Errorf("error before the body was read: %v", err)
	}
}

func TestArgumentsThatAreTooLargeAreRefusedAtOnce(t *testing.T) {
	a, b := listen(t, "a"), listen(t, "b")
	service(t, a, echo)
	_, err := peer.NewCaller(b).Call(timeout(t), a.Address(), "echo", echoArgs{strings.Repeat("x", 64<<20)}, nil, nil)
	if spec.CodeOf(err) != spec.CodeTooLarge {
		t.Errorf("arguments of 64 MiB: %v", err)
	}
}

func TestACallThatIsNotWaitedForAnyMoreEndsOnBothSides(t *testing.T) {
	a, b := listen(t, "a"), listen(t, "b")
	began, ended := make(chan struct{}), make(chan error, 1)
	service(t, a, func(ctx context.Context, _ *peer.Call) (peer.Answer, error) {
		close(began)
		<-ctx.Done()
		ended <- ctx.Err()
		return peer.Answer{}, ctx.Err()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-began
		cancel()
	}()
	if _, err := peer.NewCaller(b).Call(ctx, a.Address(), "wait", nil, nil, nil); spec.CodeOf(err) != spec.CodeTimeout {
		t.Errorf("the caller got %v", err)
	}
	select {
	case <-ended:
	case <-time.After(wait):
		t.Fatal("the handler goes on")
	}
}

func TestABodyWhoseSenderHangsIsNotWaitedForLongerThanTheHandlerWants(t *testing.T) {
	a, b := listen(t, "a"), listen(t, "b")
	service(t, a, func(ctx context.Context, c *peer.Call) (peer.Answer, error) {
		patience := wait
		if c.Method == "hang" {
			patience = 20 * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		defer c.EndBody(ctx)()
		_, err := io.ReadAll(c.Body)
		return peer.Answer{}, err
	})
	caller := peer.NewCaller(b)
	body, hangs := io.Pipe()
	defer hangs.Close()
	ctx := timeout(t)
	context.AfterFunc(ctx, func() { _ = hangs.Close() })
	if _, err := caller.Call(ctx, a.Address(), "hang", nil, body, nil); spec.CodeOf(err) != spec.CodeTimeout || ctx.Err() != nil {
		t.Errorf("it hangs: %v", err)
	}
	for range 3 {
		if _, err := caller.Call(timeout(t), a.Address(), "put", nil, strings.NewReader("whole"), nil); err != nil {
			t.Errorf("it does not: %v", err)
		}
	}
}

func TestWhetherARequestMayHaveBeenHandledIsTold(t *testing.T) {
	a, b := listen(t, "a"), listen(t, "b")
	address := a.Address()
	got := make(chan struct{})
	service(t, a, func(ctx context.Context, _ *peer.Call) (peer.Answer, error) {
		close(got)
		<-ctx.Done()
		return peer.Answer{}, ctx.Err()
	})
	caller := peer.NewCaller(b)
	go func() {
		<-got
		_ = a.Close()
	}()
	if _, err := caller.Call(timeout(t), address, "x", nil, nil, nil); errors.Is(err, peer.ErrNotSent) || spec.CodeOf(err) != spec.CodeUnavailable {
		t.Errorf("the node went away while it handled the request: %v", err)
	}
	if _, err := caller.Call(timeout(t), address, "x", nil, nil, nil); !errors.Is(err, peer.ErrNotSent) {
		t.Errorf("the node is not there: %v", err)
	}
}

func TestAConnectionThatTheOtherSideHasEndedIsNotUsedAgain(t *testing.T) {
	a, b := listen(t, "a"), listen(t, "b")
	address := a.Address()
	service(t, a, echo)
	caller := peer.NewCaller(b)
	var text string
	if _, err := caller.Call(timeout(t), address, "echo", echoArgs{"1"}, nil, &text); err != nil {
		t.Fatal(err)
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	again := listen(t, "a", func(c *peer.Config) { c.Address = address })
	service(t, again, echo)
	// The end of the old connection may be noticed a moment after it.
	for ctx := timeout(t); text != "2"; {
		if _, err := caller.Call(ctx, address, "echo", echoArgs{"2"}, nil, &text); err != nil && spec.CodeOf(err) != spec.CodeUnavailable {
			t.Fatalf("after the node came back: %q, %v", text, err)
		}
	}
}

func TestABodyThatBreaksOffIsNoWholeBody(t *testing.T) {
	a, b := listen(t, "a"), listen(t, "b")
	read := make(chan error, 1)
	service(t, a, func(_ context.Context, c *peer.Call) (peer.Answer, error) {
		if c.Body != nil {
			_, err := io.ReadAll(c.Body)
			read <- err
			return peer.Answer{}, nil
		}
		return peer.Answer{Body: io.NopCloser(io.MultiReader(strings.NewReader("some"), broken{}))}, nil
	})
	caller := peer.NewCaller(b)
	_, _ = caller.Call(timeout(t), a.Address(), "put", nil, io.MultiReader(strings.NewReader("some"), broken{}), nil)
	if err := <-read; err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the handler read the body of a request that broke off with %v", err)
	}
	body, err := caller.Call(timeout(t), a.Address(), "get", nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(body)
	_ = body.Close()
	if err == nil || string(data) != "some" {
		t.Errorf("read %q of an answer that broke off, %v", data, err)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("the source is gone") }

func TestAStreamArrivesAsItIsMade(t *testing.T) {
	a, b := listen(t, "a"), listen(t, "b")
	r, w := io.Pipe()
	service(t, a, func(ctx context.Context, _ *peer.Call) (peer.Answer, error) {
		context.AfterFunc(ctx, func() { _ = w.CloseWithError(ctx.Err()) })
		return peer.Answer{Body: r}, nil
	})
	body, err := peer.NewCaller(b).Call(timeout(t), a.Address(), "watch", nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if _, err := fmt.Fprintf(w, "event %d", i); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len("event 0"))
		if _, err := io.ReadFull(body, got); err != nil || string(got) != fmt.Sprint("event ", i) {
			t.Fatalf("event %d is %q, %v", i, got, err)
		}
	}
	_ = body.Close()
	if _, err := io.Copy(w, endless{}); err == nil {
		t.Error("the stream goes on though nobody reads it")
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func BenchmarkCall(b *testing.B) {
	net1, err := peer.Listen(peer.Config{Address: "127.0.0.1:0", Node: "a"})
	if err != nil {
		b.Fatal(err)
	}
	net2, err := peer.Listen(peer.Config{Address: "127.0.0.1:0", Node: "b"})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _, _ = net1.Close(), net2.Close() }()
	go func() { _ = peer.Serve(net1, echo) }()
	caller := peer.NewCaller(net2)
	var text string
	for b.Loop() {
		if _, err := caller.Call(b.Context(), net1.Address(), "echo", echoArgs{"hello"}, nil, &text); err != nil {
			b.Fatal(err)
		}
	}
}
