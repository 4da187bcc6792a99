package leader

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/internal/failpoint"
	"github.com/pheromone-run/pheromone/spec"
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
	lost, err := r.countStored()
	if err != nil {
		return fmt.Errorf("read the pending invocations: %w", err)
	}
	if err := r.alone(func(t *tx) { t.takeApps() }); err != nil {
		return err
	}
	// Old messages first: a new one tells the receiver which are not acknowledged.
	if err := r.recoverOutbox(); err != nil {
		return err
	}
	if err := r.recoverPending(lost); err != nil {
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
	t.unpark()
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

// lostAttempt names an invocation whose attempt ended with the reign before.
type lostAttempt struct {
	of functionName
	id spec.InvocationID
}

// countStored counts the invocations that are pending in the store, and parks those that
// wait for executors, in the order in which they were queued. It returns those whose
// attempt was started and has not ended. No session is loaded for it: there may be
// millions, and what comes first is what the executors have room for.
func (r *reign) countStored() (lost []lostAttempt, err error) {
	lower, upper := store.Bounds(store.AppendAllPendingPrefix(nil, r.leader.cfg.Shard))
	var damaged error
	err = r.leader.cfg.DB.Scan(lower, upper, func(k, v []byte) bool {
		app, id, keyErr := store.DecodePendingKey(k)
		rec, err := store.DecodeInvocation(v)
		if damaged = errors.Join(keyErr, err); damaged != nil {
			return false
		}
		f := functionName{app, rec.Function}
		r.countPending(f, 1)
		switch n := len(rec.Attempts); {
		case rec.State == store.InvocationRetrying: // its timer sees to it
		case n > 0 && rec.Attempts[n-1].Ended == 0:
			lost = append(lost, lostAttempt{f, id})
		default:
			r.parking.park(f, parked{session: id.Session, number: id.Number, queued: rec.Queued, skip: true})
		}
		return true
	})
	for _, l := range r.parking.lanes {
		slices.SortStableFunc(l.queue, func(a, b parked) int { return cmp.Compare(a.queued, b.queued) })
	}
	return lost, errors.Join(err, damaged)
}

// recoverRound is how many invocations are recovered in one entry at most.
const recoverRound = 1000

// recoverPending has attempts that were lost begin anew, and then what waits go to the
// executors as far as they have room.
func (r *reign) recoverPending(lost []lostAttempt) error {
	r.parking.ahead = true
	for len(lost) > 0 {
		err := r.alone(func(t *tx) {
			for n := 0; n < recoverRound && len(lost) > 0 && (n == 0 || !t.full()); n++ {
				t.restore(lost[0])
				lost = lost[1:]
			}
		})
		if err != nil {
			return err
		}
	}
	r.parking.ahead, r.parking.freed = false, true
	for r.parking.freed {
		if err := r.alone(func(*tx) {}); err != nil {
			return err
		}
	}
	return nil
}

// restore notes that an attempt ended with the reign before, and has what follows follow.
func (t *tx) restore(l lostAttempt) {
	if t.newest[l.of.app] == nil {
		return // it went with its app
	}
	s := t.session(sessionName{l.of.app, l.id.Session})
	if s == nil {
		t.orphan(l.of, l.id)
		return
	}
	inv := s.pending[l.id.Number]
	if inv == nil {
		return // what was restored before has cancelled it
	}
	t.steps.Pass(failpoint.Lost, l.of.app)
	failure := &exec.Failure{Kind: exec.Lost, Message: "the node stopped, or lost the leadership of the shard, while the attempt ran"}
	t.noteAttempt(inv, store.Attempt{Number: inv.attempt, Ended: t.at, Failure: t.failure(inv, failure)})
	t.tell(inv, failure)
	t.retryOrGiveUp(inv, failure)
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
