package leader_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// A chain of early functions a, b and c, and a last one behind a durable bucket.
var earlyChain = manifest(`
functions: {a: {runtime: inproc}, b: {runtime: inproc}, c: {runtime: inproc}, last: {runtime: inproc}}
buckets:
  a: {durability: pipelined, triggers: [{name: t, primitive: immediate, target: a}]}
  b: {durability: pipelined, triggers: [{name: t, primitive: immediate, target: b}]}
  c: {durability: pipelined, triggers: [{name: t, primitive: immediate, target: c}]}
  last: {triggers: [{name: t, primitive: immediate, target: last}]}
  plain: {}
`)

// runs notes what functions were run with.
type runs struct {
	mu  sync.Mutex
	all map[string][]string // inputs by function
}

func (r *runs) note(c *call) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all == nil {
		r.all = map[string][]string{}
	}
	name := string(c.Function.Name)
	var in []string
	for _, o := range c.in {
		in = append(in, string(o.Data))
	}
	r.all[name] = append(r.all[name], strings.Join(in, " "))
	return len(r.all[name])
}

func (r *runs) of(function string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all[function])
}

// earlyFunctions are of the chain. Each adds its name and how often it has run to what
// it is given, so that what a lost run has made can be told from the rest.
func earlyFunctions(r *runs) map[string]function {
	pass := func(to string) function {
		return func(c *call) error {
			n := r.note(c)
			c.put(to, "k", fmt.Sprintf("%s %s%d", c.in[0].Data, c.Function.Name, n))
			return nil
		}
	}
	return map[string]function{"a": pass("b"), "b": pass("c"), "c": pass("last"), "last": func(c *call) error {
		r.note(c)
		c.output("out", string(c.in[0].Data))
		return nil
	}}
}

// putAside puts an object into a session without waiting for the answer.
func (w *world) putAside(session, bucket, key, value string) <-chan error {
	answer := make(chan error, 1)
	go func() {
		_, err := w.tryInto(session, bucket, key, value)
		answer <- err
	}()
	return answer
}

func TestPipelinedFunctionsRunBeforeTheirInputsAreCommittedAndNobodyIsToldSooner(t *testing.T) {
	var r runs
	w, g := newGated(t, earlyChain, earlyFunctions(&r))
	g.shut(0)
	answer := w.putAside("run", "a", "k", "x")
	eventually(t, "the chain runs to its durable bucket", func() bool { return len(r.of("c")) == 1 && g.waiting() >= 4 })
	before := g.waiting()
	other := w.putAside("other", "plain", "k", "x")
	// An entry behind the one that has fired the last function: if that went out early, it has.
	eventually(t, "another entry is proposed", func() bool { return g.waiting() > before })
	if n := w.run.count("last"); n != 0 {
		t.Errorf("the function behind a durable bucket has run %d times on what is not committed", n)
	}
	select {
	case err := <-answer:
		t.Errorf("the put is answered before it is committed: %v", err)
	default:
	}
	l := w.leaders[1]
	if _, err := l.GetSession(t.Context(), "demo", "run", "b", "k"); spec.CodeOf(err) != spec.CodeNotFound {
		t.Errorf("an object that is not committed is read: %v", err)
	}
	if _, err := l.Session(t.Context(), "demo", "run"); spec.CodeOf(err) != spec.CodeNotFound {
		t.Errorf("a session that is not committed is shown: %v", err)
	}
	g.open()
	for _, c := range []<-chan error{answer, other} {
		if err := <-c; err != nil {
			t.Errorf("put: %v", err)
		}
	}
	w.completed("run", "out=x a1 b1 c1")
	for _, f := range []string{"a", "b", "c", "last"} {
		if n := w.run.count(f); n != 1 {
			t.Errorf("%s has run %d times", f, n)
		}
	}
}

func TestAKeyValuePutIsWatchedOnlyOnceItIsCommittedThoughItsFunctionHasRun(t *testing.T) {
	var r runs
	w, g := newGated(t, earlyChain, earlyFunctions(&r))
	g.shut(0)
	done := make(chan struct{})
	go func() { defer close(done); w.put("a", "k", "x") }()
	eventually(t, "its function runs", func() bool { return len(r.of("a")) == 1 })
	if events, _, err := w.leaders[1].Changes("demo", "a", "", 0, 10); err != nil || len(events) != 0 {
		t.Errorf("%d events, %v", len(events), err)
	}
	if _, err := w.get("a", "k"); spec.CodeOf(err) != spec.CodeNotFound {
		t.Errorf("it is read: %v", err)
	}
	g.open()
	<-done
	if events, _, err := w.leaders[1].Changes("demo", "a", "", 0, 10); err != nil || len(events) != 1 {
		t.Errorf("%d events once it is committed, %v", len(events), err)
	}
}

