package leader_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// seedMany makes a function that puts so many objects into bucket in, with some bytes each.
func seedMany(objects, size int, key func(i int) string) function {
	return func(c *call) error {
		for i := range objects {
			c.put("in", key(i), fmt.Sprintf("%0*d", size, i))
		}
		return nil
	}
}

func TestWhatATriggerFiresAtOnceIsNoLargerThanAnEntry(t *testing.T) {
	const objects = 3000
	plain := func(i int) string { return fmt.Sprintf("k%04d", i) }
	for name, test := range map[string]struct {
		trigger string
		key     func(i int) string
		times   int // how often each object is fired
		atLeast int // firings
		most    int // objects of a firing
	}{
		"a window of a bucket":       {"{name: x, primitive: by_time, every: 20m, target: fire}", plain, 1, 6, 700},
		"a window with two targets":  {"{name: x, primitive: by_time, every: 20m, target: [fire, other]}", plain, 2, 14, 500},
		"sliding windows":            {"{name: x, primitive: by_time, every: 20m, slide: 10m, target: fire}", plain, 2, 10, 700},
		"a window of a session":      {"{name: x, primitive: by_time, scope: session, every: 20m, target: fire}", plain, 1, 2, 2999},
		"long keys":                  {"{name: x, primitive: by_time, scope: session, every: 20m, target: fire}", func(i int) string { return fmt.Sprintf("%0900d", i) }, 1, 12, 250},
		"many groups":                {"{name: x, primitive: dynamic_group, group_by: {prefix: ':'}, until: {functions: [seed]}, target: fire}", func(i int) string { return fmt.Sprintf("g%04d:", i) }, 1, objects, 1},
		"many groups across buckets": {"{name: x, primitive: dynamic_group, scope: bucket, group_by: {prefix: ':'}, until: {keys: [g2999]}, target: fire}", func(i int) string { return fmt.Sprintf("g%04d", i) }, 1, objects - 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got collector
			w := newWorld(t, 1, oneTrigger(test.trigger), map[string]function{"fire": got.take, "other": got.take, "seed": seedMany(objects, 200, test.key)})
			w.firing = 1 << 20
			w.restart()
			seeding := w.put("seeds", "s", "")
			var want []string
			for i := range objects {
				if key := test.key(i); key != "g2999" { // the control object is in no group
					for range test.times {
						want = append(want, key)
					}
				}
			}
			eventuallyIn(t, 2*patience, "all is put", func() bool { return w.history(seeding).Invocations[0].State == "succeeded" })
			w.forward(30 * time.Minute)
			eventuallyIn(t, 2*patience, "half have fired", func() bool { return len(got.keys()) >= len(want)/2 })
			w.unseat(1) // what is under way goes on
			eventuallyIn(t, 2*patience, "all have fired", func() bool { return len(got.keys()) >= len(want) })
			w.quiet()
			slices.Sort(want)
			if keys := got.keys(); !slices.Equal(keys, want) {
				t.Errorf("%d objects fired, want %d, each %d times", len(keys), len(want), test.times)
			}
			firings := got.sorted()
			if len(firings) < test.atLeast {
				t.Errorf("there were %d firings, want %d", len(firings), test.atLeast)
			}
			for _, f := range firings {
				if n := strings.Count(f, "+") + 1; n > test.most {
					t.Errorf("a firing has %d objects", n)
				}
			}
			for _, s := range w.sessions("") {
				if s.Status != wire.SessionCompleted {
					t.Errorf("session %s is %s: %+v", s.Session, s.Status, s.Error)
				}
			}
		})
	}
}

