package store_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"pgregory.net/rapid"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
	"github.com/pheromone-run/pheromone/store/bytelog"
)

// halfway is a reader that calls at when half of it is read.
type halfway struct {
	*bytes.Reader
	at func()
}

func (r *halfway) Read(p []byte) (int, error) {
	if r.at != nil && int64(r.Len()) <= r.Size()/2 {
		r.at()
		r.at = nil
	}
	return r.Reader.Read(p)
}

func TestTheBytesOfBlobsAreWrittenOnce(t *testing.T) {
	for _, size := range []int{70 << 10, mib, 9 * mib} {
		db := open(t, t.TempDir(), store.Options{})
		data := noise(size)
		before := db.Metrics().WAL.BytesWritten
		blob := stage(t, db, data)
		if logged := db.LogBytes(); logged < int64(size) || logged > int64(size)+16<<10 {
			t.Errorf("%d bytes are in the log, of %d", logged, size)
		}
		if db.DiskBytes() < int64(size) {
			t.Errorf("the store says that it takes %d bytes of the disk", db.DiskBytes())
		}
		if logged := db.Metrics().WAL.BytesWritten - before; logged > 64<<10 {
			t.Errorf("%d bytes went to the database", logged)
		}
		if got, err := db.ReadBlob(1, "a", blob); err != nil || !bytes.Equal(got, data) {
			t.Errorf("read %d bytes, %v", len(got), err)
		}
		closeDB(t, db)
	}
}

func TestPlacesComeBackAsTheyWere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		places := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) bytelog.Place {
			return bytelog.Place{
				Segment: rapid.Uint64().Draw(t, "segment"), Offset: rapid.Int64Min(0).Draw(t, "offset"), Length: rapid.Uint32Max(mib).Draw(t, "length"),
			}
		}), 0, 20).Draw(t, "places")
		value := store.AppendPlaces(places)
		got, logged, err := store.DecodePlaces(value)
		if err != nil || !logged || len(got) != len(places) {
			t.Fatalf("%d places of %d, %v", len(got), len(places), err)
		}
		for i := range got {
			if got[i] != places[i] {
				t.Fatalf("place %d is %+v, want %+v", i, got[i], places[i])
			}
		}
		cut := rapid.IntRange(1, len(value)).Draw(t, "cut")
		if _, _, err := store.DecodePlaces(value[:cut]); (err == nil) != (cut == len(value)) {
			t.Fatalf("of %d bytes the first %d are taken: %v", len(value), cut, err)
		}
	})
}

func FuzzPlacesFromAnywhereGiveAnErrorOrAreSmall(f *testing.F) {
	f.Add(store.AppendPlaces([]bytelog.Place{{Segment: 3, Offset: 70, Length: 9}, {Segment: 3, Offset: 99, Length: mib}, {Segment: 4}}))
	f.Add([]byte{3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, value []byte) {
		places, logged, err := store.DecodePlaces(value)
		if err != nil || !logged {
			return
		}
		if 3*len(places) > len(value) {
			t.Fatalf("%d places in %d bytes", len(places), len(value))
		}
		again, _, err := store.DecodePlaces(store.AppendPlaces(places))
		if err != nil || len(again) != len(places) {
			t.Fatalf("%d places come back as %d, %v", len(places), len(again), err)
		}
	})
}

// cuts takes copies of the disk as power cuts leave it, before each step after which
// something may be on it that was not there before.
type cuts struct {
	disk *vfs.MemFS
	mu   sync.Mutex
	from bool // steps count
	all  []*vfs.MemFS
}

func (c *cuts) String() string { return "cuts" }

func (c *cuts) MaybeError(op errorfs.Op) error {
	switch op.Kind {
	case errorfs.OpCreate, errorfs.OpLink, errorfs.OpRename, errorfs.OpRemove, errorfs.OpFileSync, errorfs.OpFileSyncData:
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.from {
			c.all = append(c.all, c.disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(uint64(len(c.all)), 7))}))
		}
	}
	return nil
}

func (c *cuts) count(from bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.from = from
}

