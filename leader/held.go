package leader

import (
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/pheromone-run/pheromone/internal/failpoint"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
	"github.com/pheromone-run/pheromone/triggers"
)

// A trigger of scope bucket counts objects of many sessions. It lives on the
// shard that owns the bucket's slot and holds copies of its own: the sessions may
// be purged before it fires. A firing starts a session there, whose first
// invocations take the copies over.

// forward passes an object to a trigger of scope bucket: at once if it lives on
// this shard, else by mail.
func (t *tx) forward(s *session, bucket spec.BucketName, tr *spec.Trigger, key spec.Key, rec *store.Object) {
	copied := *rec
	copied.Session, copied.Key = s.name.session, key
	home := t.leader.cfg.Router.ShardOf(spec.BucketSlot(s.name.app, bucket))
	if home != t.shard() {
		t.post(s, home, bucket, tr.Name, &copied)
		return
	}
	if copied.Blob != nil {
		t.share(s.name.app, copied.Blob)
	}
	t.hold(s.name.app, bucket, tr.Name, &copied, s.plan)
}

// hold counts an object with a trigger of scope bucket. The reference to its blob
// that the copy carries is given back if the trigger has no use for the object. from
// is the plan of a session of this shard that the object comes from.
func (t *tx) hold(app spec.AppName, bucket spec.BucketName, trigger spec.TriggerName, rec *store.Object, from *plan) {
	p := t.newest[app]
	var tr *spec.Trigger
	if p != nil {
		tr = findTrigger(p.app, bucket, trigger)
	}
	if tr == nil || tr.Scope != spec.ScopeBucket || !counts(tr, rec.Deleted) { // a newer version of the app has done away with it
		if rec.Blob != nil {
			t.release(app, rec.Blob)
		}
		return
	}
	t.steps.Pass(failpoint.Held, app)
	t.setApart(p, bucket, rec)
	position := uint64(t.revision())
	value := store.AppendObject(nil, rec)
	if m := t.machine(nil, machineName{app: app, bucket: bucket, trigger: trigger}, tr); m != nil {
		m.widest = max(m.widest, len(value))
		t.restOn(m, from)
	}
	t.put(store.AppendHeldKey(nil, t.shard(), app, bucket, trigger, position), value)
	t.stepBucket(p, bucket, tr, triggers.Event{
		Kind:   triggers.ObjectArrived,
		Object: triggers.Object{Position: position, Key: rec.Key, Group: rec.Meta[tr.GroupBy.Meta]},
	})
}

// restOn notes that a machine has heard something of a session with a plan. If the
// bucket is durable there, which it is not any more in the newest version, that
// counts for early firings only once it is committed.
func (t *tx) restOn(m *machine, from *plan) {
	if from != nil && !from.hastened(m.name.bucket) {
		m.firm = t.seq
	}
}

// heldInline is the size up to which a held object's bytes stay in its record. A
// firing writes the records of all its objects once more, in one entry, so they
// have to be small.
const heldInline = 128

// setApart moves an object's bytes out of its record.
func (t *tx) setApart(p *plan, bucket spec.BucketName, rec *store.Object) {
	if len(rec.Inline) <= heldInline {
		return
	}
	blob := &store.Blob{
		ID:   store.NewBlobID(t.at),
		Size: rec.Size, Chunks: 1, Codec: store.CodecNone,
		CRC: crc32.Checksum(rec.Inline, crc32.MakeTable(crc32.Castagnoli)), Sum: digest(rec.Inline, nil),
	}
	t.writeInput(p, bucket, store.AppendBlobChunkKey(nil, t.shard(), p.app.Name, blob.ID, 0), rec.Inline)
	rec.Inline, rec.Blob = nil, blob
}

// stepBucket passes an event to a machine of scope bucket and does what it asks.
// If the trigger is stalled, objects and sets wait for it; a tick is lost.
func (t *tx) stepBucket(p *plan, bucket spec.BucketName, tr *spec.Trigger, ev triggers.Event) {
	m := t.machine(nil, machineName{app: p.app.Name, bucket: bucket, trigger: tr.Name}, tr)
	if m == nil {
		return
	}
	ev.Now = timeOf(t.at)
	if m.behind() {
		t.stepBehind(p, m, ev)
		return
	}
	if !t.stepHeld(p, m, ev) {
		t.putBehind(m, ev)
	}
}

