package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
)

// The first byte of every record is its version. Records are written in the
// newest one, in which fields came to the end of what they had before; older ones
// stay readable, with those fields zero. A record of a version that is not known
// is an error.
const (
	recordOldest  = 1
	recordVersion = 3
)

// Fields are written in the order of the record's struct: numbers as varints
// (zig-zag where they can be negative), strings and bytes with their length
// before them, lists with their count, optional records with a presence byte. A
// zero field takes one byte.

func appendUint(dst []byte, v uint64) []byte { return binary.AppendUvarint(dst, v) }

func appendInt[I ~int64](dst []byte, v I) []byte { return binary.AppendVarint(dst, int64(v)) }

func appendString[S ~string | ~[]byte](dst []byte, s S) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func appendBool(dst []byte, v bool) []byte {
	if v {
		return append(dst, 1)
	}
	return append(dst, 0)
}

// appendMap writes m in the order of its keys, so that equal maps are equal bytes.
func appendMap(dst []byte, m map[string]string) []byte {
	dst = appendUint(dst, uint64(len(m)))
	switch len(m) {
	case 0:
		return dst
	case 1:
		for k, v := range m {
			dst = appendString(appendString(dst, k), v)
		}
		return dst
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		dst = appendString(appendString(dst, k), m[k])
	}
	return dst
}

// recordReader reads what the functions above write. The first fault sticks and
// everything read after it is zero; done reports it.
type recordReader struct {
	version byte
	rest    []byte
	err     error
}

var (
	errCutShort = errors.New("cut short")
	errVarint   = errors.New("a number that is too large or cut short")
	errTooMany  = errors.New("a count beyond the end of the record")
)

// openRecord checks the version and returns a reader of the fields.
func openRecord(src []byte) recordReader {
	if len(src) == 0 {
		return recordReader{err: errCutShort}
	}
	if src[0] < recordOldest || src[0] > recordVersion {
		return recordReader{err: fmt.Errorf("version %d, this version of pheromone knows %d to %d", src[0], recordOldest, recordVersion)}
	}
	return recordReader{version: src[0], rest: src[1:]}
}

func (r *recordReader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.rest = nil
}

func (r *recordReader) uint() uint64 {
	v, n := binary.Uvarint(r.rest)
	if n <= 0 {
		r.fail(errVarint)
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *recordReader) uint32() uint32 {
	v := r.uint()
	if v > 1<<32-1 {
		r.fail(errVarint)
		return 0
	}
	return uint32(v)
}

func (r *recordReader) int() int64 {
	v, n := binary.Varint(r.rest)
	if n <= 0 {
		r.fail(errVarint)
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *recordReader) micros() Micros { return Micros(r.int()) }

func (r *recordReader) byte() byte {
	if len(r.rest) == 0 {
		r.fail(errCutShort)
		return 0
	}
	b := r.rest[0]
	r.rest = r.rest[1:]
	return b
}

func (r *recordReader) bool() bool {
	b := r.byte()
	if b > 1 {
		r.fail(fmt.Errorf("%d where 0 or 1 was expected", b))
	}
	return b == 1
}

// bytes returns bytes of the record itself, nil if there are none.
func (r *recordReader) bytes() []byte {
	n := r.uint()
	if n > uint64(len(r.rest)) {
		r.fail(errCutShort)
		return nil
	}
	if n == 0 {
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *recordReader) string() string { return string(r.bytes()) }

func (r *recordReader) fixed(dst []byte) {
	if len(r.rest) < len(dst) {
		r.fail(errCutShort)
		return
	}
	r.rest = r.rest[copy(dst, r.rest):]
}

// count reads the number of entries that follow, each of at least size bytes. So
// what is allocated for them is bounded by the length of the record.
func (r *recordReader) count(size int) int {
	n := r.uint()
	if n > uint64(len(r.rest)/size) {
		r.fail(errTooMany)
		return 0
	}
	return int(n)
}

func (r *recordReader) stringMap() map[string]string {
	n := r.count(2)
	if n == 0 {
		return nil
	}
	m := make(map[string]string, n)
	for range n {
		k := r.string()
		m[k] = r.string()
	}
	return m
}

// list reads a counted list; nil if it is empty.
func list[T any](r *recordReader, size int, read func(*recordReader) T) []T {
	n := r.count(size)
	if n == 0 {
		return nil
	}
	out := make([]T, 0, n)
	for range n {
		if r.err != nil {
			return nil
		}
		out = append(out, read(r))
	}
	return out
}

func (r *recordReader) done(record string) error {
	if r.err == nil && len(r.rest) > 0 {
		r.err = fmt.Errorf("%d bytes too long", len(r.rest))
	}
	if r.err != nil {
		return fmt.Errorf("store: %s record: %w", record, r.err)
	}
	return nil
}
