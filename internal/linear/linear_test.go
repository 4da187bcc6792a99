package linear

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/spec"
)

// TestKeyValueObjectsAreLinearizableAndWatchedOverRestarts: clients get, put and
// delete a few keys while watches follow them and the node is killed and started
// again. Every answer fits one order of the operations, and every watch shows the
// changes, each once, in that order.
func TestKeyValueObjectsAreLinearizableAndWatchedOverRestarts(t *testing.T) {
	for part, shards := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d shards", shards), func(t *testing.T) {
			node := start(t, shards)
			lasts := time.Duration(*seconds) * time.Second
			l := newLoad(node, lasts)
			c := patient(t, node)
			w := watchLoad(t, node, c, l.keys)
			began := time.AfterFunc(lasts, func() { close(l.stop) })
			defer began.Stop()
			finished := make(chan struct{})
			go func() {
				defer close(finished)
				l.run(*clients)
			}()
			kills := bounce(node, random(uint64(1000+part)), 800*time.Millisecond, l.stop)
			<-finished
			end := map[spec.Key]spec.Revision{}
			for _, key := range l.keys { // watches end with these
				end[key] = put(t.Context(), t, c, objects, key, "end", client.PutOptions{}).Revision
			}
			t.Logf("%d operations, %d kills, gets without an answer: %v", len(l.mu.history), kills, l.mu.away)
			for _, err := range l.mu.faults {
				t.Error(err)
			}
			changes := w.check(t, l.mu.history, end)
			check(t, resolve(l.mu.history, changes))
		})
	}
}

// checkWait bounds the search for an order. It is short for histories that have one.
const checkWait = 2 * time.Minute

// resolve tells, from what the watches show, what became of the puts whose answers
// were lost: too many that may have happened at any time are more than a checker
// can try out. A put that is not shown was not done; one that is took effect before
// anybody saw its revision, or a later one.
func resolve(history []porcupine.Operation, changes map[spec.Key][]change) []porcupine.Operation {
	shown := map[string]spec.Revision{}
	for _, list := range changes {
		for _, c := range list {
			shown[c.value] = c.revision
		}
	}
	var resolved []porcupine.Operation
	for _, o := range history {
		op, out := o.Input.(operation), o.Output.(outcome)
		if op.kind == putting && out.ending == unknown {
			revision, ok := shown[op.value]
			if !ok {
				continue
			}
			o.Output = outcome{revision: revision}
			for _, other := range history {
				if other.Input.(operation).key == op.key && other.Output.(outcome).revision >= revision {
					o.Return = min(o.Return, other.Return)
				}
			}
		}
		resolved = append(resolved, o)
	}
	return resolved
}

func check(t *testing.T, history []porcupine.Operation) {
	t.Helper()
	endings := map[ending]int{}
	for i := range history {
		endings[history[i].Output.(outcome).ending]++
	}
	t.Logf("done %d, not there %d, refused %d, unknown %d", endings[done], endings[missing], endings[refused], endings[unknown])
	if endings[done] < 100 || endings[refused] == 0 || endings[missing] == 0 {
		t.Errorf("%d operations were done, %d refused: the load proves little", endings[done], endings[refused])
	}
	result, info := porcupine.CheckOperationsVerbose(model, history, checkWait)
	if result == porcupine.Ok {
		return
	}
	picture, err := os.CreateTemp("", "pheromone-linear-*.html")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = picture.Close() }()
	if err := porcupine.Visualize(model, info, picture); err != nil {
		t.Error(err)
	}
	t.Errorf("the history is %s: no order of the operations explains the answers (seed %d): see %s", result, *seed, picture.Name())
}
