package protocol_test

import (
	"testing"

	"pgregory.net/rapid"

	"github.com/pheromone-run/pheromone/client/fn/protocol"
)

func TestPartsOfMemoryNeverOverlapAndAreFoundWhileThereIsRoom(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const size = 256 << 10
		s := protocol.Spans{Size: size}
		var held []protocol.Span
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			if len(held) > 0 && rapid.Bool().Draw(t, "give") {
				i := rapid.IntRange(0, len(held)-1).Draw(t, "which")
				if !s.Give(held[i].Offset) {
					t.Fatalf("%+v was not known", held[i])
				}
				held = append(held[:i], held[i+1:]...)
				continue
			}
			length := rapid.Int64Range(0, size+1).Draw(t, "length")
			got, ok := s.Take(length)
			if !ok {
				if len(held) == 0 && 0 < length && length <= size {
					t.Fatalf("no room for %d bytes in all of it", length)
				}
				continue
			}
			if got.Length != length || got.Offset < 0 || got.Offset+got.Length > size || got.Offset%4096 != 0 {
				t.Fatalf("asked for %d bytes, got %+v", length, got)
			}
			for _, h := range held {
				if got.Offset < h.Offset+h.Length && h.Offset < got.Offset+got.Length {
					t.Fatalf("%+v overlaps %+v", got, h)
				}
			}
			held = append(held, got)
		}
		if s.Used() != len(held) {
			t.Fatalf("%d parts are handed out, it says %d", len(held), s.Used())
		}
		if s.Give(-1) {
			t.Fatal("a part came back that never went")
		}
		for _, h := range held {
			s.Give(h.Offset)
		}
		if whole, ok := s.Take(size); !ok || whole.Offset != 0 {
			t.Fatalf("after all came back, all of it gives %+v", whole)
		}
	})
}
