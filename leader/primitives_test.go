package leader_test

import (
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

// oneTrigger is an app with one trigger on bucket in, whose firings become
// outputs.
func oneTrigger(trigger string) string {
	return manifest(`
functions: {seed: {runtime: inproc}, each: {runtime: inproc}, fire: {runtime: inproc}, other: {runtime: inproc}}
buckets:
  seeds: {triggers: [{name: t, primitive: immediate, target: seed}]}
  work: {triggers: [{name: t, primitive: immediate, target: each}]}
  in: {triggers: [` + trigger + `]}
`)
}

// fired makes an output of the inputs' keys, under the name of the group.
func fired(c *call) error {
	name := c.Group
	if name == "" {
		name = fmt.Sprint("inv-", c.Invocation.Number)
	}
	c.output(string(c.Function.Name)+":"+name, strings.Join(keysOf(c.in), "+"))
	return nil
}

// values returns what the outputs of a session are, in order.
func values(r wire.Result) []string {
	var out []string
	for _, o := range r.Outputs {
		out = append(out, string(o.Data))
	}
	slices.Sort(out)
	return out
}

func TestEachPrimitiveInASession(t *testing.T) {
	for name, test := range map[string]struct {
		trigger string
		put     []string // the keys that a function puts into the bucket, in order
		join    []spec.Key
		want    []string // the keys of each firing
		later   bool     // the last of them when the clock is put forward
	}{
		"immediate fires for every object": {
			trigger: "{name: x, primitive: immediate, target: fire}",
			put:     []string{"a", "b", "c"}, want: []string{"a", "b", "c"},
		},
		"each target fires once per firing": {
			trigger: "{name: x, primitive: immediate, target: [fire, other]}",
			put:     []string{"a", "b"}, want: []string{"a", "a", "b", "b"},
		},
		"by_name fires for the named keys": {
			trigger: "{name: x, primitive: by_name, keys: [b, d], target: fire}",
			put:     []string{"a", "b", "c", "d"}, want: []string{"b", "d"},
		},
		"by_name fires for keys that match": {
			trigger: "{name: x, primitive: by_name, match: 'img-*', target: fire}",
			put:     []string{"img-1", "txt-1", "img-2"}, want: []string{"img-1", "img-2"},
		},
		"by_set fires once, in the declared order": {
			trigger: "{name: x, primitive: by_set, keys: [a, b, c], target: fire}",
			put:     []string{"c", "x", "a", "b"}, want: []string{"a+b+c"},
		},
		"by_batch_size fires with exactly count objects": {
			trigger: "{name: x, primitive: by_batch_size, scope: session, count: 2, target: fire}",
			put:     []string{"a", "b", "c", "d", "e"}, want: []string{"a+b", "c+d"},
		},
		"by_batch_size fires with fewer after max_wait": {
			trigger: "{name: x, primitive: by_batch_size, scope: session, count: 3, max_wait: 10m, target: fire}",
			put:     []string{"a", "b", "c", "d", "e"}, want: []string{"a+b+c", "d+e"}, later: true,
		},
		"redundant fires with the first k of n": {
			trigger: "{name: x, primitive: redundant, k: 2, n: 4, target: fire}",
			put:     []string{"a", "b", "c", "d"}, want: []string{"a+b"},
		},
		"dynamic_join fires for the set named at run time": {
			trigger: "{name: x, primitive: dynamic_join, target: fire}",
			put:     []string{"a", "b", "c"}, join: []spec.Key{"c", "a"}, want: []string{"c+a"},
		},
		"dynamic_group fires once per group when its control keys have come": {
			trigger: "{name: x, primitive: dynamic_group, group_by: {prefix: ':'}, until: {keys: [end]}, target: fire}",
			put:     []string{"r:1", "g:1", "r:2", "end", "b:late"}, want: []string{"g:1", "r:1+r:2"},
		},
		"several triggers on one bucket count each object": {
			trigger: "{name: x, primitive: by_set, keys: [a, b], target: fire}, {name: y, primitive: redundant, k: 1, n: 2, target: other}",
			put:     []string{"a", "b"}, want: []string{"a", "a+b"},
		},
	} {
		for _, after := range []string{"before its objects", "after its objects"} {
			if test.join == nil && after == "after its objects" {
				continue
			}
			t.Run(name+", "+after, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, 1, oneTrigger(test.trigger), map[string]function{"fire": fired, "other": fired, "seed": func(c *call) error {
					if test.join != nil && after == "before its objects" {
						c.join("in", "x", test.join...)
					}
					for _, key := range test.put {
						c.put("in", key, "v")
						if err := c.flush(); err != nil {
							return err
						}
					}
					if test.join != nil && after == "after its objects" {
						c.join("in", "x", test.join...)
					}
					return nil
				}})
				id := w.put("seeds", "s", "")
				if test.later {
					eventually(t, "all is put and the others have fired", func() bool {
						s := w.session(id)
						return s.PendingInvocations == 0 && s.Invocations == len(test.want)
					})
					w.forward(20 * time.Minute)
				}
				res := w.result(id)
				if res.Status != wire.SessionCompleted {
					t.Fatalf("ended as %s: %+v", res.Status, res.Error)
				}
				wantLines(t, values(res), test.want...)
			})
		}
	}
}