func TestASweepFindsWhatAPowerCutLeavesOfABlobAtAnyStep(t *testing.T) {
	origin := open(t, "origin", store.Options{FS: vfs.NewMem()})
	defer closeDB(t, origin)
	data := noise(5*mib + 7)
	blob := stage(t, origin, data)
	for name, bring := range map[string]func(db *store.DB) error{
		"staged": func(db *store.DB) error {
			_, err := db.StageBlob(context.Background(), 1, "a", bytes.NewReader(data), 1<<30)
			return err
		},
		"copied": func(db *store.DB) error {
			r, err := origin.ExportBlob(1, "a", blob)
			if err != nil {
				return err
			}
			return errors.Join(db.StageCopy(context.Background(), 1, "a", blob, "n2", r), r.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			steps := &cuts{disk: vfs.NewCrashableMem()}
			db := open(t, "data", store.Options{FS: errorfs.Wrap(steps.disk, steps), SegmentBytes: 2 * mib})
			before := stage(t, db, data)
			steps.count(true)
			if err := bring(db); err != nil {
				t.Fatal(err)
			}
			steps.count(false)
			closeDB(t, db)
			if n := len(steps.all); n < 6 { // files, their syncs, the folder, and the database
				t.Errorf("only %d steps", n)
			}
			for i, disk := range steps.all {
				sweepAll(t, disk, i, before, data)
			}
		})
	}
}

// sweepAll does what leaders and the sweeps of a node do after a power cut. What was
// staged before has to be there, and afterwards nothing must be left.
func sweepAll(t *testing.T, disk *vfs.MemFS, step int, before store.Blob, data []byte) {
	t.Helper()
	db := open(t, "data", store.Options{FS: disk})
	defer closeDB(t, db)
	if got, err := db.ReadBlob(1, "a", before); err != nil || !bytes.Equal(got, data) {
		t.Errorf("step %d: of the blob that was there %d bytes are left, %v", step, len(got), err)
	}
	staged, err := db.Staged(1)
	if err = errors.Join(err, db.DropStaged(1, staged), db.SweepLoose(1)); err != nil {
		t.Fatal(err)
	}
	if n := keysOf(t, db, 1); n != 0 {
		t.Errorf("step %d: %d keys are left that no sweep finds", step, n)
	}
	if _, err := db.SweepLog(); err != nil || db.LogBytes() != 0 {
		t.Errorf("step %d: %d bytes are left in the log, %v", step, db.LogBytes(), err)
	}
}

func TestABlobOfAnAppThatIsDeletedMeanwhileLeavesNothing(t *testing.T) {
	db := open(t, "data", store.Options{FS: vfs.NewMem(), SegmentBytes: 1})
	defer closeDB(t, db)
	data := &halfway{bytes.NewReader(noise(9 * mib)), func() {
		var b store.Batch
		b.DeleteRange(store.ShardRange(1))
		if err := db.Commit(&b, false); err != nil {
			t.Error(err)
		}
	}}
	if _, err := db.StageBlob(context.Background(), 1, "a", data, 1<<30); spec.CodeOf(err) != spec.CodeConflict {
		t.Errorf("it is staged, %v", err)
	}
	if n := keysOf(t, db, 1); n != 0 {
		t.Errorf("%d keys are left", n)
	}
	if _, err := db.SweepLog(); err != nil || db.LogBytes() != 0 {
		t.Errorf("%d bytes are left in the log, %v", db.LogBytes(), err)
	}
}

// failing has the k-th call of some kinds fail on the files of the log of bytes.
type failing struct {
	kinds []errorfs.OpKind
	with  error
	left  atomic.Int64
	hit   atomic.Bool
}

func (f *failing) String() string { return "failing" }

func (f *failing) MaybeError(op errorfs.Op) error {
	if !strings.HasSuffix(op.Path, ".bytes") {
		return nil
	}
	for _, k := range f.kinds {
		if op.Kind == k && f.left.Add(-1) == 0 {
			f.hit.Store(true)
			return f.with
		}
	}
	return nil
}

