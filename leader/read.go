package leader

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
	"github.com/pheromone-run/pheromone/store"
)

// Object is an object with its bytes, which the caller closes.
type Object struct {
	wire.Object
	Body io.ReadCloser
}

// GetKV reads a key-value object: the newest revision, unless stale is true, when
// it may be one that a later put has replaced.
func (l *Leader) GetKV(ctx context.Context, app spec.AppName, bucket spec.BucketName, key spec.Key, stale bool) (Object, error) {
	if !stale {
		if err := l.linearizable(ctx); err != nil {
			return Object{}, err
		}
	}
	rec, body, err := l.open(ctx, app, store.AppendKVKey(nil, l.cfg.Shard, app, bucket, key))
	if err == nil && rec.Expires != 0 && rec.Expires <= micros(l.cfg.Now()) {
		_ = body.Close()
		err = store.ErrNotFound
	}
	if errors.Is(err, store.ErrNotFound) {
		if err := l.whole(l.cfg.DB); err != nil {
			return Object{}, err
		}
		return Object{}, spec.Errorf(spec.CodeNotFound, "bucket %q of app %q has no object %q", bucket, app, key).
			WithHint("what functions put belongs to their session: say which one it is")
	}
	if err != nil {
		return Object{}, err
	}
	o := Object{Object: wireObject(bucket, key, &rec), Body: body}
	o.Session = rec.Session
	if stale {
		o.Age = l.age()
	}
	return o, nil
}

// GetSession reads an object of a session.
func (l *Leader) GetSession(ctx context.Context, app spec.AppName, session spec.SessionID, bucket spec.BucketName, key spec.Key) (Object, error) {
	if err := l.linearizable(ctx); err != nil {
		return Object{}, err
	}
	rec, body, err := l.open(ctx, app, store.AppendSessionObjectKey(nil, l.cfg.Shard, app, bucket, session, key))
	if errors.Is(err, store.ErrNotFound) {
		return Object{}, spec.Errorf(spec.CodeNotFound, "session %s of app %q has no object %q in bucket %q", session, app, key, bucket)
	}
	if err != nil {
		return Object{}, err
	}
	o := Object{Object: wireObject(bucket, key, &rec), Body: body}
	setSession(&o.Object, session, &rec)
	return o, nil
}

// linearizable waits until the local store holds all that was acknowledged
// before the call.
func (l *Leader) linearizable(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, admissionWait)
	defer cancel()
	asked := time.Now()
	if err := l.catchUp(ctx); err != nil {
		return err
	}
	if err := l.cfg.Replica.ReadIndex(ctx); err != nil {
		return spec.Errorf(spec.CodeUnavailable, "shard %d can't confirm its newest state just now: %w", l.cfg.Shard, err)
	}
	l.confirmed.Store(&asked)
	return nil
}

// ageTold is up to which age a replica is read without a look for a younger state.
const ageTold = time.Second

// age returns how many milliseconds ago the local store was known to hold
// everything, nil if it never was. If that is long, it asks, for those who read next.
func (l *Leader) age() *int64 {
	at := l.confirmed.Load()
	if (at == nil || time.Since(*at) > ageTold) && l.asking.CompareAndSwap(false, true) {
		go func() {
			defer l.asking.Store(false)
			_ = l.linearizable(context.Background()) // if there is no answer, the age says so
		}()
	}
	if at == nil {
		return nil
	}
	age := time.Since(*at).Milliseconds()
	return &age
}

func readObject(from interface{ Get([]byte) ([]byte, error) }, key []byte) (store.Object, error) {
	value, err := from.Get(key)
	if err != nil {
		return store.Object{}, err
	}
	return store.DecodeObject(value)
}

// open reads an object's record and opens its bytes. The bytes beside the record
// are read from a snapshot that has both: they are the record's to their end,
// also if the object is overwritten or deleted meanwhile. Bytes that this replica
// lacks are brought here first, so that who asks is told if they can't be had.
func (l *Leader) open(ctx context.Context, app spec.AppName, key []byte) (store.Object, io.ReadCloser, error) {
	rec, err := readObject(l.cfg.DB, key)
	if err != nil {
		return store.Object{}, nil, err
	}
	if rec.Blob == nil { // nearly all objects: a snapshot would cost more than they do
		return rec, io.NopCloser(bytes.NewReader(rec.Inline)), nil
	}
	if err := l.cfg.DB.RepairBlob(ctx, l.cfg.Shard, app, *rec.Blob); err != nil && !errors.Is(err, store.ErrNotFound) {
		return store.Object{}, nil, err
	}
	snap := l.cfg.DB.Snapshot()
	if rec, err = readObject(snap, key); err != nil || rec.Blob == nil {
		return rec, io.NopCloser(bytes.NewReader(rec.Inline)), errors.Join(err, snap.Close())
	}
	return rec, snap.OpenBlob(l.cfg.Shard, app, *rec.Blob), nil
}

