package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// pair is a replica that has a blob and one that lacks it, with the bytes.
func pair(t testing.TB, data []byte) (has, lacks *store.DB, blob store.Blob) {
	t.Helper()
	has, lacks = inMemory(t), inMemory(t)
	blob = stage(t, has, data)
	adopt(t, 1, []store.Blob{blob}, has, lacks)
	has.ReleaseBlob(blob)
	return has, lacks, blob
}

// from is a Repair that copies from another store.
func from(has *store.DB, to *store.DB) store.Repair {
	return func(ctx context.Context, shard spec.ShardID, app spec.AppName, blob store.Blob) error {
		r, err := has.ExportBlob(shard, app, blob)
		if err != nil {
			return err
		}
		return errors.Join(to.RestoreBlob(ctx, shard, app, blob, r), r.Close())
	}
}

func TestABlobThatIsLackingIsBroughtHereByWhoReadsIt(t *testing.T) {
	data := noise(2*mib + 3)
	for name, read := range map[string]func(*store.DB, store.Blob) ([]byte, error){
		"whole":           func(db *store.DB, b store.Blob) ([]byte, error) { return db.ReadBlob(1, "a", b) },
		"as a stream":     func(db *store.DB, b store.Blob) ([]byte, error) { return io.ReadAll(db.OpenBlob(1, "a", b)) },
		"from a snapshot": func(db *store.DB, b store.Blob) ([]byte, error) { return io.ReadAll(db.Snapshot().OpenBlob(1, "a", b)) },
		"whole, from there": func(db *store.DB, b store.Blob) ([]byte, error) {
			s := db.Snapshot()
			defer s.Close()
			return s.ReadBlob(1, "a", b)
		},
	} {
		t.Run(name, func(t *testing.T) {
			has, lacks, blob := pair(t, data)
			if _, err := read(lacks, blob); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("without a repair: %v", err)
			}
			if n := len(lacking(t, lacks)); n != 1 {
				t.Errorf("%d blobs are lacking", n)
			}
			away := spec.Errorf(spec.CodeUnavailable, "the other replica is away")
			lacks.RepairWith(func(context.Context, spec.ShardID, spec.AppName, store.Blob) error { return away })
			if _, err := read(lacks, blob); spec.CodeOf(err) != spec.CodeUnavailable {
				t.Errorf("while the other one is away: %v", err)
			}
			lacks.RepairWith(from(has, lacks))
			if got, err := read(lacks, blob); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			lacks.RepairWith(nil)
			if got, err := read(lacks, blob); err != nil || !bytes.Equal(got, data) || len(lacking(t, lacks)) != 0 {
				t.Errorf("it was not kept: %d bytes, %v", len(got), err)
			}
			if blobsOf(t, has) != blobsOf(t, lacks) {
				t.Error("the bytes differ")
			}
		})
	}
}

func TestABlobThatWasDeletedIsNotLookedForElsewhere(t *testing.T) {
	_, lacks, blob := pair(t, text(mib))
	var b store.Batch
	store.DeleteBlob(&b, 1, "a", blob)
	apply(t, &b, 2, lacks)
	lacks.RepairWith(func(context.Context, spec.ShardID, spec.AppName, store.Blob) error {
		t.Error("it was looked for")
		return nil
	})
	if _, err := lacks.ReadBlob(1, "a", blob); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("error %v", err)
	}
	if n := len(lacking(t, lacks)); n != 0 {
		t.Errorf("%d blobs are lacking", n)
	}
}

