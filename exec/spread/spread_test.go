package spread_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client/fn"
	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/exec/spread"
	"github.com/pheromone-run/pheromone/spec"
)

// held is a function that stays until it is let go.
type held struct {
	mu    sync.Mutex
	on    map[string]int // attempts begun, by node
	let   chan struct{}
	ended chan string // the nodes on which attempts were told to stop
}

func newHeld() *held {
	return &held{on: map[string]int{}, let: make(chan struct{}), ended: make(chan string, 100)}
}

func (h *held) run(node string, ctx *fn.Context, _ []fn.Object) error {
	h.mu.Lock()
	h.on[node]++
	h.mu.Unlock()
	select {
	case <-h.let:
		return nil
	case <-ctx.Context().Done():
		h.ended <- node
		return ctx.Context().Err()
	}
}

func (h *held) count(node string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.on[node]
}

// fill takes all places of a node with attempts of others, that it leads itself.
func (c *cluster) fill(node string, n int) *held {
	h := newHeld()
	name := "fill-" + node
	c.register(name, h.run)
	for range n {
		r := newRun(c.t)
		r.task = c.task(name, r)
		r.task.Source = r.task.Source.(portable).fixed // stays there
		c.nodes[node].rt.Submit(r.task)
	}
	eventually(c.t, "the places of "+node+" are taken", func() bool { return h.count(node) == n })
	return h
}

func TestANodeWithRoomRunsAllItself(t *testing.T) {
	c := newCluster(t, map[string]int{"n1": 64, "n2": 64, "n3": 64})
	c.register("f", func(node string, ctx *fn.Context, in []fn.Object) error { return nil })
	var all []*run
	for range 64 {
		all = append(all, c.submit("f"))
	}
	for _, r := range all {
		if on := r.end(""); on != "inproc" {
			t.Fatalf("ran on %s", on)
		}
	}
	if s := c.stats(); s.Leader != 64 || s.InputsLocal != 64 || s.Replica+s.Other != 0 {
		t.Fatalf("counted %+v", s)
	}
}

func TestABusyNodeForwardsToReplicasFirstAndThenToOthers(t *testing.T) {
	c := newCluster(t, map[string]int{"n1": 1, "n2": 2, "n3": 2}, func(_ *cluster, cfg *spread.Config) { cfg.Poll, cfg.Fresh = wait, wait })
	defer close(c.fill("n1", 1).let)
	h := newHeld()
	c.register("f", h.run)
	in := exec.Input{Bucket: "in", Key: "k", Session: "s", Data: []byte("data")}
	var all []*run
	for i, want := range []string{"n2", "n2", "n3", "n3"} {
		all = append(all, c.submit("f", in))
		eventually(t, fmt.Sprintf("attempt %d runs on %s", i, want), func() bool { return h.count(want) == i%2+1 })
	}
	waits := c.submit("f", in) // there is no room for it anywhere
	close(h.let)
	for _, r := range append(all, waits) {
		r.end("")
	}
	s := c.stats()
	if s.Replica+s.Other != 5 || s.Replica < 2 || s.Other < 2 || s.Leader != 1 || s.Lost != 0 {
		t.Fatalf("counted %+v", s)
	}
	if streamed := uint64(c.nodes["n1"].streamed.Load()); streamed != s.Other || s.InputsLocal != s.Leader+s.Replica {
		t.Fatalf("%d inputs were streamed, counted %+v", streamed, s)
	}
}

func TestAnAttemptWaitsHereWhileNoNodeHasRoom(t *testing.T) {
	c := newCluster(t, map[string]int{"n1": 1, "n2": 1})
	first := c.fill("n1", 1)
	defer close(c.fill("n2", 1).let)
	c.register("f", func(node string, ctx *fn.Context, in []fn.Object) error { return nil })
	r := c.submit("f")
	asked := func() bool { return len(c.nodes["n1"].pool.Stats().Functions) == 2 }
	eventually(t, "it is queued here", asked)
	eventually(t, "n2 has said that it has no room", func() bool { return c.nodes["n2"].asked.Load() > 1 })
	close(first.let)
	if on := r.end(""); on != "inproc" || c.stats().Returned != 0 {
		t.Fatalf("ran on %s, counted %+v", on, c.stats())
	}
}

