package leader_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
	"github.com/pheromone-run/pheromone/store"
)

func TestCancelStopsWhatRunsAndIgnoresWhatComesLate(t *testing.T) {
	var w *world
	running, over := make(chan *call, 1), make(chan struct{})
	w = newWorld(t, 1, oneTrigger("{name: x, primitive: by_time, scope: session, every: 720h, target: fire}"), map[string]function{
		"fire": fired,
		"seed": func(c *call) error {
			c.put("in", "k", "")
			c.put("work", "retry", "")
			if err := c.flush(); err != nil {
				return err
			}
			running <- c
			<-over // it does not heed that it is told to stop
			c.put("in", "late", "")
			return nil
		},
		"each": func(*call) error { return errors.New("again and again") },
	})
	id := w.put("seeds", "s", "")
	c := <-running
	if err := w.home(id).Cancel(t.Context(), "demo", id); err != nil {
		t.Fatalf("cancel: %v", err)
	}
	if res := w.result(id); res.Status != wire.SessionCancelled {
		t.Errorf("the session is %s", res.Status)
	}
	<-c.ctx.Done() // the executor was told
	close(over)
	w.run.running.Wait()
	if err := w.home(id).Cancel(t.Context(), "demo", id); err != nil {
		t.Errorf("cancel again: %v", err)
	}
	_, err := w.tryInto(string(id), "in", "more", "")
	wantCode(t, err, spec.CodeConflict, "cancelled")
	for _, inv := range w.history(id).Invocations {
		if inv.State != "cancelled" && inv.State != "failed" {
			t.Errorf("%s is %s", inv.Function, inv.State)
		}
	}
	items, err := w.home(id).ListSession(t.Context(), "demo", id, "in", "", "", 10)
	if err != nil || len(items) != 1 {
		t.Errorf("the session's objects: %+v, %v", items, err)
	}
	if err := w.home(id).Purge(t.Context(), "demo", id); err != nil {
		t.Fatalf("purge: %v", err)
	}
	if left := w.leftOf(string(id)); len(left) != 0 {
		t.Errorf("left of the session: %q", left)
	}
}

func TestALateObjectReopensACompletedSession(t *testing.T) {
	w := newWorld(t, 1, oneTrigger("{name: x, primitive: by_set, keys: [a, b], target: fire}"), map[string]function{"fire": fired})
	w.into("run", "in", "a", "")
	if res := w.result("run"); res.Status != wire.SessionCompleted || len(res.Outputs) != 0 {
		t.Fatalf("with half of a set it is %+v", res)
	}
	w.restart()
	w.into("run", "in", "b", "")
	w.completed("run", "fire:inv-1=a+b")
	timers := slices.DeleteFunc(w.leftOf("run"), func(k string) bool { return !strings.HasPrefix(k, "50 ") })
	if len(timers) != 1 {
		t.Errorf("its timers are %q, want the one that purges it", timers)
	}
}

func TestASessionWithoutRetentionLeavesNothing(t *testing.T) {
	w := newWorld(t, 1, "retention: 0"+wordcount, wordcountFunctions)
	for i := range 20 {
		w.into(fmt.Sprint("run-", i), "documents", "d", "a bb ccc "+strings.Repeat("x", i*10000))
	}
	eventually(t, "all are through", func() bool { return w.run.count("merge") == 20 })
	w.quiet()
	w.restart()
	w.forward(time.Minute)
	w.nothingLeft()
	_, err := w.home("run-1").Session(t.Context(), "demo", "run-1")
	wantCode(t, err, spec.CodeNotFound)
	w.deploy(wordcount)                              // in which sessions are kept
	w.into("run-1", "documents", "d", "another one") // the id is free again
	w.completed("run-1", "total=7+3")
}

func TestPurgeDeletesAnEndedSessionAtOnce(t *testing.T) {
	gate := make(chan struct{})
	w := newWorld(t, 1, oneTrigger("{name: x, primitive: immediate, target: fire}"), map[string]function{"fire": func(c *call) error {
		if err := c.waitFor(gate); err != nil {
			return err
		}
		return fired(c)
	}})
	w.into("run", "in", "a", noise(200<<10, 1))
	wantCode(t, w.home("run").Purge(t.Context(), "demo", "run"), spec.CodeConflict, "cancel it first")
	close(gate)
	w.result("run")
	if err := w.home("run").Purge(t.Context(), "demo", "run"); err != nil {
		t.Fatalf("purge: %v", err)
	}
	if left := w.left(); len(left) != 0 {
		t.Errorf("left in the store: %q", left)
	}
	wantCode(t, w.home("run").Purge(t.Context(), "demo", "run"), spec.CodeNotFound)
}