func TestATimeWindowOfASessionClosesByATimer(t *testing.T) {
	w := newWorld(t, 1, oneTrigger("{name: x, primitive: by_time, scope: session, every: 50ms, target: fire}"), map[string]function{
		"fire": fired,
		"seed": func(c *call) error {
			for i := range 20 {
				c.put("in", fmt.Sprintf("%02d", i), "v")
			}
			return nil
		},
	})
	res := w.result(w.put("seeds", "s", ""))
	all := strings.Split(strings.Join(values(res), "+"), "+")
	slices.Sort(all)
	if len(all) != 20 || all[0] != "00" || all[19] != "19" || len(slices.Compact(all)) != 20 {
		t.Errorf("the windows held %q, want each of 20 objects once", all)
	}
	if res.Status != wire.SessionCompleted {
		t.Errorf("ended as %s", res.Status)
	}
}

func TestRedundantCancelsTheAttemptsThatAreNotNeeded(t *testing.T) {
	w := newWorld(t, 1, oneTrigger("{name: x, primitive: redundant, k: 2, n: 5, cancel_rest: true, target: fire}"), map[string]function{
		"fire": fired,
		"seed": func(c *call) error {
			for i := range 5 {
				c.put("work", fmt.Sprint(i), "")
			}
			return nil
		},
		"each": func(c *call) error {
			key := string(c.in[0].Key)
			if key > "1" {
				return c.waitFor(nil) // it ends only when it is told to
			}
			c.put("in", key, "")
			return nil
		},
	})
	id := w.put("seeds", "s", "")
	res := w.result(id)
	if res.Status != wire.SessionCompleted || len(res.Outputs) != 1 || len(values(res)[0]) != len("0+1") {
		t.Fatalf("ended as %s with %q", res.Status, values(res))
	}
	ends := map[string]int{}
	for _, line := range w.states(id) {
		ends[line]++
	}
	if ends["each succeeded"] != 2 || ends["each cancelled cancelled"] != 3 {
		t.Errorf("the functions ended as %v", ends)
	}
	eventually(t, "the executors were told to stop the three", func() bool {
		w.run.mu.Lock()
		defer w.run.mu.Unlock()
		return len(w.run.cancelled) == 3
	})
}

