package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"github.com/pheromone-run/pheromone/store"
)

// eager makes small files, and allows next to no garbage.
func eager(fs vfs.FS) store.Options {
	return store.Options{FS: fs, SegmentBytes: 300 << 10, GarbageBytes: 1, ReserveBytes: -1}
}

func sweepLog(t testing.TB, db *store.DB) (doomed int) {
	t.Helper()
	doomed, err := db.SweepLog()
	if err != nil {
		t.Fatal(err)
	}
	return doomed
}

func discard(t testing.TB, db *store.DB, blobs ...store.Blob) {
	t.Helper()
	for _, blob := range blobs {
		if err := db.DiscardBlob(1, "a", blob); err != nil {
			t.Fatal(err)
		}
	}
}

// mixed stages blobs of a size and deletes all but every third, which it returns: every
// file of the log has garbage, and something in use.
func mixed(t testing.TB, db *store.DB, n int, data []byte) (kept []store.Blob) {
	t.Helper()
	var all []store.Blob
	for range n {
		all = append(all, stage(t, db, data))
	}
	for i, blob := range all {
		if i%3 == 0 {
			kept = append(kept, blob)
		} else {
			discard(t, db, blob)
		}
	}
	return kept
}

func wantBlobs(t testing.TB, db *store.DB, when string, blobs []store.Blob, data []byte) {
	t.Helper()
	for i, blob := range blobs {
		if got, err := db.ReadBlob(1, "a", blob); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: blob %d of %d is read as %d bytes, %v", when, i, len(blobs), len(got), err)
		}
	}
}

// bounded is what a log may take with so much in use: twice that, the file that is
// written, and the heads of records.
func bounded(used int) int64 { return int64(2*used + 512<<10) }

func TestGarbageInTheLogOfBytesGoesAway(t *testing.T) {
	fs := vfs.NewMem()
	db := open(t, "data", eager(fs))
	data := noise(100 << 10)
	kept := mixed(t, db, 40, data)
	before := db.LogBytes()
	sweepLog(t, db)
	if n, most := db.LogBytes(), bounded(len(kept)*len(data)); n > most || before <= most {
		t.Errorf("of %d bytes %d are left, want at most %d", before, n, most)
	}
	wantBlobs(t, db, "swept", kept, data)
	sweepLog(t, db)
	wantBlobs(t, db, "swept again", kept, data)
	closeDB(t, db)

	db = open(t, "data", eager(fs))
	defer closeDB(t, db)
	wantBlobs(t, db, "started again", kept, data)
	discard(t, db, kept...)
	sweepLog(t, db)
	if n := db.LogBytes(); n != 0 {
		t.Errorf("%d bytes are left of nothing", n)
	}
}

func TestALittleGarbageInTheLogOfBytesIsLeftAlone(t *testing.T) {
	db := open(t, "data", store.Options{FS: vfs.NewMem(), SegmentBytes: 300 << 10})
	defer closeDB(t, db)
	data := noise(100 << 10)
	mixed(t, db, 40, data)
	before := db.LogBytes()
	sweepLog(t, db)
	if n := db.LogBytes(); n != before {
		t.Errorf("of %d bytes %d are left", before, n)
	}
}

func TestAStoreSweepsItsLogOfBytesByItself(t *testing.T) {
	const most = 200 * mib // what it takes to see that nothing ever goes
	fs := vfs.NewMem()
	o := store.Options{FS: fs, SegmentBytes: 64 << 10, GarbageBytes: 256 << 10}
	db := open(t, "data", o)
	data := noise(70 << 10)
	for highest := int64(0); ; {
		discard(t, db, stage(t, db, data))
		n := db.LogBytes()
		if n < highest {
			break // something has gone
		}
		if highest = n; n > most {
			t.Fatalf("%d bytes are left of nothing", n)
		}
	}
	discard(t, db, stage(t, db, data))
	closeDB(t, db)
	db = open(t, "data", o)
	defer closeDB(t, db)
	for deadline := time.Now().Add(time.Minute); db.LogBytes() > 0; {
		if time.Now().After(deadline) {
			t.Fatalf("a start leaves %d bytes of before", db.LogBytes())
		}
		runtime.Gosched()
	}
}

