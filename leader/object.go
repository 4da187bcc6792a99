package leader

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/bits"
	"slices"

	"github.com/cespare/xxhash/v2"

	"github.com/pheromone-run/pheromone/internal/failpoint"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
	"github.com/pheromone-run/pheromone/triggers"
)

// InlineBytes is the size up to which an object's bytes travel in its record,
// through the raft log; larger ones are staged as blobs before an entry names them.
const InlineBytes = 64 << 10

// payload is an object's bytes: inline, or staged.
type payload struct {
	inline []byte
	blob   *store.Blob
	size   int64
	stored bool // a record refers to the blob

	app     spec.AppName // of the blob
	writing *writing     // set while the blob is written behind its object
	enough  func() bool  // what Copies.Spread of the blob gave; nil without Copies
}

// same tells whether two payloads have the same bytes.
func (p *payload) same(q *payload) bool {
	return p.equal(&store.Object{Size: q.size, Inline: q.inline, Blob: q.blob})
}

// equal tells whether a stored object has the same bytes. Blobs are compared by
// their digests.
func (p *payload) equal(o *store.Object) bool {
	if p.size != o.Size {
		return false
	}
	if p.blob == nil && o.Blob == nil {
		return bytes.Equal(p.inline, o.Inline)
	}
	return digest(p.inline, p.blob) == digest(o.Inline, o.Blob)
}

func digest(inline []byte, blob *store.Blob) store.Sum {
	if blob != nil {
		return blob.Sum
	}
	var sum store.Sum
	whole := sha256.Sum256(inline)
	copy(sum[:], whole[:])
	return sum
}

// incoming is an object on its way into a session.
type incoming struct {
	bucket      spec.BucketName
	key         spec.Key
	payload     *payload
	contentType string
	meta        map[string]string
	output      bool
	deliver     store.Micros // 0: count it now
	producer    uint64       // invocation number; 0: from outside
	deleted     bool         // it stands for a deletion
	repeats     bool         // an earlier attempt of the producer may have put it
}

// place tells what putting o would do: nothing because it is there already
// (existing), a conflict (err), or store it.
func (t *tx) place(s *session, o *incoming) (existing *store.Object, err error) {
	if s.lacks(o.bucket, o.key) {
		return nil, nil
	}
	key := store.AppendSessionObjectKey(t.scratch.key(), t.shard(), s.name.app, o.bucket, s.name.session, o.key)
	value, ok := t.get(key)
	if !ok {
		return nil, nil
	}
	rec, err := store.DecodeObject(value)
	if err != nil {
		t.broken(err)
		return nil, err
	}
	// A later attempt of the invocation that put the object may make other bytes:
	// what an invocation puts is applied once, so the first ones stay.
	if o.repeats && o.producer == rec.Producer || o.payload.equal(&rec) {
		return &rec, nil
	}
	holder := "a client"
	if rec.Producer != 0 {
		holder = "invocation " + spec.InvocationID{Session: s.name.session, Number: rec.Producer}.String()
	}
	return nil, spec.Errorf(spec.CodeConflict,
		"object %q in bucket %q of session %s has other bytes already, put by %s (revision %d): objects of a session are immutable",
		o.key, o.bucket, s.name.session, holder, rec.Revision).WithField("key")
}

// objectsNoted is up to how many objects a session is asked for from memory.
const objectsNoted = 1024

// lacks tells whether an object is known not to be in the session. Asking the store for
// what is not there, which is what almost every put would do, costs as much as all else
// that the loop does for it: a filter in each of its tables says no.
func (s *session) lacks(bucket spec.BucketName, key spec.Key) bool {
	return s.notesAll() && !slices.Contains(s.objects, noted(bucket, key))
}

func (s *session) notesAll() bool { return s.fresh && uint64(len(s.objects)) == s.rec.Objects }

// note takes the name of an object that is about to be counted in the session's record.
func (s *session) note(bucket spec.BucketName, key spec.Key) {
	if s.notesAll() && len(s.objects) < objectsNoted {
		s.objects = append(s.objects, noted(bucket, key))
		return
	}
	s.objects = nil
}

