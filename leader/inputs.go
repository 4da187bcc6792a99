package leader

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// inputs are the objects that an invocation is given.
type inputs struct {
	db      *store.DB
	shard   spec.ShardID
	app     spec.AppName
	session spec.SessionID
	number  uint64
	refs    []store.InputRef
	exact   bool // objects count as missing that are not of the revision asked for
	known   bool // first is the only one
	first   store.Object
	loaded  [1]exec.Input // what the first Load returns, if one is known
	given   atomic.Bool
	flight  *flight
	behind  *behind
}

// key returns where an input is stored, and the session that it comes from.
func (in *inputs) key(dst []byte, i int) (key []byte, from spec.SessionID) {
	ref := &in.refs[i]
	if ref.Held {
		return store.AppendHeldInputKey(dst, in.shard, in.app, in.session, in.number, uint64(ref.Revision)), ref.Source
	}
	return store.AppendSessionObjectKey(dst, in.shard, in.app, ref.Bucket, in.session, ref.Key), in.session
}

// record reads the record of an input.
func (in *inputs) record(key []byte, i int) (store.Object, error) {
	if rec, ok, err := in.flight.record(i); ok {
		return rec, err
	}
	return readObject(in.db, key)
}

// each calls f with the record of each input, in order.
func (in *inputs) each(ctx context.Context, f func(i int, from spec.SessionID, rec store.Object) error) error {
	if in.known {
		if err := ctx.Err(); err != nil {
			return err
		}
		rec := in.first // the function may do with its bytes as it likes
		rec.Inline = bytes.Clone(rec.Inline)
		return f(0, in.session, rec)
	}
	var key []byte
	for i := range in.refs {
		if err := ctx.Err(); err != nil {
			return err
		}
		ref := &in.refs[i]
		var from spec.SessionID
		key, from = in.key(key[:0], i)
		rec, err := in.record(key, i)
		if err != nil {
			return fmt.Errorf("read input %s/%s of session %s: %w", ref.Bucket, ref.Key, from, err)
		}
		if in.exact && !ref.Held && rec.Revision != ref.Revision {
			return fmt.Errorf("read input %s/%s of session %s: it has revision %d here, not %d", ref.Bucket, ref.Key, from, rec.Revision, ref.Revision)
		}
		if err := f(i, from, rec); err != nil {
			return err
		}
	}
	return nil
}

// input is what an attempt gets of a record, without the bytes.
func (in *inputs) input(i int, from spec.SessionID, rec *store.Object) exec.Input {
	ref := &in.refs[i]
	return exec.Input{Bucket: ref.Bucket, Key: ref.Key, Session: from, ContentType: rec.ContentType, Meta: rec.Meta, Deleted: rec.Deleted}
}

// Load implements exec.Source: it reads the inputs from the store.
func (in *inputs) Load(ctx context.Context) ([]exec.Input, error) {
	var out []exec.Input
	if in.known && in.given.CompareAndSwap(false, true) {
		out = in.loaded[:]
	} else {
		out = make([]exec.Input, len(in.refs))
	}
	err := in.each(ctx, func(i int, from spec.SessionID, rec store.Object) error {
		out[i] = in.input(i, from, &rec)
		if out[i].Data = rec.Inline; rec.Blob == nil {
			return nil
		}
		var err error
		if out[i].Data, err = in.behind.read(in.db, exec.PlaceFor(ctx, rec.Blob.Size), in.shard, in.app, rec.Blob); err != nil {
			return fmt.Errorf("read the bytes of input %s/%s: %w", out[i].Bucket, out[i].Key, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// Size implements exec.Source: it adds up the inputs' bytes.
func (in *inputs) Size(ctx context.Context) (bytes int64, err error) {
	err = in.each(ctx, func(_ int, _ spec.SessionID, rec store.Object) error {
		bytes += rec.Size
		return nil
	})
	return bytes, err
}

// inputsReference is inputs as another node gets them named.
type inputsReference struct {
	Shard   spec.ShardID     `json:"shard"`
	App     spec.AppName     `json:"app"`
	Session spec.SessionID   `json:"session"`
	Number  uint64           `json:"number"`
	Refs    []store.InputRef `json:"refs"`
}

// Reference implements exec.Portable: it is what Reader reads the inputs by. It waits
// until they are committed: another node has no other way to them.
func (in *inputs) Reference() ([]byte, error) {
	if err := in.flight.wait(); err != nil {
		return nil, err
	}
	return json.Marshal(inputsReference{in.shard, in.app, in.session, in.number, in.refs})
}

// Reader reads inputs of attempts by the reference that a task has, from a node's
// own copy of their shard. Inputs never change, so a copy that has all of them
// serves as well as the leader's.
type Reader struct{ DB *store.DB }

func (r Reader) open(reference []byte) (*inputs, error) {
	var ref inputsReference
	if err := json.Unmarshal(reference, &ref); err != nil {
		return nil, spec.Errorf(spec.CodeInvalid, "a reference to inputs can't be read: %w", err)
	}
	return &inputs{db: r.DB, shard: ref.Shard, app: ref.App, session: ref.Session, number: ref.Number, refs: ref.Refs}, nil
}

// Load reads inputs. It fails if they are not all here: there is no replica of the
// shard, or it has not caught up, or the bytes of a large object are missing. What a
// replica that lags has of an earlier session of the same name is not taken for them.
func (r Reader) Load(ctx context.Context, reference []byte) ([]exec.Input, error) {
	in, err := r.open(reference)
	if err != nil {
		return nil, err
	}
	in.exact = true
	return in.Load(ctx)
}

// Each calls f with each of the inputs, in order: what is said of it, and its
// bytes. Large ones are read as f reads them.
func (r Reader) Each(ctx context.Context, reference []byte, f func(in exec.Input, size int64, data io.Reader) error) error {
	in, err := r.open(reference)
	if err != nil {
		return err
	}
	return in.each(ctx, func(i int, from spec.SessionID, rec store.Object) error {
		if rec.Blob == nil {
			return f(in.input(i, from, &rec), int64(len(rec.Inline)), bytes.NewReader(rec.Inline))
		}
		blob := r.DB.OpenBlob(in.shard, in.app, *rec.Blob)
		defer func() { _ = blob.Close() }()
		return f(in.input(i, from, &rec), rec.Blob.Size, blob)
	})
}
