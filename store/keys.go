package store

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"github.com/pheromone-run/pheromone/spec"
)

// table is the byte after the shard in a key. The values are part of the format
// on disk. Blobs come last, and what is known of them before their chunks, so that
// who scans a shard in order knows what bytes are before meeting them.
type table byte

const (
	tableMeta         table = 0x01
	tableRestoring    table = 0x02
	tableCounters     table = 0x03
	tableIncarnation  table = 0x04
	tableDeployed     table = 0x05
	tableObjects      table = 0x10
	tableHeld         table = 0x11
	tableHeldInput    table = 0x12
	tableSession      table = 0x20
	tableSessionIndex table = 0x21
	tableChild        table = 0x22
	tableTriggerState table = 0x30
	tableTriggerItem  table = 0x31
	tableTriggerSet   table = 0x32
	tablePending      table = 0x40
	tableHistory      table = 0x41
	tableTimer        table = 0x50
	tableOutbox       table = 0x60
	tableInbox        table = 0x61
	tableRequest      table = 0x70
	tableEvents       table = 0x80
	tableNode         table = 0x90
	tableBlob         table = 0xee
	tableBlobHere     table = 0xef
	tableStaged       table = 0xf0
	tableBlobRefs     table = 0xf1
	tableBlobChunk    table = 0xf2
)

// In the objects table a bucket's key-value objects come before the objects of
// its sessions; both together are the bucket's one contiguous range.
const (
	objectKV      byte = 0x01
	objectSession byte = 0x02
)

// A string part is escaped, so that parts order as their strings do and can't
// run together: a zero byte is written as 00 ff and the end of the part as 00 01.
const (
	escapedZero = 0xff
	partEnd     = 0x01
)

func appendTable(dst []byte, shard spec.ShardID, t table) []byte {
	return append(AppendShardPrefix(dst, shard), byte(t))
}

func appendApp(dst []byte, shard spec.ShardID, t table, app spec.AppName) []byte {
	return appendPart(appendTable(dst, shard, t), app)
}

func appendPart[S ~string](dst []byte, s S) []byte {
	return append(appendPartPrefix(dst, s), 0, partEnd)
}

// appendPartPrefix writes s without the end of the part: the prefix of all parts
// that begin with s.
func appendPartPrefix[S ~string](dst []byte, s S) []byte {
	if strings.IndexByte(string(s), 0) < 0 {
		return append(dst, s...)
	}
	for i := range len(s) {
		if s[i] == 0 {
			dst = append(dst, 0, escapedZero)
			continue
		}
		dst = append(dst, s[i])
	}
	return dst
}

func appendUint64(dst []byte, v uint64) []byte { return binary.BigEndian.AppendUint64(dst, v) }

// appendMicros flips the sign bit: times before 1970 order before later ones.
func appendMicros(dst []byte, t Micros) []byte { return appendUint64(dst, uint64(t)^1<<63) }

// MaxShard is the last number that a shard can have. The one after it is left
// out, so that every shard's range has an upper bound.
const MaxShard spec.ShardID = math.MaxUint32 - 1

// keyRoom is what a key gets that is made from nothing: more than most take, so that
// it does not grow part by part.
const keyRoom = 112

// AppendShardPrefix appends the prefix of all keys of shard. A number above
// MaxShard has no keys and is a fault of the program.
func AppendShardPrefix(dst []byte, shard spec.ShardID) []byte {
	if shard > MaxShard {
		panic(fmt.Sprintf("store: shard %d is above %d", shard, MaxShard))
	}
	if dst == nil {
		dst = make([]byte, 0, keyRoom)
	}
	return binary.BigEndian.AppendUint32(dst, uint32(shard))
}

// Bounds returns the range [lower, upper) of all keys that begin with prefix.
// lower is prefix itself, upper a new slice, nil if there is no such bound.
func Bounds(prefix []byte) (lower, upper []byte) {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] != math.MaxUint8 {
			upper = append(make([]byte, 0, i+1), prefix[:i+1]...)
			upper[i]++
			return prefix, upper
		}
	}
	return prefix, nil
}

// ShardRange returns the bounds of all keys of shard.
func ShardRange(shard spec.ShardID) (lower, upper []byte) {
	return Bounds(AppendShardPrefix(nil, shard))
}

// keyReader takes a key apart. The first fault sticks; err reports it.
type keyReader struct {
	key   []byte
	rest  []byte
	fault string
}

// openKey checks the table of key and returns the shard and a reader of the parts.
func openKey(key []byte, t table) (spec.ShardID, keyReader) {
	r := keyReader{key: key}
	if len(key) < 5 {
		r.fault = "shorter than a shard and a table"
		return 0, r
	}
	if table(key[4]) != t {
		r.fault = fmt.Sprintf("table %#02x where %#02x was expected", key[4], byte(t))
		return 0, r
	}
	r.rest = key[5:]
	return spec.ShardID(binary.BigEndian.Uint32(key)), r
}

func (r *keyReader) fail(why string) {
	if r.fault == "" {
		r.fault = why
	}
	r.rest = nil
}

func (r *keyReader) part() string {
	end, zeros := -1, 0
scan:
	for i := 0; i < len(r.rest); i++ {
		if r.rest[i] != 0 {
			continue
		}
		if i+1 == len(r.rest) {
			break
		}
		switch r.rest[i+1] {
		case escapedZero:
			zeros++
			i++
		case partEnd:
			end = i
			break scan
		default:
			r.fail("a part with a wrong escape")
			return ""
		}
	}
	if end < 0 {
		r.fail("a part without an end")
		return ""
	}
	raw := r.rest[:end]
	r.rest = r.rest[end+2:]
	if zeros == 0 {
		return string(raw)
	}
	out := make([]byte, 0, len(raw)-zeros)
	for i := 0; i < len(raw); i++ {
		out = append(out, raw[i])
		if raw[i] == 0 {
			i++
		}
	}
	return string(out)
}

func (r *keyReader) byte() byte {
	if len(r.rest) < 1 {
		r.fail("too short")
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

func (r *keyReader) uint32() uint32 {
	if len(r.rest) < 4 {
		r.fail("too short")
		return 0
	}
	v := binary.BigEndian.Uint32(r.rest)
	r.rest = r.rest[4:]
	return v
}

func (r *keyReader) uint64() uint64 {
	if len(r.rest) < 8 {
		r.fail("too short")
		return 0
	}
	v := binary.BigEndian.Uint64(r.rest)
	r.rest = r.rest[8:]
	return v
}

func (r *keyReader) micros() Micros { return Micros(r.uint64() ^ 1<<63) }

func (r *keyReader) id() (id [16]byte) {
	if len(r.rest) < len(id) {
		r.fail("too short")
		return id
	}
	copy(id[:], r.rest)
	r.rest = r.rest[len(id):]
	return id
}

// done returns the fault, or that bytes are left over.
func (r *keyReader) done() error {
	if r.fault == "" && len(r.rest) > 0 {
		r.fault = fmt.Sprintf("%d bytes too long", len(r.rest))
	}
	if r.fault != "" {
		return fmt.Errorf("store: key %x: %s", clip(r.key), r.fault)
	}
	return nil
}