// noted hashes the name of an object. Names that have one hash only cost a look into the store.
func noted(bucket spec.BucketName, key spec.Key) uint64 {
	return bits.RotateLeft64(xxhash.Sum64String(string(bucket)), 1) ^ xxhash.Sum64String(string(key))
}

// store writes an object that place has let through, and counts it.
func (t *tx) store(s *session, o *incoming) store.Object {
	rec := store.Object{
		Revision:    t.revision(),
		Created:     t.at,
		Producer:    o.producer,
		Size:        o.payload.size,
		ContentType: o.contentType,
		Meta:        o.meta,
		Output:      o.output,
		Inline:      o.payload.inline,
		Blob:        o.payload.blob,
		Deleted:     o.deleted,
	}
	if o.deliver > t.at {
		rec.Deliver = o.deliver
	}
	if rec.Blob != nil && !o.payload.stored {
		t.adopt(s.name.app, o.payload)
	}
	t.insert(s, o.bucket, o.key, &rec)
	return rec
}

// insert writes an object's record into the session and counts it, now or when
// it is due.
func (t *tx) insert(s *session, bucket spec.BucketName, key spec.Key, rec *store.Object) {
	t.putObject(store.AppendSessionObjectKey(t.scratch.key(), t.shard(), s.name.app, bucket, s.name.session, key), rec)
	t.putInto(s, bucket, rec)
	s.note(bucket, key)
	s.rec.Objects++
	if rec.Producer == 0 {
		t.steps.Pass(failpoint.Accepted, s.name.app)
	} else {
		t.steps.Pass(failpoint.Stored, s.name.app)
	}
	if rec.Producer != 0 && len(s.plan.reruns) > 0 {
		t.met(s, bucket, rec.Producer)
	}
	if rec.Blob != nil {
		s.rec.Blobs++
	}
	if rec.Output {
		s.rec.Outputs++
		if !slices.Contains(s.rec.OutputBuckets, bucket) {
			s.rec.OutputBuckets = append(s.rec.OutputBuckets, bucket)
		}
		s.addResult(bucket, key, rec)
		if t.leader.hub.awaitsOutput(s.name) {
			t.urgent = true
		}
		t.follow((*sessionProgressed)(s))
	}
	if !slices.Contains(s.rec.Buckets, bucket) {
		s.rec.Buckets = append(s.rec.Buckets, bucket)
	}
	t.touch(s)
	if rec.Deliver != 0 {
		s.rec.Timers++
		t.arm(rec.Deliver, store.Timer{Kind: store.TimerDeliver, App: s.name.app, Session: s.name.session, Bucket: bucket, Key: key})
		return
	}
	t.count(s, bucket, key, rec)
}

// deliver counts an object that was put to be counted later.
func (t *tx) deliver(name sessionName, bucket spec.BucketName, key spec.Key, due store.Micros) {
	s := t.session(name)
	if s == nil || s.rec.State != store.SessionRunning {
		return
	}
	at := store.AppendSessionObjectKey(nil, t.shard(), name.app, bucket, name.session, key)
	value, ok := t.get(at)
	if !ok {
		return
	}
	rec, err := store.DecodeObject(value)
	if err != nil {
		t.broken(err)
		return
	}
	if rec.Deliver != due {
		return
	}
	rec.Deliver = 0
	t.steps.Pass(failpoint.Delivered, name.app)
	t.putObject(at, &rec)
	s.rec.Timers--
	t.touch(s)
	counted := rec
	counted.Revision = t.revision() // triggers are given objects in the order in which these are counted
	t.count(s, bucket, key, &counted)
}

// counts tells whether a trigger is for objects that are put, or for those that
// stand for a deletion.
func counts(tr *spec.Trigger, deleted bool) bool { return (tr.On == spec.OnDelete) == deleted }

// drives tells whether a bucket has triggers that count what is put, or deleted.
func drives(b *spec.Bucket, on spec.On) bool {
	return slices.ContainsFunc(b.Triggers, func(tr *spec.Trigger) bool { return counts(tr, on == spec.OnDelete) })
}

