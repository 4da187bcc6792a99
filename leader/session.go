package leader

import (
	"errors"
	"slices"
	"time"

	"github.com/pheromone-run/pheromone/internal/failpoint"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// session is a session's working state. It is in memory while something of it is
// pending or in flight, and loaded again when it is touched.
type session struct {
	name     sessionName
	plan     *plan // of the app's version that the session runs on
	rec      store.Session
	pending  map[uint64]*invocation
	machines map[machineName]*machine
	fresh    bool // made in this term: the store has no state of its triggers
	// objects are the names of all objects of a fresh session, hashed: what is not
	// among them is not in the store. There are fewer than rec.Objects once they are
	// not kept any more.
	objects []uint64
	named   [8]uint64          // the first of them
	buckets [8]spec.BucketName // the first ones of the record
	dirty   bool
	moved   bool // touched since it was settled
	purged  bool
	failing *store.Failure // why it is to fail at the end of the round
	lastSeq uint64         // the last entry that wrote it
	results *results       // of ephemeral buckets, while they are all that there are
	used    uint64         // the last entry that came by it
	rested  uint64         // the entry with which it last came to rest
	running int            // of its attempts, those that are with the executors
}

func micros(t time.Time) store.Micros { return store.Micros(t.UnixMicro()) }

// session returns a session's working state, nil if there is no such session.
func (t *tx) session(name sessionName) *session {
	if s, ok := t.sessions[name]; ok {
		if s.purged {
			return nil
		}
		s.used = t.seq
		return s
	}
	value, err := t.leader.cfg.DB.Get(store.AppendSessionKey(nil, t.shard(), name.app, name.session))
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		t.broken(err)
		return nil
	}
	rec, err := store.DecodeSession(value)
	if err != nil {
		t.broken(err)
		return nil
	}
	p, ok := t.plan(name.app, rec.AppVersion)
	if !ok {
		return nil // the app is being deleted
	}
	s := &session{name: name, plan: p, rec: rec, used: t.seq}
	if !t.loadPending(s) {
		return nil
	}
	t.sessions[name] = s
	if rec.State != store.SessionRunning { // it leaves memory again unless it is reopened
		t.resting = append(t.resting, s)
	}
	t.rested(s)
	return s
}

// newSession makes a session on the newest version of the app.
func (t *tx) newSession(name sessionName, p *plan, origin store.Origin) *session {
	s := &session{
		name:  name,
		plan:  p,
		fresh: true,
		used:  t.seq,
		rec: store.Session{
			AppVersion: p.version,
			State:      store.SessionRunning,
			Created:    t.at,
			Origin:     origin,
		},
	}
	s.objects, s.rec.Buckets = s.named[:0], s.buckets[:0]
	t.sessions[name] = s
	t.write(store.AppendSessionIndexKey(t.scratch.key(), t.shard(), name.app, s.rec.Created, name.session), nil)
	if limit := p.app.SessionTimeout; limit > 0 {
		t.setDeadline(s, t.at+store.Micros(limit.Microseconds()))
	}
	t.touch(s)
	return s
}

// touch has the session settled at the end of the round, and written with the entry.
func (t *tx) touch(s *session) {
	if !s.dirty {
		s.dirty = true
		t.dirty.sessions = append(t.dirty.sessions, s)
	}
	if !s.moved {
		s.moved = true
		t.moved = append(t.moved, s)
	}
}

// reopen makes an ended session run again, for an object that comes late.
func (t *tx) reopen(s *session) error {
	switch s.rec.State {
	case store.SessionRunning:
		return nil
	case store.SessionCompleted:
		if s.rec.Deadline != 0 && s.rec.Deadline <= t.at {
			return spec.Errorf(spec.CodeConflict, "session %s is over, and so is its deadline: it takes no more objects", s.name.session).
				WithHint("run it again with: pheromone session rerun")
		}
		t.disarmPurge(s)
		if s.results != nil { // its end may have been told
			t.announce(s, nil)
		}
		s.rec.State, s.rec.Ended = store.SessionRunning, 0
		t.setDeadline(s, s.rec.Deadline)
		t.touch(s)
		return nil
	default:
		return spec.Errorf(spec.CodeConflict, "session %s is over (%s) and takes no more objects", s.name.session, stateName(s.rec.State)).
			WithHint("run it again with: pheromone session rerun")
	}
}

