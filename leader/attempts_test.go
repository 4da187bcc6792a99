package leader_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// oneFunction is an app with a function f on bucket in, whose other lines follow.
func oneFunction(options string) string {
	return manifest(`
functions:
  f: {runtime: inproc, retry: {max_attempts: 3, backoff: 10ms, max_backoff: 20ms}` + options + `}
  next: {runtime: inproc}
buckets:
  in: {triggers: [{name: t, primitive: immediate, target: f}]}
  out: {triggers: [{name: t, primitive: immediate, target: next}]}
  sets: {triggers: [{name: joined, primitive: dynamic_join, target: next}]}
`)
}

// next makes an output of what it gets.
func next(c *call) error {
	c.output(strings.Join(keysOf(c.in), "+"), strings.Join(dataOf(c.in), "+"))
	return nil
}

func TestAFailedAttemptIsTriedAgainUntilItSucceeds(t *testing.T) {
	w := newWorld(t, 1, oneFunction(""), map[string]function{"next": next, "f": func(c *call) error {
		if c.Attempt < 3 {
			return fmt.Errorf("not yet, this is attempt %d", c.Attempt)
		}
		c.put("out", "k", "v")
		return nil
	}})
	id := w.put("in", "x", "")
	w.completed(id, "k=v")
	wantLines(t, w.states(id), "f succeeded failed failed", "next succeeded")
	attempts := w.history(id).Invocations[0].Attempts
	for i, a := range attempts {
		if a.Number != i+1 || a.Executor != "go" || a.EndedAt.Before(a.StartedAt) {
			t.Errorf("attempt %d is told as %+v", i+1, a)
		}
	}
	if got := attempts[1].Error.Message; got != "not yet, this is attempt 2" {
		t.Errorf("the second attempt failed with %q", got)
	}
}

func TestAFunctionThatAlwaysFailsFailsItsSession(t *testing.T) {
	w := newWorld(t, 1, oneFunction(""), map[string]function{"f": func(*call) error { return errors.New("broken") }})
	id := w.put("in", "x", "kept")
	e := w.failed(id)
	if e.Kind != exec.Failed || e.Message != "broken" || e.Function != "f" || e.Attempts != 3 || e.Invocation != string(id)+".1" {
		t.Errorf("the session failed with %+v", e)
	}
	wantLines(t, w.states(id), "f failed failed failed failed")
	o, err := w.home(id).GetSession(t.Context(), "demo", id, "in", "x")
	if got := readAll(t, o, err); got != "kept" {
		t.Errorf("the input of a failed session is %q", got)
	}
	_, err = w.tryInto(string(id), "in", "y", "")
	wantCode(t, err, spec.CodeConflict, "failed")
}

func TestAPermanentErrorIsNotTriedAgain(t *testing.T) {
	w := newWorld(t, 1, oneFunction(""), map[string]function{"f": func(*call) error { return permanent("bad input") }})
	if e := w.failed(w.put("in", "x", "")); e.Kind != exec.Permanent || e.Attempts != 1 {
		t.Errorf("failed with %+v", e)
	}
}

func TestATimeoutThatTheExecutorsReportIsTriedAgain(t *testing.T) {
	w := newWorld(t, 1, oneFunction(", timeout: 7m"), map[string]function{"next": next, "f": func(c *call) error {
		if c.Timeout != 7*time.Minute {
			return permanent(fmt.Sprintf("the executors are told a timeout of %s", c.Timeout))
		}
		if c.Attempt == 1 {
			return context.DeadlineExceeded
		}
		c.put("out", "k", "v")
		return nil
	}})
	id := w.put("in", "x", "")
	w.completed(id, "k=v")
	wantLines(t, w.states(id), "f succeeded timeout", "next succeeded")
}

func TestAFailureGoesToTheDeadLetterBucketAndDrivesOn(t *testing.T) {
	w := newWorld(t, 1, oneFunction(", dead_letter: out"), map[string]function{
		"f":    func(*call) error { return permanent("no such customer") },
		"next": next,
	})
	id := w.put("in", "x", "")
	res := w.result(id)
	if res.Status != wire.SessionCompleted || len(res.Outputs) != 1 {
		t.Fatalf("the session ended as %s with %+v", res.Status, res)
	}
	letter := string(res.Outputs[0].Data)
	for _, part := range []string{`"function":"f"`, `"message":"no such customer"`, `"kind":"permanent"`, `"attempts":1`, `"key":"x"`} {
		if !strings.Contains(letter, part) {
			t.Errorf("the dead letter %s lacks %s", letter, part)
		}
	}
	wantLines(t, w.states(id), "f failed permanent", "next succeeded")
}