func (t *tx) stepHeld(p *plan, m *machine, ev triggers.Event) bool {
	out, ok := t.advance(m, ev)
	if !ok {
		return false
	}
	t.keep(nil, m.name, m, &out)
	for i := range out.Firings {
		t.fireBucket(p, m, &out.Firings[i])
	}
	if ev.Kind == triggers.ObjectArrived && !kept(&out, ev.Object.Position) {
		t.letGoHeld(m.name, ev.Object.Position)
		if m.backlog != 0 { // it was kept as an item while it waited to be counted
			n := m.name
			t.erase(store.AppendTriggerItemKey(nil, t.shard(), n.app, "", n.bucket, n.trigger, ev.Object.Position))
		}
	}
	t.letGoDropped(m.name, &out)
	return true
}

// letGoDropped deletes the held objects that a step has dropped.
func (t *tx) letGoDropped(name machineName, out *triggers.Outcome) {
	n := len(out.Drop)
	if !out.DropsFirst || n <= pointDeletes {
		for _, position := range out.Drop {
			t.letGoHeld(name, position)
		}
		return
	}
	for _, position := range out.Drop {
		if rec, ok := t.held(name, position); ok && rec.Blob != nil {
			t.release(name.app, rec.Blob)
		}
	}
	// Nobody reads them again, so that those in flight may stay in the overlay.
	t.batch.DeleteRange(store.AppendHeldPrefix(nil, t.shard(), name.app, name.bucket, name.trigger),
		store.AppendHeldKey(nil, t.shard(), name.app, name.bucket, name.trigger, out.Drop[n-1]+1))
}

func kept(out *triggers.Outcome, position uint64) bool {
	for i := range out.Keep {
		if out.Keep[i].Position == position {
			return true
		}
	}
	return false
}

// fireBucket starts the session of a firing of scope bucket and hands it copies
// of the objects, one for each target.
func (t *tx) fireBucket(p *plan, m *machine, f *triggers.Firing) {
	name, tr := m.name, m.spec
	id := spec.NewSessionID(spec.BucketSlot(name.app, name.bucket), timeOf(t.at))
	s := t.newSession(sessionName{name.app, id}, p, store.Origin{Kind: store.OriginTrigger, Bucket: name.bucket, Trigger: name.trigger})
	copies, size, sources := t.copiesOf(s, name, f)
	for _, target := range tr.Target {
		if !t.fits(size, refs(name.bucket, f)+sources) {
			t.refuseFiring(s, target, name.bucket, name.trigger, f, nil)
			continue
		}
		inputs := make([]store.InputRef, len(copies))
		number := s.rec.Invocations + 1
		for i := range copies {
			rec, position := &copies[i], f.Inputs[i].Position
			if rec.Blob != nil {
				t.share(name.app, rec.Blob)
				s.rec.Blobs++
			}
			t.writeInput(p, name.bucket, store.AppendHeldInputKey(nil, t.shard(), name.app, id, number, position), store.AppendObject(nil, rec))
			s.rec.Held++
			inputs[i] = store.InputRef{
				Bucket: name.bucket, Key: f.Inputs[i].Key, Revision: spec.Revision(position), Held: true, Source: rec.Session, Producer: rec.Producer,
			}
		}
		t.fire(s, target, name.bucket, name.trigger, f, inputs, m.firm)
	}
}

// copiesOf reads what a firing takes, and returns what a copy of it writes, and how
// many bytes the names of the sessions have that it comes from.
func (t *tx) copiesOf(s *session, name machineName, f *triggers.Firing) (copies []store.Object, size, sources int) {
	copies = make([]store.Object, 0, len(f.Inputs))
	for i := range f.Inputs {
		rec, ok := t.held(name, f.Inputs[i].Position)
		if !ok {
			return nil, 0, 0 // t.held has given the term up
		}
		size += len(store.AppendObject(nil, &rec)) + keyExtra + len(name.app) + len(s.name.session)
		if rec.Blob != nil {
			size += blobRefBytes + len(name.app)
		}
		sources += len(rec.Session)
		copies = append(copies, rec)
	}
	return copies, size, sources
}

