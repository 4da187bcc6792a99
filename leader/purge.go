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

// purgeDue deletes an ended session whose retention is over.
func (t *tx) purgeDue(subject store.Timer, due store.Micros) {
	s := t.session(sessionName{subject.App, subject.Session})
	if s == nil || s.rec.State == store.SessionRunning || s.rec.Purge != due {
		return
	}
	if s.follows() || s.lastSeq > t.appliedSeq.Load() { // purge finds keys by looking into the store
		s.rec.Purge = t.at + store.Micros(purgeGrace.Microseconds())
		t.arm(s.rec.Purge, purgeTimer(s))
		t.touch(s)
		return
	}
	t.purge(s)
}

// purge deletes a session and all that belongs to it.
func (t *tx) purge(s *session) {
	app, id := s.name.app, s.name.session
	t.steps.Pass(failpoint.Purged, app)
	if s.rec.Blobs > 0 {
		t.releaseBlobs(s)
	}
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
	t.onApplied(func() { t.leader.hub.ended(s.name) })
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

// releaseBlobs gives back the session's references to the bytes of large objects.
func (t *tx) releaseBlobs(s *session) {
	release := func(_, value []byte) bool {
		rec, err := store.DecodeObject(value)
		if err != nil {
			t.broken(err)
			return false
		}
		if rec.Blob != nil {
			t.release(s.name.app, rec.Blob)
		}
		return true
	}
	prefixes := [][]byte{store.AppendHeldInputsPrefix(nil, t.shard(), s.name.app, s.name.session)}
	for _, b := range s.rec.Buckets {
		prefixes = append(prefixes, store.AppendSessionObjectsPrefix(nil, t.shard(), s.name.app, b, s.name.session, ""))
	}
	for _, prefix := range prefixes {
		lower, upper := store.Bounds(prefix)
		if err := t.leader.cfg.DB.Scan(lower, upper, release); err != nil {
			t.broken(err)
		}
	}
}

// purgeNow is the command that deletes an ended session before its time.
type purgeNow struct {
	name sessionName
}

func (purgeNow) exclusive() {}

func (c purgeNow) evaluate(t *tx) error {
	s := t.session(c.name)
	if s == nil {
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