func wireObject(bucket spec.BucketName, key spec.Key, rec *store.Object) wire.Object {
	o := wire.Object{
		Bucket: bucket, Key: key, Revision: rec.Revision, Size: rec.Size, ContentType: rec.ContentType,
		Meta: rec.Meta, CreatedAt: timeOf(rec.Created), Output: rec.Output, Deleted: rec.Deleted,
	}
	if rec.Expires != 0 {
		o.ExpiresAt = timeOf(rec.Expires)
	}
	return o
}

func setSession(o *wire.Object, session spec.SessionID, rec *store.Object) {
	o.Session = session
	if rec.Producer != 0 {
		o.Producer = spec.InvocationID{Session: session, Number: rec.Producer}.String()
	}
}

// ListKV lists up to limit key-value objects of a bucket after a key, in key order.
func (l *Leader) ListKV(ctx context.Context, app spec.AppName, bucket spec.BucketName, prefix, after string, limit int) ([]wire.Object, error) {
	return l.list(ctx, store.AppendKVPrefix(nil, l.cfg.Shard, app, bucket, prefix), store.AppendKVKey(nil, l.cfg.Shard, app, bucket, spec.Key(after)), after, limit,
		func(k *store.ObjectKey, rec *store.Object) wire.Object {
			o := wireObject(bucket, k.Key, rec)
			o.Session = rec.Session
			return o
		})
}

// ListSession lists up to limit objects of a session in a bucket after a key.
func (l *Leader) ListSession(ctx context.Context, app spec.AppName, session spec.SessionID, bucket spec.BucketName, prefix, after string, limit int) ([]wire.Object, error) {
	return l.list(ctx, store.AppendSessionObjectsPrefix(nil, l.cfg.Shard, app, bucket, session, prefix), store.AppendSessionObjectKey(nil, l.cfg.Shard, app, bucket, session, spec.Key(after)), after, limit,
		func(k *store.ObjectKey, rec *store.Object) wire.Object {
			o := wireObject(bucket, k.Key, rec)
			setSession(&o, session, rec)
			return o
		})
}

func (l *Leader) list(ctx context.Context, prefix, afterKey []byte, after string, limit int, to func(*store.ObjectKey, *store.Object) wire.Object) ([]wire.Object, error) {
	if err := l.linearizable(ctx); err != nil {
		return nil, err
	}
	lower, upper := store.Bounds(prefix)
	if after != "" && bytes.Compare(afterKey, lower) >= 0 {
		lower = append(afterKey, 0)
	}
	var items []wire.Object
	var damaged error
	now := micros(l.cfg.Now())
	err := l.cfg.DB.Scan(lower, upper, func(k, v []byte) bool {
		key, err := store.DecodeObjectKey(k)
		if err != nil {
			damaged = err
			return false
		}
		rec, err := store.DecodeObject(v)
		if err != nil {
			damaged = err
			return false
		}
		if rec.Expires == 0 || rec.Expires > now {
			items = append(items, to(&key, &rec))
		}
		return len(items) < limit && ctx.Err() == nil
	})
	return items, errors.Join(err, damaged, ctx.Err())
}

// ErrAppDeleted says that a watch began before its app was deleted.
var ErrAppDeleted = errors.New("the app was deleted")

