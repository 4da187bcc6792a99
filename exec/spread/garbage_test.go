package spread_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client/fn"
	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/exec/spread"
	"github.com/pheromone-run/pheromone/spec"
)

// raw is a frame as it is on the network.
func raw(kind byte, head string, data uint64) []byte {
	out := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(head)))
	return append(binary.BigEndian.AppendUint64(out, data), head...)
}

// garbage is what no node of this version sends.
var garbage = map[string][]byte{
	"nothing":                     {},
	"half a frame":                raw(2, `{}`, 0)[:9],
	"an unknown frame":            raw(99, `{}`, 0),
	"a head that is no JSON":      raw(2, `{`, 0),
	"data that does not come":     raw(3, `{"emissions":[{"size":10}]}`, 10),
	"data of no emission":         append(raw(3, `{}`, 1), 'x'),
	"an emission beyond its data": append(raw(3, `{"emissions":[{"size":2}]}`, 1), 'x'),
	"a negative size":             raw(3, `{"emissions":[{"size":-1}]}`, 0),
	"far too much data":           raw(3, `{}`, 1<<62),
	"a head without end":          append([]byte{3, 0xff, 0xff, 0xff, 0xff}, make([]byte, 8)...),
	"an answer to nothing":        raw(7, ``, 0),
}

func TestGarbageFromTheNodeThatRunsAnAttemptLosesItOnce(t *testing.T) {
	for name, sent := range garbage {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, map[string]int{"n1": 1, "n2": 1}, func(_ *cluster, cfg *spread.Config) {
				if cfg.Node == "n1" {
					call := cfg.Call
					cfg.Call = func(ctx context.Context, node, method string, args any, body io.Reader, result any) (io.ReadCloser, error) {
						if method == spread.MethodRun {
							return io.NopCloser(bytes.NewReader(sent)), nil
						}
						return call(ctx, node, method, args, body, result)
					}
				}
			})
			defer close(c.fill("n1", 1).let)
			c.register("f", func(string, *fn.Context, []fn.Object) error { return nil })
			r := c.submit("f")
			r.end(exec.Lost)
			if len(r.emitted) != 0 {
				t.Fatalf("emitted %v", r.emitted)
			}
		})
	}
}

func TestGarbageFromTheLeadersNodeStopsTheAttempt(t *testing.T) {
	for name, sent := range garbage {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t, map[string]int{"n2": 1})
			h := newHeld()
			c.register("f", h.run)
			n2 := c.nodes["n2"]
			n2.inputs.put("inputs", nil)
			begun := make(chan struct{})
			args := map[string]any{
				"from": "n1", "app": "app", "version": 1, "function": "f", "attempt": 1, "timeout": wait, "inputs": []byte("inputs"),
				"invocation": spec.InvocationID{Session: "s", Number: 1}, "silence": wait,
			}
			answer, err := n2.run(args, io.MultiReader(waitFor(begun), bytes.NewReader(sent)))
			if err != nil {
				t.Fatal(err)
			}
			eventually(t, "it runs", func() bool { return h.count("n2") == 1 })
			close(begun)
			<-h.ended
			eventually(t, "it is gone", func() bool { return n2.rt.Stats().Guests == 0 })
			if _, err := io.Copy(io.Discard, answer); err == nil && name != "nothing" {
				t.Fatal("the stream ended as if all were well")
			}
		})
	}
}

// A leader's node that takes nothing: so many emissions are under way, and no more.
func TestEmissionsUnderWayAreBounded(t *testing.T) {
	const batch, window = 4096, 16 // what inproc emits at once, and how much of that may be under way
	c := newCluster(t, map[string]int{"n2": 1})
	var put atomic.Int64
	c.register("f", func(_ string, ctx *fn.Context, _ []fn.Object) error {
		for range 2 * window * batch {
			if err := ctx.PutNew("out", nil); err != nil {
				return err
			}
			put.Add(1)
		}
		return nil
	})
	n2 := c.nodes["n2"]
	n2.inputs.put("inputs", nil)
	gone := make(chan struct{})
	answer, err := n2.run(map[string]any{
		"from": "n1", "app": "app", "version": 1, "function": "f", "attempt": 1, "timeout": wait, "inputs": []byte("inputs"),
		"invocation": spec.InvocationID{Session: "s", Number: 1}, "silence": wait / 20, // it speaks four times as often
	}, beats(gone))
	if err != nil {
		t.Fatal(err)
	}
	defer close(gone)
	emitted, last, quiet := 0, int64(0), false
	for !quiet {
		var start [13]byte
		if _, err := io.ReadFull(answer, start[:]); err != nil {
			t.Fatal(err)
		}
		rest := int64(binary.BigEndian.Uint32(start[1:])) + int64(binary.BigEndian.Uint64(start[5:]))
		if _, err := io.CopyN(io.Discard, answer, rest); err != nil {
			t.Fatal(err)
		}
		switch start[0] {
		case 1:
			now := put.Load() // the node had nothing else to say
			quiet, last = emitted > 0 && now == last, now
		case 3:
			emitted++
		case 5:
			t.Fatal("the attempt has ended")
		}
	}
	if emitted > window {
		t.Fatalf("%d emissions were sent", emitted)
	}
}

// beats is a leader's node that lives.
type beats <-chan struct{}

func (b beats) Read(p []byte) (int, error) {
	select {
	case <-b:
		return 0, io.EOF
	case <-time.After(20 * time.Millisecond):
		return copy(p, raw(1, "", 0)), nil
	}
}

// run asks a node to run an attempt, without a network.
func (n *testNode) run(args any, body io.Reader) (io.ReadCloser, error) {
	_, answer, err := n.rt.Handlers()[spread.MethodRun](context.Background(), func(into any) error { return remarshal(args, into) }, body)
	return answer, err
}

// waitFor is an empty reader that ends once a channel is closed.
type waitFor <-chan struct{}

func (w waitFor) Read([]byte) (int, error) { <-w; return 0, io.EOF }

func TestAskingForWhatCantBeIsRefused(t *testing.T) {
	c := newCluster(t, map[string]int{"n2": 1})
	n2 := c.nodes["n2"]
	for _, args := range []map[string]any{{}, {"from": "n1"}, {"attempt": 1}} {
		if _, err := n2.run(args, bytes.NewReader(nil)); spec.CodeOf(err) != spec.CodeInvalid {
			t.Errorf("%v: error %v", args, err)
		}
	}
	var many []map[string]any
	for i := range 65 {
		many = append(many, map[string]any{"app": "app", "version": 1, "function": fmt.Sprint("f", i)})
	}
	_, _, err := n2.rt.Handlers()[spread.MethodLoad](context.Background(), func(into any) error { return remarshal(map[string]any{"functions": many}, into) }, nil)
	if spec.CodeOf(err) != spec.CodeInvalid {
		t.Errorf("room for 65 functions: %v", err)
	}
}
