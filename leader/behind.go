package leader

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pheromone-run/pheromone/internal/failpoint"
	"github.com/pheromone-run/pheromone/raft/shard"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// What a function puts into an ephemeral bucket counts at once, large or not: the bytes
// are in memory, and are written to the disks of the replicas behind it. The entry that
// refers to them lingers until they are there, and what comes after it waits with it. So
// an entry never names bytes that a majority does not have, and a crash takes the object
// and all that followed from it, as it does with a small one.

const (
	// behindAtOnce is how many of them may be on their way so that more may come: who
	// waits for a commit waits for all of them.
	behindAtOnce = 16 << 20
	// behindRead is how large an object may be that comes from outside: it is read to its
	// end first, so many at a time.
	behindRead    = 8 << 20
	behindReaders = 8
	// behindRetry is for how long it is tried to write them, before the term is given up.
	// The next ones are written first for behindPause.
	behindRetry = 2 * time.Second
	behindPause = time.Minute
)

// behind are the bytes of large objects that are being written.
type behind struct {
	most   int
	paused atomic.Bool // the entry that lingers has done so for long, and must not wait for more
	sync.Mutex
	bytes int
	live  map[[16]byte][]byte
}

// writing is a payload whose bytes are being written.
type writing struct {
	reign  *reign
	cancel context.CancelFunc
	done   chan struct{} // closed once they are staged, or can't be
	err    error         // why not

	mu    sync.Mutex
	over  bool
	letGo func() // what is to be done once it is over
}

// ended tells whether the bytes are staged, or can't be.
func (w *writing) ended() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// then has f run once the bytes are not being written any more.
func (w *writing) then(f func()) {
	w.mu.Lock()
	if !w.over {
		w.letGo = f
		w.mu.Unlock()
		return
	}
	w.mu.Unlock()
	f()
}

// writeBehind begins to write bytes, which must not change. It returns nil if they are
// to be staged first, as others are.
func (r *reign) writeBehind(app spec.AppName, data []byte, lent bool) *payload {
	if !r.mayWriteBehind() || !r.behind.take(len(data)) {
		return nil
	}
	if lent {
		data = bytes.Clone(data)
	}
	return r.beginWriting(app, data)
}

// readBehind reads bytes to write them behind their object, and begins with that. If
// they are to be staged first, it returns nil and a reader of all of them.
func (l *Leader) readBehind(app spec.AppName, from io.Reader, limit int64) (*payload, io.Reader) {
	r := l.reigning()
	if r == nil || !r.mayWriteBehind() || l.reading.Add(1) > behindReaders {
		if r != nil {
			l.reading.Add(-1)
		}
		return nil, from
	}
	defer l.reading.Add(-1)
	var head bytes.Buffer
	switch _, err := io.CopyN(&head, from, min(limit, behindRead)+1); {
	case err == io.EOF:
		return r.writeBehind(app, head.Bytes(), false), &head
	case err != nil:
		from = brokenOff{err}
	}
	return nil, io.MultiReader(&head, from)
}

// brokenOff is what is left of a reader that failed.
type brokenOff struct{ err error }

func (b brokenOff) Read([]byte) (int, error) { return 0, b.err }

func (r *reign) mayWriteBehind() bool {
	from := r.leader.behindFrom.Load()
	return !r.behind.paused.Load() && r.ctx.Err() == nil && (from == nil || !time.Now().Before(*from))
}

// beginWriting begins to write bytes that were taken, unless the reign is over.
func (r *reign) beginWriting(app spec.AppName, data []byte) *payload {
	blob := r.leader.cfg.DB.NewBlob(data)
	w := &writing{reign: r, done: make(chan struct{})}
	p := &payload{app: app, blob: &blob, size: blob.Size, writing: w}
	r.gate.RLock() // the reign's end waits for what was begun before it
	defer r.gate.RUnlock()
	if r.ctx.Err() != nil {
		return nil
	}
	r.behind.add(blob.ID, data)
	var ctx context.Context
	ctx, w.cancel = context.WithCancel(r.ctx)
	r.loading.Go(func() {
		defer w.cancel()
		r.write(ctx, p, data)
	})
	return p
}

