package leader_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

func (c *call) start(function, into, key, input string) {
	c.emit(exec.Emission{
		Bucket: spec.BucketName(into), Key: spec.Key(key), Data: []byte(input), ContentType: "text/plain",
		Child: &exec.ChildStart{Function: spec.FunctionName(function)},
	})
}

const childApp = `apiVersion: pheromone/v1
app: demo
functions:
  parent: {runtime: inproc, retry: {max_attempts: 3, backoff: 1ms}}
  child: {runtime: inproc, retry: {max_attempts: 1}}
  gather: {runtime: inproc}
buckets:
  orders: {triggers: [{name: new, primitive: immediate, target: parent}]}
  results: {triggers: [{name: all, primitive: by_set, target: gather, keys: [a, b, c]}]}
  failures: {}
`

// gather outputs what the children came to, in the order of the set.
func gather(c *call) error {
	var all []string
	for _, in := range c.in {
		all = append(all, fmt.Sprintf("%s=%s(%s)", in.Key, in.Data, in.Meta["pheromone-status"]))
	}
	c.output("all", strings.Join(all, " "))
	return nil
}

func TestAParentGetsTheResultsOfItsChildrenFromAnyShard(t *testing.T) {
	w := newWorld(t, 4, childApp, map[string]function{
		"parent": func(c *call) error {
			for _, key := range []string{"a", "b", "c"} {
				c.start("child", "results", key, string(c.in[0].Data)+key)
			}
			return nil
		},
		"child": func(c *call) error {
			c.output("upper", strings.ToUpper(string(c.in[0].Data)))
			return nil
		},
		"gather": gather,
	})
	for n := range 8 {
		session := w.put("orders", fmt.Sprintf("o%d", n), fmt.Sprintf("x%d", n))
		res := w.result(session)
		want := fmt.Sprintf("all=a=X%[1]dA(completed) b=X%[1]dB(completed) c=X%[1]dC(completed)", n)
		if got := outputs(res); !slices.Equal(got, []string{want}) {
			t.Fatalf("outputs %q, want %q", got, want)
		}
		h := w.history(session)
		if len(h.Children) != 3 || h.Session.Children != 3 || h.Session.Awaited != 0 {
			t.Fatalf("children %+v of %+v", h.Children, h.Session)
		}
		for _, child := range h.Children {
			s := w.history(child.Session).Session
			if child.Status != wire.SessionCompleted || s.Origin.Kind != "child" || s.Origin.Session != session {
				t.Errorf("child %+v is %+v", child, s)
			}
		}
	}
}

func TestALargeOutputOfAChildReachesItsParentWhole(t *testing.T) {
	large := bytes.Repeat([]byte("0123456789abcdef"), 20_000)
	w := newWorld(t, 4, childApp, map[string]function{
		"parent": func(c *call) error {
			for _, key := range []string{"a", "b", "c"} {
				c.emit(exec.Emission{Bucket: "results", Key: spec.Key(key), Data: large, Child: &exec.ChildStart{Function: "child"}})
			}
			return nil
		},
		"child": func(c *call) error {
			c.emit(exec.Emission{Bucket: spec.OutputBucket, Key: "out", Data: c.in[0].Data, Output: true, ContentType: "application/x-large"})
			return nil
		},
		"gather": func(c *call) error {
			for _, in := range c.in {
				if !bytes.Equal(in.Data, large) || in.ContentType != "application/x-large" {
					return permanent(fmt.Sprintf("%s has %d bytes of %s", in.Key, len(in.Data), in.ContentType))
				}
			}
			c.output("ok", "all")
			return nil
		},
	})
	session := w.put("orders", "o", "x")
	if res := w.result(session); res.Status != wire.SessionCompleted {
		t.Fatalf("result %+v", res)
	}
	for _, child := range w.history(session).Children {
		if got := w.result(child.Session).Outputs; len(got) != 1 || !bytes.Equal(got[0].Data, large) {
			t.Fatalf("the output of child %s is gone", child.Session)
		}
		if err := w.of(spec.SessionSlot("demo", child.Session)).Purge(t.Context(), "demo", child.Session); err != nil {
			t.Fatal(err)
		}
	}
	w.restart() // blobs that only a message held are gone, those of records are not
	o, err := w.of(spec.SessionSlot("demo", session)).GetSession(t.Context(), "demo", session, "results", "b")
	if got := readAll(t, o, err); got != string(large) {
		t.Fatalf("after a restart the result has %d bytes", len(got))
	}
}

