package store

import (
	"encoding/binary"
	"encoding/hex"
	"errors"

	"github.com/cespare/xxhash/v2"

	"github.com/pheromone-run/pheromone/spec"
)

// RangeHash is the hash of what a shard holds.
type RangeHash [16]byte

func (h RangeHash) String() string { return hex.EncodeToString(h[:]) }

// HashRange hashes all keys and values of shard that the raft log decides.
// Replicas with the same Applied in their meta, which is returned beside the
// hash, have the same hash. What may differ between sound replicas is left out:
// the meta itself (rejected entries move it without a trace), and what comes to
// replicas outside of the log: blobs that are staged, and the chunks of those that
// entries have adopted, which a replica may lack for a while. HashBlobs is over those.
//
// It guards against bugs and damage, not against an attacker: two independently
// seeded 64-bit hashes make a chance match unlikely enough.
func (s *Snapshot) HashRange(shard spec.ShardID) (RangeHash, ShardMeta, error) {
	meta, err := s.Meta(shard)
	if err != nil {
		return RangeHash{}, ShardMeta{}, err
	}
	h := newRangeHasher()
	lower, upper := ShardRange(shard)
	for lower != nil {
		var skip []byte
		var fault error
		err := s.Scan(lower, upper, func(key, value []byte) bool {
			if skip, fault = s.outsideOfLog(shard, key); skip != nil || fault != nil {
				return false
			}
			h.add(key, value)
			return true
		})
		if err := errors.Join(err, fault); err != nil {
			return RangeHash{}, ShardMeta{}, err
		}
		lower = skip
	}
	return h.sum(), meta, nil
}

// outsideOfLog returns nil if a key and its value are decided by the log, else
// where to go on behind it.
func (s *Snapshot) outsideOfLog(shard spec.ShardID, key []byte) (next []byte, err error) {
	switch t := table(key[4]); t {
	case tableMeta, tableRestoring, tableBlobHere, tableStaged:
		_, next = Bounds(appendTable(nil, shard, t))
		return next, nil
	case tableBlobChunk:
		name, err := blobOf(key, t)
		if err != nil {
			return nil, nil // whatever it is, replicas have it in common
		}
		for _, at := range [...][]byte{
			AppendBlobKey(nil, shard, name.App, name.ID), appendBlobHereKey(nil, shard, name.App, name.ID), AppendStagedKey(nil, shard, name.App, name.ID),
		} {
			there, err := s.Has(at)
			if err != nil {
				return nil, err
			}
			if there {
				_, next = Bounds(appendBlobPrefix(nil, shard, name.App, name.ID))
				return next, nil
			}
		}
	}
	return nil, nil
}

// HashBlobs hashes the chunks of all blobs that entries have adopted, and counts
// those of them that this replica lacks. Replicas with the same HashRange that lack
// none have the same.
func (s *Snapshot) HashBlobs(shard spec.ShardID) (hash RangeHash, lacking int, err error) {
	h := newRangeHasher()
	lower, upper := Bounds(appendTable(nil, shard, tableBlob))
	var fault error
	err = s.Scan(lower, upper, func(key, value []byte) bool {
		var l LackingBlob
		if l, fault = decodeAdopted(key, value); fault != nil {
			return false
		}
		h.add(key, value)
		var there bool
		if there, fault = hasWhole(s, shard, BlobName{l.App, l.Blob.ID}); fault != nil {
			return false
		}
		if !there {
			lacking++
			return true
		}
		fault = s.eachChunk(shard, BlobName{l.App, l.Blob.ID}, func(key, value []byte) error {
			h.add(key, value)
			return nil
		})
		return fault == nil
	})
	return h.sum(), lacking, errors.Join(err, fault)
}

// rangeHasher hashes keys and values.
type rangeHasher struct{ low, high *xxhash.Digest }

func newRangeHasher() *rangeHasher {
	return &rangeHasher{xxhash.New(), xxhash.NewWithSeed(1)}
}

func (r *rangeHasher) add(key, value []byte) {
	var frame [2 * binary.MaxVarintLen64]byte
	lengths := binary.AppendUvarint(binary.AppendUvarint(frame[:0], uint64(len(key))), uint64(len(value)))
	for _, h := range [...]*xxhash.Digest{r.low, r.high} {
		_, _ = h.Write(lengths)
		_, _ = h.Write(key[4:]) // without the shard
		_, _ = h.Write(value)
	}
}

func (r *rangeHasher) sum() (hash RangeHash) {
	binary.BigEndian.PutUint64(hash[:], r.low.Sum64())
	binary.BigEndian.PutUint64(hash[8:], r.high.Sum64())
	return hash
}

// HashRange is Snapshot.HashRange as of now.
func (db *DB) HashRange(shard spec.ShardID) (RangeHash, ShardMeta, error) {
	s := db.Snapshot()
	defer s.Close()
	return s.HashRange(shard)
}

// HashBlobs is Snapshot.HashBlobs as of now.
func (db *DB) HashBlobs(shard spec.ShardID) (hash RangeHash, lacking int, err error) {
	s := db.Snapshot()
	defer s.Close()
	return s.HashBlobs(shard)
}