// held reads an object that a trigger holds.
func (t *tx) held(name machineName, position uint64) (store.Object, bool) {
	value, ok := t.get(store.AppendHeldKey(nil, t.shard(), name.app, name.bucket, name.trigger, position))
	if !ok {
		t.broken(fmt.Errorf("trigger %s on bucket %s of app %s: held object %d is missing", name.trigger, name.bucket, name.app, position))
		return store.Object{}, false
	}
	rec, err := store.DecodeObject(value)
	if err != nil {
		t.broken(err)
		return store.Object{}, false
	}
	return rec, true
}

// letGoHeld deletes a held object that its trigger needs no more.
func (t *tx) letGoHeld(name machineName, position uint64) {
	if rec, ok := t.held(name, position); ok && rec.Blob != nil {
		t.release(name.app, rec.Blob)
	}
	t.remove(store.AppendHeldKey(nil, t.shard(), name.app, name.bucket, name.trigger, position))
}

// heldDeleted tells whether a trigger holds objects that stand for deletions, and
// whether it holds any: they are all of one kind.
func (t *tx) heldDeleted(name machineName) (deleted, holds bool) {
	lower, upper := store.Bounds(store.AppendHeldPrefix(nil, t.shard(), name.app, name.bucket, name.trigger))
	var damaged error
	err := t.leader.cfg.DB.Scan(lower, upper, func(_, v []byte) bool {
		var rec store.Object
		rec, damaged = store.DecodeObject(v)
		deleted, holds = rec.Deleted, true
		return false
	})
	if err = errors.Join(err, damaged); err != nil {
		t.broken(err)
	}
	return deleted, holds
}

// widestHeld returns the size of the largest record that a trigger holds.
func (t *tx) widestHeld(name machineName) (int, error) {
	if name.session != "" {
		return 0, nil
	}
	widest := 0
	lower, upper := store.Bounds(store.AppendHeldPrefix(nil, t.shard(), name.app, name.bucket, name.trigger))
	err := t.leader.cfg.DB.Scan(lower, upper, func(_, v []byte) bool {
		widest = max(widest, len(v))
		return true
	})
	return widest, err
}

// tickBucket ticks a machine of scope bucket whose timer is due.
func (t *tx) tickBucket(name machineName, due store.Micros) {
	p := t.newest[name.app]
	if p == nil {
		return
	}
	tr := findTrigger(p.app, name.bucket, name.trigger)
	if tr == nil || tr.Scope != spec.ScopeBucket {
		return
	}
	m := t.machine(nil, name, tr)
	if m == nil || m.timer != due {
		return
	}
	t.steps.Pass(failpoint.Ticked, name.app)
	m.timer = 0
	t.stepBucket(p, name.bucket, tr, triggers.Event{Kind: triggers.Tick})
	t.markMachine(m, name)
}

// nameSet passes a set that a function named to its dynamic_join.
func (t *tx) nameSet(s *session, bucket spec.BucketName, tr *spec.Trigger, keys []spec.Key) {
	if tr.Scope != spec.ScopeBucket {
		if m := t.machine(s, machineName{s.name.app, s.name.session, bucket, tr.Name}, tr); m != nil {
			m.headerBytes += setBytes(keys)
		}
		t.step(s, bucket, tr, triggers.Event{Kind: triggers.SetNamed, Keys: keys})
		return
	}
	home := t.leader.cfg.Router.ShardOf(spec.BucketSlot(s.name.app, bucket))
	if home != t.shard() {
		t.postSet(s, home, bucket, tr.Name, keys)
		return
	}
	t.takeSet(s.name.app, bucket, tr.Name, keys, s.plan)
}

// takeSet names a set with a trigger of scope bucket that lives here. from is as for hold.
func (t *tx) takeSet(app spec.AppName, bucket spec.BucketName, trigger spec.TriggerName, keys []spec.Key, from *plan) {
	p := t.newest[app]
	if p == nil {
		return
	}
	if tr := findTrigger(p.app, bucket, trigger); tr != nil && tr.Scope == spec.ScopeBucket {
		if m := t.machine(nil, machineName{app: app, bucket: bucket, trigger: trigger}, tr); m != nil {
			t.restOn(m, from)
		}
		t.stepBucket(p, bucket, tr, triggers.Event{Kind: triggers.SetNamed, Keys: keys})
	}
}
