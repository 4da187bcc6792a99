package store

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pheromone-run/pheromone/spec"
)

const (
	// tableLeast is the size from which on a blob whose size is known is written as
	// tables of its own. Chunks in batches are written to the log, again when their
	// memtable is flushed, and when they are compacted; a table is written once. It
	// costs two or three syncs, which smaller blobs don't pay for.
	tableLeast = 8 << 20
	// tableMost bounds one table.
	tableMost = 64 << 20
	// tableSyncEvery has the disk begin with a table before it is complete.
	tableSyncEvery = 1 << 20

	tablePrefix = "chunks-"
	tableSuffix = ".making"
)

// chunkTable is a table in the making: chunks of one blob that become part of the
// store at once, with their file.
type chunkTable struct {
	path   string
	writer *sstable.Writer
	bytes  int
}

// add writes a chunk to the table, which is begun if need be.
func (w *chunkWriter) add(chunk uint32, stored []byte) error {
	if w.table == nil {
		if err := w.beginTable(chunk); err != nil {
			return w.db.tableFault(err)
		}
	}
	key := AppendBlobChunkKey(nil, w.shard, w.name.App, w.name.ID, chunk)
	if err := w.table.writer.Set(key, stored); err != nil {
		return w.db.tableFault(err)
	}
	if w.table.bytes += len(stored); w.table.bytes < tableMost {
		return nil
	}
	return w.endTable()
}

func (w *chunkWriter) beginTable(chunk uint32) error {
	name := fmt.Sprintf("%s%s-%d%s", tablePrefix, hex.EncodeToString(w.name.ID[:]), chunk, tableSuffix)
	path := w.db.fs.PathJoin(w.db.tables, name)
	file, err := w.db.fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	file = vfs.NewSyncingFile(file, vfs.SyncingFileOptions{BytesPerSync: tableSyncEvery})
	w.table = &chunkTable{path: path, writer: sstable.NewWriter(objstorageprovider.NewFileWritable(file), sstable.WriterOptions{
		Comparer: pebble.DefaultComparer, TableFormat: w.db.pebble.TableFormat(), Compression: sstable.NoCompression,
	})}
	return nil
}

// endTable makes the table a part of the store, durably. What was written before
// is made durable first: that chunks are arriving, and whose they are. By it a sweep
// finds what a crash leaves between here and the entry that adopts the blob. Chunks
// of an app that was deleted meanwhile have no such mark, and stay outside.
func (w *chunkWriter) endTable() (err error) {
	t := w.table
	if t == nil {
		return nil
	}
	w.table = nil
	defer func() { _ = w.db.fs.Remove(t.path) }()
	if err := t.writer.Close(); err != nil {
		return w.db.tableFault(err)
	}
	if err := w.db.Sync(); err != nil {
		return err
	}
	w.db.blobs.Lock() // nobody deletes the app between the look and the ingest
	defer w.db.blobs.Unlock()
	if err := w.arriving(); err != nil {
		return err
	}
	defer w.db.recoverWrite(&err)
	if err := w.db.pebble.Ingest(context.Background(), []string{t.path}); err != nil {
		return w.db.tableFault(err)
	}
	return w.db.Err()
}

// dropTable gives up a table in the making.
func (w *chunkWriter) dropTable() {
	if t := w.table; t != nil {
		w.table = nil
		_ = t.writer.Close() // nothing of it is wanted
		_ = w.db.fs.Remove(t.path)
	}
}

// tableFault is why a table could not be made. The store goes on without it.
func (db *DB) tableFault(err error) error {
	if failed := db.Err(); failed != nil {
		return failed
	}
	if errors.Is(err, syscall.ENOSPC) {
		db.disk.metEnd(time.Now())
	}
	return spec.Errorf(spec.CodeUnavailable, "store: write the bytes of a blob: %w", err)
}

// sweepTables removes what a crash has left of tables in the making.
func sweepTables(fs vfs.FS, dir string) error {
	names, err := fs.List(dir)
	if err != nil {
		return fmt.Errorf("store: list %s: %w", dir, err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, tablePrefix) && strings.HasSuffix(name, tableSuffix) {
			if err := fs.Remove(fs.PathJoin(dir, name)); err != nil {
				return fmt.Errorf("store: remove %s: %w", name, err)
			}
		}
	}
	return nil
}