// Changes reads up to limit events after a revision. It returns the revision to
// go on from, and CodeGone if events after the one given are not kept any more:
// with ErrAppDeleted if the app was deleted since then, whether it is there again
// or not.
func (l *Leader) Changes(app spec.AppName, bucket spec.BucketName, prefix string, after spec.Revision, limit int) ([]wire.WatchEvent, spec.Revision, error) {
	snap := l.cfg.DB.Snapshot()
	defer func() { _ = snap.Close() }()
	if err := l.whole(snap); err != nil {
		return nil, 0, err
	}
	counters, err := readCounters(snap, l.cfg.Shard)
	if err != nil {
		return nil, 0, err
	}
	if after < counters.Compacted {
		return nil, counters.Revision, spec.Errorf(spec.CodeGone, "changes after revision %d are not kept any more", after)
	}
	var events []wire.WatchEvent
	var damaged error
	last := max(counters.Revision, after) // a replica may lag behind the one that was read before
	lower := store.AppendEventKey(nil, l.cfg.Shard, after+1)
	_, upper := store.Bounds(store.AppendEventsPrefix(nil, l.cfg.Shard))
	err = snap.Scan(lower, upper, func(_, v []byte) bool {
		e, err := store.DecodeEvent(v)
		if err != nil {
			damaged = err
			return false
		}
		if e.Kind == store.EventDropped && e.App == app {
			last = e.Object.Revision
			damaged = spec.Errorf(spec.CodeGone, "app %q: %w after revision %d", app, ErrAppDeleted, after)
			return false
		}
		if e.App == app && e.Bucket == bucket && len(e.Key) >= len(prefix) && string(e.Key[:len(prefix)]) == prefix {
			events = append(events, wireEvent(&e))
		}
		if len(events) == limit {
			last = e.Object.Revision
		}
		return len(events) < limit
	})
	return events, last, errors.Join(err, damaged)
}

// whole tells whether a replica has all of its shard: one that was far behind gets
// it from another replica, part by part.
func (l *Leader) whole(from interface {
	Meta(shard spec.ShardID) (store.ShardMeta, error)
}) error {
	_, err := from.Meta(l.cfg.Shard)
	if errors.Is(err, store.ErrRestoring) {
		return spec.Errorf(spec.CodeUnavailable, "this replica of shard %d is just getting what it lacks: %w", l.cfg.Shard, err)
	}
	return err
}

func wireEvent(e *store.Event) wire.WatchEvent {
	o := wireObject(e.Bucket, e.Key, &e.Object)
	o.Session = e.Object.Session
	o.Data = bytes.Clone(e.Object.Inline)
	kind := map[store.EventKind]string{store.EventPut: "put", store.EventDelete: "delete", store.EventExpire: "expire"}[e.Kind]
	return wire.WatchEvent{Type: kind, Object: o}
}

// Changed returns a channel that is closed by the next change of a key-value
// object, and where the shard is not led by any change.
func (l *Leader) Changed() <-chan struct{} {
	if here, _, _ := l.cfg.Replica.Led(); here {
		return l.hub.changes()
	}
	return l.cfg.Replica.Applied()
}

// Revision returns the revision of the newest object, everything acknowledged
// before the call included.
func (l *Leader) Revision(ctx context.Context) (spec.Revision, error) {
	if err := l.linearizable(ctx); err != nil {
		return 0, err
	}
	c, err := readCounters(l.cfg.DB, l.cfg.Shard)
	return c.Revision, err
}

func readCounters(from interface{ Get([]byte) ([]byte, error) }, shard spec.ShardID) (store.Counters, error) {
	value, err := from.Get(store.AppendCountersKey(nil, shard))
	if errors.Is(err, store.ErrNotFound) {
		return store.Counters{}, nil
	}
	if err != nil {
		return store.Counters{}, err
	}
	return store.DecodeCounters(value)
}

// Result waits up to wait for the session's end, or with untilOutput for its first
// output, and returns what there is then. Those who wait are woken where the shard
// is led, so elsewhere it is ErrNotTaken.
func (l *Leader) Result(ctx context.Context, app spec.AppName, id spec.SessionID, wait time.Duration, untilOutput bool) (wire.Result, error) {
	name := sessionName{app, id}
	woken, stop := l.hub.wait(name, untilOutput)
	defer stop()
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	here, known, moved := l.cfg.Replica.Led()
	for confirmed := false; ; {
		l.mu.Lock()
		reigned := l.mu.changed
		l.mu.Unlock()
		if known && !here {
			return wire.Result{}, errNotTaken(l.cfg.Shard)
		}
		word := l.hub.wordOf(name)
		if word != nil && word.result != nil {
			return *word.result, nil
		}
		if word == nil || untilOutput || wait <= 0 {
			if !confirmed {
				if err := l.linearizable(ctx); err != nil {
					return wire.Result{}, err
				}
				confirmed = true
			}
			rec, err := l.sessionRecord(app, id)
			if err != nil {
				return wire.Result{}, err
			}
			if rec.State != store.SessionRunning || untilOutput && rec.Outputs > 0 || wait <= 0 {
				return l.result(app, id)
			}
		}
		select {
		case <-woken:
		case <-reigned: // nobody was woken by what was applied and not reported
			confirmed = false
		case <-moved: // nobody was woken by what another leader did since
			here, known, moved = l.cfg.Replica.Led()
			confirmed = false
		case <-deadline.C:
			wait = 0
		case <-ctx.Done():
			return wire.Result{}, spec.Errorf(spec.CodeTimeout, "the wait for session %s ended: %w", id, ctx.Err())
		}
	}
}