// settle fires what waits for a stage to be done, and ends the session if
// nothing of it is pending any more.
func (t *tx) settle(s *session) {
	if s.purged || s.rec.State != store.SessionRunning {
		return
	}
	t.finishStages(s)
	if s.failing != nil {
		t.failByTrigger(s)
		return
	}
	if s.rec.Pending > 0 || s.rec.Timers > 0 || s.rec.Mail > 0 || s.rec.Awaited > 0 {
		return
	}
	state := store.SessionCompleted
	if s.rec.Failure != nil {
		state = store.SessionFailed
	}
	t.end(s, state)
}

// end gives the session its final state and arms its purge.
func (t *tx) end(s *session, state store.SessionState) {
	t.steps.Pass(failpoint.SessionEnded, s.name.app)
	s.rec.State = state
	s.rec.Ended = t.at
	// Even with retention 0 whoever waits for the result needs a moment to read it.
	keep := max(s.plan.app.Retention, purgeGrace)
	s.rec.Purge = wholeSecond(t.at + store.Micros(keep.Microseconds()))
	t.arm(s.rec.Purge, purgeTimer(s))
	t.disarmDeadline(s)
	if s.follows() {
		t.arm(t.at, followTimer(s))
	}
	t.touch(s)
	t.tellEnd(s)
	t.follow((*sessionEnded)(s))
}

// wholeSecond is the first whole second at or after a time: sessions that end
// together are purged together, in one entry.
func wholeSecond(at store.Micros) store.Micros {
	const second = 1_000_000
	return (at + second - 1) / second * second
}

// purgeGrace is how long an ended session can be read at least.
const purgeGrace = time.Second

func purgeTimer(s *session) store.Timer {
	return store.Timer{Kind: store.TimerPurge, App: s.name.app, Session: s.name.session}
}

func (t *tx) disarmPurge(s *session) {
	if s.rec.Purge != 0 {
		t.disarm(s.rec.Purge, purgeTimer(s))
		s.rec.Purge = 0
	}
}

func (t *tx) writeSession(s *session) {
	s.dirty = false
	s.lastSeq = t.seq
	if s.purged {
		return
	}
	t.write(store.AppendSessionKey(t.scratch.key(), t.shard(), s.name.app, s.name.session), store.AppendSession(t.scratch.record(), &s.rec))
	if s.rec.State != store.SessionRunning {
		t.resting = append(t.resting, s)
	}
	t.rested(s)
}

// forgetResting drops sessions from memory that have ended and that the store
// holds as they are.
func (r *reign) forgetResting(applied uint64) {
	n := 0
	for ; n < len(r.resting) && r.resting[n].lastSeq <= applied; n++ {
		s := r.resting[n]
		if (s.purged || s.rec.State != store.SessionRunning) && r.sessions[s.name] == s {
			delete(r.sessions, s.name)
		}
		r.resting[n] = nil
	}
	r.resting = r.resting[n:]
}

// cancel is the command that ends a session by force.
type cancel struct {
	name sessionName
}

func (c *cancel) evaluate(t *tx) error {
	s := t.session(c.name)
	if s == nil || purging(&s.rec) {
		return errNoSession(c.name)
	}
	if s.rec.State != store.SessionRunning {
		return nil // it has ended: cancelling again is no error
	}
	t.cancelSession(s, "the session was cancelled")
	return nil
}

func sortedNumbers(m map[uint64]*invocation) []uint64 {
	numbers := make([]uint64, 0, len(m))
	for n := range m {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	return numbers
}

func errNoSession(n sessionName) error {
	return spec.Errorf(spec.CodeNotFound, "app %q has no session %q, or it is not kept any more", n.app, n.session)
}

func stateName(s store.SessionState) string {
	switch s {
	case store.SessionRunning:
		return "running"
	case store.SessionCompleted:
		return "completed"
	case store.SessionFailed:
		return "failed"
	case store.SessionCancelled:
		return "cancelled"
	}
	return "unknown"
}