func TestALargeSessionIsPurgedWhole(t *testing.T) {
	w := newWorld(t, 1, oneTrigger("{name: x, primitive: by_batch_size, scope: session, count: 1000, target: fire}"), map[string]function{
		"fire": func(*call) error { return nil },
		"seed": func(c *call) error {
			for i := range 2500 {
				c.put("in", fmt.Sprint("k", i), "v")
			}
			return nil
		},
	})
	w.into("run", "seeds", "s", "")
	if res := w.result("run"); res.Status != wire.SessionCompleted {
		t.Fatalf("ended as %+v", res)
	}
	if s := w.session("run"); s.Objects != 2501 || s.Invocations != 3 {
		t.Errorf("the session is %+v", s)
	}
	if err := w.home("run").Purge(t.Context(), "demo", "run"); err != nil {
		t.Fatalf("purge: %v", err)
	}
	if left := w.left(); len(left) != 0 {
		t.Errorf("left in the store: %.20q", left)
	}
}

func TestAResultCanBeHadWithTheFirstOutput(t *testing.T) {
	gate := make(chan struct{})
	w := newWorld(t, 1, oneTrigger("{name: x, primitive: immediate, target: fire}"), map[string]function{"fire": func(c *call) error {
		c.output("first", "1")
		if err := c.flush(); err != nil {
			return err
		}
		if err := c.waitFor(gate); err != nil {
			return err
		}
		c.output("second", "2")
		return nil
	}})
	id := w.put("in", "k", "")
	res, err := w.home(id).Result(t.Context(), "demo", id, patience, true)
	if err != nil || res.Status != wire.SessionRunning || len(res.Outputs) != 1 {
		t.Fatalf("until the first output: %+v, %v", res, err)
	}
	res, err = w.home(id).Result(t.Context(), "demo", id, 0, false)
	if err != nil || res.Status != wire.SessionRunning {
		t.Fatalf("without waiting: %+v, %v", res, err)
	}
	close(gate)
	w.completed(id, "first=1", "second=2")
	_, err = w.home("nobody").Result(t.Context(), "demo", "nobody", time.Second, false)
	wantCode(t, err, spec.CodeNotFound, "nobody")
}

func TestSessionsAreListedNewestFirstPageByPage(t *testing.T) {
	w := newWorld(t, 1, oneTrigger("{name: x, primitive: immediate, target: fire}"), map[string]function{
		"fire": func(c *call) error {
			if strings.HasPrefix(string(c.in[0].Key), "bad") {
				return permanent("bad")
			}
			return nil
		},
		"each": func(*call) error { return nil },
	})
	var want []spec.SessionID
	for i := range 23 {
		key := fmt.Sprint("good-", i)
		if i%5 == 0 {
			key = fmt.Sprint("bad-", i)
		}
		id := w.put("in", key, "")
		w.result(id)
		want = append(want, id)
	}
	other := w.put("work", "k", "")
	w.result(other)
	want = append(want, other)
	slices.Reverse(want)

	pages := func(status wire.SessionStatus, function spec.FunctionName) []spec.SessionID {
		var got []spec.SessionID
		var before store.Micros
		var beforeID spec.SessionID
		for {
			page, err := w.leaders[1].Sessions(context.Background(), "demo", status, function, before, beforeID, 4)
			if err != nil {
				t.Fatalf("list sessions: %v", err)
			}
			for _, s := range page.Items {
				got = append(got, s.Session)
				before, beforeID = store.Micros(s.CreatedAt.UnixMicro()), s.Session
			}
			if !page.More {
				return got
			}
		}
	}
	if got := pages("", ""); !slices.Equal(got, want) {
		t.Errorf("listed %q, want %q", got, want)
	}
	if got := pages(wire.SessionFailed, ""); len(got) != 5 {
		t.Errorf("%d have failed, want 5", len(got))
	}
	if got := pages("", "each"); !slices.Equal(got, []spec.SessionID{other}) {
		t.Errorf("each ran in %q, want %q", got, other)
	}
	if got := pages(wire.SessionFailed, "each"); len(got) != 0 {
		t.Errorf("each failed in %q", got)
	}
}

func TestTheHistoryIsReadPageByPage(t *testing.T) {
	w := newWorld(t, 1, oneTrigger("{name: x, primitive: immediate, target: fire}"), map[string]function{
		"fire": func(c *call) error {
			if c.in[0].Key == "07" {
				return c.waitFor(nil) // one in the middle does not end
			}
			return nil
		},
		"seed": func(c *call) error {
			for i := range 20 {
				c.put("in", fmt.Sprintf("%02d", i), "")
			}
			return nil
		},
	})
	id := w.put("seeds", "s", "")
	eventually(t, "only one is pending", func() bool { s := w.session(id); return s.Invocations == 21 && s.PendingInvocations == 1 })
	var got []string
	for after := ""; ; {
		h, err := w.home(id).History(t.Context(), "demo", id, after, 6)
		if err != nil {
			t.Fatalf("history: %v", err)
		}
		for _, inv := range h.Invocations {
			got = append(got, inv.ID)
		}
		if after = h.Next; after == "" {
			break
		}
	}
	var want []string
	for i := range 21 {
		want = append(want, fmt.Sprintf("%s.%d", id, i+1))
	}
	wantLines(t, got, want...)
	_, err := w.home(id).History(t.Context(), "demo", id, "x", 6)
	wantCode(t, err, spec.CodeInvalid)
}