func (l *Leader) sessionRecord(app spec.AppName, id spec.SessionID) (store.Session, error) {
	return l.readSession(l.cfg.DB, app, id)
}

func (l *Leader) readSession(from interface{ Get([]byte) ([]byte, error) }, app spec.AppName, id spec.SessionID) (store.Session, error) {
	value, err := from.Get(store.AppendSessionKey(nil, l.cfg.Shard, app, id))
	if errors.Is(err, store.ErrNotFound) {
		return store.Session{}, errNoSession(sessionName{app, id})
	}
	if err != nil {
		return store.Session{}, err
	}
	rec, err := store.DecodeSession(value)
	if err == nil && purging(&rec) {
		err = errNoSession(sessionName{app, id})
	}
	return rec, err
}

// outputsBytes bounds the outputs that a result holds in memory.
const outputsBytes = 512 << 20

// result collects a session's outputs, in the order in which they were put. The
// record and the outputs are read from one snapshot: a session that is purged
// meanwhile is there whole or not at all.
func (l *Leader) result(app spec.AppName, id spec.SessionID) (wire.Result, error) {
	snap := l.cfg.DB.Snapshot()
	defer func() { _ = snap.Close() }()
	rec, err := l.readSession(snap, app, id)
	if err != nil {
		return wire.Result{}, err
	}
	return l.resultUpTo(snap, app, id, &rec, outputsBytes)
}

// resultReader is the store, or a snapshot of it.
type resultReader interface {
	Scan(lower, upper []byte, fn func(key, value []byte) bool) error
	blobReader
}

// resultUpTo is result of a record that was read, with a bound of its own on the
// bytes of the outputs.
func (l *Leader) resultUpTo(from resultReader, app spec.AppName, id spec.SessionID, rec *store.Session, most int64) (wire.Result, error) {
	res := wire.Result{Session: id, Status: wireStatus(rec.State), Outputs: []wire.Output{}, Error: wireFailure(id, rec.Failure)}
	if rec.State == store.SessionCompleted || rec.State == store.SessionRunning {
		res.Error = nil
	}
	if rec.Outputs == 0 {
		return res, nil
	}
	type found struct {
		wire.Output
		revision spec.Revision
	}
	var outputs []found
	var total int64
	for _, bucket := range rec.OutputBuckets {
		var damaged error
		lower, upper := store.Bounds(store.AppendSessionObjectsPrefix(nil, l.cfg.Shard, app, bucket, id, ""))
		err := from.Scan(lower, upper, func(k, v []byte) bool {
			o, err := store.DecodeObject(v)
			if err != nil || !o.Output {
				damaged = err
				return err == nil
			}
			key, err := store.DecodeObjectKey(k)
			if err == nil {
				if total += o.Size; total > most {
					err = spec.Errorf(spec.CodeTooLarge, "the outputs of session %s have more than %s in all: read them one by one", id, spec.FormatSize(most))
				}
			}
			var data []byte
			if err == nil {
				data, err = l.bytesFrom(from, app, &o)
			}
			if err != nil {
				damaged = err
				return false
			}
			outputs = append(outputs, found{wire.Output{Bucket: bucket, Key: key.Key, ContentType: o.ContentType, Size: o.Size, Data: bytes.Clone(data)}, o.Revision})
			return true
		})
		if err = errors.Join(err, damaged); err != nil {
			return wire.Result{}, fmt.Errorf("read the outputs of session %s: %w", id, err)
		}
	}
	sortBy(outputs, func(f found) uint64 { return uint64(f.revision) })
	for _, f := range outputs {
		res.Outputs = append(res.Outputs, f.Output)
	}
	return res, nil
}
