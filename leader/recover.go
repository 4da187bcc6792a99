package leader

import (
	"context"
	"errors"
	"fmt"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/internal/failpoint"
	"github.com/pheromone-run/pheromone/store"
)

// recover loads what was pending when the last reign ended, and has it go on: it
// removes blobs that no entry came to name, takes over the deployed apps, counts
// the attempts that ended with the last reign, dispatches again, and sends the
// mail that was not acknowledged. Timers come from the store by themselves.
func (r *reign) recover(ctx context.Context) error {
	if err := r.awaitApps(ctx); err != nil {
		return err
	}
	db, sh := r.leader.cfg.DB, r.leader.cfg.Shard
	if err := db.SweepStaged(sh); err != nil {
		return fmt.Errorf("remove staged blobs: %w", err)
	}
	switch value, err := db.Get(store.AppendCountersKey(nil, sh)); {
	case err == nil:
		if r.counters, err = store.DecodeCounters(value); err != nil {
			return fmt.Errorf("load counters: %w", err)
		}
	case !errors.Is(err, store.ErrNotFound):
		return fmt.Errorf("load counters: %w", err)
	}
	if err := r.loadChanges(); err != nil {
		return fmt.Errorf("read the change log: %w", err)
	}
	if err := r.loadIncarnations(); err != nil {
		return fmt.Errorf("read the incarnations of apps: %w", err)
	}
	if len(r.deployedAgain()) > 0 {
		if err := r.alone(func(t *tx) { t.dropReplaced() }); err != nil {
			return err
		}
	}
	if err := r.alone(func(t *tx) { t.takeApps() }); err != nil {
		return err
	}
	// Old messages first: a new one tells the receiver which are not acknowledged.
	if err := r.recoverOutbox(); err != nil {
		return err
	}
	if err := r.recoverPending(); err != nil {
		return err
	}
	// Before anything is evaluated: an exclusive round does not look ahead itself.
	r.lookAhead(micros(r.now()) + store.Micros(horizonStep.Microseconds()))
	return r.failed
}

// awaitApps waits until this node knows of everything that was deployed or deleted
// when a leader before took it over. With an older copy it would take an app that is
// new for one that is gone, and delete its data.
func (r *reign) awaitApps(ctx context.Context) error {
	value, err := r.leader.cfg.DB.Get(store.AppendDeployedKey(nil, r.leader.cfg.Shard))
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err == nil {
		r.deployedAt, err = store.DecodeCount(value)
	}
	if err != nil {
		return fmt.Errorf("read which apps the shard has taken over: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-r.term.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	if err := r.leader.cfg.Apps.Await(ctx, r.deployedAt); err != nil {
		return errors.Join(r.term.Err(), err)
	}
	return nil
}

// alone evaluates f as an entry of its own and waits until it is applied.
func (r *reign) alone(f func(*tx)) error {
	r.slots <- struct{}{}
	t := r.begin(r.slots)
	f(t)
	t.settleMoved()
	t.flush()
	if r.failed != nil {
		return r.failed
	}
	if err := r.propose(t); err != nil {
		return err
	}
	err := r.drain()
	r.forgetApplied()
	return err
}

// recoverRound is how many invocations are recovered in one entry at most.
const recoverRound = 1000

func (r *reign) recoverPending() error {
	lower, upper := store.Bounds(store.AppendAllPendingPrefix(nil, r.leader.cfg.Shard))
	for lower != nil {
		var next []byte
		var failed error
		err := r.alone(func(t *tx) {
			n := 0
			failed = t.leader.cfg.DB.Scan(lower, upper, func(k, v []byte) bool {
				if n++; n > recoverRound || n > 1 && t.full() {
					next = append([]byte(nil), k...)
					return false
				}
				if err := t.restore(k, v); err != nil {
					t.broken(fmt.Errorf("load a pending invocation: %w", err))
					return false
				}
				return true
			})
		})
		if err = errors.Join(err, failed); err != nil {
			return err
		}
		lower = next
	}
	return nil
}

// restore takes a pending invocation into memory. An attempt that was started and
// has not ended ended with the reign before; one that waits for its retry goes on
// waiting; all others are dispatched.
func (t *tx) restore(key, value []byte) error {
	app, id, err := store.DecodePendingKey(key)
	if err != nil {
		return err
	}
	rec, err := store.DecodeInvocation(value)
	if err != nil {
		return err
	}
	s := t.session(sessionName{app, id.Session})
	if s == nil {
		t.leader.cfg.Log.Warn("pending invocation without a session", "app", app, "invocation", id.String())
		t.erase(key)
		return nil
	}
	if s.pending[id.Number] != nil {
		return nil // taking over the apps has just fired it
	}
	inv := &invocation{session: s, number: id.Number, rec: rec, bytes: len(value)}
	if s.pending == nil {
		s.pending = make(map[uint64]*invocation)
	}
	s.pending[id.Number] = inv
	t.countPending(inv, 1)
	if n := len(rec.Attempts); n > 0 {
		inv.attempt = rec.Attempts[n-1].Number
	}
	switch {
	case rec.State == store.InvocationRetrying:
	case inv.attempt > 0 && rec.Attempts[len(rec.Attempts)-1].Ended == 0:
		t.steps.Pass(failpoint.Lost, app)
		lost := &exec.Failure{Kind: exec.Lost, Message: "the node stopped, or lost the leadership of the shard, while the attempt ran"}
		t.noteAttempt(inv, store.Attempt{Number: inv.attempt, Ended: t.at, Failure: t.failure(inv, lost)})
		t.tell(inv, lost)
		t.retryOrGiveUp(inv, lost)
	default:
		inv.attempt++ // one may have run whose start was not written
		t.dispatch(inv)
	}
	return nil
}

// recoverOutbox counts the messages that wait and has them sent.
func (r *reign) recoverOutbox() error {
	n, err := r.outbox.load()
	if err != nil {
		return err
	}
	r.mailN.Store(int64(n))
	return nil
}
