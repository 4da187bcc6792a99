package store

import (
	"encoding/binary"
	"encoding/hex"

	"github.com/cespare/xxhash/v2"

	"github.com/pheromone-run/pheromone/spec"
)

// RangeHash is the hash of what a shard holds.
type RangeHash [16]byte

func (h RangeHash) String() string { return hex.EncodeToString(h[:]) }

// HashRange hashes all keys and values of shard that its replicas have in common.
// Replicas with the same Applied in their meta, which is returned beside the
// hash, have the same hash. What differs between sound replicas is left out: the
// meta itself (rejected entries move it without a trace), and blobs that are
// staged, which reach replicas outside of the log.
//
// It guards against bugs and damage, not against an attacker: two independently
// seeded 64-bit hashes make a chance match unlikely enough.
func (s *Snapshot) HashRange(shard spec.ShardID) (RangeHash, ShardMeta, error) {
	meta, err := s.Meta(shard)
	if err != nil {
		return RangeHash{}, ShardMeta{}, err
	}
	staged, err := stagedBlobs(s, shard)
	if err != nil {
		return RangeHash{}, ShardMeta{}, err
	}
	low, high := xxhash.New(), xxhash.NewWithSeed(1)
	var frame [2 * binary.MaxVarintLen64]byte
	lower, upper := ShardRange(shard)
	err = s.Scan(lower, upper, func(key, value []byte) bool {
		if differsPerReplica(key, staged) {
			return true
		}
		lengths := binary.AppendUvarint(binary.AppendUvarint(frame[:0], uint64(len(key))), uint64(len(value)))
		for _, h := range [...]*xxhash.Digest{low, high} {
			_, _ = h.Write(lengths)
			_, _ = h.Write(key[4:]) // without the shard
			_, _ = h.Write(value)
		}
		return true
	})
	if err != nil {
		return RangeHash{}, ShardMeta{}, err
	}
	var hash RangeHash
	binary.BigEndian.PutUint64(hash[:], low.Sum64())
	binary.BigEndian.PutUint64(hash[8:], high.Sum64())
	return hash, meta, nil
}

// HashRange is Snapshot.HashRange as of now.
func (db *DB) HashRange(shard spec.ShardID) (RangeHash, ShardMeta, error) {
	s := db.Snapshot()
	defer s.Close()
	return s.HashRange(shard)
}

// stagedBlob is a blob as the tables name it: the app and the id, in the order of
// their keys.
type stagedBlob struct {
	app spec.AppName
	id  [16]byte
}

func stagedBlobs(r Reader, shard spec.ShardID) (map[stagedBlob]struct{}, error) {
	staged := make(map[stagedBlob]struct{})
	err := scanStaged(r, shard, func(app spec.AppName, id [16]byte) { staged[stagedBlob{app, id}] = struct{}{} })
	return staged, err
}

func differsPerReplica(key []byte, staged map[stagedBlob]struct{}) bool {
	if len(key) < 5 {
		return false
	}
	switch t := table(key[4]); t {
	case tableMeta, tableRestoring, tableStaged:
		return true
	case tableBlobChunk:
		app, id, err := blobOf(key, t)
		_, ok := staged[stagedBlob{app, id}]
		return err == nil && ok
	}
	return false
}