func TestTheEndOfAChildIsToldWhateverItIs(t *testing.T) {
	w := newWorld(t, 4, childApp, map[string]function{
		"parent": func(c *call) error {
			for _, key := range []string{"a", "b", "c"} {
				c.start("child", "results", key, key)
			}
			return nil
		},
		"child": func(c *call) error {
			switch string(c.in[0].Data) {
			case "a": // no output
				return nil
			case "b":
				c.output("one", "1")
				c.output("two", "2")
				return nil
			}
			return errors.New("no luck")
		},
		"gather": func(c *call) error {
			var all []string
			for _, in := range c.in {
				var r wire.Result
				if err := json.Unmarshal(in.Data, &r); err != nil {
					return err
				}
				message := ""
				if r.Error != nil {
					message = r.Error.Message
				}
				all = append(all, fmt.Sprintf("%s:%s,%s,%d outputs,%s", in.Key, in.Meta["pheromone-status"], r.Status, len(r.Outputs), message))
			}
			c.output("all", strings.Join(all, "; "))
			return nil
		},
	})
	got := outputs(w.result(w.put("orders", "o", "x")))
	want := "all=a:completed,completed,0 outputs,; b:completed,completed,2 outputs,; c:failed,failed,0 outputs,no luck"
	if !slices.Equal(got, []string{want}) {
		t.Fatalf("outputs %q, want %q", got, want)
	}
}

func TestALaterAttemptStartsTheSameChildren(t *testing.T) {
	w := newWorld(t, 4, childApp, map[string]function{
		"parent": func(c *call) error {
			for _, key := range []string{"a", "b", "c"} {
				c.start("child", "results", key, key)
			}
			if err := c.flush(); err != nil {
				return err
			}
			if c.Attempt < 3 {
				return errors.New("not yet")
			}
			return nil
		},
		"child":  func(c *call) error { c.output("k", string(c.in[0].Data)); return nil },
		"gather": gather,
	})
	session := w.put("orders", "o", "x")
	w.result(session)
	if n := w.run.count("child"); n != 3 {
		t.Errorf("the child function ran %d times, want 3", n)
	}
	if h := w.history(session); len(h.Children) != 3 {
		t.Errorf("children %+v", h.Children)
	}
}

func TestChildrenSurviveRestartsOnBothSides(t *testing.T) {
	gate := make(chan struct{})
	w := newWorld(t, 4, childApp, map[string]function{
		"parent": func(c *call) error {
			for _, key := range []string{"a", "b", "c"} {
				c.start("child", "results", key, key)
			}
			return nil
		},
		"child": func(c *call) error {
			select {
			case <-gate:
			case <-c.ctx.Done():
				return c.ctx.Err()
			}
			c.output("k", string(c.in[0].Data))
			return nil
		},
		"gather": gather,
	})
	session := w.put("orders", "o", "x")
	eventually(t, "the children run", func() bool { return w.run.count("child") >= 3 })
	w.restart()
	close(gate)
	for id := range w.leaders {
		w.unseat(id)
	}
	if got := outputs(w.result(session)); !slices.Equal(got, []string{"all=a=a(completed) b=b(completed) c=c(completed)"}) {
		t.Fatalf("outputs %q", got)
	}
}