// TestATermThatEndsBeforeTheCommitCostsRunsAndNothingElse ends the term after each
// number of entries that the chain has committed.
func TestATermThatEndsBeforeTheCommitCostsRunsAndNothingElse(t *testing.T) {
	for committed := range 7 {
		t.Run(fmt.Sprint(committed, " entries are committed"), func(t *testing.T) {
			var r runs
			w, g := newGated(t, earlyChain, earlyFunctions(&r))
			g.shut(committed)
			put := leader.Put{Session: "run", Bucket: "a", Key: "k", Body: strings.NewReader("x"), Request: "once"}
			answer := make(chan error, 1)
			go func() { _, err := w.tryPut(put); answer <- err }()
			eventually(t, "the chain runs as far as it can", func() bool { return len(r.of("c")) == 1 })
			eventually(t, "and what it made is proposed", func() bool { return g.waiting() > 0 || len(r.of("last")) == 1 })
			g.lose()
			if err := <-answer; err != nil {
				wantCode(t, err, spec.CodeUnavailable)
				put.Body = strings.NewReader("x")
				w.putOnce(put)
			}
			res := w.result("run")
			functions := []string{"a", "b", "c"}
			var times []int
			want := "out=x"
			for _, f := range functions {
				n := len(r.of(f))
				times = append(times, n)
				want += fmt.Sprintf(" %s%d", f, n)
			}
			if got := outputs(res); len(got) != 1 || got[0] != want {
				t.Errorf("the outputs are %q, want %q: of the last run of each", got, want)
			}
			if slices.Min(times) < 1 || slices.Max(times) > 2 || !slices.IsSorted(times) {
				t.Errorf("the functions ran %v times: those whose end was committed once, the others twice", times)
			}
			if committed == 0 && times[0] != 2 {
				t.Errorf("nothing was committed and the functions ran %v times", times)
			}
			for i, in := range r.of("last") {
				if "out="+in != want {
					t.Errorf("run %d of the function behind the durable bucket was on %q, which was lost", i, in)
				}
			}
		})
	}
}

func TestAnEarlyAttemptOfATermThatIsOverIsStoppedAndItsResultRefused(t *testing.T) {
	var r runs
	late := make(chan struct{})
	functions := earlyFunctions(&r)
	quick := functions["a"]
	functions["a"] = func(c *call) error {
		if err := quick(c); err != nil || len(r.of("a")) > 1 {
			return err
		}
		<-late // it does not listen to being told to stop
		return nil
	}
	w, g := newGated(t, earlyChain, functions)
	g.shut(0)
	answer := w.putAside("run", "a", "k", "x")
	eventually(t, "the function runs", func() bool { return len(r.of("a")) == 1 })
	g.lose()
	wantCode(t, <-answer, spec.CodeUnavailable)
	eventually(t, "the attempt is told to stop", func() bool {
		w.run.mu.Lock()
		defer w.run.mu.Unlock()
		return w.run.cancelled[spec.InvocationID{Session: "run", Number: 1}.String()+"/1"] == 1
	})
	w.putOnce(leader.Put{Session: "run", Bucket: "a", Key: "k", Body: strings.NewReader("x"), Request: "once"})
	w.completed("run", "out=x a2 b1 c1")
	close(late)
	w.run.running.Wait()
	w.into("other", "plain", "k", "x") // evaluated behind the late result
	w.completed("run", "out=x a2 b1 c1")
}

