package module

import (
	"errors"
	"fmt"
	"unicode/utf8"
)

// reader takes values off a section. After an error it gives zeros.
type reader struct {
	data []byte
	err  error
}

var errShort = errors.New("it is damaged: it ends too early")

func (r *reader) bytes(n uint32) []byte {
	if uint64(n) > uint64(len(r.data)) {
		r.err, r.data = errShort, nil
		return nil
	}
	taken := r.data[:n]
	r.data = r.data[n:]
	return taken
}

func (r *reader) byte() byte {
	if b := r.bytes(1); len(b) == 1 {
		return b[0]
	}
	return 0
}

func (r *reader) u32() uint32 {
	v := r.unsigned()
	if v > 1<<32-1 {
		r.err, v = fmt.Errorf("it is damaged: %d is out of range", v), 0
	}
	return uint32(v)
}

// unsigned reads a number in LEB128, of at most 63 bits.
func (r *reader) unsigned() uint64 {
	var v uint64
	for shift := 0; shift < 63; shift += 7 {
		b := r.byte()
		v |= uint64(b&0x7f) << shift
		if b < 0x80 {
			return v
		}
	}
	r.err = errors.New("it is damaged: a number is too long")
	return 0
}

func (r *reader) name() string {
	b := r.bytes(r.u32())
	if !utf8.Valid(b) {
		r.err = errors.New("it is damaged: a name is not UTF-8")
	}
	return string(b)
}

// limits reads how large a table or a memory is at first, and its flags.
func (r *reader) limits() (least uint64, flags byte) {
	flags = r.byte()
	least = r.unsigned()
	if flags&1 != 0 {
		r.unsigned()
	}
	return least, flags
}
