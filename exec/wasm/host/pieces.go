package host

import (
	"encoding/binary"

	"github.com/tetratelabs/wazero/api"
)

const (
	// maxPieces bounds what one call of send gathers.
	maxPieces  = 1 << 16
	pieceBytes = 8 // address and size
)

// pieces is what a module sends: bytes in several places of its memory, one after
// the other. They are read where they are, while the module waits.
type pieces struct {
	all  [][]byte
	size uint64
	rest [][]byte // what next and skip have not passed
}

// piecesAt reads an array of count addresses and sizes.
func piecesAt(m api.Memory, address, count uint32) *pieces {
	if count > maxPieces {
		panic(fault("it called send with too many pieces"))
	}
	array, ok := m.Read(address, count*pieceBytes)
	if !ok {
		panic(fault("it called send with an array outside of its memory"))
	}
	p := &pieces{all: make([][]byte, 0, count)}
	for ; len(array) > 0; array = array[pieceBytes:] {
		b, ok := m.Read(binary.LittleEndian.Uint32(array), binary.LittleEndian.Uint32(array[4:]))
		if !ok {
			panic(fault("it called send with bytes outside of its memory"))
		}
		p.all = append(p.all, b)
		p.size += uint64(len(b))
	}
	p.rest = append([][]byte(nil), p.all...)
	return p
}

// next returns the next n bytes, which are there, and passes them.
func (p *pieces) next(n uint64) []byte {
	if n == 0 {
		return nil
	}
	for len(p.rest[0]) == 0 {
		p.rest = p.rest[1:]
	}
	if b := p.rest[0]; uint64(len(b)) >= n {
		p.rest[0] = b[n:]
		return b[:n]
	}
	b := make([]byte, 0, n)
	for uint64(len(b)) < n {
		more := p.rest[0]
		more = more[:min(uint64(len(more)), n-uint64(len(b)))]
		b = append(b, more...)
		p.skip(uint64(len(more)))
	}
	return b
}

// skip passes the next n bytes, which are there.
func (p *pieces) skip(n uint64) {
	for n > 0 {
		passed := min(uint64(len(p.rest[0])), n)
		p.rest[0] = p.rest[0][passed:]
		n -= passed
		if len(p.rest[0]) == 0 {
			p.rest = p.rest[1:]
		}
	}
}
