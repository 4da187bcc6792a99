package leader

import (
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/internal/failpoint"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// startDelay is how long a started attempt waits at most for an entry to be
// written with.
const startDelay = 50 * time.Millisecond

// starts collects attempts that executors have taken. They are written with the
// next entry and not waited for. Only what no entry has taken along for startDelay
// gets one of its own: short attempts, of which there are many, end before that.
type starts struct {
	sync.Mutex
	list  []start
	spare []start   // the list before
	since time.Time // when the first of the list came
	armed bool      // a timer runs, for the list as it was or for a later one
}

type start struct {
	app      spec.AppName
	id       spec.InvocationID
	attempt  int
	executor string
	at       time.Time
}

// arm sees to it that what is in the list is looked at after a time. The lock must
// be held.
func (s *starts) arm(r *reign, wait time.Duration) {
	if s.armed {
		return
	}
	s.armed = true
	time.AfterFunc(wait, func() {
		if s.overdue(r) {
			_ = r.intake.offer(r.ctx, &request{command: wake{}})
		}
	})
}

// overdue tells whether the list has waited for long enough. If it has not, because an
// entry has taken along what was in it before, it is looked at again.
func (s *starts) overdue(r *reign) bool {
	s.Lock()
	defer s.Unlock()
	s.armed = false
	if len(s.list) == 0 {
		return false
	}
	if left := startDelay - time.Since(s.since); left > 0 {
		s.arm(r, left)
		return false
	}
	return true
}

// wake has the loop do a round.
type wake struct{}

func (wake) evaluate(*tx) error { return nil }

// takeStarts notes the attempts that have been started since the last round.
func (r *reign) takeStarts(t *tx) {
	r.starts.Lock()
	list := r.starts.list
	r.starts.list, r.starts.spare = r.starts.spare, nil
	r.starts.Unlock()
	for i, st := range list {
		if t.full() { // records with many inputs: the others are taken by a later round
			r.starts.Lock()
			r.starts.list = append(list[i:], r.starts.list...)
			r.starts.arm(r, startDelay)
			r.starts.Unlock()
			return
		}
		if inv := t.attempt(st.app, st.id, st.attempt); inv != nil {
			t.steps.Pass(failpoint.Started, st.app)
			t.heardOf(inv)
			t.noteAttempt(inv, store.Attempt{Number: inv.attempt, Started: micros(st.at), Executor: st.executor})
			t.mark(inv)
		}
	}
	if len(list) > 0 {
		again(&list)
		r.starts.Lock()
		r.starts.spare = list
		r.starts.Unlock()
	}
}
