package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/spec"
)

// Repair gets the bytes of a blob from another replica and stores them with
// RestoreBlob.
type Repair func(ctx context.Context, shard spec.ShardID, app spec.AppName, blob Blob) error

// repairs are those under way. Who asks for a blob that is being repaired waits
// for that.
type repairs struct {
	done sync.WaitGroup

	mu struct {
		sync.Mutex
		repair  Repair
		flights map[repairName]*flight
		closed  bool
		ctx     context.Context // ends when the store closes
		cancel  context.CancelFunc
	}
}

type repairName struct {
	shard spec.ShardID
	blob  BlobName
}

type flight struct {
	done chan struct{}
	err  error // once done is closed
}

// Bounds of a repair's time.
const (
	repairWait       = 20 * time.Second
	repairWaitPerMiB = 250 * time.Millisecond
)

// RepairWith says where blobs come from that entries refer to and that are not
// here, because this replica was down or cut off when they were spread. Without
// it reading one is ErrNotFound.
func (db *DB) RepairWith(f Repair) {
	db.repairs.mu.Lock()
	defer db.repairs.mu.Unlock()
	db.repairs.mu.repair = f
}

// RepairBlob has the bytes of a blob brought here that this replica lacks. It is
// ErrNotFound if nothing refers to the blob, any more or as far as is known here.
func (db *DB) RepairBlob(ctx context.Context, shard spec.ShardID, app spec.AppName, blob Blob) error {
	name := BlobName{app, blob.ID}
	whole, err := hasWhole(db, shard, name)
	if err != nil || whole {
		return err
	}
	adopted, err := db.Has(AppendBlobKey(nil, shard, app, blob.ID))
	if err != nil {
		return err
	}
	if !adopted {
		return ErrNotFound
	}
	f := db.repairs.join(repairName{shard, name}, repairWait+time.Duration(blob.Size>>20)*repairWaitPerMiB, func(ctx context.Context, repair Repair) error {
		// They may be on their way here from who has staged them.
		if err := db.staging.wait(ctx, blob.ID); err != nil {
			return spec.Errorf(spec.CodeUnavailable, "%w", err)
		}
		if whole, err := hasWhole(db, shard, name); err != nil || whole {
			return err
		}
		return repair(ctx, shard, app, blob)
	})
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return fmt.Errorf("wait for the bytes of a blob: %w", context.Cause(ctx))
	}
}

// join returns the flight that repairs a blob, and starts it if there is none.
func (r *repairs) join(name repairName, wait time.Duration, work func(context.Context, Repair) error) *flight {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f := r.mu.flights[name]; f != nil {
		return f
	}
	f := &flight{done: make(chan struct{})}
	switch {
	case r.mu.closed:
		f.err = errClosed
	case r.mu.repair == nil:
		f.err = ErrNotFound
	}
	if f.err != nil {
		close(f.done)
		return f
	}
	if r.mu.flights == nil {
		r.mu.flights = make(map[repairName]*flight)
		r.mu.ctx, r.mu.cancel = context.WithCancel(context.Background())
	}
	r.mu.flights[name] = f
	repair, until := r.mu.repair, r.mu.ctx
	r.done.Go(func() {
		ctx, cancel := context.WithTimeout(until, wait)
		defer cancel()
		f.err = work(ctx, repair)
		r.mu.Lock()
		delete(r.mu.flights, name)
		r.mu.Unlock()
		close(f.done)
	})
	return f
}

func (r *repairs) close() {
	r.mu.Lock()
	r.mu.closed = true
	if r.mu.cancel != nil {
		r.mu.cancel()
	}
	r.mu.Unlock()
	r.done.Wait()
}

// LackingBlob is a blob that entries refer to and whose bytes are not all here.
type LackingBlob struct {
	App  spec.AppName
	Blob Blob
}

// lackingPage is how many blobs are looked at at once.
const lackingPage = 1000

// EachLacking calls fn for each blob of shard that this replica lacks, until fn
// returns false or ctx ends. It reads what is known of blobs, not their bytes.
func (db *DB) EachLacking(ctx context.Context, shard spec.ShardID, fn func(LackingBlob) (more bool)) error {
	lower, upper := Bounds(appendTable(nil, shard, tableBlob))
	for lower != nil && ctx.Err() == nil {
		lacking, next, err := lackingIn(db, shard, lower, upper)
		if err != nil {
			return err
		}
		for _, l := range lacking {
			if ctx.Err() != nil || !fn(l) {
				return ctx.Err()
			}
		}
		lower = next
	}
	return ctx.Err()
}

func lackingIn(r Reader, shard spec.ShardID, lower, upper []byte) (lacking []LackingBlob, next []byte, err error) {
	var fault error
	err = r.Scan(lower, upper, func(key, value []byte) bool {
		if len(lacking) == lackingPage {
			next = append([]byte(nil), key...)
			return false
		}
		var l LackingBlob
		if l, fault = decodeAdopted(key, value); fault == nil {
			lacking = append(lacking, l)
		}
		return fault == nil
	})
	if err = errors.Join(err, fault); err != nil || len(lacking) == 0 {
		return nil, nil, err
	}
	first, last := lacking[0], lacking[len(lacking)-1]
	whole := make(map[BlobName]bool, len(lacking))
	err = r.Scan(appendBlobHereKey(nil, shard, first.App, first.Blob.ID), append(appendBlobHereKey(nil, shard, last.App, last.Blob.ID), 0), func(key, value []byte) bool {
		var name BlobName
		name, fault = blobOf(key, tableBlobHere)
		if isWhole(value) {
			whole[name] = true
		}
		return fault == nil
	})
	kept := lacking[:0]
	for _, l := range lacking {
		if !whole[BlobName{l.App, l.Blob.ID}] {
			kept = append(kept, l)
		}
	}
	return kept, next, errors.Join(err, fault)
}

func decodeAdopted(key, value []byte) (LackingBlob, error) {
	name, err := blobOf(key, tableBlob)
	if err != nil {
		return LackingBlob{}, err
	}
	blob, err := DecodeBlob(value)
	return LackingBlob{name.App, blob}, err
}