func TestADynamicGroupWaitsForAllInvocationsOfItsFunctions(t *testing.T) {
	stages := manifest(`
functions: {split: {runtime: inproc}, slow: {runtime: inproc}, map: {runtime: inproc}, second: {runtime: inproc}, fire: {runtime: inproc}, log: {runtime: inproc}}
buckets:
  docs: {triggers: [{name: t, primitive: immediate, target: split}]}
  both: {triggers: [{name: t, primitive: immediate, target: [split, slow]}]}
  words: {triggers: [{name: t, primitive: immediate, target: map}]}
  pairs: {triggers: [{name: t, primitive: dynamic_group, group_by: {prefix: ':'}, until: {functions: [map]}, target: second}]}
  mapped: {triggers: [{name: t, primitive: dynamic_group, group_by: {meta: letter}, until: {functions: [second]}, target: fire}]}
`)
	functions := func(release chan struct{}) map[string]function {
		split := func(c *call) error {
			for i := range 6 {
				c.put("words", fmt.Sprintf("%s-%d-%s", c.Function.Name, i, c.in[0].Key), string("abc"[i%3]))
				if err := c.flush(); err != nil {
					return err
				}
			}
			return nil
		}
		return map[string]function{
			"split": split,
			"slow": func(c *call) error {
				if err := c.waitFor(release); err != nil {
					return err
				}
				return split(c)
			},
			"map": func(c *call) error {
				c.put("pairs", string(c.in[0].Data)+":"+string(c.in[0].Key), "v")
				return nil
			},
			"second": func(c *call) error {
				letter := "even"
				if c.Group == "b" {
					letter = "odd"
				}
				c.emit(exec.Emission{Bucket: "mapped", Key: spec.Key(c.Group), Data: fmt.Append(nil, len(c.in)), Meta: map[string]string{"letter": letter}})
				return nil
			},
			"fire": func(c *call) error {
				c.output(c.Group, strings.Join(dataOf(c.in), "+"))
				return nil
			},
		}
	}
	t.Run("with one split", func(t *testing.T) {
		w := newWorld(t, 1, stages, functions(nil))
		w.completed(w.put("docs", "d", ""), "even=2+2", "odd=2")
	})
	t.Run("with a second split that has put nothing when the first one's maps are done", func(t *testing.T) {
		release := make(chan struct{})
		w := newWorld(t, 1, stages, functions(release))
		id := w.put("both", "d", "")
		eventually(t, "the first split's maps are done", func() bool {
			return w.run.count("map") == 6 && w.session(id).PendingInvocations == 1
		})
		close(release)
		w.completed(id, "even=4+4", "odd=4")
	})
	t.Run("over a restart", func(t *testing.T) {
		release := make(chan struct{})
		w := newWorld(t, 1, stages, functions(release))
		id := w.put("both", "d", "")
		eventually(t, "the first split's maps are done", func() bool {
			return w.run.count("map") == 6 && w.session(id).PendingInvocations == 1
		})
		w.restart()
		close(release)
		w.completed(id, "even=4+4", "odd=4")
	})
}

func TestADelayedObjectIsCountedWhenItIsDue(t *testing.T) {
	w := newWorld(t, 1, oneTrigger("{name: x, primitive: immediate, target: fire}"), map[string]function{
		"fire": fired,
		"seed": func(c *call) error {
			c.emit(exec.Emission{Bucket: "in", Key: "later", DeliverAfter: 20 * time.Minute})
			c.put("in", "now", "")
			return nil
		},
	})
	id := w.put("seeds", "s", "")
	direct, err := w.tryPut(leader.Put{Bucket: "in", Key: "k", Body: strings.NewReader(""), DeliverAfter: 10 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	check := func(when string, id spec.SessionID, invocations int) {
		t.Helper()
		if s := w.session(id); s.Status != wire.SessionRunning || s.Invocations != invocations || s.PendingInvocations != 0 {
			t.Errorf("%s session %s is %+v", when, id, s)
		}
	}
	eventually(t, "the other object has fired", func() bool { s := w.session(id); return s.Invocations == 2 && s.PendingInvocations == 0 })
	w.forward(5 * time.Minute)
	check("before its object is due", id, 2)
	check("before its object is due", direct.Session, 0)
	w.forward(10 * time.Minute)
	wantLines(t, values(w.result(direct.Session)), "k")
	check("when only the other one's was due", id, 2)
	w.forward(10 * time.Minute)
	wantLines(t, values(w.result(id)), "later", "now")
}

func TestASessionTellsWhatItsTriggersWaitFor(t *testing.T) {
	w := newWorld(t, 1, oneTrigger("{name: x, primitive: by_set, keys: [a, b, c], target: fire}"), map[string]function{"fire": fired})
	w.into("run", "in", "b", "")
	for range 2 {
		s := w.session("run")
		if len(s.Waiting) != 1 {
			t.Fatalf("it waits for %+v", s.Waiting)
		}
		wait := s.Waiting[0]
		if wait.Bucket != "in" || wait.Trigger != "x" || wait.Have != 1 || wait.Need != 2 || !slices.Equal(wait.Missing, []spec.Key{"a", "c"}) {
			t.Errorf("it waits for %+v", wait)
		}
		w.restart()
	}
	w.into("run", "in", "a", "")
	w.into("run", "in", "c", "")
	w.completed("run", "fire:inv-1=a+b+c")
	if s := w.session("run"); len(s.Waiting) != 0 {
		t.Errorf("after the firing it waits for %+v", s.Waiting)
	}
}
