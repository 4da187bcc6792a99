package store_test

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

func open(t testing.TB, dir string, o store.Options) *store.DB {
	t.Helper()
	if o.Node == "" {
		o.Node = "n1"
	}
	if o.Fatal == nil {
		o.Fatal = func(err error) { t.Errorf("the store failed: %v", err) }
	}
	db, err := store.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	return db
}

// inMemory opens a store in memory, closed at the end of the test.
func inMemory(t testing.TB) *store.DB {
	t.Helper()
	db := open(t, "data", store.Options{FS: vfs.NewMem()})
	t.Cleanup(func() { closeDB(t, db) })
	return db
}

func closeDB(t testing.TB, db *store.DB) {
	t.Helper()
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}

func TestAStoreIsTheSameAfterItWasClosed(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "deep", "data")
	db := open(t, dir, store.Options{})
	first := db.Identity()
	if first.Node != "n1" || first.Format != 1 || first.Created.IsZero() {
		t.Errorf("identity %+v", first)
	}
	meta := store.ShardMeta{Applied: 5, Epoch: 2, Seq: 1}
	if err := db.Apply(3, nil, meta); err != nil {
		t.Fatal(err)
	}
	closeDB(t, db)

	db = open(t, dir, store.Options{})
	defer closeDB(t, db)
	if again := db.Identity(); again != first {
		t.Errorf("identity %+v, was %+v", again, first)
	}
	if got, err := db.Meta(3); err != nil || got != meta {
		t.Errorf("meta %+v, %v, want %+v", got, err, meta)
	}
}

func TestFoldersThatAreNotThisNodesStoreAreRefused(t *testing.T) {
	made := func(t *testing.T, dir string) { closeDB(t, open(t, dir, store.Options{})) }
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T, dir string)
		node    string
		code    spec.Code
		says    string
	}{
		{"a folder of somebody else", func(t *testing.T, dir string) { write(t, dir, "letters.txt", "dear") }, "n1", spec.CodeInvalid, `"letters.txt"`},
		{"a newer format", func(t *testing.T, dir string) {
			made(t, dir)
			write(t, dir, "pheromone.json", `{"format": 2, "node": "n1"}`)
		}, "n1", spec.CodeInvalid, "format 2"},
		{"no format at all", func(t *testing.T, dir string) {
			made(t, dir)
			write(t, dir, "pheromone.json", `{}`)
		}, "n1", spec.CodeInvalid, "format 0"},
		{"a damaged identity", func(t *testing.T, dir string) {
			made(t, dir)
			write(t, dir, "pheromone.json", `{"form`)
		}, "n1", spec.CodeInternal, "damaged"},
		{"another node's store", made, "n2", spec.CodeConflict, `belongs to node "n1"`},
		{"no name", made, "", spec.CodeInvalid, "no name"},
		{"the database gone", func(t *testing.T, dir string) {
			made(t, dir)
			if err := os.RemoveAll(filepath.Join(dir, "pebble")); err != nil {
				t.Fatal(err)
			}
		}, "n1", spec.CodeInternal, "damaged"},
		{"a manifest of the database damaged", func(t *testing.T, dir string) {
			made(t, dir)
			damage(t, dir, "MANIFEST-*")
		}, "n1", spec.CodeInternal, "damaged"},
		{"a table of the database gone", func(t *testing.T, dir string) {
			made(t, dir)
			fill(t, dir)
			remove(t, dir, "*.sst")
		}, "n1", spec.CodeInternal, "damaged"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			c.prepare(t, dir)
			db, err := store.Open(dir, store.Options{Node: c.node})
			if err == nil {
				closeDB(t, db)
				t.Fatal("it was opened")
			}
			if spec.CodeOf(err) != c.code || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v, want %s with %q", spec.CodeOf(err), err, c.code, c.says)
			}
		})
	}
}

func TestAStoreInUseIsRefusedAndFreeOnceClosed(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir, store.Options{})
	_, err := store.Open(dir, store.Options{Node: "n1"})
	if spec.CodeOf(err) != spec.CodeConflict || !strings.Contains(err.Error(), "another process uses") {
		t.Errorf("error %v", err)
	}
	closeDB(t, db)
	closeDB(t, open(t, dir, store.Options{}))
}

func TestAFirstStartThatWasCutShortIsTakenUpAgain(t *testing.T) {
	fs := vfs.NewCrashableMem()
	db := open(t, "data", store.Options{FS: fs})
	closeDB(t, db)
	if err := fs.Rename("data/pheromone.json", "data/pheromone.json.new"); err != nil {
		t.Fatal(err)
	}
	closeDB(t, open(t, "data", store.Options{FS: fs}))
	if _, err := fs.Stat("data/pheromone.json"); err != nil {
		t.Error(err)
	}
}

func TestPebbleTellsWhatItDoesInTheDebugLog(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug}))
	db := open(t, "data", store.Options{FS: vfs.NewMem(), Log: log})
	closeDB(t, db)
	if !strings.Contains(out.String(), "pebble: ") {
		t.Errorf("nothing of pebble in the log: %s", out.String())
	}
}

func TestAFullDiskIsNoticedAndForgottenAgain(t *testing.T) {
	fs := vfs.NewMem()
	db := open(t, "data", store.Options{FS: fs, ReserveBytes: 1 << 20})
	if err := db.Writable(); err != nil {
		t.Errorf("in memory there is always room: %v", err)
	}
	closeDB(t, db)

	fs.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 1 << 19, TotalBytes: 1 << 30})
	db = open(t, "data", store.Options{FS: fs, ReserveBytes: 1 << 20})
	if err := db.Writable(); spec.CodeOf(err) != spec.CodeUnavailable || !strings.Contains(err.Error(), "disk is full") {
		t.Errorf("error %v", err)
	}
	closeDB(t, db)

	fs.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 1 << 21, TotalBytes: 1 << 30})
	db = open(t, "data", store.Options{FS: fs, ReserveBytes: 1 << 20})
	defer closeDB(t, db)
	if err := db.Writable(); err != nil {
		t.Error(err)
	}
}

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// fill writes enough for a table on disk.
func fill(t *testing.T, dir string) {
	t.Helper()
	db := open(t, dir, store.Options{MemTableBytes: 64 << 10})
	defer closeDB(t, db)
	for i := range uint64(64) {
		b := db.NewBatch()
		b.Set(store.AppendEventKey(nil, 1, spec.Revision(i)), bytes.Repeat([]byte{byte(i)}, 8<<10))
		if err := db.Commit(b, true); err != nil {
			t.Fatal(err)
		}
	}
}

func files(t *testing.T, dir, pattern string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "pebble", pattern))
	if err != nil || len(found) == 0 {
		t.Fatal("no file to damage", errors.Join(err))
	}
	return found
}

func damage(t *testing.T, dir, pattern string) {
	t.Helper()
	for _, file := range files(t, dir, pattern) {
		if err := os.WriteFile(file, []byte("this was a manifest once"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func remove(t *testing.T, dir, pattern string) {
	t.Helper()
	for _, file := range files(t, dir, pattern) {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
}

func TestAStoreTellsWhenItLastReachedTheDisk(t *testing.T) {
	db := inMemory(t)
	before := db.Synced()
	if before.IsZero() || time.Since(before) > time.Minute {
		t.Errorf("opened, and last synced at %v", before)
	}
	if err := db.Sync(); err != nil {
		t.Fatal(err)
	}
	if after := db.Synced(); !after.After(before) {
		t.Errorf("synced at %v, after %v", after, before)
	}
}