func TestManyReadersOfALackingBlobHaveItBroughtOnce(t *testing.T) {
	data := noise(mib + 1)
	has, lacks, blob := pair(t, data)
	var calls int // by one flight at a time
	all := make(chan struct{})
	lacks.RepairWith(func(ctx context.Context, shard spec.ShardID, app spec.AppName, b store.Blob) error {
		calls++
		<-all
		return from(has, lacks)(ctx, shard, app, b)
	})
	var readers, began sync.WaitGroup
	for range 20 {
		began.Add(1)
		readers.Go(func() {
			began.Done()
			if got, err := lacks.ReadBlob(1, "a", blob); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	began.Wait()
	gone, cancel := context.WithCancel(context.Background())
	cancel()
	if err := lacks.RepairBlob(gone, 1, "a", blob); !errors.Is(err, context.Canceled) {
		t.Errorf("who does not wait: %v", err)
	}
	close(all)
	readers.Wait()
	if calls != 1 {
		t.Errorf("it was brought %d times", calls)
	}
}

func TestWhoReadsABlobThatIsComingInWaitsForIt(t *testing.T) {
	data := noise(2 * mib)
	has, lacks := inMemory(t), inMemory(t)
	lacks.RepairWith(func(context.Context, spec.ShardID, spec.AppName, store.Blob) error {
		t.Error("it was looked for elsewhere")
		return nil
	})
	blob := stage(t, has, data)
	var readers sync.WaitGroup
	err := lacks.StageCopy(context.Background(), 1, "a", blob, "other", during(export(t, has, blob), func() {
		var b store.Batch
		store.AdoptBlob(&b, 1, "a", blob)
		apply(t, &b, 1, lacks)
		gone, cancel := context.WithCancel(context.Background())
		cancel()
		if err := lacks.RepairBlob(gone, 1, "a", blob); !errors.Is(err, context.Canceled) {
			t.Errorf("who does not wait: %v", err)
		}
		readers.Go(func() {
			if got, err := lacks.ReadBlob(1, "a", blob); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}))
	if err != nil {
		t.Error(err)
	}
	readers.Wait()
}

func TestClosingAStoreEndsItsRepairs(t *testing.T) {
	db := open(t, t.TempDir(), store.Options{})
	blob := stage(t, db, text(10))
	if err := db.DiscardBlob(1, "a", blob); err != nil {
		t.Fatal(err)
	}
	adopt(t, 1, []store.Blob{blob}, db)
	under := make(chan struct{})
	db.RepairWith(func(ctx context.Context, _ spec.ShardID, _ spec.AppName, _ store.Blob) error {
		close(under)
		<-ctx.Done()
		return ctx.Err()
	})
	failed := make(chan error)
	go func() { failed <- db.RepairBlob(context.Background(), 1, "a", blob) }()
	<-under
	closeDB(t, db)
	if err := <-failed; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestTheHashIsOverWhatTheLogDecides(t *testing.T) {
	has, lacks, blob := pair(t, noise(mib))
	stage(t, has, text(100)) // on one of them only
	if first(hashOf(t, has)) != first(hashOf(t, lacks)) {
		t.Error("a lacking blob, or a staged one, makes the hashes differ")
	}
	a, b := blobsOf(t, has), blobsOf(t, lacks)
	if a.lacking != 0 || b.lacking != 1 || a.hash == b.hash {
		t.Errorf("the bytes are %+v and %+v", a, b)
	}
	var other store.Batch
	store.DeleteBlob(&other, 1, "a", blob)
	apply(t, &other, 2, lacks)
	if first(hashOf(t, has)) == first(hashOf(t, lacks)) {
		t.Error("a blob that is deleted on one of them leaves the hashes equal")
	}
	// Chunks that came in an entry are decided by the log.
	var inEntry store.Batch
	inEntry.Set(store.AppendBlobChunkKey(nil, 1, "a", [16]byte{7}, 0), []byte("x"))
	before := first(hashOf(t, has))
	apply(t, &inEntry, 3, has)
	if first(hashOf(t, has)) == before {
		t.Error("chunks that came in an entry are not in the hash")
	}
}

func restoreFrom(t testing.TB, source, target *store.DB) {
	t.Helper()
	if _, err := target.ReadSnapshot(bytes.NewReader(rangeSnapshot(t, source)), 1); err != nil {
		t.Fatal(err)
	}
}

func TestASnapshotOfAReplicaThatLacksABlobSaysSo(t *testing.T) {
	data := noise(mib + 9)
	has, lacks, blob := pair(t, data)
	fresh := inMemory(t)
	restoreFrom(t, lacks, fresh)
	if names := lacking(t, fresh); len(names) != 1 || names[0] != blob.ID {
		t.Fatalf("%x are lacking", names)
	}
	fresh.RepairWith(from(has, fresh))
	if got, err := fresh.ReadBlob(1, "a", blob); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestARestoreKeepsTheBytesThatItsSourceLacks(t *testing.T) {
	data := noise(mib + 9)
	source, target := inMemory(t), inMemory(t)
	kept, deleted, copied, unadopted := stage(t, target, data), stage(t, target, data), stage(t, target, data), stage(t, target, data)
	only := stage(t, source, data)
	adopt(t, 1, []store.Blob{kept, deleted}, source, target)
	target.ReleaseBlob(kept)
	adopt(t, 2, []store.Blob{copied, only}, source) // the target has not come to that entry
	var b store.Batch
	store.DeleteBlob(&b, 1, "a", deleted)
	apply(t, &b, 3, source)
	// What came in entries comes again with the snapshot.
	b.Reset()
	b.Set(store.AppendBlobChunkKey(nil, 1, "a", [16]byte{0}, 0), []byte("old"))
	b.Set(store.AppendBlobChunkKey(nil, 1, "a", [16]byte{255}, 0), []byte("old"))
	apply(t, &b, 2, target)

	restoreFrom(t, source, target)
	for _, c := range []struct {
		name          string
		blob          store.Blob
		there, marked bool
	}{{"kept", kept, true, false}, {"deleted in between", deleted, false, false}, {"adopted in between", copied, true, false}, {"not adopted yet", unadopted, true, true}, {"of the source", only, true, false}} {
		got, err := target.ReadBlob(1, "a", c.blob)
		if c.there != (err == nil && bytes.Equal(got, data)) || staged(t, target, c.blob) != c.marked {
			t.Errorf("%s: %d bytes, %v, marked %v", c.name, len(got), err, staged(t, target, c.blob))
		}
	}
	if there, err := target.Has(store.AppendBlobChunkKey(nil, 1, "a", [16]byte{0}, 0)); err != nil || there {
		t.Errorf("a chunk of before is there: %v, %v", there, err)
	}
	if first(hashOf(t, source)) != first(hashOf(t, target)) || blobsOf(t, target).lacking != 0 {
		t.Errorf("the hashes differ, or %d are lacking", blobsOf(t, target).lacking)
	}
}

func TestASnapshotLeavesOutWhatIsComingIn(t *testing.T) {
	from, to := inMemory(t), inMemory(t)
	blob := stage(t, from, noise(3*mib))
	adopt(t, 1, nil, to)
	var whole []byte
	mid := during(export(t, from, blob), func() { whole = rangeSnapshot(t, to) })
	if err := to.StageCopy(context.Background(), 1, "a", blob, "other", mid); err != nil {
		t.Fatal(err)
	}
	fresh := inMemory(t)
	if _, err := fresh.ReadSnapshot(bytes.NewReader(whole), 1); err != nil {
		t.Fatal(err)
	}
	if n := keysOf(t, fresh, 1); n != 1 {
		t.Errorf("%d keys", n)
	}
}

// replicas are three stores of one shard and the log that they apply, each at its
// own pace. Blobs reach them outside of the log, or do not.
type replicas struct {
	dbs     []*store.DB
	log     [][]byte
	applied []int
	blobs   []store.Blob // staged on the first store
	decided map[[16]byte]bool
	live    []store.Blob // adopted and not deleted
}

func (r *replicas) apply(t *rapid.T, i, upTo int) {
	for ; r.applied[i] < upTo; r.applied[i]++ {
		n := r.applied[i]
		if err := r.dbs[i].Apply(1, [][]byte{r.log[n]}, store.ShardMeta{Applied: uint64(n + 1)}); err != nil {
			t.Fatal(err)
		}
	}
}

func (r *replicas) entry(b *store.Batch) { r.log = append(r.log, b.AppendRepr(nil)) }

func TestReplicasThatMissBlobsComeToHoldTheSame(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		r := &replicas{applied: make([]int, 3), decided: map[[16]byte]bool{}}
		for range 3 {
			db := open(t, "data", store.Options{FS: vfs.NewMem(), SegmentBytes: 4000, GarbageBytes: 1})
			t.Cleanup(func() { closeDB(t, db) })
			r.dbs = append(r.dbs, db)
		}
		follower := rapid.IntRange(1, 2)
		rt.Repeat(map[string]func(*rapid.T){
			"stage": func(t *rapid.T) {
				blob, err := r.dbs[0].StageBlob(context.Background(), 1, "a", bytes.NewReader(noise(rapid.IntRange(1, 3000).Draw(t, "size"))), mib)
				if err != nil {
					t.Fatal(err)
				}
				r.blobs = append(r.blobs, blob)
			},
			"copy": func(t *rapid.T) { // whatever has become of the blob meanwhile
				if len(r.blobs) == 0 {
					return
				}
				blob, to := rapid.SampledFrom(r.blobs).Draw(t, "blob"), follower.Draw(t, "to")
				stream, err := r.dbs[0].ExportBlob(1, "a", blob)
				if errors.Is(err, store.ErrNotFound) {
					return
				}
				if err == nil {
					err = r.dbs[to].StageCopy(context.Background(), 1, "a", blob, "n0", stream)
				}
				if err != nil {
					t.Fatal(err)
				}
			},
			"adopt": func(t *rapid.T) {
				var open []store.Blob
				for _, blob := range r.blobs {
					if !r.decided[blob.ID] {
						open = append(open, blob)
					}
				}
				if len(open) == 0 {
					return
				}
				blob := rapid.SampledFrom(open).Draw(t, "blob")
				r.decided[blob.ID] = true
				var b store.Batch
				store.AdoptBlob(&b, 1, "a", blob)
				r.entry(&b)
				r.apply(t, 0, len(r.log))
				r.dbs[0].ReleaseBlob(blob)
				r.live = append(r.live, blob)
			},
			"delete": func(t *rapid.T) {
				if len(r.live) == 0 {
					return
				}
				i := rapid.IntRange(0, len(r.live)-1).Draw(t, "blob")
				var b store.Batch
				store.DeleteBlob(&b, 1, "a", r.live[i])
				r.entry(&b)
				r.apply(t, 0, len(r.log))
				r.live = append(r.live[:i], r.live[i+1:]...)
			},
			"a small object": func(*rapid.T) {
				var b store.Batch
				b.Set(store.AppendBlobChunkKey(nil, 1, "a", [16]byte{byte(len(r.log))}, 0), fmt.Append(nil, len(r.log)))
				r.entry(&b)
			},
			"catch up": func(t *rapid.T) { r.apply(t, follower.Draw(t, "who"), len(r.log)) },
			"snapshot": func(t *rapid.T) {
				to := follower.Draw(t, "to")
				source := (to + rapid.IntRange(1, 2).Draw(t, "from")) % 3
				if r.applied[source] < r.applied[to] {
					return
				}
				var out bytes.Buffer
				s := r.dbs[source].Snapshot()
				err := errors.Join(s.WriteSnapshot(&out, 1), s.Close())
				if err == nil && r.applied[source] > 0 {
					_, err = r.dbs[to].ReadSnapshot(&out, 1)
					r.applied[to] = r.applied[source]
				}
				if err != nil {
					t.Fatal(err)
				}
			},
			"sweep the log of bytes": func(t *rapid.T) {
				if _, err := r.dbs[rapid.IntRange(0, 2).Draw(t, "who")].SweepLog(); err != nil {
					t.Fatal(err)
				}
			},
			"sweep loose": func(t *rapid.T) {
				if err := r.dbs[follower.Draw(t, "who")].SweepLoose(1); err != nil {
					t.Fatal(err)
				}
			},
		})
		r.settle(rt)
	})
}

// settle has all of them catch up, drops what was never adopted, repairs what is
// lacking, and compares.
func (r *replicas) settle(t *rapid.T) {
	var hash store.RangeHash
	var bytes blobHash
	var keys int
	for i, db := range r.dbs {
		r.apply(t, i, len(r.log))
		marks, err := db.Staged(1)
		if err != nil {
			t.Fatal(err)
		}
		for _, blob := range r.blobs {
			db.ReleaseBlob(blob)
		}
		db.RepairWith(from(r.dbs[0], db))
		err = errors.Join(db.DropStaged(1, marks), db.SweepLoose(1), db.EachLacking(context.Background(), 1, func(l store.LackingBlob) bool {
			if err := db.RepairBlob(context.Background(), 1, l.App, l.Blob); err != nil {
				t.Fatal(err)
			}
			return true
		}))
		if err != nil {
			t.Fatal(err)
		}
		h, _, err := db.HashRange(1)
		if err != nil {
			t.Fatal(err)
		}
		b, missing, err := db.HashBlobs(1)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		lower, upper := store.ShardRange(1)
		if err := db.Scan(lower, upper, func(_, _ []byte) bool { n++; return true }); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			hash, bytes, keys = h, blobHash{b, missing}, n
		}
		if h != hash || (blobHash{b, missing}) != bytes || missing != 0 || n != keys {
			t.Fatalf("replica %d: hash %s, bytes %s with %d lacking, %d keys; the first has %s, %s, %d keys", i, h, b, missing, n, hash, bytes.hash, keys)
		}
	}
}
