package triggers

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/pheromone-run/pheromone/spec"
)

// A header is the version, the last position as of the header, and what the
// primitive adds: varints, flags (a varint that is 0 or 1) and strings after
// their length. All built-in primitives share the versions.
const (
	headerVersion = 1
	// headerUnderWay is the version of a machine that is in the middle of firing: more
	// follows, which says how far it is. By_time and dynamic_group write it.
	headerUnderWay = 2
)

var errDamaged = errors.New("damaged header")

func appendFlag(dst []byte, set bool) []byte {
	if set {
		return append(dst, 1)
	}
	return append(dst, 0)
}

func appendKeys(dst []byte, keys []spec.Key) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(keys)))
	for _, k := range keys {
		dst = binary.AppendUvarint(dst, uint64(len(k)))
		dst = append(dst, k...)
	}
	return dst
}

// headerReader reads a header from its front. After the first fault it yields
// zeros, and finish reports the fault: callers need not check each value, only
// stay within what they were given, which count sees to.
type headerReader struct {
	rest   []byte
	failed bool
	// underWay says that the header has version headerUnderWay.
	underWay bool
	empty    bool   // there is no header: the machine's first state
	last     uint64 // last position as of the header
}

func readHeader(header []byte) (*headerReader, error) {
	if len(header) == 0 {
		return &headerReader{empty: true}, nil
	}
	if header[0] != headerVersion && header[0] != headerUnderWay {
		return nil, fmt.Errorf("header has version %d, this program reads versions %d to %d", header[0], headerVersion, headerUnderWay)
	}
	h := &headerReader{rest: header[1:], underWay: header[0] == headerUnderWay}
	h.last = h.uvarint()
	return h, nil
}

func (h *headerReader) uvarint() uint64 {
	v, n := binary.Uvarint(h.rest)
	return number(h, v, n)
}

func (h *headerReader) varint() int64 {
	v, n := binary.Varint(h.rest)
	return number(h, v, n)
}

func number[T int64 | uint64](h *headerReader, v T, n int) T {
	if n <= 0 {
		h.fail()
		return 0
	}
	h.rest = h.rest[n:]
	return v
}

func (h *headerReader) flag() bool {
	v := h.uvarint()
	if v > 1 {
		h.fail()
	}
	return v == 1
}

// count reads how many things follow. Each takes a byte at least, so a number
// that makes a caller allocate more than the header could fill is a fault.
func (h *headerReader) count() int {
	v := h.uvarint()
	if v > uint64(len(h.rest)) {
		h.fail()
		return 0
	}
	return int(v)
}

func (h *headerReader) keys() []spec.Key {
	keys := make([]spec.Key, h.count())
	for i := range keys {
		keys[i] = spec.Key(h.text())
	}
	return keys
}

func (h *headerReader) text() string {
	n := h.count()
	s := string(h.rest[:n])
	h.rest = h.rest[n:]
	return s
}

func (h *headerReader) fail() { h.failed, h.rest = true, nil }

// finish reports a fault on the way, or that something is left over.
func (h *headerReader) finish() error {
	if h.failed || len(h.rest) > 0 {
		return errDamaged
	}
	return nil
}