func TestWhoReadsFromASnapshotReadsOnThoughTheLogIsSwept(t *testing.T) {
	db := open(t, "data", eager(vfs.NewMem()))
	defer closeDB(t, db)
	data := noise(3*mib + 5)
	deleted, moved := stage(t, db, data), stage(t, db, data)
	garbage := mixed(t, db, 8, noise(100<<10))
	snap := db.Snapshot()
	hold := db.Snapshot().OpenBlob(1, "a", deleted)
	stream, err := db.ExportBlob(1, "a", moved)
	if err != nil {
		t.Fatal(err)
	}
	head, start := make([]byte, mib), make([]byte, 9)
	if _, err := io.ReadFull(hold, head); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(stream, start); err != nil {
		t.Fatal(err)
	}
	discard(t, db, append(garbage, deleted)...)
	if n := sweepLog(t, db); n == 0 {
		t.Error("no file is kept for the snapshots")
	}
	rest, err := io.ReadAll(hold)
	if err != nil || !bytes.Equal(append(head, rest...), data) {
		t.Errorf("a held blob that is deleted is read as %d bytes, %v", len(head)+len(rest), err)
	}
	for _, blob := range []store.Blob{deleted, moved} {
		if got, err := snap.ReadBlob(1, "a", blob); err != nil || !bytes.Equal(got, data) {
			t.Errorf("in the snapshot %d bytes are read, %v", len(got), err)
		}
	}
	if err := snap.Close(); err != nil {
		t.Fatal(err)
	}
	if n := sweepLog(t, db); n != 0 {
		t.Errorf("%d files are kept for snapshots that are closed", n)
	}
	if most := bounded(len(data)); db.LogBytes() > most {
		t.Errorf("%d bytes are left, want at most %d", db.LogBytes(), most)
	}
	if out, err := io.ReadAll(stream); err != nil || len(start)+len(out) < len(data) {
		t.Errorf("who reads without a snapshot reads %d bytes, %v", len(start)+len(out), err)
	}
}

func TestASweepMovesWhatIsStillComingIn(t *testing.T) {
	for name, bring := range map[string]func(db *store.DB, r func(*bytes.Reader) io.Reader) error{
		"staged": func(db *store.DB, r func(*bytes.Reader) io.Reader) error {
			blob, err := db.StageBlob(context.Background(), 1, "a", r(bytes.NewReader(noise(3*mib))), 1<<30)
			if err == nil {
				wantBlobs(t, db, "staged", []store.Blob{blob}, noise(3*mib))
			}
			return err
		},
		"restored": func(db *store.DB, r func(*bytes.Reader) io.Reader) error {
			source := inMemory(t)
			blob := stage(t, source, noise(3*mib))
			adopt(t, 1, []store.Blob{blob}, source)
			_, err := db.ReadSnapshot(r(bytes.NewReader(rangeSnapshot(t, source))), 1)
			if err == nil {
				wantBlobs(t, db, "restored", []store.Blob{blob}, noise(3*mib))
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			db := open(t, "data", store.Options{FS: vfs.NewMem(), SegmentBytes: 3 * mib, GarbageBytes: 1})
			defer closeDB(t, db)
			mixed(t, db, 8, noise(300<<10)) // the first chunks come behind garbage
			swept := 0
			slow := func(r *bytes.Reader) io.Reader {
				return &everyPart{r, func() {
					discard(t, db, mixed(t, db, 8, noise(600<<10))...)
					before := db.LogBytes()
					sweepLog(t, db)
					if db.LogBytes() < before {
						swept++
					}
				}}
			}
			if err := bring(db, slow); err != nil {
				t.Fatal(err)
			}
			if swept == 0 {
				t.Error("nothing was swept meanwhile")
			}
		})
	}
}

// everyPart calls at each time half a MiB has been read.
type everyPart struct {
	*bytes.Reader
	at func()
}

func (r *everyPart) Read(p []byte) (int, error) {
	before := r.Len() / (mib / 2)
	n, err := r.Reader.Read(p[:min(len(p), mib/2)])
	if r.Len()/(mib/2) != before {
		r.at()
	}
	return n, err
}

