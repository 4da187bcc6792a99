package leader

import (
	"errors"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// eventBytes is the size up to which a change-log entry holds an object's bytes.
const eventBytes = 4 << 10

// event adds to the change log that watches read.
func (t *tx) event(kind store.EventKind, app spec.AppName, bucket spec.BucketName, key spec.Key, rec *store.Object) {
	e := store.Event{Kind: kind, App: app, Bucket: bucket, Key: key, Object: *rec}
	e.Object.Blob = nil
	if kind != store.EventPut || len(e.Object.Inline) > eventBytes {
		e.Object.Inline = nil
	}
	t.logEvent(&e)
}

func (t *tx) logEvent(e *store.Event) {
	revision := e.Object.Revision
	key, value := store.AppendEventKey(t.scratch.key(), t.shard(), revision), store.AppendEvent(t.scratch.record(), e)
	t.write(key, value)
	t.changes.add(revision, len(key)+len(value))
	if to := t.changes.cut(); to != 0 {
		t.batch.DeleteRange(store.AppendEventsPrefix(nil, t.shard()), store.AppendEventKey(nil, t.shard(), to+1))
		t.counters.Compacted = to
	}
	t.onApplied(func() { t.leader.hub.changed(revision) })
}

// How far the change log of a shard reaches back: so many changes, unless they
// have more bytes than that. It is cut when a quarter more has piled up.
const (
	defaultChangesKept     = 200_000
	defaultChangeBytesKept = 256 << 20
	// changeSegments is in how many segments what is kept is counted: the log is cut
	// between two of them.
	changeSegments = 200
)

// changeLog knows what the shard's change log holds, so that it is cut by the
// changes themselves and not by revisions: those count objects of sessions, too,
// of which there may be any number between two changes. The loop owns it.
type changeLog struct {
	kept     int             // changes that it reaches back
	most     int64           // bytes that they have at most
	segments []changeSegment // oldest first; the last one grows
	events   int
	bytes    int64
	apps     map[spec.AppName]bool // that the log had changes of when it was read
}

// changeSegment is some changes in a row.
type changeSegment struct {
	last   spec.Revision
	events int
	bytes  int64
}

func newChangeLog(kept int, most int64) changeLog {
	return changeLog{kept: kept, most: most, apps: make(map[spec.AppName]bool)}
}

func (c *changeLog) add(revision spec.Revision, size int) {
	n := len(c.segments) - 1
	if n < 0 || c.segments[n].events >= max(1, c.kept/changeSegments) || c.segments[n].bytes >= c.most/changeSegments {
		c.segments = append(c.segments, changeSegment{})
		n++
	}
	s := &c.segments[n]
	s.last = revision
	s.events++
	s.bytes += int64(size)
	c.events++
	c.bytes += int64(size)
}

// cut drops the oldest segments if there is too much, and returns the revision up
// to which the log is to be deleted, 0 for not at all.
func (c *changeLog) cut() (to spec.Revision) {
	if c.events <= c.kept+c.kept/4 && c.bytes <= c.most+c.most/4 {
		return 0
	}
	n := 0
	for ; n < len(c.segments)-1; n++ {
		s := c.segments[n]
		if c.events-s.events < c.kept && c.bytes <= c.most {
			break
		}
		c.events -= s.events
		c.bytes -= s.bytes
		to = s.last
	}
	c.segments = append([]changeSegment(nil), c.segments[n:]...)
	return to
}

// loadChanges counts what the change log holds, for a reign that begins.
func (r *reign) loadChanges() error {
	r.changes = newChangeLog(r.leader.cfg.ChangesKept, r.leader.cfg.ChangeBytesKept)
	lower, upper := store.Bounds(store.AppendEventsPrefix(nil, r.leader.cfg.Shard))
	var damaged error
	err := r.leader.cfg.DB.Scan(lower, upper, func(k, v []byte) bool {
		revision, err := store.DecodeEventKey(k)
		kind, app, valueErr := store.DecodeEventApp(v)
		if damaged = errors.Join(err, valueErr); damaged != nil {
			return false
		}
		r.changes.add(revision, len(k)+len(v))
		if kind != store.EventDropped {
			r.changes.apps[app] = true
		}
		return true
	})
	return errors.Join(err, damaged)
}

// dropEvents deletes the entries of apps from the change log, which hold bytes,
// and leaves a mark in their place: who watches from before it has to be told,
// also when the app is there again.
func (t *tx) dropEvents(apps []spec.AppName) {
	if len(apps) == 0 {
		return
	}
	gone := make(map[spec.AppName]bool, len(apps))
	for _, app := range apps {
		gone[app] = true
	}
	left := newChangeLog(t.changes.kept, t.changes.most)
	lower, upper := store.Bounds(store.AppendEventsPrefix(nil, t.shard()))
	t.scan(lower, upper, func(k, v []byte) error {
		revision, err := store.DecodeEventKey(k)
		_, app, valueErr := store.DecodeEventApp(v)
		if gone[app] {
			t.erase(k)
		} else {
			left.add(revision, len(k)+len(v))
		}
		return errors.Join(err, valueErr)
	})
	t.changes = left
	for _, app := range apps {
		t.logEvent(&store.Event{Kind: store.EventDropped, App: app, Object: store.Object{Revision: t.revision(), Created: t.at}})
	}
}