func TestASessionThatIsCancelledCancelsTheChildrenItWaitsForAndNoOthers(t *testing.T) {
	w := newWorld(t, 4, childApp, map[string]function{
		"parent": func(c *call) error {
			c.start("child", "results", "a", "awaited")
			c.start("child", "results", "b", "awaited")
			c.start("child", "", "", "independent")
			return nil
		},
		"child": func(c *call) error { <-c.ctx.Done(); return c.ctx.Err() },
	})
	session := w.put("orders", "o", "x")
	eventually(t, "the children run", func() bool { return w.run.count("child") == 3 })
	if err := w.of(spec.SessionSlot("demo", session)).Cancel(t.Context(), "demo", session); err != nil {
		t.Fatal(err)
	}
	for _, child := range w.history(session).Children {
		if child.Awaited {
			if r := w.result(child.Session); r.Status != wire.SessionCancelled {
				t.Errorf("awaited child %s is %s", child.Session, r.Status)
			}
		}
	}
	h := w.history(session)
	for _, child := range h.Children {
		want := wire.SessionRunning
		if child.Awaited {
			want = wire.SessionCancelled
		}
		if s := w.history(child.Session).Session; s.Status != want || child.Status != want {
			t.Errorf("child %+v is %s, want %s", child, s.Status, want)
		}
	}
	if h.Session.Awaited != 0 {
		t.Errorf("the cancelled session waits for %d children", h.Session.Awaited)
	}
}

func TestAnIndependentChildDoesNotHoldItsParentUp(t *testing.T) {
	gate := make(chan struct{})
	w := newWorld(t, 4, childApp, map[string]function{
		"parent": func(c *call) error { c.start("child", "", "", "x"); c.output("k", "done"); return nil },
		"child":  func(c *call) error { <-gate; c.output("k", "late"); return nil },
	})
	session := w.put("orders", "o", "x")
	if got := outputs(w.result(session)); !slices.Equal(got, []string{"k=done"}) {
		t.Fatalf("outputs %q", got)
	}
	close(gate)
	child := w.history(session).Children[0].Session
	if got := outputs(w.result(child)); !slices.Equal(got, []string{"k=late"}) {
		t.Fatalf("outputs of the child %q", got)
	}
}

func TestAChildThatCanNotBeStartedFailsTheAttemptWithTheReason(t *testing.T) {
	for name, c := range map[string]struct {
		start func(c *call)
		says  string
	}{
		"no such function": {func(c *call) { c.start("nobody", "results", "a", "") }, `no function "nobody"`},
		"no such bucket":   {func(c *call) { c.start("child", "nowhere", "a", "") }, `no bucket "nowhere"`},
		"a bad key":        {func(c *call) { c.start("child", "results", "a\x01", "") }, "its result in bucket"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1, childApp, map[string]function{"parent": func(k *call) error { c.start(k); return nil }})
			res := w.result(w.put("orders", "o", "x"))
			if res.Status != wire.SessionFailed || !strings.Contains(res.Error.Message, c.says) {
				t.Fatalf("result %+v, want a failure that says %q", res, c.says)
			}
		})
	}
}

func TestChildrenOfChildrenEndAtTheLimit(t *testing.T) {
	w := newWorld(t, 4, childApp, map[string]function{
		"parent": func(c *call) error { c.start("parent", "results", "a", ""); return nil },
	})
	session := w.put("orders", "o", "x")
	if res := w.result(session); res.Status != wire.SessionCompleted {
		t.Fatalf("result %+v: the end of a child is its parent's to judge", res)
	}
	// The deepest one may start no child: 33 sessions, the last of which has three
	// attempts refused at once.
	if n := w.run.count("parent"); n != 33 {
		t.Errorf("%d sessions ran, want 33", n)
	}
}