func TestAPowerCutAtAnyStepOfASweepLosesNothing(t *testing.T) {
	steps := &cuts{disk: vfs.NewCrashableMem()}
	db := open(t, "data", eager(errorfs.Wrap(steps.disk, steps)))
	data := noise(100 << 10)
	kept := mixed(t, db, 16, data)
	adopt(t, 1, kept, db)
	if err := db.Sync(); err != nil {
		t.Fatal(err)
	}
	steps.count(true)
	discard(t, db, stage(t, db, data))
	sweepLog(t, db)
	steps.count(false)
	closeDB(t, db)
	if n := len(steps.all); n < 10 {
		t.Errorf("only %d steps", n)
	}
	for i, disk := range steps.all {
		db := open(t, "data", eager(disk))
		wantBlobs(t, db, fmt.Sprintf("step %d", i), kept, data)
		staged, err := db.Staged(1)
		if err = errors.Join(err, db.DropStaged(1, staged), db.SweepLoose(1)); err != nil {
			t.Fatal(err)
		}
		sweepLog(t, db)
		if n, most := db.LogBytes(), bounded(len(kept)*len(data)); n > most {
			t.Errorf("step %d: %d bytes are left, want at most %d", i, n, most)
		}
		wantBlobs(t, db, fmt.Sprintf("step %d, swept", i), kept, data)
		closeDB(t, db)
	}
}

// Deletions are not synced by themselves: a power cut may bring back what was deleted,
// with its bytes.
func TestAPowerCutBehindASweepBringsNoBlobBackWithoutItsBytes(t *testing.T) {
	fs := vfs.NewCrashableMem()
	db := open(t, "data", eager(fs))
	data := noise(100 << 10)
	blobs := []store.Blob{stage(t, db, data), stage(t, db, data), stage(t, db, data), stage(t, db, data)}
	adopt(t, 1, blobs, db)
	if err := db.Sync(); err != nil {
		t.Fatal(err)
	}
	var b store.Batch
	for _, blob := range blobs {
		store.DeleteBlob(&b, 1, "a", blob)
	}
	apply(t, &b, 2, db)
	sweepLog(t, db)
	dir, err := fs.OpenDir("data/bytes")
	if err == nil {
		err = errors.Join(dir.Sync(), dir.Close()) // the disk may write the removal at any time
	}
	if err != nil {
		t.Fatal(err)
	}
	after := fs.CrashClone(vfs.CrashCloneCfg{})
	closeDB(t, db)
	db = open(t, "data", eager(after))
	defer closeDB(t, db)
	if n := keysOf(t, db, 1); n != 1 { // the meta
		wantBlobs(t, db, "brought back", blobs, data)
	}
}

func TestASweepBesideWritersAndReaders(t *testing.T) {
	db := open(t, "data", eager(vfs.NewMem()))
	defer closeDB(t, db)
	done := make(chan struct{})
	var sweeping, working sync.WaitGroup
	sweeping.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				if _, err := db.SweepLog(); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	for w := range uint64(3) {
		working.Go(func() {
			random := rand.New(rand.NewPCG(w, 9))
			data := noise(2*mib + int(w))
			var own []store.Blob
			for range 20 {
				blob := stage(t, db, data[:1+random.IntN(len(data))])
				own = append(own, blob)
				at := random.IntN(len(own))
				read := own[at]
				var r io.ReadCloser
				switch random.IntN(3) {
				case 0:
					r = db.OpenBlob(1, "a", read)
				case 1:
					r = db.Snapshot().OpenBlob(1, "a", read)
				case 2: // it is deleted, and still held
					r = db.Snapshot().OpenBlob(1, "a", read)
					discard(t, db, read)
					own = append(own[:at], own[at+1:]...)
				}
				if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, data[:read.Size]) {
					t.Errorf("a blob of %d bytes is read as %d, %v", read.Size, len(got), err)
				}
				if err := r.Close(); err != nil {
					t.Error(err)
				}
			}
			discard(t, db, own...)
		})
	}
	working.Wait()
	close(done)
	sweeping.Wait()
	sweepLog(t, db)
	if n := db.LogBytes(); n > bounded(0) {
		t.Errorf("%d bytes are left of nothing", n)
	}
}