func TestABlobThatCanNotBeWrittenIsRefusedAndTheStoreGoesOn(t *testing.T) {
	fault := &failing{kinds: []errorfs.OpKind{errorfs.OpCreate, errorfs.OpFileWrite}, with: syscall.ENOSPC}
	db := open(t, "data", store.Options{FS: errorfs.Wrap(vfs.NewMem(), fault), SegmentBytes: 2 * mib})
	defer closeDB(t, db)
	data := noise(3*mib + 9)
	var kept []store.Blob
	for k := range int64(9) { // two files are made, and eight parts of records written
		kept = append(kept, stage(t, db, data[k:]))
		fault.left.Store(k + 1)
		_, err := db.StageBlob(context.Background(), 1, "a", bytes.NewReader(data), 1<<30)
		if spec.CodeOf(err) != spec.CodeUnavailable || !fault.hit.Swap(false) {
			t.Fatalf("fault %d: %v", k, err)
		}
		if err := db.Writable(); spec.CodeOf(err) != spec.CodeUnavailable {
			t.Errorf("fault %d: the disk is full, and more is taken: %v", k, err)
		}
		if err := db.Err(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := db.SweepLog(); err != nil {
		t.Fatal(err)
	}
	for k, blob := range kept {
		if got, err := db.ReadBlob(1, "a", blob); err != nil || !bytes.Equal(got, data[k:]) {
			t.Errorf("blob %d is read as %d bytes, %v", k, len(got), err)
		}
	}
}

func TestWhatIsGivenUpIsSwept(t *testing.T) {
	db := open(t, "data", store.Options{FS: vfs.NewMem(), SegmentBytes: 1})
	defer closeDB(t, db)
	ctx, cancel := context.WithCancel(context.Background())
	if _, err := db.StageBlob(ctx, 1, "a", &halfway{bytes.NewReader(noise(9 * mib)), cancel}, 1<<30); err == nil {
		t.Fatal("a blob was staged that was given up")
	}
	if db.LogBytes() < mib {
		t.Fatal("it was given up before anything was written")
	}
	if _, err := db.SweepLog(); err != nil || db.LogBytes() != 0 {
		t.Errorf("%d bytes are left in the log, %v", db.LogBytes(), err)
	}
}

func TestAFailedSyncOfTheLogOfBytesStopsTheNode(t *testing.T) {
	data := noise(3*mib + 9)
	syncs := []errorfs.OpKind{errorfs.OpFileSync, errorfs.OpFileSyncData, errorfs.OpFileSyncTo}
	for k := int64(1); ; k++ {
		disk := vfs.NewCrashableMem()
		fault := &failing{kinds: syncs, with: errDisk}
		var told atomic.Int32
		db := open(t, "data", store.Options{FS: errorfs.Wrap(disk, fault), SegmentBytes: 2 * mib, ReserveBytes: -1, Fatal: func(error) { told.Add(1) }})
		before := stage(t, db, data)
		fault.left.Store(k)
		_, err := db.StageBlob(context.Background(), 1, "a", bytes.NewReader(data), 1<<30)
		if !fault.hit.Load() {
			closeDB(t, db)
			if k < 4 {
				t.Errorf("only %d syncs", k-1)
			}
			return
		}
		if !errors.Is(err, errDisk) || !errors.Is(db.Err(), errDisk) || told.Load() != 1 {
			t.Errorf("fault %d: %v, the store is %v, told %d times", k, err, db.Err(), told.Load())
		}
		if _, err := db.StageBlob(context.Background(), 1, "a", bytes.NewReader(data), 1<<30); !errors.Is(err, errDisk) {
			t.Errorf("fault %d: afterwards %v", k, err)
		}
		again := open(t, "data", store.Options{FS: disk.CrashClone(vfs.CrashCloneCfg{})})
		if got, err := again.ReadBlob(1, "a", before); err != nil || !bytes.Equal(got, data) {
			t.Errorf("fault %d: of the blob that was there %d bytes are left, %v", k, len(got), err)
		}
		closeDB(t, again)
	}
}