func TestARemovedFunctionFailsTheChildAndTellsTheParent(t *testing.T) {
	gate := make(chan struct{})
	w := newWorld(t, 4, childApp, map[string]function{
		"parent": func(c *call) error {
			c.start("child", "results", "a", "a")
			if err := c.flush(); err != nil {
				return err
			}
			<-gate
			c.start("child", "results", "b", "b")
			return nil
		},
		"child": func(c *call) error { c.output("k", "v"); return nil },
	})
	session := w.put("orders", "o", "x")
	eventually(t, "the first child runs", func() bool { return w.run.count("child") == 1 })
	w.apps.apply(t, strings.ReplaceAll(childApp, "  child: {runtime: inproc, retry: {max_attempts: 1}}\n", ""))
	for _, l := range w.leaders {
		if err := l.AppsChanged(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	close(gate)
	res := w.result(session)
	if res.Status != wire.SessionFailed || !strings.Contains(res.Error.Message, `no function "child"`) {
		t.Fatalf("result %+v", res)
	}
}

const deadlineApp = `apiVersion: pheromone/v1
app: demo
session_timeout: 10m
functions:
  f: {runtime: inproc}
  parent: {runtime: inproc}
buckets:
  in: {triggers: [{name: new, primitive: immediate, target: f}]}
  families: {triggers: [{name: new, primitive: immediate, target: parent}]}
  results: {}
`

func TestASessionThatOutlivesItsDeadlineFailsAndItsAttemptsAreStopped(t *testing.T) {
	w := newWorld(t, 2, deadlineApp, map[string]function{"f": func(c *call) error { <-c.ctx.Done(); return c.ctx.Err() }})
	session := w.put("in", "k", "v")
	eventually(t, "its function runs", func() bool { return w.history(session).Invocations[0].State == "running" })
	w.forward(9 * time.Minute)
	if s := w.session(session); s.Status != wire.SessionRunning {
		t.Errorf("before its deadline it is %s", s.Status)
	}
	w.forward(2 * time.Minute)
	res := w.result(session)
	if res.Status != wire.SessionFailed || res.Error.Kind != exec.TimedOut || !strings.Contains(res.Error.Message, "10m, its deadline") {
		t.Fatalf("result %+v", res.Error)
	}
	if inv := w.history(session).Invocations[0]; inv.State != "cancelled" || inv.Attempts[0].Error.Kind != exec.Cancelled {
		t.Errorf("invocation %+v", inv)
	}
	eventually(t, "the attempt is stopped", func() bool {
		w.run.mu.Lock()
		defer w.run.mu.Unlock()
		return len(w.run.cancelled) == 1
	})
}

func TestADeadlineSurvivesARestart(t *testing.T) {
	w := newWorld(t, 1, deadlineApp, map[string]function{"f": func(c *call) error { <-c.ctx.Done(); return c.ctx.Err() }})
	session := w.put("in", "k", "v")
	w.restart()
	w.forward(11 * time.Minute)
	if res := w.result(session); res.Status != wire.SessionFailed || res.Error.Kind != exec.TimedOut {
		t.Fatalf("result %+v", res)
	}
}

func TestARequestMaySetTheDeadlineOfItsSession(t *testing.T) {
	gate := make(chan struct{})
	w := newWorld(t, 1, deadlineApp, map[string]function{"f": func(c *call) error {
		select {
		case <-gate:
		case <-c.ctx.Done():
		}
		return c.ctx.Err()
	}})
	put := func(key string, timeout time.Duration) spec.SessionID {
		res, err := w.tryPut(leader.Put{Bucket: "in", Key: spec.Key(key), Body: bytes.NewReader(nil), SessionTimeout: timeout})
		if err != nil {
			t.Fatal(err)
		}
		return res.Session
	}
	long, short := put("long", time.Hour), put("short", time.Minute)
	w.forward(2 * time.Minute)
	if res := w.result(short); res.Status != wire.SessionFailed {
		t.Errorf("the short one is %s", res.Status)
	}
	byApp := put("app", 0)
	w.forward(11 * time.Minute)
	if res := w.result(byApp); res.Status != wire.SessionFailed {
		t.Errorf("the one with the app's deadline is %s", res.Status)
	}
	close(gate)
	if res := w.result(long); res.Status != wire.SessionCompleted {
		t.Errorf("the long one is %s: %+v", res.Status, res.Error)
	}
}

func TestAChildHasADeadlineOfItsOwnAndFailsAlone(t *testing.T) {
	w := newWorld(t, 4, strings.Replace(deadlineApp, "10m", "1h", 1), map[string]function{
		"parent": func(c *call) error {
			c.emit(exec.Emission{Bucket: "results", Key: "r", Child: &exec.ChildStart{Function: "f", Timeout: 10 * time.Minute}})
			return nil
		},
		"f": func(c *call) error { <-c.ctx.Done(); return c.ctx.Err() },
	})
	session := w.put("families", "k", "v")
	eventually(t, "the child runs", func() bool { return w.run.count("f") == 1 })
	w.forward(20 * time.Minute)
	if res := w.result(session); res.Status != wire.SessionCompleted {
		t.Fatalf("the parent is %s", res.Status)
	}
	o, err := w.of(spec.SessionSlot("demo", session)).GetSession(t.Context(), "demo", session, "results", "r")
	if got := readAll(t, o, err); !strings.Contains(got, `"kind":"timeout"`) || o.Meta["pheromone-status"] != "failed" {
		t.Fatalf("result of the child: %s, %v", got, o.Meta)
	}
}

func TestASessionThatAFiringOfABucketStartedRunsAgainWithTheSameObjects(t *testing.T) {
	w := newWorld(t, 4, `apiVersion: pheromone/v1
app: demo
functions: {sum: {runtime: inproc}, too: {runtime: inproc}}
buckets: {in: {triggers: [{name: three, primitive: by_batch_size, count: 3, target: [sum, too]}]}}
`, map[string]function{
		"sum": func(c *call) error { c.output("sum", fmt.Sprint(keysOf(c.in), len(c.in[1].Data))); return nil },
		"too": func(c *call) error { c.output("too", string(c.in[2].Data[:1])); return nil },
	})
	for n := range 3 {
		w.put("in", fmt.Sprint("k", n), strings.Repeat(fmt.Sprint(n), 300)) // large enough to be held apart
	}
	var first wire.Session
	eventually(t, "the batch has fired", func() bool {
		for _, l := range w.leaders {
			page, err := l.Sessions(t.Context(), "demo", wire.SessionCompleted, "sum", 0, "", 10)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range page.Items {
				first = s
			}
		}
		return first.Session != ""
	})
	l := w.of(spec.SessionSlot("demo", first.Session))
	want := outputs(w.result(first.Session))
	again, err := l.Refire(t.Context(), "demo", first.Session)
	if err != nil {
		t.Fatal(err)
	}
	got := outputs(w.result(again))
	slices.Sort(want)
	slices.Sort(got)
	if len(got) != 2 || !slices.Equal(got, want) {
		t.Errorf("outputs %q, the first time %q", got, want)
	}
	if err := l.Purge(t.Context(), "demo", first.Session); err != nil {
		t.Fatal(err)
	}
	w.restart() // the copies are the new session's own
	l = w.of(spec.SessionSlot("demo", again))
	third, err := l.Refire(t.Context(), "demo", again)
	if err != nil {
		t.Fatal(err)
	}
	if got := outputs(w.result(third)); len(got) != 2 {
		t.Errorf("outputs of the third run %q", got)
	}
	if o := w.history(third).Session.Origin; o.Kind != "rerun" || o.Session != again {
		t.Errorf("origin %+v", o)
	}
	if _, err := l.Refire(t.Context(), "demo", first.Session); spec.CodeOf(err) != spec.CodeNotFound {
		t.Errorf("refire of a purged session: %v", err)
	}
}