// write stages the bytes of a payload, and says so.
func (r *reign) write(ctx context.Context, p *payload, data []byte) {
	w := p.writing
	if w.err = r.writeAll(ctx, p, data); w.err == nil {
		failpoint.At(failpoint.Staged, p.app)
	} else if ctx.Err() == nil {
		from := time.Now().Add(behindPause)
		r.leader.behindFrom.Store(&from)
	}
	r.behind.drop(p.blob.ID, len(data))
	close(w.done)
	w.mu.Lock()
	w.over = true
	letGo := w.letGo
	w.mu.Unlock()
	if letGo != nil {
		letGo()
	}
	_ = r.offer(r.ctx, &request{command: wake{}})
}

// writeAll has the bytes staged here and on a majority of the replicas.
func (r *reign) writeAll(ctx context.Context, p *payload, data []byte) error {
	l, here := r.leader, false
	retry, cancel := context.WithTimeout(ctx, behindRetry)
	defer cancel()
	for {
		var err error
		if !here {
			err = l.cfg.DB.WriteBlob(ctx, l.cfg.Shard, p.app, *p.blob, data)
			here = err == nil
		}
		if here {
			err = l.spread(ctx, p.app, p)
		}
		if err == nil || l.cfg.DB.Err() != nil {
			return err
		}
		select {
		case <-time.After(roomEvery):
		case <-retry.Done():
			return err
		}
	}
}

func (b *behind) take(n int) bool {
	b.Lock()
	defer b.Unlock()
	if most := min(b.most, behindAtOnce); n > b.most || b.bytes > 0 && b.bytes+n > most {
		return false
	}
	b.bytes += n
	return true
}

func (b *behind) add(id [16]byte, data []byte) {
	b.Lock()
	defer b.Unlock()
	if b.live == nil {
		b.live = make(map[[16]byte][]byte)
	}
	b.live[id] = data
}

func (b *behind) drop(id [16]byte, n int) {
	b.Lock()
	defer b.Unlock()
	delete(b.live, id)
	b.bytes -= n
}

// get returns bytes that are being written, which must not be changed.
func (b *behind) get(blob *store.Blob) (data []byte, ok bool) {
	if b == nil {
		return nil, false
	}
	b.Lock()
	defer b.Unlock()
	data, ok = b.live[blob.ID]
	return data, ok
}

// read reads a blob to a place, if that has room for it.
func (b *behind) read(db *store.DB, place []byte, shard spec.ShardID, app spec.AppName, blob *store.Blob) ([]byte, error) {
	if data, ok := b.get(blob); ok {
		return append(place[:0], data...), nil
	}
	return db.ReadBlobTo(place, shard, app, *blob)
}

// unwritten tells whether an entry refers to bytes that are not staged yet.
func (t *tx) unwritten() bool {
	return slices.ContainsFunc(t.adopted, func(p *payload) bool { return p.writing != nil && !p.writing.ended() })
}

// awaitBytes waits until a majority of the replicas that vote has the bytes that an entry
// refers to: those which are being written, and those that were staged while other
// replicas voted. An error gives up the term, and what was done with the bytes.
func (t *tx) awaitBytes() error {
	for _, p := range t.adopted {
		if w := p.writing; w != nil {
			select {
			case <-w.done:
			case <-t.term.Done():
				return t.term.Err()
			}
			if w.err != nil {
				return errors.Join(shard.ErrTermOver, fmt.Errorf("the bytes of an object that counts already can't be written: %w", w.err))
			}
			if there, err := t.marked(p); err != nil || !there {
				return errors.Join(shard.ErrTermOver, err, errors.New("the bytes of an object that counts already are not there any more"))
			}
		}
		for try := 0; p.enough != nil && !p.enough(); try++ {
			if try == respreadMost {
				return errors.Join(shard.ErrTermOver, errThinned)
			}
			if err := t.respread(p); err != nil {
				return errors.Join(shard.ErrTermOver, err)
			}
		}
	}
	return nil
}

// respread spreads bytes again while nothing else is done.
func (t *tx) respread(p *payload) error {
	ctx, cancel := context.WithTimeout(t.ctx, behindRetry)
	defer cancel()
	go func() {
		select {
		case <-t.term.Done():
			cancel()
		case <-ctx.Done():
		}
	}()
	return t.leader.spread(ctx, p.app, p)
}
