package store_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

var errDisk = errors.New("input/output error of the disk")

// failAt fails the k-th write or sync of the files whose name ends in suffix, and
// with forEver all that come after it.
type failAt struct {
	suffix  string
	forEver bool
	left    atomic.Int64
	hit     atomic.Bool
}

func (f *failAt) String() string { return "fail at" }

func (f *failAt) MaybeError(op errorfs.Op) error {
	switch op.Kind {
	case errorfs.OpFileWrite, errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo, errorfs.OpFileFlush, errorfs.OpCreate, errorfs.OpRename:
	default:
		return nil
	}
	if !strings.HasSuffix(op.Path, f.suffix) {
		return nil
	}
	if left := f.left.Add(-1); left == 0 || f.forEver && left < 0 {
		f.hit.Store(true)
		return errDisk
	}
	return nil
}

// stop stands in for the end of the process: who calls it never goes on.
type stop struct{ reasons chan error }

func newStop() stop { return stop{make(chan error, 1)} }

func (s stop) fatal(err error) {
	s.reasons <- err
	select {}
}

// Whichever write or sync of the log fails, the node is told to stop with the
// reason, and what was reported as synced until then is there afterwards.
func TestAFailedWriteOrSyncOfTheLogStopsTheNode(t *testing.T) {
	for k := range int64(60) {
		disk := vfs.NewCrashableMem()
		fault := &failAt{suffix: ".log"}
		stopped := newStop()
		db := open(t, "data", store.Options{
			FS: errorfs.Wrap(disk, fault), MemTableBytes: 64 << 10, ReserveBytes: -1, Fatal: stopped.fatal,
		})
		fault.left.Store(k + 1)
		var synced atomic.Uint64
		ended := make(chan error, 1)
		go func() { ended <- applyAndSync(db, &synced) }()
		select {
		case err := <-ended:
			if err != nil {
				<-stopped.reasons // the writer may learn of it first
			} else if fault.hit.Load() {
				t.Errorf("fault %d was met and nobody was told", k)
			}
		case reason := <-stopped.reasons:
			if spec.CodeOf(reason) != spec.CodeUnavailable || !errors.Is(reason, errDisk) {
				t.Errorf("fault %d: told to stop because of %v", k, reason)
			}
		}
		after := disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(uint64(k), 4))})
		again := open(t, "data", store.Options{FS: after})
		if found := checkNumbered(t, again, 1); found < synced.Load() {
			t.Errorf("fault %d: %d batches are there, %d were synced", k, found, synced.Load())
		}
		closeDB(t, again)
	}
}

// applyAndSync ends by closing the store.
func applyAndSync(db *store.DB, synced *atomic.Uint64) error {
	for n := uint64(1); n <= 90; n++ {
		if err := tryNumbered(db, n); err != nil {
			return err
		}
		if n%3 != 0 {
			continue
		}
		if err := db.Sync(); err != nil {
			return err
		}
		synced.Store(n)
	}
	return db.Close()
}

func TestAStoreThatHasFailedTakesNothingMore(t *testing.T) {
	fault := &failAt{suffix: ".log"}
	var told atomic.Int32
	db := open(t, "data", store.Options{
		FS: errorfs.Wrap(vfs.NewMem(), fault), ReserveBytes: -1, Fatal: func(error) { told.Add(1) },
	})
	if err := tryNumbered(db, 1); err != nil {
		t.Fatal(err)
	}
	fault.left.Store(1)
	failed := db.Sync()
	if spec.CodeOf(failed) != spec.CodeUnavailable || !errors.Is(failed, errDisk) {
		t.Errorf("error %v", failed)
	}
	for name, err := range map[string]error{
		"apply": tryNumbered(db, 2), "sync": db.Sync(), "commit": db.Commit(db.NewBatch(), true),
		"writable": db.Writable(), "err": db.Err(), "drop": db.DropShard(1), "sweep": db.SweepStaged(1), "close": db.Close(),
	} {
		if !errors.Is(err, errDisk) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := db.StageBlob(context.Background(), 1, "a", bytes.NewReader(text(10)), mib); !errors.Is(err, errDisk) {
		t.Errorf("stage: %v", err)
	}
	if told.Load() != 1 {
		t.Errorf("told %d times to stop", told.Load())
	}
}

func tryNumbered(db *store.DB, number uint64) error {
	var a store.Batch
	value := []byte{0, 0, 0, 0, 0, 0, 0, byte(number)}
	a.Set(store.AppendCountersKey(nil, 1), value)
	a.Set(store.AppendOutboxKey(nil, 1, 1), value)
	a.Set(store.AppendEventKey(nil, 1, spec.Revision(number)), make([]byte, 2000))
	if number > 10 {
		a.Delete(store.AppendEventKey(nil, 1, spec.Revision(number-10)))
	}
	return db.Apply(1, [][]byte{a.Repr()}, store.ShardMeta{Applied: number * 10, Seq: number})
}

// Tables and manifests are written in the background: a fault there is tried again
// or stops the node, and loses nothing either way.
func TestFaultsInTheBackgroundLoseNothing(t *testing.T) {
	for _, suffix := range []string{".sst", ""} {
		for k := int64(1); k < 60; k += 4 {
			disk := vfs.NewCrashableMem()
			fault := &failAt{suffix: suffix}
			stopped := newStop()
			db := open(t, "data", store.Options{
				FS: errorfs.Wrap(disk, fault), MemTableBytes: 64 << 10, ReserveBytes: -1, Fatal: stopped.fatal,
			})
			fault.left.Store(k)
			var synced atomic.Uint64
			ended := make(chan error, 1)
			go func() { ended <- applyAndSync(db, &synced) }()
			select {
			case err := <-ended:
				if err != nil {
					<-stopped.reasons // the writer may learn of it first
				}
			case <-stopped.reasons:
			}
			after := disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 30, RNG: rand.New(rand.NewPCG(uint64(k), 5))})
			again := open(t, "data", store.Options{FS: after})
			if found := checkNumbered(t, again, 1); found < synced.Load() {
				t.Errorf("fault %d of %q: %d batches are there, %d were synced", k, suffix, found, synced.Load())
			}
			closeDB(t, again)
		}
	}
}

// Whatever fails while a folder is made, the next start takes it up or says why not.
func TestAFaultDuringTheFirstStartIsAnError(t *testing.T) {
	for k := int64(1); ; k++ {
		disk := vfs.NewCrashableMem()
		fault := &failAt{}
		fault.left.Store(k)
		db, err := store.Open("data", store.Options{Node: "n1", FS: errorfs.Wrap(disk, fault), ReserveBytes: -1, Fatal: func(error) {}})
		if err == nil {
			err = db.Close()
		}
		if fault.hit.Load() == (err == nil) {
			t.Errorf("fault %d: met %v, error %v", k, fault.hit.Load(), err)
		}
		after := disk.CrashClone(vfs.CrashCloneCfg{})
		closeDB(t, open(t, "data", store.Options{FS: after}))
		if !fault.hit.Load() {
			if k < 10 {
				t.Errorf("a first start writes only %d times", k)
			}
			return
		}
	}
}