func TestWhatAnAttemptDoesIsTheSameOnAnotherNode(t *testing.T) {
	for _, node := range []string{"n2", "n3"} {
		t.Run("on "+node, func(t *testing.T) {
			c := newCluster(t, map[string]int{"n1": 1, node: 4})
			defer close(c.fill("n1", 1).let)
			window := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
			c.register("f", func(_ string, ctx *fn.Context, in []fn.Object) error {
				o, call := in[0], ctx.Info()
				told := fmt.Sprint(o.Bucket, o.Key, o.Session, o.ContentType, o.Meta, o.Deleted, " ", call.Bucket, call.Trigger, call.Group, call.Window.UTC(), call.Traceparent, ctx.Attempt(), ctx.Invocation())
				if err := ctx.Put("out", "told", []byte(told)); err != nil {
					return err
				}
				got, err := ctx.Get("in", "there")
				if err != nil {
					return err
				}
				if _, err := ctx.Get("in", "nowhere"); !errors.Is(err, fn.ErrNotFound) {
					return fmt.Errorf("get of nothing: %w", err)
				}
				return errors.Join(
					ctx.Put("out", "got", got.Bytes(), fn.Meta("m", "v"), fn.ContentType("text/plain")), ctx.Join("b", "t", "x", "y"),
					ctx.PutNew("out", nil), ctx.Put("out", "large", make([]byte, 3<<20)), ctx.Put("out", "echo", o.Bytes()))
			})
			r := newRun(t)
			r.objects = map[spec.Key]exec.Input{"there": {Data: []byte("here")}}
			large := strings.Repeat("0123456789abcdef", 1<<17)
			task := c.task("f", r, exec.Input{Bucket: "b", Key: "k", Session: "s2", ContentType: "c/t", Meta: map[string]string{"a": "b"}, Data: []byte(large), Deleted: true})
			task.Group, task.Window, task.Traceparent = "g", window, "00-11111111111111111111111111111111-2222222222222222-01"
			c.nodes["n1"].rt.Submit(task)
			if on := r.end(""); on != node+"/inproc" {
				t.Fatalf("ran on %s", on)
			}
			var got []string
			for i, e := range r.emitted {
				if e.Seq != uint64(i+1) {
					t.Fatalf("emission %d has number %d", i+1, e.Seq)
				}
				data := string(e.Data)
				if e.Data == nil && e.JoinTrigger == "" {
					data = "nil"
				}
				if len(data) > 1000 {
					data = fmt.Sprint(len(data), data == large)
				}
				got = append(got, fmt.Sprint(e.Bucket, "/", e.Key, " ", data, e.ContentType, e.Meta, e.JoinTrigger, e.JoinKeys))
			}
			want := []string{
				"out/told bks2c/tmap[a:b] true intg2026-01-02 03:04:05.000006 +0000 UTC00-11111111111111111111111111111111-2222222222222222-011s." + fmt.Sprint(task.Invocation.Number) + "map[][]",
				"out/got heretext/plainmap[m:v][]", "b/ map[]t[x y]", "out/ map[][]", "out/large 3145728 falsemap[][]", "out/echo 2097152 truemap[][]",
			}
			if strings.Join(got, "\n") != strings.Join(want, "\n") {
				t.Fatalf("emitted\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
			}
		})
	}
}

func TestFailuresOfForwardedAttemptsAreTold(t *testing.T) {
	for name, c := range map[string]struct {
		f      fn.Handler
		change func(*exec.Task, *run)
		kind   string
	}{
		"an error":          {func(*fn.Context, []fn.Object) error { return errors.New("no") }, nil, exec.Failed},
		"a permanent error": {func(*fn.Context, []fn.Object) error { return fn.Permanent(errors.New("no")) }, nil, exec.Permanent},
		"a panic":           {func(*fn.Context, []fn.Object) error { panic("no") }, nil, exec.Failed},
		"the timeout":       {func(ctx *fn.Context, _ []fn.Object) error { <-ctx.Context().Done(); return nil }, func(t *exec.Task, _ *run) { t.Timeout = time.Millisecond }, exec.TimedOut},
		"a key of no UTF-8": {func(ctx *fn.Context, _ []fn.Object) error { return ctx.Put("out", "\xff", nil) }, nil, exec.Refused},
		"too large an object": {func(ctx *fn.Context, _ []fn.Object) error { return ctx.Put("out", "k", make([]byte, 11)) },
			func(t *exec.Task, _ *run) { t.MaxObjectBytes = 10 }, exec.Refused},
		"an emission that is refused": {func(ctx *fn.Context, _ []fn.Object) error {
			err := ctx.Put("out", "k", nil)
			<-ctx.Context().Done()
			return err
		}, func(_ *exec.Task, r *run) { r.refuse = spec.Errorf(spec.CodeConflict, "taken") }, exec.Conflict},
	} {
		t.Run(name, func(t *testing.T) {
			w := newCluster(t, map[string]int{"n1": 1, "n2": 1})
			defer close(w.fill("n1", 1).let)
			w.register("f", func(_ string, ctx *fn.Context, in []fn.Object) error { return c.f(ctx, in) })
			r := newRun(t)
			task := w.task("f", r)
			if c.change != nil {
				c.change(task, r)
			}
			w.nodes["n1"].rt.Submit(task)
			if on := r.end(c.kind); on != "n2/inproc" {
				t.Fatalf("ran on %q", on)
			}
		})
	}
}

func TestCancellingReachesTheOtherNode(t *testing.T) {
	c := newCluster(t, map[string]int{"n1": 1, "n2": 1})
	defer close(c.fill("n1", 1).let)
	h := newHeld()
	c.register("f", h.run)
	r := c.submit("f")
	eventually(t, "it runs there", func() bool { return h.count("n2") == 1 })
	waiting := c.submit("f")
	c.nodes["n1"].rt.Cancel(r.task.Ref())
	r.end(exec.Cancelled)
	if on := <-h.ended; on != "n2" {
		t.Fatalf("told on %s", on)
	}
	eventually(t, "the next one runs there", func() bool { return h.count("n2") == 2 })
	c.nodes["n1"].rt.Cancel(waiting.task.Ref())
	waiting.end(exec.Cancelled)
	eventually(t, "nothing is left", func() bool { return c.stats().Away == 0 && c.nodes["n2"].rt.Stats().Guests == 0 })
}

func TestAFunctionsConcurrencyCountsOnEachNode(t *testing.T) {
	c := newCluster(t, map[string]int{"n1": 8, "n2": 8, "n3": 8})
	h := newHeld()
	c.register("f", h.run)
	for _, n := range c.nodes {
		n.apps.function("f").Concurrency = 2
	}
	var all []*run
	for range 10 {
		all = append(all, c.submit("f"))
	}
	eventually(t, "two run on each node", func() bool { return h.count("n1") == 2 && h.count("n2") == 2 && h.count("n3") == 2 })
	close(h.let)
	for _, r := range all {
		r.end("")
	}
}

func TestFunctionsOfTheProgramRunWhereTheyAreRegistered(t *testing.T) {
	c := newCluster(t, map[string]int{"n1": 4, "n2": 4, "n3": 4})
	c.register("there", func(string, *fn.Context, []fn.Object) error { return nil }, "n3")
	c.register("nowhere", nil, "nobody")
	if on := c.submit("there").end(""); on != "n3/inproc" {
		t.Fatalf("ran on %s", on)
	}
	c.submit("nowhere").end(exec.Refused)
}

func TestAnAttemptWaitsForItsAppsVersion(t *testing.T) {
	c := newCluster(t, map[string]int{"n1": 1, "n2": 1}, func(_ *cluster, cfg *spread.Config) { cfg.VersionWait, cfg.Fresh = wait, wait })
	defer close(c.fill("n1", 1).let)
	c.register("f", func(string, *fn.Context, []fn.Object) error { return nil })
	first := c.submit("f") // n1 learns of the room there
	first.end("")
	r := newRun(t)
	task := c.task("f", r)
	task.Version = 2
	c.nodes["n1"].rt.Submit(task)
	eventually(t, "it is there", func() bool { return c.nodes["n2"].rt.Stats().Guests == 1 })
	c.nodes["n2"].apps.set(2)
	if on := r.end(""); on != "n2/inproc" || c.stats().Returned != 0 {
		t.Fatalf("ran on %s, counted %+v", on, c.stats())
	}
}

func TestAnAttemptThatFindsNoExecutorAfterAllComesBack(t *testing.T) {
	c := newCluster(t, map[string]int{"n1": 1, "n2": 1}, func(_ *cluster, cfg *spread.Config) {
		cfg.Fresh, cfg.GuestWait = wait, time.Millisecond
		local := cfg.Local
		cfg.Local = boaster{local}
	})
	first := c.fill("n1", 1)
	defer close(c.fill("n2", 1).let)
	c.register("f", func(string, *fn.Context, []fn.Object) error { return nil })
	r := c.submit("f")
	eventually(t, "it came back", func() bool { return c.stats().Returned > 0 })
	close(first.let)
	if on := r.end(""); on != "inproc" {
		t.Fatalf("ran on %s", on)
	}
}

// boaster says that it has room.
type boaster struct{ spread.Local }

func (boaster) Room(*exec.Task) exec.Room { return exec.Room{Free: 1} }
