package leader

import (
	"fmt"

	"github.com/pheromone-run/pheromone/store"
)

// A running session may wait for long: for a timer, for a child, for the next attempt of
// an invocation, for executors that have no room. While none of its attempts is with the
// executors the store has all of it. Those that came to rest last stay in memory, since
// they may soon be wanted, and since a trigger that holds much takes long to load; the
// others leave it, and are loaded again when something comes for them.

// idling is a session that came to rest with an entry.
type idling struct {
	*session
	rested uint64
}

// atRest tells whether the store has all of a session, once its entries are applied.
func (s *session) atRest() bool { return !s.purged && s.running == 0 }

// rested notes that a session was written or loaded, and may be at rest.
func (t *tx) rested(s *session) {
	if s.used = t.seq; s.rested == t.seq || !s.atRest() || s.rec.State != store.SessionRunning {
		return // forgetResting sees to sessions that have ended
	}
	s.rested = t.seq
	s.results.forget()
	t.idle = append(t.idle, idling{s, t.seq})
}

// forgetIdle drops those sessions from memory that have been at rest for longest, and
// that the store holds as they are.
func (r *reign) forgetIdle(applied uint64) {
	n := max(0, len(r.idle)-r.leader.cfg.Memory.Sessions)
	for i, s := range r.idle[:n] {
		r.idle[i] = idling{}
		switch {
		case s.rested != s.session.rested || r.sessions[s.name] != s.session: // it has come again, or is gone
		case !s.atRest():
			s.session.rested = 0 // it comes again, be it with an entry of the same number
		case s.used > applied:
			r.idle = append(r.idle, s)
		default:
			delete(r.sessions, s.name)
		}
	}
	r.idle = r.idle[n:]
}

// loadPending reads the invocations of a session that are pending. Those that do not
// wait for their next attempt wait in a lane.
func (t *tx) loadPending(s *session) bool {
	if s.rec.Pending == 0 {
		return true
	}
	lower, upper := store.Bounds(store.AppendPendingPrefix(nil, t.shard(), s.name.app, s.name.session))
	s.pending = make(map[uint64]*invocation, s.rec.Pending)
	t.scan(lower, upper, func(k, v []byte) error {
		_, id, err := store.DecodePendingKey(k)
		if err != nil {
			return fmt.Errorf("load a pending invocation: %w", err)
		}
		rec, err := store.DecodeInvocation(v)
		if err != nil {
			return fmt.Errorf("load a pending invocation: %w", err)
		}
		inv := &invocation{session: s, number: id.Number, rec: rec, bytes: len(v)}
		lost := false // with the reign before: it is in no lane
		if n := len(rec.Attempts); n > 0 {
			inv.attempt, lost = rec.Attempts[n-1].Number, rec.Attempts[n-1].Ended == 0
		}
		inv.parked = rec.State == store.InvocationQueued && !lost
		s.pending[id.Number] = inv
		return nil
	})
	return t.failed == nil
}
