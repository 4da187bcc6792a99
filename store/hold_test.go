package store_test

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pheromone-run/pheromone/store"
)

// begun is a reader of a blob from a snapshot that has read its first chunk when
// the blob is deleted.
func begun(t *testing.T, db *store.DB, data []byte) (io.ReadCloser, []byte) {
	t.Helper()
	blob := stage(t, db, data)
	r := db.Snapshot().OpenBlob(1, "a", blob)
	head := make([]byte, mib)
	if _, err := io.ReadFull(r, head); err != nil {
		t.Fatal(err)
	}
	if err := db.DiscardBlob(1, "a", blob); err != nil {
		t.Fatal(err)
	}
	return r, head
}

func snapshots(db *store.DB) int { return db.Metrics().Snapshots.Count }

func TestABlobIsReadFromItsSnapshotThoughItIsDeleted(t *testing.T) {
	db := inMemory(t)
	data := noise(3*mib + 5)
	r, head := begun(t, db, data)
	rest, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(append(head, rest...), data) {
		t.Errorf("read %d bytes, %v", len(head)+len(rest), err)
	}
	if n := snapshots(db); n != 0 {
		t.Errorf("%d snapshots are held by who has read all", n)
	}
	r, _ = begun(t, db, data)
	if n := snapshots(db); n != 1 {
		t.Errorf("%d snapshots are held by one reader", n)
	}
	if err := errors.Join(r.Close(), r.Close()); err != nil {
		t.Error(err)
	}
	if n := snapshots(db); n != 0 {
		t.Errorf("%d snapshots are held by who has given up", n)
	}
}

func TestASlowReaderLosesItsSnapshot(t *testing.T) {
	db := open(t, "data", store.Options{FS: vfs.NewMem(), HoldReads: time.Millisecond})
	defer closeDB(t, db)
	there := stage(t, db, noise(3*mib))
	slow := db.Snapshot().OpenBlob(1, "a", there)
	gone, head := begun(t, db, noise(3*mib))
	for deadline := time.Now().Add(20 * time.Second); snapshots(db) > 0; {
		if time.Now().After(deadline) {
			t.Fatal("the snapshots are never let go of")
		}
	}
	if rest, err := io.ReadAll(gone); err == nil {
		t.Errorf("what is deleted was read: %d bytes", len(head)+len(rest))
	}
	if data, err := io.ReadAll(slow); err != nil || !bytes.Equal(data, noise(3*mib)) {
		t.Errorf("what is there still: %d bytes, %v", len(data), err)
	}
}

func TestAStoreClosesUnderItsReaders(t *testing.T) {
	db := open(t, "data", store.Options{FS: vfs.NewMem()})
	r, _ := begun(t, db, noise(3*mib))
	closeDB(t, db)
	if _, err := io.ReadAll(r); err == nil {
		t.Error("a closed store is read to the end")
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
}
