package leader

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

func TestAFifoGivesWhatItWasGivenInTurn(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var q fifo[int]
		var model []int
		for i, push := range rapid.SliceOf(rapid.Bool()).Draw(t, "pushes") {
			switch {
			case push:
				q.push(i)
				model = append(model, i)
			case len(model) > 0:
				if got := q.pop(); got != model[0] {
					t.Fatalf("popped %d, want %d", got, model[0])
				}
				model = model[1:]
			}
			if q.len() != len(model) {
				t.Fatalf("it has %d items, want %d", q.len(), len(model))
			}
		}
	})
}

func TestAFifoThatIsNeverEmptyDoesNotGrow(t *testing.T) {
	var q fifo[int]
	q.push(0)
	for i := range 10_000 {
		q.push(i)
		q.pop()
	}
	if cap(q.items) > 8 {
		t.Fatalf("it has room for %d items to hold two", cap(q.items))
	}
}

// What is kept in a slab stays as it was, whatever is kept there after it.
func TestWhatASlabKeepsStays(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s slab
		var kept, want []string
		var records [][]byte
		for i, n := range rapid.SliceOfN(rapid.IntRange(0, 2*slabBytes/10), 1, 60).Draw(t, "sizes") {
			value := fmt.Sprintf("%d:%0*d", i, n, i)
			want = append(want, value)
			if i%2 == 0 {
				kept = append(kept, s.text([]byte(value)))
				records = append(records, nil)
				continue
			}
			record := s.keep(append(s.room(), value...))
			records = append(records, record)
			kept = append(kept, "")
		}
		for i, record := range records {
			if record != nil {
				_ = append(record, "more"...) // must not reach into what comes after it
				kept[i] = string(record)
			}
		}
		for i := range want {
			if kept[i] != want[i] {
				t.Fatalf("%.20q was kept as %.20q", want[i], kept[i])
			}
		}
	})
}
