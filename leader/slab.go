package leader

import "unsafe"

// slab is where keys and records are put one behind the other that outlive the round
// which makes them, by as long as an entry is in flight. A piece of it is freed once
// nothing that is in it is in use any more.
type slab struct {
	left []byte // empty; its capacity is what is left of the piece
}

const (
	slabBytes = 16 << 10 // of a piece
	slabLeast = 512      // with less left a new piece is begun
)

// room returns room to append to. What does not fit takes memory of its own.
func (s *slab) room() []byte {
	if cap(s.left) < slabLeast {
		s.left = make([]byte, 0, slabBytes)
	}
	return s.left
}

// keep keeps what was appended to room. It must be called before room is asked for
// again.
func (s *slab) keep(b []byte) []byte {
	if n := len(b); n > 0 && cap(s.left) >= n && &b[0] == &s.left[:1][0] {
		s.left = s.left[n:n]
		return b[:n:n]
	}
	return b
}

// text keeps a copy of a key.
func (s *slab) text(key []byte) string {
	kept := s.keep(append(s.room(), key...))
	return unsafe.String(unsafe.SliceData(kept), len(kept)) // nobody writes there any more
}