func TestAnAttemptIsStoppedThatWasCancelledInAnEntryThatIsLost(t *testing.T) {
	w, g := newGated(t, manifest(`
functions: {a: {runtime: inproc}}
buckets: {a: {triggers: [{name: t, primitive: immediate, target: a}]}}
`), map[string]function{"a": func(c *call) error { <-c.ctx.Done(); return c.ctx.Err() }})
	w.into("run", "a", "k", "x")
	eventually(t, "its start is noted", func() bool { return len(w.history("run").Invocations[0].Attempts) == 1 })
	g.shut(0)
	go func() { _ = w.leaders[1].Cancel(context.Background(), "demo", "run") }()
	eventually(t, "the cancellation is proposed", func() bool { return g.waiting() > 0 })
	g.lose()
	eventually(t, "the attempt is told to stop", func() bool {
		w.run.mu.Lock()
		defer w.run.mu.Unlock()
		return w.run.cancelled[spec.InvocationID{Session: "run", Number: 1}.String()+"/1"] == 1
	})
}

func TestEarlyFiringsOfEachPrimitiveHaveTheirInputs(t *testing.T) {
	long := strings.Repeat("long", 100) // more than a held object keeps in its record
	large := noise(100<<10, 3)
	for _, test := range []struct {
		name, trigger string
		emit          func(c *call)
		want          string
	}{
		{"immediate", "primitive: immediate", func(c *call) { c.put("p", "k", "v") }, "v"},
		{"a condition", `primitive: immediate, when: 'object.value.n > 1'`, func(c *call) {
			c.emit(exec.Emission{Bucket: "p", Key: "1", Data: []byte(`{"n":1}`), ContentType: "application/json"})
			c.emit(exec.Emission{Bucket: "p", Key: "2", Data: []byte(`{"n":2}`), ContentType: "application/json"})
		}, `{"n":2}`},
		{"by_set, in the declared order", "primitive: by_set, keys: [l, r]", func(c *call) { c.put("p", "r", "2"); c.put("p", "l", "1") }, "1 2"},
		{"by_batch_size in a session", "primitive: by_batch_size, scope: session, count: 2", func(c *call) { c.put("p", "x", "1"); c.put("p", "y", "2") }, "1 2"},
		{"by_batch_size across the bucket", "primitive: by_batch_size, count: 2", func(c *call) { c.put("p", "x", "1"); c.put("p", "y", long) }, "1 " + long},
		{"redundant", "primitive: redundant, k: 1, n: 2", func(c *call) { c.put("p", "x", "1"); c.put("p", "y", "2") }, "1"},
		{"dynamic_join", "primitive: dynamic_join", func(c *call) { c.put("p", "x", "1"); c.join("p", "t", "y", "x"); c.put("p", "y", "2") }, "2 1"},
		{"dynamic_group", `primitive: dynamic_group, group_by: {prefix: ":"}, until: {keys: [end]}`, func(c *call) {
			c.put("p", "a:1", "1")
			c.put("p", "a:2", "2")
			c.put("p", "end", "")
		}, "1 2"},
		{"a large object", "primitive: immediate", func(c *call) { c.put("p", "k", large) }, large},
		{"a large object across the bucket", "primitive: by_batch_size, count: 2", func(c *call) { c.put("p", "k", large); c.put("p", "l", "2") }, large + " 2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var r runs
			spoil := func(c *call) error {
				r.note(c)
				for i := range c.in {
					clear(c.in[i].Data) // it is the function's own
				}
				return nil
			}
			w, g := newGated(t, manifest(`
functions: {seed: {runtime: inproc}, early: {runtime: inproc}, too: {runtime: inproc}}
buckets:
  in: {triggers: [{name: t, primitive: immediate, target: seed}]}
  p: {durability: pipelined, triggers: [{name: t, `+test.trigger+`, target: [early, too]}]}
`), map[string]function{
				"seed":  func(c *call) error { test.emit(c); return nil },
				"early": spoil, "too": spoil,
			})
			g.shut(1) // of the put, whose bucket is durable
			w.into("run", "in", "k", "x")
			eventually(t, "the functions run early", func() bool { return len(r.of("early")) == 1 && len(r.of("too")) == 1 })
			eventually(t, "and their ends wait", func() bool { return g.waiting() >= 2 })
			for _, f := range []string{"early", "too"} {
				if got := r.of(f)[0]; got != test.want {
					t.Errorf("the inputs of %s are %.100q, want %.100q", f, got, test.want)
				}
			}
			g.open()
			w.quiet()
			if n := w.run.count("early") + w.run.count("too"); n != 2 {
				t.Errorf("they ran %d times", n)
			}
			for _, s := range w.sessions("") {
				if s.Status != wire.SessionCompleted {
					t.Errorf("session %s is %s", s.Session, s.Status)
				}
			}
		})
	}
}

