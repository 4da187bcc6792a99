package leader_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// ruled is a fan-out to a, b and c, whose results a by_set joins under a rule.
func ruled(rule string) string {
	return conditional(`
  split: {runtime: inproc}
  work: {runtime: inproc, timeout: 1h, retry: {max_attempts: 1}}
  join: {runtime: inproc}`, `
  in: {triggers: [{name: t, primitive: immediate, target: split}]}
  parts: {triggers: [{name: t, primitive: immediate, target: work}]}
  results:
    triggers: [{name: all, primitive: by_set, keys: [a, b, c], target: join, rerun: [{source: work, `+rule+`}]}]`)
}

func split(c *call) error {
	for _, key := range []string{"a", "b", "c"} {
		c.put("parts", key, key)
	}
	return nil
}

// tries counts the attempts for each part.
type tries struct {
	mu sync.Mutex
	n  map[string]int
}

func (t *tries) next(key string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == nil {
		t.n = map[string]int{}
	}
	t.n[key]++
	return t.n[key]
}

func (t *tries) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return fmt.Sprintf("a=%d b=%d c=%d", t.n["a"], t.n["b"], t.n["c"])
}

// attempted waits until the session has so many objects and its invocations are as told.
func (w *world) attempted(id spec.SessionID, objects int, states ...string) {
	w.t.Helper()
	slices.Sort(states)
	eventually(w.t, fmt.Sprintf("it has %d objects, and %q", objects, states), func() bool {
		got := w.states(id)
		slices.Sort(got)
		return w.session(id).Objects == objects && slices.Equal(got, states)
	})
}

func TestARuleRunsOnlyTheMissingSourceAgain(t *testing.T) {
	for name, test := range map[string]struct {
		bad   func(c *call) error
		state string
	}{
		"a source that hangs":                  {func(c *call) error { <-c.ctx.Done(); return errors.New("cancelled") }, "work running"},
		"a source that gave up":                {func(*call) error { return errors.New("no luck") }, "work failed failed"},
		"a source that succeeds without a put": {func(*call) error { return nil }, "work succeeded"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var n tries
			w := newWorld(t, 1, ruled("timeout: 10m, max: 3"), map[string]function{"split": split, "join": fired, "work": func(c *call) error {
				key := string(c.in[0].Key)
				if n.next(key) == 1 && key == "b" {
					return test.bad(c)
				}
				c.put("results", key, key)
				return nil
			}})
			id := w.put("in", "x", "")
			w.attempted(id, 6, "split succeeded", "work succeeded", test.state, "work succeeded")
			w.forward(20 * time.Minute)
			res := w.result(id)
			if res.Status != wire.SessionCompleted {
				t.Fatalf("the session ended as %s: %+v", res.Status, res.Error)
			}
			wantLines(t, outputs(res), "join:inv-5=a+b+c")
			if got := n.String(); got != "a=1 b=2 c=1" {
				t.Errorf("attempts %s, want only b twice", got)
			}
		})
	}
}

func TestASourceThatAnswersLateIsNotCountedTwice(t *testing.T) {
	var n tries
	late := make(chan struct{})
	answer := sync.OnceFunc(func() { close(late) })
	defer answer()
	w := newWorld(t, 1, ruled("timeout: 10m, max: 3"), map[string]function{"split": split, "join": fired, "work": func(c *call) error {
		key := string(c.in[0].Key)
		if n.next(key) == 1 && key == "b" {
			<-late
			c.put("results", "b", "too late")
			return nil
		}
		c.put("results", key, key)
		return nil
	}})
	id := w.put("in", "x", "")
	w.attempted(id, 6, "split succeeded", "work succeeded", "work running", "work succeeded")
	w.forward(20 * time.Minute)
	res := w.result(id)
	answer()
	w.run.running.Wait()
	wantLines(t, outputs(res), "join:inv-5=a+b+c")
	wantLines(t, w.states(id), "split succeeded", "work succeeded", "work succeeded timeout", "work succeeded", "join succeeded")
}

func TestARuleGivesUpAndNamesWhatIsMissing(t *testing.T) {
	w := newWorld(t, 1, ruled("timeout: 10m, max: 2"), map[string]function{"split": split, "join": fired, "work": func(c *call) error {
		if key := string(c.in[0].Key); key == "a" {
			c.put("results", key, key)
		}
		return nil
	}})
	id := w.put("in", "x", "")
	for round := range 3 {
		w.attempted(id, 5, "split succeeded", "work succeeded", "work succeeded", "work succeeded")
		eventually(t, "b and c have been tried", func() bool { return w.run.count("work") == 3+2*round })
		w.forward(20 * time.Minute)
	}
	e := w.failed(id)
	for _, part := range []string{`"work"`, `"results"`, "2 times", `"b", "c"`} {
		if !strings.Contains(e.Message, part) {
			t.Errorf("the failure %q does not tell %s", e.Message, part)
		}
	}
	if got := w.run.count("work"); got != 3+2*2 {
		t.Errorf("work ran %d times, want 3 and then b and c twice more", got)
	}
}

func TestARulesTimerSurvivesARestart(t *testing.T) {
	var n tries
	w := newWorld(t, 1, ruled("timeout: 10m, max: 3"), map[string]function{"split": split, "join": fired, "work": func(c *call) error {
		key := string(c.in[0].Key)
		if n.next(key) > 1 || key != "b" {
			c.put("results", key, key)
		}
		return nil
	}})
	id := w.put("in", "x", "")
	w.attempted(id, 6, "split succeeded", "work succeeded", "work succeeded", "work succeeded")
	w.restart()
	w.forward(20 * time.Minute)
	wantLines(t, outputs(w.result(id)), "join:inv-5=a+b+c")
}
