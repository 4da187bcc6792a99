package leader_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// volatile is a chain of which everything is ephemeral, the results too.
var volatile = "durability: ephemeral\n" + manifest(`
functions: {a: {runtime: inproc}, b: {runtime: inproc}, c: {runtime: inproc}}
buckets:
  a: {triggers: [{name: t, primitive: immediate, target: a}]}
  b: {triggers: [{name: t, primitive: immediate, target: b}]}
  c: {triggers: [{name: t, primitive: immediate, target: c}]}
  plain: {durability: durable}
  solid: {durability: durable, triggers: [{name: t, primitive: immediate, target: c}]}
`)

// fleeting is a chain of ephemeral buckets with a durable one at its end.
var fleeting = strings.ReplaceAll(earlyChain, "pipelined", "ephemeral")

// volatileFunctions are of the chain; b passes on to next.
func volatileFunctions(r *runs, next string) map[string]function {
	functions := earlyFunctions(r)
	pass := functions["b"]
	functions["b"] = func(c *call) error {
		if next == "c" {
			return pass(c)
		}
		r.note(c)
		c.put(next, "k", string(c.in[0].Data)+" b")
		return nil
	}
	functions["c"] = func(c *call) error {
		r.note(c)
		c.output("out", string(c.in[0].Data))
		return nil
	}
	return functions
}

func TestNobodyWaitsForTheCommitOfWhatIsEphemeral(t *testing.T) {
	var r runs
	w, g := newGated(t, volatile, volatileFunctions(&r, "c"))
	g.shut(0)
	if res := w.into("run", "a", "k", "x"); res.Session != "run" {
		t.Errorf("the put says %+v", res)
	}
	w.completed("run", "out=x a1 b1")
	started := w.put("a", "k", "y") // the session that a key-value put starts
	w.completed(started, "out=y a2 b2")
	g.open()
	if s := w.session("run"); s.Status != wire.SessionCompleted {
		t.Errorf("once it is committed the session is %s", s.Status)
	}
	if n := len(w.history("run").Invocations); n != 3 {
		t.Errorf("its history has %d invocations, want 3", n)
	}
	w.completed("run", "out=x a1 b1")
	w.completed(started, "out=y a2 b2")
}

func TestWhatFollowsInADurableBucketWaitsForTheCommit(t *testing.T) {
	var r runs
	w, g := newGated(t, volatile, volatileFunctions(&r, "solid"))
	g.shut(0)
	w.into("run", "a", "k", "x")
	eventually(t, "the object of the durable bucket is proposed", func() bool { return len(r.of("b")) == 1 && g.waiting() > 0 })
	before := g.waiting()
	other := w.putAside("other", "solid", "k", "x")
	eventually(t, "another entry is proposed", func() bool { return g.waiting() > before })
	if n := w.run.count("c"); n != 0 {
		t.Errorf("the function behind a durable bucket has run %d times on what is not committed", n)
	}
	select {
	case err := <-other:
		t.Errorf("a put into a durable bucket is answered before it is committed: %v", err)
	default:
	}
	g.open()
	if err := <-other; err != nil {
		t.Error(err)
	}
	w.completed("run", "out=x a1 b")
}

// A durable output is told once it is committed, also if all before it is ephemeral.
func TestADurableResultOfAnEphemeralChainIsToldOnceItIsCommitted(t *testing.T) {
	var r runs
	w, g := newGated(t, fleeting, earlyFunctions(&r))
	g.shut(0)
	w.into("run", "a", "k", "x")
	eventually(t, "what the chain put into its durable bucket is proposed", func() bool { return len(r.of("c")) == 1 && g.waiting() > 0 })
	w.toldOnceCommitted(g)
}

