package store

import (
	"errors"
	"fmt"
	"io"

	"github.com/cockroachdb/pebble/v2"

	"github.com/pheromone-run/pheromone/spec"
)

// ErrNotFound says that there is no such key.
var ErrNotFound = errors.New("store: not found")

// ErrRestoring says that a shard's range is half restored from a snapshot.
var ErrRestoring = errors.New("store: the shard is half restored from a snapshot")

// Reader reads keys: a DB as of now, call by call, or a Snapshot.
type Reader interface {
	// Get returns a copy of the value of key, ErrNotFound if there is none.
	Get(key []byte) ([]byte, error)
	// GetTo appends the value of key to dst.
	GetTo(dst, key []byte) ([]byte, error)
	// Has says whether key is there.
	Has(key []byte) (bool, error)
	// Scan calls fn for each key in [lower, upper), in order, until fn returns
	// false. The slices are valid until fn returns. A nil upper means no bound.
	Scan(lower, upper []byte, fn func(key, value []byte) (more bool)) error
	// ScanReverse is Scan from the last key to the first.
	ScanReverse(lower, upper []byte, fn func(key, value []byte) (more bool)) error
}

// Snapshot is the store as it was at one point between two batches. It has to be
// closed; while it is open, what is deleted keeps its place on disk.
type Snapshot struct {
	s     *pebble.Snapshot
	db    *DB
	epoch uint64
}

// Snapshot returns the store as it is now.
func (db *DB) Snapshot() *Snapshot {
	epoch := db.epochs.enter() // before there is anything to read from it
	return &Snapshot{db.pebble.NewSnapshot(), db, epoch}
}

// Close releases the snapshot.
func (s *Snapshot) Close() error {
	err := s.s.Close()
	if err == nil {
		s.db.epochs.leave(s.epoch)
	}
	return err
}

// Meta is DB.Meta as of the snapshot.
func (s *Snapshot) Meta(shard spec.ShardID) (ShardMeta, error) { return readMeta(s, shard) }

func (db *DB) Get(key []byte) ([]byte, error)        { return getTo(db.pebble, nil, key) }
func (s *Snapshot) Get(key []byte) ([]byte, error)   { return getTo(s.s, nil, key) }
func (db *DB) GetTo(dst, key []byte) ([]byte, error) { return getTo(db.pebble, dst, key) }

func (s *Snapshot) GetTo(dst, key []byte) ([]byte, error) { return getTo(s.s, dst, key) }

func (db *DB) Has(key []byte) (bool, error)      { return has(db.pebble, key) }
func (s *Snapshot) Has(key []byte) (bool, error) { return has(s.s, key) }

func (db *DB) Scan(lower, upper []byte, fn func(key, value []byte) bool) error {
	return scan(db.pebble, lower, upper, fn)
}

func (s *Snapshot) Scan(lower, upper []byte, fn func(key, value []byte) bool) error {
	return scan(s.s, lower, upper, fn)
}

func (db *DB) ScanReverse(lower, upper []byte, fn func(key, value []byte) bool) error {
	return scanReverse(db.pebble, lower, upper, fn)
}

func (s *Snapshot) ScanReverse(lower, upper []byte, fn func(key, value []byte) bool) error {
	return scanReverse(s.s, lower, upper, fn)
}

func getTo(r pebble.Reader, dst, key []byte) ([]byte, error) {
	value, closer, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return dst, ErrNotFound
	}
	if err != nil {
		return dst, fmt.Errorf("store: read key %x: %w", clip(key), err)
	}
	dst = append(dst, value...)
	if err := closer.Close(); err != nil {
		return dst, fmt.Errorf("store: read key %x: %w", clip(key), err)
	}
	return dst, nil
}

func has(r pebble.Reader, key []byte) (bool, error) {
	_, closer, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("store: read key %x: %w", clip(key), err)
	}
	return true, closer.Close()
}

func scan(r pebble.Reader, lower, upper []byte, fn func(key, value []byte) bool) error {
	return iterate(r, lower, upper, (*pebble.Iterator).First, (*pebble.Iterator).Next, fn)
}

func scanReverse(r pebble.Reader, lower, upper []byte, fn func(key, value []byte) bool) error {
	return iterate(r, lower, upper, (*pebble.Iterator).Last, (*pebble.Iterator).Prev, fn)
}

func iterate(r pebble.Reader, lower, upper []byte, first, next func(*pebble.Iterator) bool, fn func(key, value []byte) bool) (err error) {
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return fmt.Errorf("store: scan from %x: %w", clip(lower), err)
	}
	defer func(closer io.Closer) {
		if closeErr := closer.Close(); closeErr != nil && err == nil {
			err = fmt.Errorf("store: scan from %x: %w", clip(lower), closeErr)
		}
	}(it)
	for ok := first(it); ok; ok = next(it) {
		value, err := it.ValueAndErr()
		if err != nil {
			return fmt.Errorf("store: scan from %x: %w", clip(lower), err)
		}
		if !fn(it.Key(), value) {
			return nil
		}
	}
	if err := it.Error(); err != nil {
		return fmt.Errorf("store: scan from %x: %w", clip(lower), err)
	}
	return nil
}

func readMeta(r Reader, shard spec.ShardID) (ShardMeta, error) {
	restoring, err := r.Has(appendRestoringKey(nil, shard))
	if err != nil {
		return ShardMeta{}, err
	}
	if restoring {
		return ShardMeta{}, fmt.Errorf("shard %d: %w", shard, ErrRestoring)
	}
	value, err := r.Get(appendMetaKey(nil, shard))
	if errors.Is(err, ErrNotFound) {
		return ShardMeta{}, nil
	}
	if err != nil {
		return ShardMeta{}, err
	}
	return DecodeShardMeta(value)
}
