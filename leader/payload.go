package leader

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/pheromone-run/pheromone/internal/failpoint"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// stage reads the bytes of an object for a bucket, as many as the app allows. Small ones
// stay in memory, large ones go to the store at once, so that memory does not hold them,
// or are written behind the object if its bucket is ephemeral.
func (l *Leader) stage(ctx context.Context, app *spec.App, bucket spec.BucketName, r io.Reader) (*payload, error) {
	limit := app.Limits.MaxObjectBytes
	var head bytes.Buffer
	n, err := io.CopyN(&head, r, InlineBytes+1)
	if err != nil && !errors.Is(err, io.EOF) {
		var known *spec.Error
		if errors.As(err, &known) {
			return nil, known
		}
		return nil, spec.Errorf(spec.CodeInvalid, "read the object's bytes: %w", err)
	}
	if n > limit {
		return nil, errTooLarge(limit)
	}
	if n <= InlineBytes {
		return &payload{inline: head.Bytes(), size: n}, nil
	}
	rest := io.MultiReader(&head, r)
	if durability(app, bucket) == spec.Ephemeral {
		var p *payload
		if p, rest = l.readBehind(app.Name, rest, limit); p != nil {
			return p, nil
		}
	}
	return l.stageBlob(ctx, app.Name, rest, limit)
}

// stageBlob stages bytes that do not travel in the log, here and on a majority of
// the replicas that vote.
func (l *Leader) stageBlob(ctx context.Context, app spec.AppName, r io.Reader, limit int64) (*payload, error) {
	blob, err := l.cfg.DB.StageBlob(ctx, l.cfg.Shard, app, r, limit)
	if err != nil {
		return nil, err
	}
	p := &payload{app: app, blob: &blob, size: blob.Size}
	if err := l.spread(ctx, app, p); err != nil {
		l.letGo(app, p, false)
		return nil, err
	}
	failpoint.At(failpoint.Staged, app)
	return p, nil
}

// spread has a majority of the replicas that vote hold a staged payload.
func (l *Leader) spread(ctx context.Context, app spec.AppName, p *payload) (err error) {
	if l.cfg.Copies != nil {
		p.enough, err = l.cfg.Copies.Spread(ctx, l.cfg.Shard, app, *p.blob)
	}
	return err
}

// respreadMost is how often the bytes of one command are spread again: members of a
// shard change one after the other, and each change takes longer than that.
const respreadMost = 3

// doSpread is do for a command with a payload, whose bytes are spread again if the
// shard's members have changed since.
func (l *Leader) doSpread(ctx context.Context, app spec.AppName, p *payload, c command, weight int) error {
	for try := 0; ; try++ {
		err := l.do(ctx, c, weight)
		if !errors.Is(err, errThinned) || try == respreadMost {
			return err
		}
		if err := l.spread(ctx, app, p); err != nil {
			return errors.Join(errThinned, err)
		}
	}
}

func errTooLarge(limit int64) error {
	return spec.Errorf(spec.CodeTooLarge, "the object is larger than the app allows: %s (limits.max_object_size)", spec.FormatSize(limit))
}

// stageBytes is stage for bytes that are in memory; small ones stay there.
func (l *Leader) stageBytes(ctx context.Context, app spec.AppName, data []byte) (*payload, error) {
	if len(data) <= InlineBytes {
		return &payload{inline: data, size: int64(len(data))}, nil
	}
	return l.stageBlob(ctx, app, bytes.NewReader(data), int64(len(data)))
}

// undecided tells whether an error of do leaves open what becomes of the command.
func undecided(err error) bool {
	code := spec.CodeOf(err)
	return (code == spec.CodeUnavailable || code == spec.CodeTimeout) && !errors.Is(err, ErrNotTaken) && !errors.Is(err, errThinned)
}

// letGo ends the staging of a payload: a blob that nothing refers to is removed.
// If it is not known whether something does, the next leader finds out.
func (l *Leader) letGo(app spec.AppName, p *payload, unknown bool) {
	switch {
	case p == nil || p.blob == nil:
	case p.writing != nil && !p.writing.ended():
		if !unknown && !p.stored {
			p.writing.cancel()
		}
		p.writing.then(func() { l.letGo(app, p, unknown) })
	case !unknown && p.stored && p.writing != nil: // the entry lets go of it
	case unknown || p.stored:
		l.cfg.DB.ReleaseBlob(*p.blob)
	default:
		if err := l.cfg.DB.DiscardBlob(l.cfg.Shard, app, *p.blob); err != nil {
			l.cfg.Log.Warn("discard a staged blob", "app", app, "error", err)
		}
		if l.cfg.Copies != nil {
			l.cfg.Copies.Discard(l.cfg.Shard, app, *p.blob)
		}
	}
}

// bytesOf reads the bytes of an object's record, which may be on their way to the disk.
// They must not be changed.
func (t *tx) bytesOf(app spec.AppName, rec *store.Object) ([]byte, error) {
	if rec.Blob != nil {
		if data, ok := t.behind.get(rec.Blob); ok {
			return data, nil
		}
	}
	return t.leader.bytesFrom(t.leader.cfg.DB, app, rec)
}

// blobReader is a store.DB, or a snapshot of it.
type blobReader interface {
	ReadBlob(shard spec.ShardID, app spec.AppName, blob store.Blob) ([]byte, error)
}

func (l *Leader) bytesFrom(from blobReader, app spec.AppName, rec *store.Object) ([]byte, error) {
	if rec.Blob == nil {
		return rec.Inline, nil
	}
	data, err := from.ReadBlob(l.cfg.Shard, app, *rec.Blob)
	if err != nil {
		return nil, fmt.Errorf("read the bytes of revision %d: %w", rec.Revision, err)
	}
	return data, nil
}
