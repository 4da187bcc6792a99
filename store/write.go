package store

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/pheromone-run/pheromone/spec"
)

// Apply applies the bodies of raft entries, in order, and meta, as one batch that
// is not synced: what survives a crash is a prefix of the calls, and the shard's
// meta says which. The bodies are copied and left as they are.
//
// An error means that nothing was applied and the replica can't go on: its caller
// stops the node.
func (db *DB) Apply(shard spec.ShardID, bodies [][]byte, meta ShardMeta) error {
	size := bodyHeaderBytes + 64
	for _, body := range bodies {
		if err := CheckBody(shard, body); err != nil {
			return err
		}
		size += len(body)
	}
	merged := db.pebble.NewBatchWithSize(size)
	defer merged.Close()
	for _, body := range bodies {
		// Committed itself, the batch would write its sequence number into the
		// entry's bytes; applied to another one it is only read.
		var entry pebble.Batch
		if err := entry.SetRepr(body); err != nil {
			return fmt.Errorf("store: apply to shard %d: %w", shard, err)
		}
		if err := merged.Apply(&entry, nil); err != nil {
			return fmt.Errorf("store: apply to shard %d: %w", shard, err)
		}
	}
	var key, value [64]byte
	if err := merged.Set(appendMetaKey(key[:0], shard), AppendShardMeta(value[:0], &meta), nil); err != nil {
		return fmt.Errorf("store: apply to shard %d: %w", shard, err)
	}
	db.blobs.RLock()
	defer db.blobs.RUnlock()
	return db.commit(merged, pebble.NoSync)
}

// Commit applies b, and with sync waits until it and everything before it is on
// disk. It is for what belongs to the node alone: NodeShard, staged blobs, what a
// shard that is gone has left.
func (db *DB) Commit(b *Batch, sync bool) error {
	if b.Empty() {
		if sync {
			return db.Sync()
		}
		return db.Err()
	}
	o := pebble.NoSync
	if sync {
		o = pebble.Sync
	}
	return db.commit(&b.b, o)
}

// Sync waits until everything applied before is on disk.
func (db *DB) Sync() (err error) {
	if err := db.Err(); err != nil {
		return err
	}
	defer db.recoverWrite(&err)
	if err := db.pebble.LogData(nil, pebble.Sync); err != nil {
		db.fail(fmt.Errorf("sync: %w", err))
	}
	return db.Err()
}

func (db *DB) commit(b *pebble.Batch, o *pebble.WriteOptions) (err error) {
	if err := db.Err(); err != nil {
		return err
	}
	defer db.recoverWrite(&err)
	if err := db.pebble.Apply(b, o); err != nil {
		db.fail(fmt.Errorf("write: %w", err))
	}
	// Pebble reports a write that failed as fatal and then returns without an error.
	return db.Err()
}

// recoverWrite turns the panic with which pebble meets a log it can't write into
// a failed store.
func (db *DB) recoverWrite(err *error) {
	if fault := recover(); fault != nil {
		db.fail(fmt.Errorf("write: %v", fault))
		*err = db.Err()
	}
}

// Meta returns the state machine's record of shard: the zero ShardMeta if nothing
// was applied yet, ErrRestoring if the shard is half restored from a snapshot and
// has to be restored again.
func (db *DB) Meta(shard spec.ShardID) (ShardMeta, error) { return readMeta(db, shard) }

// DropShard deletes all keys of shard, synced: a replica that was moved away.
func (db *DB) DropShard(shard spec.ShardID) error {
	return db.DropShardWith(shard, new(Batch))
}

// DropShardWith is DropShard, with more writes at once.
func (db *DB) DropShardWith(shard spec.ShardID, b *Batch) error {
	b.DeleteRange(ShardRange(shard))
	db.blobs.Lock() // bytes of blobs that come in just now find that they are not wanted
	err := db.Commit(b, false)
	db.blobs.Unlock()
	return errors.Join(err, db.Sync())
}