// toldOnceCommitted checks that the end of session run, which has one output and is
// behind a gate that is shut, is told once that opens.
func (w *world) toldOnceCommitted(g *gate) {
	w.t.Helper()
	told := make(chan wire.Result, 1)
	go func() { told <- w.result("run") }()
	before := g.waiting()
	other := w.putAside("other", "plain", "k", "x")
	eventually(w.t, "another entry is proposed", func() bool { return g.waiting() > before })
	select {
	case res := <-told:
		w.t.Errorf("the result is told before it is committed: %+v", res)
	default:
	}
	g.open()
	if res := <-told; res.Status != wire.SessionCompleted || len(res.Outputs) != 1 {
		w.t.Errorf("the result is %+v", res)
	}
	if err := <-other; err != nil {
		w.t.Error(err)
	}
}

func TestReadsFindWhatWasAnsweredBeforeItIsCommitted(t *testing.T) {
	var r runs
	w := newWorld(t, 1, volatile, volatileFunctions(&r, "c"))
	for i := range 50 {
		key := fmt.Sprint("k", i)
		id := w.put("a", key, key)
		if o, err := w.get("a", key); err != nil || o.Session != id {
			t.Fatalf("a put that was answered is read as %+v, %v", o.Object, err)
		}
		if s := w.session(id); s.Session != id {
			t.Fatalf("its session is %+v", s)
		}
	}
}

func TestAPutThatAWatchWaitsForIsReadAtOnceAlsoWhereItDrivesNothing(t *testing.T) {
	w, g := newGated(t, volatile+"  cache: {}\n", volatileFunctions(&runs{}, "c"))
	_ = w.leaders[1].Changed()
	g.shut(0)
	w.put("cache", "k", "v")
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := w.leaders[1].GetKV(ctx, "demo", "cache", "k", false); spec.CodeOf(err) != spec.CodeTimeout {
		t.Errorf("before the put that was answered is committed, a read says %v and does not wait", err)
	}
	g.open()
	if _, err := w.get("cache", "k"); err != nil {
		t.Error(err)
	}
}

func TestWhatLingersIsCommittedAfterAMoment(t *testing.T) {
	w := newWorld(t, 1, volatile, volatileFunctions(&runs{}, "c"))
	w.put("a", "k", "x")
	eventually(t, "a watch sees it though nothing else comes", func() bool {
		events, _, err := w.leaders[1].Changes("demo", "a", "", 0, 10)
		return err == nil && len(events) == 1
	})
}

func TestASessionThatWasToldOfEarlyCanBePurgedAndCancelledAtOnce(t *testing.T) {
	w := newWorld(t, 1, volatile, volatileFunctions(&runs{}, "c"))
	for i := range 20 {
		id := w.into(fmt.Sprint("run", i), "a", "k", "x").Session
		if i%2 == 0 {
			w.result(id)
		} else if err := w.home(id).Cancel(t.Context(), "demo", id); err != nil {
			t.Fatalf("cancel: %v", err)
		}
		if err := w.home(id).Purge(t.Context(), "demo", id); err != nil {
			t.Fatalf("purge: %v", err)
		}
		if _, err := w.home(id).Result(t.Context(), "demo", id, time.Second, false); spec.CodeOf(err) != spec.CodeNotFound {
			t.Fatalf("a purged session is there: %v", err)
		}
	}
	w.nothingLeft()
}

// TestATermThatEndsTakesTheLastOfWhatIsEphemeral ends the term after each number of
// entries: what is left is what was committed, and what is run again makes the rest.
func TestATermThatEndsTakesTheLastOfWhatIsEphemeral(t *testing.T) {
	for committed := range 4 {
		t.Run(fmt.Sprint(committed, " entries are committed"), func(t *testing.T) {
			var r runs
			w, g := newGated(t, fleeting, earlyFunctions(&r))
			g.shut(committed)
			w.putOnce(leader.Put{Session: "run", Bucket: "a", Key: "k", Body: strings.NewReader("x")})
			eventually(t, "the chain runs as far as it can", func() bool { return len(r.of("c")) == 1 })
			eventually(t, "and what it made is proposed", func() bool { return g.waiting() > 0 || len(r.of("last")) == 1 })
			g.lose()
			// A put that was answered may be lost, also by the term that does not know yet
			// that it is over. It is repeated without doing anything twice.
			eventually(t, "the session is there", func() bool {
				w.putOnce(leader.Put{Session: "run", Bucket: "a", Key: "k", Body: strings.NewReader("x")})
				_, err := w.home("run").Session(t.Context(), "demo", "run")
				return err == nil
			})
			res := w.result("run")
			want := "out=x"
			for _, f := range []string{"a", "b", "c"} {
				n := len(r.of(f))
				if n < 1 || n > 2 {
					t.Errorf("%s ran %d times", f, n)
				}
				want += fmt.Sprintf(" %s%d", f, n)
			}
			if got := outputs(res); len(got) != 1 || got[0] != want {
				t.Errorf("the outputs are %q, want %q: of the last run of each", got, want)
			}
			for _, in := range r.of("last") {
				if "out="+in != want {
					t.Errorf("the function behind the durable bucket was run on %q, which was lost", in)
				}
			}
		})
	}
}