func TestAShardGoesOnAfterABatchThatIsTooLarge(t *testing.T) {
	const objects = 3000
	var got collector
	w := newWorld(t, 1, oneTrigger(fmt.Sprintf("{name: x, primitive: by_batch_size, count: %d, target: fire}", objects)), map[string]function{
		"fire": got.take, "seed": seedMany(objects, 1000, func(i int) string { return fmt.Sprint("k", i) }),
	})
	w.firing = 512 << 10
	w.restart()
	w.put("seeds", "s", "")
	eventuallyIn(t, 2*patience, "the batch is refused", func() bool { return len(w.sessions(wire.SessionFailed)) == 1 })
	refused := w.sessions(wire.SessionFailed)[0]
	if refused.Error == nil || refused.Error.Kind != "refused" || !strings.Contains(refused.Error.Message, fmt.Sprint(objects)) {
		t.Errorf("it failed with %+v", refused.Error)
	}
	w.quiet()
	for _, kind := range []string{"11 ", "31 "} { // held objects and items
		if left := w.left(); slices.ContainsFunc(left, func(k string) bool { return strings.HasPrefix(k, kind) }) {
			t.Errorf("the trigger still keeps something of kind %q", kind)
		}
	}
	if len(got.keys()) != 0 {
		t.Errorf("%d objects were fired", len(got.keys()))
	}
}

func TestASessionWithManyLargeObjectsIsPurgedInParts(t *testing.T) {
	// What a function puts at once beyond 256 KiB is stored apart, as large objects are.
	const objects = 9000
	w := newWorld(t, 1, oneTrigger("{name: x, primitive: by_batch_size, scope: session, count: 100000, target: fire}"), map[string]function{
		"seed": seedMany(objects, 1100, func(i int) string { return fmt.Sprint("k", i) }),
	})
	w.into("run", "seeds", "s", "")
	if res := w.result("run"); res.Status != wire.SessionCompleted {
		t.Fatalf("ended as %+v", res)
	}
	if err := w.home("run").Purge(t.Context(), "demo", "run"); err != nil {
		t.Fatalf("purge: %v", err)
	}
	_, err := w.home("run").Session(t.Context(), "demo", "run")
	wantCode(t, err, spec.CodeNotFound)
	if page := w.sessions(""); len(page) != 0 {
		t.Errorf("the session is listed: %+v", page)
	}
	wantCode(t, w.home("run").Purge(t.Context(), "demo", "run"), spec.CodeNotFound)
	wantCode(t, w.home("run").Cancel(t.Context(), "demo", "run"), spec.CodeNotFound)
	w.restart() // what is left is purged after it
	w.nothingLeft()
	w.into("run", "in", "k1", "other") // the name is free again
}

func TestWhatARemovedTriggerHeldIsLetGoOfInParts(t *testing.T) {
	const objects = 12_000
	batch := func(bucket string) string {
		return oneTrigger("{name: " + bucket + ", primitive: by_batch_size, count: 100000, target: fire}")
	}
	var got collector
	w := newWorld(t, 1, "retention: 0\n"+batch("x"), map[string]function{"fire": got.take, "seed": seedMany(objects, 200, func(i int) string { return fmt.Sprint("k", i) })})
	w.put("seeds", "s", "")
	held := func() int {
		return len(slices.DeleteFunc(w.left(), func(k string) bool { return !strings.HasPrefix(k, "11 ") }))
	}
	eventuallyIn(t, 2*patience, "all are held", func() bool { return held() == objects })
	w.deploy("retention: 0\n" + oneTrigger("{name: y, primitive: immediate, target: fire}"))
	w.deploy("retention: 0\n" + oneTrigger("{name: x, primitive: by_time, every: 720h, target: fire}"))
	w.put("in", "new-1", strings.Repeat("n", 200))
	w.restart()
	w.put("in", "new-2", strings.Repeat("n", 200))
	eventuallyIn(t, 2*patience, "only what the new trigger holds is left", func() bool { return held() == 2 })
	eventuallyIn(t, 2*patience, "the bytes are gone", func() bool {
		chunks, timers := 0, 0
		for _, k := range w.left() {
			if strings.Contains(k, "demo") && strings.HasPrefix(k, "72 ") {
				chunks++
			}
			if strings.HasPrefix(k, "50 ") && strings.Contains(k, "\\n") {
				timers++
			}
		}
		return chunks <= 2
	})
	if len(got.keys()) != 0 {
		t.Errorf("fired with %q", got.keys())
	}
}

