package leader

import (
	"context"

	"github.com/pheromone-run/pheromone/internal/failpoint"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// pointDeletes is up to how many objects a session is deleted key by key. Beyond
// it a range tombstone costs less, but thousands of those slow every read.
const pointDeletes = 1000

// Bounds of what one round purges of a session with large objects: of the records
// that it looks through, and of those whose bytes it lets go of.
const (
	purgeRecords = 20_000
	purgeBlobs   = 5_000
)

// purging tells whether a session is being deleted: a part of its objects is gone.
// Its time to be purged says so, which then is the time at which it ended; else it is
// later. Until its record goes with the last part, nothing finds the session.
func purging(rec *store.Session) bool {
	return rec.State != store.SessionRunning && rec.Purge != 0 && rec.Purge <= rec.Ended
}

// purgeDue deletes an ended session whose retention is over.
func (t *tx) purgeDue(subject store.Timer, due store.Micros) {
	s := t.session(sessionName{subject.App, subject.Session})
	if s == nil || s.rec.State == store.SessionRunning || s.rec.Purge != due && !purging(&s.rec) {
		return
	}
	switch {
	case !s.follows() && s.lastSeq <= t.appliedSeq.Load(): // purge finds keys by looking into the store
		t.purge(s)
	case purging(&s.rec):
		t.rest(subject)
	default:
		s.rec.Purge = t.at + store.Micros(purgeGrace.Microseconds())
		t.arm(s.rec.Purge, purgeTimer(s))
		t.touch(s)
	}
}

// purge deletes a session and all that belongs to it. One with many large objects
// goes in parts, with the timer to go on.
func (t *tx) purge(s *session) {
	t.steps.Pass(failpoint.Purged, s.name.app)
	if s.rec.Blobs > 0 && !t.purgePart(s) {
		s.rec.Purge = s.rec.Ended
		t.rest(purgeTimer(s))
		t.touch(s)
		t.follow((*sessionEnded)(s))
		return
	}
	app, id := s.name.app, s.name.session
	small := s.rec.Objects <= pointDeletes
	for _, b := range s.rec.Buckets {
		t.clear(store.AppendSessionObjectsPrefix(nil, t.shard(), app, b, id, ""), small)
	}
	if s.rec.Held > 0 {
		t.clear(store.AppendHeldInputsPrefix(nil, t.shard(), app, id), s.rec.Held <= pointDeletes)
	}
	if s.rec.Children > 0 {
		t.clear(store.AppendChildrenPrefix(nil, t.shard(), app, id), s.rec.Children <= pointDeletes)
	}
	if s.rec.Machines > 0 {
		t.clear(store.AppendTriggerStatesPrefix(nil, t.shard(), app, id), true)
		t.clear(store.AppendSessionItemsPrefix(nil, t.shard(), app, id), small)
	}
	if s.rec.Invocations <= pointDeletes {
		for n := uint64(1); n <= s.rec.Invocations; n++ {
			t.erase(store.AppendHistoryKey(nil, t.shard(), app, id, n))
		}
	} else {
		t.clear(store.AppendHistoryPrefix(nil, t.shard(), app, id), false)
	}
	t.erase(store.AppendSessionIndexKey(nil, t.shard(), app, s.rec.Created, id))
	t.erase(store.AppendSessionKey(nil, t.shard(), app, id))
	s.purged = true
	t.touch(s)
	t.resting = append(t.resting, s)
	s.lastSeq = t.seq
	t.follow((*sessionEnded)(s))
}

// clear deletes all keys with a prefix. The session has ended and nothing of it
// is in flight: a scan finds everything.
func (t *tx) clear(prefix []byte, small bool) {
	lower, upper := store.Bounds(prefix)
	if !small {
		t.batch.DeleteRange(lower, upper)
		return
	}
	err := t.leader.cfg.DB.Scan(lower, upper, func(k, _ []byte) bool {
		t.remove(k)
		return true
	})
	if err != nil {
		t.broken(err)
	}
}

// purgePart gives back the session's references to the bytes of large objects, of as
// many as a round may, and deletes the records that it comes by unless they are the
// last ones. It tells whether they are.
func (t *tx) purgePart(s *session) (last bool) {
	records, blobs := 0, 0
	part := func(prefix []byte) bool {
		lower, upper := store.Bounds(prefix)
		last := true
		t.scan(lower, upper, func(k, v []byte) error {
			if records == purgeRecords || blobs == purgeBlobs {
				upper, last = append([]byte(nil), k...), false
				return errEnough
			}
			rec, err := store.DecodeObject(v)
			if err == nil && rec.Blob != nil {
				t.release(s.name.app, rec.Blob)
				blobs++
			}
			records++
			return err
		})
		if !last {
			t.batch.DeleteRange(lower, upper)
		}
		return last
	}
	prefixes := [][]byte{store.AppendHeldInputsPrefix(nil, t.shard(), s.name.app, s.name.session)}
	for _, b := range s.rec.Buckets {
		prefixes = append(prefixes, store.AppendSessionObjectsPrefix(nil, t.shard(), s.name.app, b, s.name.session, ""))
	}
	for i, prefix := range prefixes {
		if part(prefix) {
			continue
		}
		for _, whole := range prefixes[:i] {
			lower, upper := store.Bounds(whole)
			t.batch.DeleteRange(lower, upper)
		}
		return false
	}
	return true
}

// purgeNow is the command that deletes an ended session before its time: nothing
// finds it any more. What does not fit into its round goes by the timer.
type purgeNow struct {
	name sessionName
}

func (purgeNow) exclusive() {}

func (c purgeNow) evaluate(t *tx) error {
	s := t.session(c.name)
	if s == nil || purging(&s.rec) {
		return errNoSession(c.name)
	}
	if s.rec.State == store.SessionRunning {
		return spec.Errorf(spec.CodeConflict, "session %s is running: cancel it first", c.name.session)
	}
	if s.follows() {
		return spec.Errorf(spec.CodeConflict, "session %s has other sessions to tell of its end: ask again in a moment", c.name.session)
	}
	t.disarmPurge(s)
	t.purge(s)
	return nil
}

// Cancel ends a session by force. A session that has ended is left as it is.
func (l *Leader) Cancel(ctx context.Context, app spec.AppName, id spec.SessionID) error {
	return l.do(ctx, &cancel{sessionName{app, id}}, 0)
}

// Purge deletes an ended session.
func (l *Leader) Purge(ctx context.Context, app spec.AppName, id spec.SessionID) error {
	return l.do(ctx, purgeNow{sessionName{app, id}}, 0)
}