func TestWhatLingersIsKeptWhenTheLeaderStops(t *testing.T) {
	w := newWorld(t, 1, volatile, volatileFunctions(&runs{}, "c"))
	for i := range 5 {
		key := fmt.Sprint("k", i)
		w.put("a", key, key)
		w.restart()
		if o, err := w.get("a", key); err != nil {
			t.Fatalf("after a stop in order what was put is read as %+v, %v", o.Object, err)
		}
	}
}

func TestWhatWasAnsweredAndIsOnItsWayIsKeptWhenTheLeaderStops(t *testing.T) {
	w, g := newGated(t, volatile, volatileFunctions(&runs{}, "c"))
	g.shut(0)
	w.put("a", "k", "x")
	eventually(t, "what lingered is proposed", func() bool { return g.waiting() > 0 })
	time.AfterFunc(100*time.Millisecond, g.open)
	w.restart()
	if o, err := w.get("a", "k"); err != nil {
		t.Fatalf("after a stop in order what was put is read as %+v, %v", o.Object, err)
	}
}

// A session with anything durable is told as completed once that is committed.
func TestTheEndOfASessionIsNotToldBeforeItsDurableObjectsAreCommitted(t *testing.T) {
	w, g := newGated(t, volatile, map[string]function{"a": func(c *call) error {
		c.put("plain", "k", "x")
		c.output("out", "x")
		return nil
	}})
	g.shut(0)
	w.into("run", "a", "k", "x")
	eventually(t, "its end is proposed", func() bool { return g.waiting() > 0 })
	w.toldOnceCommitted(g)
}

func TestASessionThatRunsAgainIsNotToldAsCompleted(t *testing.T) {
	more := make(chan struct{})
	w, g := newGated(t, volatile, map[string]function{"a": func(c *call) error {
		if string(c.in[0].Data) == "second" {
			if err := c.waitFor(more); err != nil {
				return err
			}
		}
		c.output(string(c.in[0].Data), "x")
		return nil
	}})
	g.shut(0)
	w.into("run", "a", "k1", "first")
	w.completed("run", "first=x")
	w.into("run", "a", "k2", "second")
	told := make(chan wire.Result, 1)
	go func() { told <- w.result("run") }()
	eventually(t, "its second function runs", func() bool { return w.run.count("a") == 2 })
	close(more)
	if res := <-told; len(res.Outputs) != 2 {
		t.Errorf("the result is %+v", res)
	}
	g.open()
	w.completed("run", "first=x", "second=x")
}

func TestAWatchDoesNotWaitForWhatLingers(t *testing.T) {
	w, g := newGated(t, volatile, volatileFunctions(&runs{}, "c"))
	w.put("b", "before", "x") // an earlier change counts for nothing
	changed := w.leaders[1].Changed()
	g.shut(0)
	w.put("a", "k", "x")
	if g.waiting() == 0 {
		t.Error("the put is answered and its entry lingers, though somebody waits for the change")
	}
	g.open()
	select {
	case <-changed:
	case <-time.After(patience):
		t.Error("the watch is not woken")
	}
}