func TestWhatIsRefusedFailsTheAttemptForGood(t *testing.T) {
	for name, test := range map[string]struct {
		emit func(c *call)
		kind string
		says []string
	}{
		"a bucket that is not there":   {func(c *call) { c.put("nowhere", "k", "") }, exec.Refused, []string{"nowhere"}},
		"a function that is not there": {func(c *call) { c.put("@nobody", "k", "") }, exec.Refused, []string{"nobody"}},
		"a key with a line break":      {func(c *call) { c.put("out", "a\nb", "") }, exec.Refused, []string{"out"}},
		"a key that is too long":       {func(c *call) { c.put("out", strings.Repeat("k", 2000), "") }, exec.Refused, []string{"out"}},
		"a join that is not there":     {func(c *call) { c.join("out", "joined", "a") }, exec.Refused, []string{"joined", "out"}},
		"a join of a bad key":          {func(c *call) { c.join("sets", "joined", "") }, exec.Refused, []string{"joined"}},
		"a content type that is too long": {func(c *call) {
			c.emit(exec.Emission{Bucket: "out", Key: "k", ContentType: strings.Repeat("t", 257)})
		}, exec.Refused, []string{"out", "content type", "256"}},
		"a content type with a line break": {func(c *call) {
			c.emit(exec.Emission{Bucket: "out", Key: "k", ContentType: "text/plain\r\nX-Other: 1"})
		}, exec.Refused, []string{"out", "content type"}},
		"too many metadata fields": {func(c *call) {
			meta := map[string]string{}
			for i := range 65 {
				meta[fmt.Sprint("m", i)] = ""
			}
			c.emit(exec.Emission{Bucket: "out", Key: "k", Meta: meta})
		}, exec.Refused, []string{"out", "65 metadata fields", "64"}},
		"metadata that is too large": {func(c *call) {
			c.emit(exec.Emission{Bucket: "out", Key: "k", Meta: map[string]string{"m": strings.Repeat("v", 16<<10)}})
		}, exec.Refused, []string{"out", "metadata", "16384"}},
		"metadata that is no text": {func(c *call) {
			c.emit(exec.Emission{Bucket: "out", Key: "k", Meta: map[string]string{"m": "\xff"}})
		}, exec.Refused, []string{"out", `"m"`, "UTF-8"}},
		"a child with metadata that is too large": {func(c *call) {
			c.emit(exec.Emission{Meta: map[string]string{"m": strings.Repeat("v", 16<<10)}, Child: &exec.ChildStart{Function: "next"}})
		}, exec.Refused, []string{"child", "metadata"}},
		"two values under one key": {func(c *call) {
			c.put("out", "before", "1")
			c.put("out", "before", "2")
		}, exec.Conflict, []string{`"before"`}},
		"other bytes under a key": {func(c *call) { c.put("in", "x", "other") }, exec.Conflict, []string{`"x"`, "a client"}},
	} {
		for _, emit := range []string{"stream", "atomic"} {
			for _, early := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, emit %s, early %v", name, emit, early), func(t *testing.T) {
					t.Parallel()
					w := newWorld(t, 1, oneFunction(", emit: "+emit), map[string]function{"next": next, "f": func(c *call) error {
						c.put("out", "before", "1")
						test.emit(c)
						c.put("out", "after", "2")
						if early {
							if err := c.flush(); err != nil {
								return err
							}
						}
						return nil
					}})
					id := w.put("in", "x", "")
					e := w.failed(id)
					if e.Kind != test.kind || e.Attempts != 1 {
						t.Errorf("failed with %+v, want kind %s at the first attempt", e, test.kind)
					}
					for _, part := range test.says {
						if !strings.Contains(e.Message, part) {
							t.Errorf("the message %q does not name %q", e.Message, part)
						}
					}
					want := 1 // what came before it counts
					if emit == "atomic" {
						want = 0
					}
					if got := w.run.count("next"); got != want {
						t.Errorf("%d objects were shown, want %d", got, want)
					}
				})
			}
		}
	}
}

