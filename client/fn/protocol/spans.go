package protocol

import (
	"cmp"
	"slices"
)

// spanGrain is what parts of shared memory begin at a multiple of: a page, so that
// no two of them share one.
const spanGrain = 4 << 10

// Span is a part of shared memory.
type Span struct{ Offset, Length int64 }

// end is where the next part may begin.
func (s Span) end() int64 { return (s.Offset + s.Length + spanGrain - 1) &^ (spanGrain - 1) }

// Spans hands out parts of a memory of Size bytes, the lowest that is free first:
// what was used before is in memory already, what was not costs page faults. It is
// not safe for use by several goroutines at once.
type Spans struct {
	Size int64
	used []Span // by offset
}

// Take hands out a part of length bytes, at least 1, if there is room for it.
func (s *Spans) Take(length int64) (Span, bool) {
	if length < 1 || length > s.Size {
		return Span{}, false
	}
	at, from := 0, int64(0)
	for ; at < len(s.used) && s.used[at].Offset-from < length; at++ {
		from = s.used[at].end()
	}
	if length > s.Size-from {
		return Span{}, false
	}
	span := Span{from, length}
	s.used = slices.Insert(s.used, at, span)
	return span, true
}

// Give takes a part back. It tells whether there was one at that offset.
func (s *Spans) Give(offset int64) bool {
	i, found := slices.BinarySearchFunc(s.used, offset, func(u Span, o int64) int { return cmp.Compare(u.Offset, o) })
	if found {
		s.used = slices.Delete(s.used, i, i+1)
	}
	return found
}

// Used tells how many parts are handed out.
func (s *Spans) Used() int { return len(s.used) }
