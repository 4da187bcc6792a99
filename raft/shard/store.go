package shard

import (
	"encoding/binary"
	"errors"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// getValue returns nil if there is no such key.
func getValue(db *store.DB, key []byte) ([]byte, error) {
	value, err := db.Get(key)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return value, err
}

func putValue(db *store.DB, key, value []byte) error {
	b := db.NewBatch()
	b.Set(key, value)
	return db.Commit(b, true)
}

// anyApplied finds a shard that has keys in the store.
func anyApplied(db *store.DB) (shard spec.ShardID, found bool, err error) {
	err = db.Scan(store.AppendShardPrefix(nil, store.NodeShard+1), nil, func(key, _ []byte) bool {
		shard, found = spec.ShardID(binary.BigEndian.Uint32(key)), true
		return false
	})
	return shard, found, err
}
