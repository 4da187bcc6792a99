package store_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// once is a reader that says how much it has, and calls at when half of it is read.
type once struct {
	*bytes.Reader
	at func()
}

func (r *once) Read(p []byte) (int, error) {
	if r.at != nil && int64(r.Len()) <= r.Size()/2 {
		r.at()
		r.at = nil
	}
	return r.Reader.Read(p)
}

func TestTheBytesOfALargeBlobAreWrittenOnce(t *testing.T) {
	db := open(t, t.TempDir(), store.Options{})
	defer closeDB(t, db)
	data := noise(9 * mib)
	before := db.Metrics().WAL.BytesWritten
	blob := stage(t, db, data)
	m := db.Metrics()
	total := m.Total()
	if ingested := total.TableBytesIngested; ingested < 9*mib || ingested > 10*mib {
		t.Errorf("%d bytes of tables were taken in, of %d", ingested, len(data))
	}
	if logged := m.WAL.BytesWritten - before; logged > mib {
		t.Errorf("%d bytes went to the log", logged)
	}
	if got, err := db.ReadBlob(1, "a", blob); err != nil || !bytes.Equal(got, data) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
}

func TestALargeBlobSurvivesAPowerCutAndAHalfWrittenOneLeavesNothing(t *testing.T) {
	fs := vfs.NewCrashableMem()
	db := open(t, "data", store.Options{FS: fs})
	data := noise(9 * mib)
	blob := stage(t, db, data)
	var cut *vfs.MemFS
	half := &once{bytes.NewReader(data), func() {
		cut = fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))})
	}}
	if _, err := db.StageBlob(context.Background(), 1, "a", half, 1<<30); err != nil {
		t.Fatal(err)
	}
	closeDB(t, db)
	if making(t, cut) == 0 {
		t.Fatal("the power cut came too late: no table was in the making")
	}
	db = open(t, "data", store.Options{FS: cut})
	defer closeDB(t, db)
	if got, err := db.ReadBlob(1, "a", blob); err != nil || !bytes.Equal(got, data) {
		t.Errorf("of the blob that was there %d bytes are left, %v", len(got), err)
	}
	if n := making(t, cut); n != 0 {
		t.Errorf("%d half written tables are left", n)
	}
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

func TestASweepFindsWhatAPowerCutLeavesOfALargeBlobAtAnyStep(t *testing.T) {
	origin := open(t, "origin", store.Options{FS: vfs.NewMem()})
	defer closeDB(t, origin)
	data := noise(9 * mib)
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
			db := open(t, "data", store.Options{FS: errorfs.Wrap(steps.disk, steps)})
			steps.count(true)
			if err := bring(db); err != nil {
				t.Fatal(err)
			}
			steps.count(false)
			closeDB(t, db)
			if n := len(steps.all); n < 6 { // the table, the log, the link, the folder and the manifest, and the log again
				t.Errorf("only %d steps", n)
			}
			for i, disk := range steps.all {
				sweepAll(t, disk, i)
			}
		})
	}
}

// sweepAll does what leaders and the sweeps of a node do after a power cut, and
// wants nothing to be left.
func sweepAll(t *testing.T, disk *vfs.MemFS, step int) {
	t.Helper()
	db := open(t, "data", store.Options{FS: disk})
	defer closeDB(t, db)
	if n := making(t, disk); n != 0 {
		t.Errorf("step %d: %d half written tables are left", step, n)
	}
	staged, err := db.Staged(1)
	if err = errors.Join(err, db.DropStaged(1, staged), db.SweepLoose(1)); err != nil {
		t.Fatal(err)
	}
	if n := keysOf(t, db, 1); n != 0 {
		t.Errorf("step %d: %d keys are left that no sweep finds", step, n)
	}
}

func TestALargeBlobOfAnAppThatIsDeletedMeanwhileLeavesNothing(t *testing.T) {
	mem := vfs.NewMem()
	db := open(t, "data", store.Options{FS: mem})
	defer closeDB(t, db)
	data := &once{bytes.NewReader(noise(9 * mib)), func() {
		var b store.Batch
		b.DeleteRange(store.ShardRange(1))
		if err := db.Commit(&b, false); err != nil {
			t.Error(err)
		}
	}}
	if _, err := db.StageBlob(context.Background(), 1, "a", data, 1<<30); spec.CodeOf(err) != spec.CodeConflict {
		t.Errorf("it is staged, %v", err)
	}
	if m := db.Metrics(); m.Total().TableBytesIngested != 0 {
		t.Error("its bytes were taken in")
	}
	if n := making(t, mem) + keysOf(t, db, 1); n != 0 {
		t.Errorf("%d tables and keys are left", n)
	}
}

// making counts the tables in the making.
func making(t *testing.T, fs vfs.FS) (n int) {
	t.Helper()
	names, err := fs.List("data/pebble")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, ".making") {
			n++
		}
	}
	return n
}

func TestALargeBlobThatCanNotBeWrittenIsRefusedAndTheStoreGoesOn(t *testing.T) {
	fault := &failAt{suffix: ".making"}
	mem := vfs.NewMem()
	db := open(t, "data", store.Options{FS: errorfs.Wrap(mem, fault), ReserveBytes: -1})
	defer closeDB(t, db)
	for k := range int64(4) {
		fault.left.Store(k + 1)
		_, err := db.StageBlob(context.Background(), 1, "a", bytes.NewReader(noise(9*mib)), 1<<30)
		if spec.CodeOf(err) != spec.CodeUnavailable || !fault.hit.Swap(false) {
			t.Fatalf("fault %d: %v", k, err)
		}
		if n := making(t, mem); n != 0 {
			t.Fatalf("fault %d: %d half written tables are left", k, n)
		}
	}
	data := noise(9 * mib)
	ctx, cancel := context.WithCancel(context.Background())
	if _, err := db.StageBlob(ctx, 1, "a", &once{bytes.NewReader(data), cancel}, 1<<30); err == nil {
		t.Fatal("a blob was staged that was given up")
	}
	if n := making(t, mem); n != 0 {
		t.Fatalf("%d tables are left that were given up", n)
	}
	if got, err := db.ReadBlob(1, "a", stage(t, db, data)); err != nil || !bytes.Equal(got, data) {
		t.Fatalf("afterwards %d bytes are read, %v", len(got), err)
	}
}