// count passes an object to the triggers of its bucket that it is for.
func (t *tx) count(s *session, bucket spec.BucketName, key spec.Key, rec *store.Object) {
	b, ok := s.plan.app.Bucket(bucket)
	if !ok {
		return // the app's version that the session runs on is not kept any more
	}
	for _, tr := range b.Triggers {
		if !counts(tr, rec.Deleted) {
			continue
		}
		if tr.When != nil && !t.admits(s, bucket, tr, key, rec) {
			continue
		}
		if tr.Scope == spec.ScopeBucket {
			t.forward(s, bucket, tr, key, rec)
			continue
		}
		t.counting = *rec
		t.step(s, bucket, tr, triggers.Event{
			Kind:   triggers.ObjectArrived,
			Object: triggers.Object{Position: uint64(rec.Revision), Key: key, Group: rec.Meta[tr.GroupBy.Meta]},
		})
		t.counting = store.Object{}
	}
}

// errThinned refuses a command whose bytes are not on a majority of the replicas that
// vote by now. Nothing was done: once they are spread again it may come again.
var errThinned = spec.Errorf(spec.CodeUnavailable, "the replicas of the shard have changed since the object's bytes were copied to them").
	WithHint("try again")

// staged tells whether a payload's bytes are there still: those of an app that was
// deleted while they came in are not. They must be where an entry that refers to them
// may be proposed: a change of the shard's members that is under way is behind them
// by one, and a quorum of the members after it has one that has the bytes.
func (t *tx) staged(app spec.AppName, p *payload) error {
	if p == nil || p.blob == nil {
		return nil
	}
	if w := p.writing; w != nil {
		if w.reign != t.reign { // it was given up with that one
			return errNotTaken(t.shard())
		}
		if !w.ended() {
			return nil // the entry waits for them
		}
		if w.err != nil {
			return fmt.Errorf("%w: they can't be written: %w", errThinned, w.err)
		}
	}
	there, err := t.marked(p)
	if err != nil {
		t.broken(err)
		return err
	}
	if !there {
		return spec.Errorf(spec.CodeConflict, "app %q was deleted while the object's bytes came in: put it again", app)
	}
	if p.enough != nil && !p.enough() {
		return errThinned
	}
	return nil
}

// marked tells whether a payload's bytes are here, with the mark of what is staged.
func (t *tx) marked(p *payload) (bool, error) {
	return t.leader.cfg.DB.Has(store.AppendStagedKey(nil, t.shard(), p.app, p.blob.ID))
}

func (t *tx) adopt(app spec.AppName, p *payload) {
	store.AdoptBlob(t.batch, t.shard(), app, *p.blob)
	p.stored = true
	t.adopted = append(t.adopted, p)
	if p.writing != nil { // who waits for the answer alone has it before the entry is proposed
		t.after(func(error) { t.leader.cfg.DB.ReleaseBlob(*p.blob) })
	}
}

// share counts one more record that refers to a blob.
func (t *tx) share(app spec.AppName, b *store.Blob) {
	key := store.AppendBlobRefsKey(nil, t.shard(), app, b.ID)
	t.put(key, store.AppendCount(nil, t.references(key)+1))
}

// release counts one record less that refers to a blob, and deletes its bytes
// with the last one.
func (t *tx) release(app spec.AppName, b *store.Blob) {
	key := store.AppendBlobRefsKey(nil, t.shard(), app, b.ID)
	switch n := t.references(key); n {
	case 1:
		store.DeleteBlob(t.batch, t.shard(), app, *b)
	case 2:
		t.remove(key)
	default:
		t.put(key, store.AppendCount(nil, n-1))
	}
}

func (t *tx) references(key []byte) uint64 {
	value, ok := t.get(key)
	if !ok {
		return 1
	}
	n, err := store.DecodeCount(value)
	if err != nil {
		t.broken(err)
		return 1
	}
	return n
}
