package leader

import (
	"context"

	"github.com/cespare/xxhash/v2"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// Delete is a request to delete a key-value object.
type Delete struct {
	App         spec.AppName
	Bucket      spec.BucketName
	Key         spec.Key
	IfRevision  *spec.Revision
	Request     string
	Traceparent string
}

// Delete deletes a key-value object, and starts what the bucket's triggers with
// on: delete say. It does not end the session that the object's put drove.
func (l *Leader) Delete(ctx context.Context, d Delete) (PutResult, error) {
	c := &remove{Delete: d}
	if err := l.do(ctx, c, 0); err != nil {
		return PutResult{}, err
	}
	return c.result, nil
}

// remove is the command of a Delete.
type remove struct {
	Delete
	result PutResult
}

func (c *remove) evaluate(t *tx) error {
	p, err := t.deployed(c.App)
	if err != nil {
		return err
	}
	b, ok := p.app.Bucket(c.Bucket)
	if !ok {
		return errNoBucket(p.app, c.Bucket)
	}
	fingerprint := xxhash.Sum64String("delete\x00" + string(c.Bucket) + "\x00" + string(c.Key))
	if done, err := t.repeated(c.App, c.Request, fingerprint, &c.result); done || err != nil {
		return err
	}
	at := store.AppendKVKey(nil, t.shard(), c.App, c.Bucket, c.Key)
	old, _, err := t.condition(at, c.Bucket, c.Key, c.IfRevision, false)
	if err != nil {
		return err
	}
	if old == nil {
		return spec.Errorf(spec.CodeNotFound, "bucket %q has no object %q", c.Bucket, c.Key)
	}
	if drives(b, spec.OnDelete) {
		if err := t.overloaded(p.app, c.Bucket, spec.OnDelete); err != nil {
			return err
		}
	}
	t.trace = c.Traceparent
	defer func() { t.trace = "" }()
	c.result = t.deleteKV(store.EventDelete, c.App, c.Bucket, c.Key, old)
	t.remember(c.App, c.Request, fingerprint, c.Bucket, &c.result)
	return nil
}

// deleteKV deletes a key-value object, drives what counts deletions, and says so
// to watches.
func (t *tx) deleteKV(kind store.EventKind, app spec.AppName, bucket spec.BucketName, key spec.Key, old *store.Object) PutResult {
	t.remove(store.AppendKVKey(nil, t.shard(), app, bucket, key))
	gone := *old
	gone.Revision = t.revision()
	gone.Created = t.at
	session := t.driveDeletion(app, bucket, key, gone) // before its bytes are let go of
	t.replaced(app, bucket, key, old)
	t.event(kind, app, bucket, key, &gone)
	return PutResult{Revision: gone.Revision, Session: session, Key: key}
}

// driveDeletion starts the session of a deletion, with a copy of the object that
// is deleted, if the bucket has triggers that count deletions. An expiry can't be
// refused, so that the app's max_pending does not hold it up.
func (t *tx) driveDeletion(app spec.AppName, bucket spec.BucketName, key spec.Key, copied store.Object) spec.SessionID {
	p := t.newest[app]
	if p == nil {
		return ""
	}
	b, ok := p.app.Bucket(bucket)
	if !ok || !drives(b, spec.OnDelete) {
		return ""
	}
	id := spec.NewSessionID(spec.KeySlot(app, bucket, key), timeOf(t.at))
	s := t.newSession(sessionName{app, id}, p, store.Origin{Kind: store.OriginDelete, Bucket: bucket, Key: key, Revision: copied.Revision})
	copied.Session, copied.Expires, copied.Deleted = "", 0, true
	if copied.Blob != nil {
		t.share(app, copied.Blob)
	}
	t.insert(s, bucket, key, &copied)
	return id
}

// expire deletes a key-value object whose time to live is over.
func (t *tx) expire(subject store.Timer, due store.Micros) {
	value, ok := t.get(store.AppendKVKey(nil, t.shard(), subject.App, subject.Bucket, subject.Key))
	if !ok {
		return
	}
	rec, err := store.DecodeObject(value)
	if err != nil {
		t.broken(err)
		return
	}
	if rec.Expires != due || uint64(rec.Revision) != subject.Number {
		return
	}
	rec.Expires = 0 // its timer is the one that is due
	t.deleteKV(store.EventExpire, subject.App, subject.Bucket, subject.Key, &rec)
}
