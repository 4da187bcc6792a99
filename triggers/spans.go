package triggers

import (
	"encoding/binary"
	"slices"
	"sort"
)

// spans is a set of indexes that mostly lie side by side, as stretches from..to
// (to not included), in order and apart from each other.
type spans struct {
	list []span
	size int // indexes in the set
}

type span struct{ from, to int }

// add adds index and reports whether it was not there.
func (s *spans) add(index int) bool {
	i := sort.Search(len(s.list), func(i int) bool { return s.list[i].to >= index })
	switch {
	case i == len(s.list) || s.list[i].from > index+1:
		s.list = slices.Insert(s.list, i, span{index, index + 1})
	case s.list[i].from == index+1:
		s.list[i].from = index
	case s.list[i].to > index:
		return false
	default: // s.list[i] ends where index begins
		s.list[i].to++
		if i+1 < len(s.list) && s.list[i+1].from == s.list[i].to {
			s.list[i].to = s.list[i+1].to
			s.list = slices.Delete(s.list, i+1, i+2)
		}
	}
	s.size++
	return true
}

// append encodes the lengths of gaps and stretches by turns.
func (s *spans) append(dst []byte) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(s.list)))
	at := 0
	for _, p := range s.list {
		dst = binary.AppendUvarint(dst, uint64(p.from-at))
		dst = binary.AppendUvarint(dst, uint64(p.to-p.from))
		at = p.to
	}
	return dst
}

// readSpans reads a set of indexes below limit.
func readSpans(h *headerReader, limit int) spans {
	var s spans
	at := uint64(0)
	for i := range h.count() {
		gap, length := h.uvarint(), h.uvarint()
		left := uint64(limit) - at
		if gap > left || length > left-gap || length == 0 || gap == 0 && i > 0 {
			h.fail()
			return spans{}
		}
		s.list = append(s.list, span{int(at + gap), int(at + gap + length)})
		s.size += int(length)
		at += gap + length
	}
	return s
}
