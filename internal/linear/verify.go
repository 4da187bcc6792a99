package linear

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/spec"
)

// Summary counts what a load has done.
type Summary struct {
	Operations, Done, Missing, Refused, Unknown int
	Away                                        map[spec.Code]int // gets that got no answer
	Events                                      int               // that watches showed
}

func (s Summary) String() string {
	return fmt.Sprintf("%d operations: done %d, not there %d, refused %d, unknown %d; gets without an answer %v; %d events watched",
		s.Operations, s.Done, s.Missing, s.Refused, s.Unknown, s.Away, s.Events)
}

// checkWait bounds the search for an order. It is short for histories that have one.
const checkWait = 2 * time.Minute

// Verify looks, after Run, at what the load and its watches have seen: every answer
// fits one order of the operations, and every watch shows the changes, each once,
// in that order. It returns all that does not.
func (l *Load) Verify(ctx context.Context, w *Watches) (Summary, []error) {
	end, err := l.putEnds(ctx)
	if err != nil {
		return Summary{}, []error{err}
	}
	changes, faults := w.verify(ctx, l.mu.history, end)
	history := resolve(l.mu.history, changes)
	s := l.summary(history)
	for _, f := range w.all {
		s.Events += len(f.events)
	}
	if s.Done < 100 || s.Refused == 0 || s.Missing == 0 {
		faults = append(faults, fmt.Errorf("%v: the load proves little", s))
	}
	faults = append(faults, l.mu.faults...)
	if err := checkOrder(history); err != nil {
		faults = append(faults, err)
	}
	return s, faults
}

// putEnds puts the objects that watches end with.
func (l *Load) putEnds(ctx context.Context) (map[spec.Key]spec.Revision, error) {
	s, err := nodetest.Dial(l.cfg.Servers, 0)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	end := map[spec.Key]spec.Revision{}
	for _, key := range l.keys {
		err := s.Until(ctx, func(ctx context.Context, c *client.Client) error {
			r, err := c.Put(ctx, l.cfg.App, l.cfg.Bucket, key, strings.NewReader("end"), client.PutOptions{IdempotencyKey: "end-" + string(key)})
			end[key] = r.Revision
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("put the last object: %w", err)
		}
	}
	return end, nil
}

func (l *Load) summary(history []porcupine.Operation) Summary {
	endings := map[ending]int{}
	for i := range history {
		endings[history[i].Output.(outcome).ending]++
	}
	return Summary{Operations: len(history), Done: endings[done], Missing: endings[missing], Refused: endings[refused], Unknown: endings[unknown], Away: l.mu.away}
}

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

// checkOrder looks for one order of the operations that explains all answers.
func checkOrder(history []porcupine.Operation) error {
	result, info := porcupine.CheckOperationsVerbose(model, history, checkWait)
	if result == porcupine.Ok {
		return nil
	}
	picture, err := os.CreateTemp("", "pheromone-linear-*.html")
	if err != nil {
		return err
	}
	defer func() { _ = picture.Close() }()
	if err := porcupine.Visualize(model, info, picture); err != nil {
		return err
	}
	if result == porcupine.Unknown {
		return fmt.Errorf("the checker came to no answer within %v, with the keys' histories as in %s", checkWait, picture.Name())
	}
	return fmt.Errorf("no order of the operations explains the answers: see %s", picture.Name())
}
