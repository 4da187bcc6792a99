package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/pheromone-run/pheromone/spec"
)

// Batch collects writes that are applied whole or not at all. The zero Batch is
// empty and ready. Of writes to the same key the last one counts. It is not safe
// for concurrent use, and must not be copied once used.
type Batch struct{ b pebble.Batch }

// NewBatch returns an empty batch.
func (db *DB) NewBatch() *Batch { return new(Batch) }

// Set stores value under key; both are copied.
func (b *Batch) Set(key, value []byte) {
	if err := b.b.Set(key, value, nil); err != nil {
		panic("store: " + err.Error()) // a batch without an index has no error to give
	}
}

// Delete removes key.
func (b *Batch) Delete(key []byte) {
	if err := b.b.Delete(key, nil); err != nil {
		panic("store: " + err.Error())
	}
}

// DeleteRange removes all keys in [lower, upper), of which there are none if
// lower is not below upper.
func (b *Batch) DeleteRange(lower, upper []byte) {
	if bytes.Compare(lower, upper) >= 0 {
		return
	}
	if err := b.b.DeleteRange(lower, upper, nil); err != nil {
		panic("store: " + err.Error())
	}
}

// Empty says whether there is nothing in the batch.
func (b *Batch) Empty() bool { return b.b.Empty() }

// Len returns the number of bytes of Repr.
func (b *Batch) Len() int { return b.b.Len() }

// Repr returns the batch as bytes, the body of a raft entry, which Apply takes.
// They are the batch's own: who keeps them must not Reset, change or Commit the
// batch, or has to use AppendRepr.
func (b *Batch) Repr() []byte { return b.b.Repr() }

// AppendRepr appends a copy of the batch as bytes.
func (b *Batch) AppendRepr(dst []byte) []byte { return append(dst, b.b.Repr()...) }

// Reset empties the batch for another use.
func (b *Batch) Reset() { b.b.Reset() }

// CheckBody returns an error if body is not a batch all of whose writes lie in
// shard. A leader asks it before it proposes, so that no entry gets into the log
// that no replica can apply.
func CheckBody(shard spec.ShardID, body []byte) error {
	if len(body) < bodyHeaderBytes {
		return fmt.Errorf("store: batch of %d bytes for shard %d: shorter than its header", len(body), shard)
	}
	var prefix [4]byte
	lower, upper := Bounds(AppendShardPrefix(prefix[:0], shard))
	want := binary.LittleEndian.Uint32(body[8:])
	ops := opReader(body[bodyHeaderBytes:])
	for n := uint32(0); ; n++ {
		if len(ops) == 0 {
			if n != want {
				return fmt.Errorf("store: batch for shard %d: %d writes, its header says %d", shard, n, want)
			}
			return nil
		}
		kind, key, value, err := ops.next()
		if err != nil {
			return fmt.Errorf("store: batch for shard %d: write %d: %w", shard, n, err)
		}
		if kind == pebble.InternalKeyKindRangeDelete {
			if bytes.Compare(key, lower) < 0 || bytes.Compare(key, value) >= 0 || bytes.Compare(value, upper) > 0 {
				return fmt.Errorf("store: batch for shard %d: write %d: deletes from %x to %x, not a range of the shard", shard, n, clip(key), clip(value))
			}
		} else if !keyInShard(key, shard) {
			return fmt.Errorf("store: batch for shard %d: write %d: key %x lies outside of the shard", shard, n, clip(key))
		}
	}
}

// clip bounds what of a key goes into a message.
func clip(key []byte) []byte { return key[:min(len(key), 64)] }

// bodyHeaderBytes is pebble's batch header: a sequence number of 8 bytes, unused
// here, and the number of writes in 4, little-endian.
const bodyHeaderBytes = 12

// opReader reads the writes of a batch. Pebble's own reader trusts the bytes to
// the point of reading beyond them.
type opReader []byte

var errTorn = errors.New("cut short")

func (r *opReader) next() (kind pebble.InternalKeyKind, key, value []byte, err error) {
	kind = pebble.InternalKeyKind((*r)[0])
	*r = (*r)[1:]
	switch kind {
	case pebble.InternalKeyKindDelete:
		key, err = r.bytes()
		return kind, key, nil, err
	case pebble.InternalKeyKindSet, pebble.InternalKeyKindRangeDelete:
		if key, err = r.bytes(); err != nil {
			return kind, nil, nil, err
		}
		value, err = r.bytes()
		return kind, key, value, err
	}
	return kind, nil, nil, fmt.Errorf("kind %d is neither a set nor a deletion", kind)
}

func (r *opReader) bytes() ([]byte, error) {
	n, size := binary.Uvarint(*r)
	if size <= 0 || n > uint64(len(*r)-size) {
		return nil, errTorn
	}
	b := (*r)[size : size+int(n)]
	*r = (*r)[size+int(n):]
	return b, nil
}