func TestAnAtomicAttemptAtTheLimitOfItsSessionShowsNothing(t *testing.T) {
	w := newWorld(t, 1, "limits: {max_session_objects: 4}\n"+oneFunction(", emit: atomic"), map[string]function{"next": next, "f": func(c *call) error {
		for i := range 5 {
			c.put("out", fmt.Sprint("k", i), "")
		}
		return nil
	}})
	id := w.put("in", "x", "")
	if e := w.failed(id); e.Kind != exec.Refused || !strings.Contains(e.Message, "max_session_objects") {
		t.Errorf("failed with %+v", e)
	}
	if got := w.run.count("next"); got != 0 {
		t.Errorf("%d objects were shown", got)
	}
}

func TestAnAttemptThatRepeatsAFullSessionsObjectsSucceeds(t *testing.T) {
	w := newWorld(t, 1, "limits: {max_session_objects: 3}\n"+oneFunction(""), map[string]function{"next": func(*call) error { return nil }, "f": func(c *call) error {
		c.put("out", "a", "1")
		c.put("out", "b", "2")
		if err := c.flush(); err != nil {
			return err
		}
		if c.Attempt == 1 {
			return errors.New("again")
		}
		return nil
	}})
	w.completed(w.put("in", "x", ""))
}

func TestAtomicShowsItsObjectsOnlyWhenItSucceeds(t *testing.T) {
	for _, size := range []int{10, 100 << 10} {
		t.Run(fmt.Sprint(size, " bytes"), func(t *testing.T) {
			var w *world
			value := noise(size, 3)
			w = newWorld(t, 1, oneFunction(", emit: atomic"), map[string]function{
				"next": func(c *call) error {
					c.output(string(c.in[0].Key), fmt.Sprint(len(c.in[0].Data)))
					return nil
				},
				"f": func(c *call) error {
					c.put("out", fmt.Sprint("attempt-", c.Attempt), value)
					if err := c.flush(); err != nil {
						return err
					}
					id := string(c.Invocation.Session)
					w.into(id, "in", "@settled", "") // its commit comes after the emission's
					if c.Attempt == 1 {
						return errors.New("after it has put")
					}
					return nil
				},
			})
			// The second object in the bucket would call f again: by_name would be another way.
			w.apps.apply(t, strings.Replace(oneFunction(", emit: atomic"), "primitive: immediate, target: f", "primitive: by_name, keys: [x], target: f", 1))
			if err := w.leaders[1].AppsChanged(t.Context()); err != nil {
				t.Fatal(err)
			}
			id := w.put("in", "x", "")
			w.completed(id, fmt.Sprintf("attempt-2=%d", size))
			if n := w.run.count("next"); n != 1 {
				t.Errorf("the next function ran %d times: the failed attempt has shown something", n)
			}
			if err := w.home(id).Purge(t.Context(), "demo", id); err != nil {
				t.Fatalf("purge: %v", err)
			}
			if left := slices.DeleteFunc(w.left(), func(k string) bool { return !strings.HasPrefix(k, "f") }); len(left) != 0 {
				t.Errorf("chunks of blobs that nothing refers to are left: %q", left)
			}
		})
	}
}

func TestAStreamedObjectIsCountedWhileItsFunctionRuns(t *testing.T) {
	seen := make(chan struct{})
	w := newWorld(t, 1, oneFunction(""), map[string]function{
		"next": func(c *call) error { close(seen); return next(c) },
		"f": func(c *call) error {
			c.put("out", "k", "v")
			if err := c.flush(); err != nil {
				return err
			}
			return c.waitFor(seen)
		},
	})
	w.completed(w.put("in", "x", ""), "k=v")
}