func TestAnObjectThatWasPutWhileItsBucketWasDurableIsNoEarlyInput(t *testing.T) {
	app := func(durability string) string {
		return manifest(`
functions: {seed: {runtime: inproc}, pair: {runtime: inproc}}
buckets:
  in: {triggers: [{name: t, primitive: immediate, target: seed}]}
  p: {durability: ` + durability + `, triggers: [{name: t, primitive: by_batch_size, count: 2, target: pair}]}
  plain: {}
`)
	}
	var r runs
	gate := make(chan struct{})
	w, g := newGated(t, app("durable"), map[string]function{
		"seed": func(c *call) error {
			if c.Version == 1 {
				if err := c.waitFor(gate); err != nil {
					return err
				}
			}
			c.put("p", "of-"+string(c.in[0].Key), string(c.in[0].Key))
			return nil
		},
		"pair": func(c *call) error { r.note(c); return nil },
	})
	w.into("old", "in", "old", "x")
	w.deploy(app("pipelined"))
	w.into("new", "in", "new", "x")
	eventually(t, "the new session has put its object", func() bool { return w.session("new").Status == wire.SessionCompleted })
	g.shut(0)
	close(gate)
	eventually(t, "the old one's is proposed", func() bool { return g.waiting() == 1 })
	aside := w.putAside("other", "plain", "k", "x")
	eventually(t, "another entry is proposed", func() bool { return g.waiting() > 1 })
	if n := w.run.count("pair"); n != 0 {
		t.Errorf("the pair has fired %d times before the object of a durable bucket is committed", n)
	}
	g.open()
	if err := <-aside; err != nil {
		t.Error(err)
	}
	eventually(t, "the pair fires", func() bool { return len(r.of("pair")) == 1 })
	if got := r.of("pair")[0]; got != "new old" {
		t.Errorf("it fires with %q", got)
	}
}

func TestAnEarlyAttemptThatFailsIsRetriedBeforeAnythingIsCommitted(t *testing.T) {
	var r runs
	w, g := newGated(t, manifest(`
functions: {a: {runtime: inproc, retry: {max_attempts: 3, backoff: 1ms}}}
buckets:
  a: {durability: pipelined, triggers: [{name: t, primitive: immediate, target: a}]}
`), map[string]function{"a": func(c *call) error {
		if r.note(c) < 3 {
			return fmt.Errorf("not yet")
		}
		c.output("out", fmt.Sprint(c.Attempt))
		return nil
	}})
	g.shut(0)
	answer := w.putAside("run", "a", "k", "x")
	eventually(t, "its third attempt ends", func() bool { return len(r.of("a")) == 3 })
	g.open()
	if err := <-answer; err != nil {
		t.Error(err)
	}
	w.completed("run", "out=3")
	wantLines(t, w.states("run"), "a succeeded failed failed")
}

func TestWorkGoesOnOverManyTermsWithPipelinedBuckets(t *testing.T) {
	var r runs
	w, g := newGated(t, earlyChain, earlyFunctions(&r))
	var clients sync.WaitGroup
	ended := make(chan struct{})
	for client := range 3 {
		clients.Go(func() {
			for i := range 6 {
				id := spec.SessionID(fmt.Sprint("run-", client, "-", i))
				w.putOnce(leader.Put{Session: id, Bucket: "a", Key: "k", Body: strings.NewReader(string(id)), Request: string(id)})
				res := w.result(id)
				if got := outputs(res); len(got) != 1 || !strings.HasPrefix(got[0], "out="+string(id)+" a") {
					t.Errorf("session %s: %s with outputs %q", id, res.Status, got)
				}
			}
		})
	}
	go func() { clients.Wait(); close(ended) }()
	over := func() bool {
		select {
		case <-ended:
			return true
		default:
			return false
		}
	}
	for n := range 12 { // an attempt may be lost with its term sixteen times
		g.shut(n % 6)
		eventually(t, "something waits to be committed", func() bool { return g.waiting() > 0 || over() })
		g.lose()
	}
	<-ended
	for _, s := range w.sessions("") {
		if s.Status != wire.SessionCompleted {
			t.Errorf("session %s is %s", s.Session, s.Status)
		}
	}
}
