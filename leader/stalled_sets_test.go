package leader_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

func TestSetsThatAreNamedForAStalledJoinWaitForIt(t *testing.T) {
	overShards(t, func(t *testing.T, shards int) {
		var got collector
		w := newWorld(t, shards, oneTrigger("{name: x, primitive: dynamic_join, scope: bucket, target: fire}"), map[string]function{
			"fire": got.take,
			"seed": func(c *call) error {
				name := string(c.in[0].Key)
				c.join("in", "x", spec.Key(name+"1"), spec.Key(name+"2"))
				return nil
			},
		})
		w.result(w.put("seeds", "a", ""))
		w.inTurn([]string{"a1", "b1"})
		var good []byte
		w.damage(func(s *store.TriggerState) { good = s.Header; s.Header = []byte{1, 200} })
		w.restart()
		w.wantStalled("damaged header")
		var named []spec.SessionID
		for _, name := range []string{"b", "c"} {
			named = append(named, w.put("seeds", name, ""))
		}
		w.inTurn([]string{"c2", "c1", "b2"})
		for _, id := range named { // their sets are with the trigger, and hold nobody up
			w.completed(id)
		}
		w.restart()
		w.wantStalled("damaged header")
		w.damage(func(s *store.TriggerState) { s.Header = good })
		w.restart()
		w.inTurn([]string{"a2"})
		eventually(t, "all have fired", func() bool { return len(got.keys()) >= 6 })
		w.quiet()
		wantLines(t, got.sorted(), "a1+a2", "b1+b2", "c1+c2")
	})
}

// stalledJoin is a world whose join of scope bucket is stalled, until it is mended. A
// session of the bucket seeds names so many sets: "same" with each number.
func stalledJoin(t *testing.T, shards, sets int, got *collector) (w *world, mend func()) {
	w = newWorld(t, shards, oneTrigger("{name: x, primitive: dynamic_join, scope: bucket, target: fire}"), map[string]function{
		"fire": got.take,
		"seed": func(c *call) error {
			if c.in[0].Key == "first" { // for a state that can be damaged
				c.join("in", "x", "never")
				return nil
			}
			for i := range sets {
				c.join("in", "x", "same", spec.Key(fmt.Sprintf("%03d", i)))
			}
			return nil
		},
	})
	w.completed(w.put("seeds", "first", ""))
	var good []byte
	w.damage(func(s *store.TriggerState) { good = s.Header; s.Header = []byte{1, 200} })
	w.restart()
	w.wantStalled("damaged header")
	return w, func() {
		w.damage(func(s *store.TriggerState) { s.Header = good })
		w.restart()
	}
}

// Sets and objects of one key go together in the order in which they came: what a
// backlog holds is taken in that order, too, over any number of rounds.
func TestABacklogOfSetsAndObjectsIsTakenInItsOrder(t *testing.T) {
	var got collector
	w, mend := stalledJoin(t, 1, 300, &got) // more than a round takes
	w.completed(w.put("seeds", "more", ""))
	w.inTurn([]string{"000", "001", "299", "same"})
	mend()
	eventually(t, "the first set fires", func() bool { return len(got.sorted()) == 1 })
	w.inTurn([]string{"same", "same"})
	eventually(t, "the second set fires", func() bool { return len(got.sorted()) == 2 })
	w.inTurn([]string{"002"})
	eventually(t, "the third set fires", func() bool { return len(got.sorted()) == 3 })
	w.quiet()
	wantLines(t, got.sorted(), "same+000", "same+001", "same+002")
}

func TestSetsForAStalledJoinHoldNoOtherMessageUp(t *testing.T) {
	const sets = 300
	overShards(t, func(t *testing.T, shards int) {
		var got collector
		w, mend := stalledJoin(t, shards, sets, &got)
		for i := range 3 { // so that one of them comes from another shard
			w.completed(w.put("seeds", fmt.Sprint("more", i), ""))
		}
		eventually(t, "every message is taken", func() bool {
			return !slices.ContainsFunc(w.left(), func(k string) bool { return strings.HasPrefix(k, "60 ") })
		})
		w.wantStalled("damaged header")
		mend()
		w.wantStalled()
		keys := numbered(3 * sets)
		for i := range keys {
			keys[i] = "same"
		}
		w.inTurn(append(keys, "007"))
		eventually(t, "a set fires", func() bool { return len(got.sorted()) == 1 })
		wantLines(t, got.sorted(), "same+007")
	})
}