func TestWhatALaterAttemptPutsAgainIsAppliedOnce(t *testing.T) {
	w := newWorld(t, 1, oneFunction(""), map[string]function{"next": next, "f": func(c *call) error {
		c.put("out", "", "made up") // the platform makes the key up: the same in every attempt
		c.put("out", "named", fmt.Sprint("by attempt ", c.Attempt))
		c.join("sets", "joined", "a")
		if c.Attempt < 3 {
			if err := c.flush(); err != nil {
				return err
			}
			return errors.New("again")
		}
		c.put("sets", "a", "set")
		return nil
	}})
	id := w.put("in", "x", "")
	w.completed(id, "~1-1=made up", "named=by attempt 1", "a=set")
	if n := w.run.count("next"); n != 3 {
		t.Errorf("the next function ran %d times, want once for each object and once for the set", n)
	}
}

func TestASupersededAttemptCanWriteNothing(t *testing.T) {
	var first atomic.Pointer[call]
	ready, over := make(chan struct{}), make(chan struct{})
	w := newWorld(t, 1, oneFunction(""), map[string]function{"next": next, "f": func(c *call) error {
		if first.CompareAndSwap(nil, c) {
			close(ready)
			<-over // it does not heed that it is told to stop
			return nil
		}
		c.put("out", "k", "second")
		return nil
	}})
	id := w.put("in", "x", "")
	<-ready
	eventually(t, "the start is written down", func() bool { return w.history(id).Invocations[0].State == "running" })
	w.restart() // the attempt is cancelled, and goes on nevertheless
	w.completed(id, "k=second")
	late := first.Load()
	late.put("out", "late", "first")
	if err := late.flush(); err == nil {
		t.Error("a superseded attempt was allowed to put")
	}
	close(over)
	w.run.running.Wait()
	wantLines(t, w.states(id), "f succeeded lost", "next succeeded")
}

func TestAnAttemptThatPutsMoreThanAnEntryHoldsIsApplied(t *testing.T) {
	w := newWorld(t, 1, oneFunction(""), map[string]function{
		"next": func(*call) error { return nil },
		"f": func(c *call) error {
			for i := range 1500 {
				c.put("sets", fmt.Sprint("k", i), strings.Repeat("x", leader.InlineBytes))
			}
			return nil
		},
	})
	id := w.put("in", "x", "")
	w.completed(id)
	if n := w.session(id).Objects; n != 1501 {
		t.Errorf("the session has %d objects", n)
	}
}

func TestMoreThanMayBePendingIsOverload(t *testing.T) {
	gate := make(chan struct{})
	w := newWorld(t, 1, "limits: {max_pending: 10}\n"+oneFunction(""), map[string]function{"next": next, "f": func(c *call) error { return c.waitFor(gate) }})
	var ids []spec.SessionID
	for i := range 10 {
		ids = append(ids, w.put("in", fmt.Sprint(i), ""))
	}
	_, err := w.tryPut(leader.Put{Bucket: "in", Key: "one too many", Body: strings.NewReader("")})
	wantCode(t, err, spec.CodeOverloaded, "max_pending", "10")
	w.restart()
	_, err = w.tryPut(leader.Put{Bucket: "in", Key: "still too many", Body: strings.NewReader("")})
	wantCode(t, err, spec.CodeOverloaded)
	close(gate)
	for _, id := range ids {
		w.completed(id)
	}
	w.put("in", "room again", "")
	eventually(t, "nothing is pending", func() bool { _, n, _ := w.leaders[1].Status(); return n == 0 })
}

func TestARetryWaitsForItsBackoffAcrossARestart(t *testing.T) {
	w := newWorld(t, 1, strings.Replace(oneFunction(""), "backoff: 10ms, max_backoff: 20ms", "backoff: 10m, max_backoff: 10m", 1),
		map[string]function{"next": next, "f": func(c *call) error {
			if c.Attempt == 1 {
				return errors.New("again")
			}
			c.put("out", "k", "v")
			return nil
		}})
	id := w.put("in", "x", "")
	eventually(t, "it waits for its retry", func() bool { return w.history(id).Invocations[0].State == "retrying" })
	if next := w.history(id).Invocations[0].NextAt; next.Before(w.clock.now()) {
		t.Errorf("the next attempt is told for %v", next)
	}
	w.restart()
	if states := w.states(id); !slices.Equal(states, []string{"f retrying failed"}) {
		t.Errorf("after the restart: %q", states)
	}
	w.forward(time.Hour)
	w.completed(id, "k=v")
	wantLines(t, w.states(id), "f succeeded failed", "next succeeded")
}