func TestASetOfAnySizeCannotBeNamed(t *testing.T) {
	w := newWorld(t, 1, oneTrigger("{name: x, primitive: dynamic_join, target: fire}"), map[string]function{"seed": func(c *call) error {
		c.join("in", "x", make([]spec.Key, 100_001)...)
		for i := range c.out[0].JoinKeys {
			c.out[0].JoinKeys[i] = spec.Key(fmt.Sprint("k", i))
		}
		return nil
	}})
	if e := w.failed(w.put("seeds", "s", "")); e.Kind != "refused" || !strings.Contains(e.Message, "at most 100000 keys") {
		t.Errorf("failed with %+v", e)
	}
}

func TestAStageWaitsForWhatIsDueLater(t *testing.T) {
	for name, test := range map[string]struct {
		trigger string
		seed    function
		each    func(n int, c *call) error // told which attempt for this input it is
		waits   []string                   // the states of the invocations when all the others are done
		want    []string
	}{
		"a delayed object of the stage's bucket": {
			"{name: x, primitive: dynamic_group, group_by: {prefix: ':'}, until: {functions: [seed]}, target: fire}",
			func(c *call) error {
				c.put("in", "a:1", "")
				c.out[0].DeliverAfter = 20 * time.Minute
				c.put("in", "b:1", "")
				return nil
			},
			nil, []string{"seed succeeded"}, []string{"a=a:1", "b=b:1"},
		},
		"a delayed object that causes an invocation": {
			"{name: x, primitive: dynamic_group, group_by: {prefix: ':'}, until: {functions: [each]}, target: fire}",
			func(c *call) error {
				c.put("work", "now", "")
				c.put("work", "later", "")
				c.out[1].DeliverAfter = 20 * time.Minute
				return nil
			},
			func(_ int, c *call) error { c.put("in", "g:"+string(c.in[0].Key), ""); return nil },
			[]string{"seed succeeded", "each succeeded"}, []string{"g=g:later+g:now"},
		},
		"a retry": {
			"{name: x, primitive: dynamic_group, group_by: {prefix: ':'}, until: {functions: [each]}, target: fire}",
			func(c *call) error { c.put("work", "1", ""); c.put("work", "2", ""); return nil },
			func(n int, c *call) error {
				if n == 1 && c.in[0].Key == "1" {
					return errors.New("not yet")
				}
				c.put("in", "g:"+string(c.in[0].Key), "")
				return nil
			},
			[]string{"seed succeeded", "each retrying failed", "each succeeded"}, []string{"g=g:1+g:2"},
		},
		"a rule that runs an ended invocation again": {
			"{name: x, primitive: dynamic_group, group_by: {prefix: ':'}, until: {functions: [each]}, target: fire, rerun: [{source: each, timeout: 20m, max: 3}]}",
			func(c *call) error { c.put("work", "1", ""); c.put("work", "2", ""); return nil },
			func(n int, c *call) error {
				if n == 1 && c.in[0].Key == "1" {
					return nil // it succeeds, and has put nothing
				}
				c.put("in", "g:"+string(c.in[0].Key), "")
				return nil
			},
			[]string{"seed succeeded", "each succeeded", "each succeeded"}, []string{"g=g:1+g:2"},
		},
	} {
		for _, restart := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", restart ", restart), func(t *testing.T) {
				t.Parallel()
				var n tries
				w := newWorld(t, 1, strings.Replace(oneTrigger(test.trigger), "each: {runtime: inproc}", "each: {runtime: inproc, retry: {backoff: 20m, max_backoff: 20m}}", 1),
					map[string]function{"fire": sortedKeys, "seed": test.seed, "each": func(c *call) error { return test.each(n.next(string(c.in[0].Key)), c) }})
				id := w.put("seeds", "s", "")
				waits := func() bool { return slices.Equal(w.states(id), test.waits) }
				eventually(t, fmt.Sprintf("there are %q", test.waits), waits)
				if restart {
					w.restart()
				}
				w.forward(time.Minute)
				if !waits() {
					t.Errorf("the stage does not wait: there are %q", w.states(id))
				}
				w.forward(time.Hour)
				w.completed(id, test.want...)
			})
		}
	}
}

// sortedKeys makes an output of the inputs' keys, whose order no rule tells.
func sortedKeys(c *call) error {
	keys := keysOf(c.in)
	slices.Sort(keys)
	c.output(c.Group, strings.Join(keys, "+"))
	return nil
}
