package store

import (
	"context"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store/bytelog"
)

// SweepLog sweeps the log of large bytes once, and tells how many of its segments
// snapshots still need.
func (db *DB) SweepLog() (doomed int, err error) {
	result, err := db.sweepLog(context.Background())
	return result.doomed, err
}

// LogBytes is how much of the disk the log of large bytes takes up.
func (db *DB) LogBytes() int64 { return db.bytes.Bytes() }

// LogSegments is how many of its files take no more records.
func (db *DB) LogSegments() int { return len(db.bytes.Sealed()) }

// StoredChunk returns a chunk of a blob as it is stored.
func (db *DB) StoredChunk(shard spec.ShardID, app spec.AppName, blob Blob, chunk uint32) ([]byte, error) {
	c := chunks{db: db, from: db, shard: shard, name: BlobName{app, blob.ID}}
	return c.read(nil, chunk)
}

// StoreAsBefore stores a blob that is here as versions before the log of bytes did.
func (db *DB) StoreAsBefore(shard spec.ShardID, app spec.AppName, blob Blob) error {
	var b Batch
	for chunk := range blob.Chunks {
		stored, err := db.StoredChunk(shard, app, blob, chunk)
		if err != nil {
			return err
		}
		b.Set(AppendBlobChunkKey(nil, shard, app, blob.ID, chunk), stored)
	}
	b.Set(appendBlobHereKey(nil, shard, app, blob.ID), []byte{hereWhole})
	return db.Commit(&b, true)
}

// HereKey is the key that says where the chunks of a blob are.
func HereKey(shard spec.ShardID, app spec.AppName, blob Blob) []byte {
	return appendBlobHereKey(nil, shard, app, blob.ID)
}

// AppendPlaces and DecodePlaces are the record under HereKey.
func AppendPlaces(places []bytelog.Place) []byte { return appendLogged(nil, places) }

func DecodePlaces(value []byte) (places []bytelog.Place, logged bool, err error) {
	return decodeLogged(value)
}
