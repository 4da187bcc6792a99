package leader_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/raft/shard"
	"github.com/pheromone-run/pheromone/spec"
)

// countedTerm counts the entries that a leader proposes.
type countedTerm struct {
	*shard.Term
	entries *atomic.Int64
}

func (t countedTerm) Propose(body []byte, done func(error)) error {
	t.entries.Add(1)
	return t.Term.Propose(body, done)
}

// newCounted makes a world of one shard whose entries are counted.
func newCounted(t testing.TB, manifest string, functions map[string]function) (*world, *atomic.Int64) {
	var entries atomic.Int64
	w := &world{
		t: t, dir: t.TempDir(), shards: 1, apps: &deployed{}, run: newRunner(functions),
		own: func(t *shard.Term) leader.Term { return countedTerm{t, &entries} },
	}
	w.apps.apply(t, manifest)
	w.start()
	t.Cleanup(w.close)
	t.Cleanup(w.run.stop)
	return w, &entries
}

func TestAStepOfAChainTakesOneEntry(t *testing.T) {
	const chains, steps = 15, 10
	functions := chainFunctions(steps)
	for name, f := range functions {
		functions[name] = func(c *call) error {
			<-time.After(2 * time.Millisecond) // what a function in a process takes, and less than a start waits
			return f(c)
		}
	}
	w, entries := newCounted(t, chainManifest(steps, spec.Durable), functions)
	w.clock.set(-time.Hour)             // the next look for timers, which takes starts along, is far away
	w.result(w.put("b0", "first", "x")) // takes over the app
	before := entries.Load()
	var most, ran int64
	for i := range chains {
		id := w.put("b0", fmt.Sprint("k", i), "x")
		w.result(id)
		most++ // for the put
		for _, inv := range w.history(id).Invocations {
			ran++
			most++
			// Of an attempt that takes long the start is written before the end.
			if a := inv.Attempts[0]; a.EndedAt.Sub(a.StartedAt) >= leader.StartDelay-time.Millisecond {
				most++
			}
		}
	}
	if ran != chains*steps {
		t.Fatalf("%d invocations ran, want %d", ran, chains*steps)
	}
	if n := entries.Load() - before; n > most {
		t.Errorf("%d chains of %d took %d entries, want one for each put, for each step, and for the start of each step that took long: %d", chains, steps, n, most)
	}
}
