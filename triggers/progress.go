package triggers

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"github.com/pheromone-run/pheromone/spec"
)

// progress is what every machine with state knows of positions: the last one it
// took, by which it tells repetitions.
//
// The last position must survive, and counting an object must not rewrite the
// header. So the header holds it as of the last change, and the items that were
// kept since then hold the rest: after a restore it is the greater of the two.
// Whatever takes items away or consumes an object without keeping it as an item
// goes through finish, which brings the header up to date. The one exception is
// an object that is rejected on arrival: it leaves no trace, so a machine that
// was restored would not know its repetition. There is none: the owner makes the
// object and the outcome durable together, and after a crash it has either both
// or neither.
type progress struct {
	last    uint64
	written uint64 // last, as the header has it
	// orphans are restored items that are of no use, because the trigger's options
	// have changed; the next steps let go of them.
	orphans []uint64
}

// take reports whether the object at position is new.
func (p *progress) take(position uint64) bool {
	if position <= p.last {
		return false
	}
	p.last = position
	return true
}

// finish completes a step's outcome.
func (p *progress) finish(limit Limit, out *Outcome) {
	if n := min(len(p.orphans), limit.objects()); n > 0 && !limit.Full {
		out.Drop = append(out.Drop, p.orphans[:n]...)
		out.Rejected = append(out.Rejected, p.orphans[:n]...)
		if p.orphans = p.orphans[n:]; len(p.orphans) == 0 {
			p.orphans = nil
		}
	}
	if (out.Changed || len(out.Firings) > 0 || len(out.Drop) > 0) && p.written != p.last {
		p.written = p.last
		out.Changed = true
	}
}

// appendHead begins a header.
func (p *progress) appendHead(dst []byte) []byte { return p.appendVersion(dst, headerVersion) }

func (p *progress) appendVersion(dst []byte, version byte) []byte {
	return binary.AppendUvarint(append(dst, version), p.written)
}

// restoreFrom takes over what the header says, restoreItem each item.
func (p *progress) restoreFrom(h *headerReader) { p.written = h.last }

func (p *progress) restoreItem(it Item) error {
	if !p.take(it.Position) {
		return fmt.Errorf("item %d follows item %d: items must come in order of position", it.Position, p.last)
	}
	return nil
}

// restored ends a restore.
func (p *progress) restored(h *headerReader) error {
	p.last = max(p.last, p.written)
	return h.finish()
}

// entry is a kept object in memory: without its group, which only dynamic_group
// looks at and knows anyway.
type entry struct {
	position uint64
	key      spec.Key
}

func entryOf(o Object) entry { return entry{o.Position, o.Key} }

func (e entry) object() Object { return Object{Position: e.position, Key: e.key} }

func (e entry) item(now time.Time) Item { return Item{Object: e.object(), Time: timeOf(micros(now))} }

// queue is first in, first out; its memory follows its length.
type queue[T any] struct {
	items []T
	head  int
}

func (q *queue[T]) len() int { return len(q.items) - q.head }
func (q *queue[T]) push(v T) { q.items = append(q.items, v) }

func (q *queue[T]) pop() T {
	var none T
	v := q.items[q.head]
	q.items[q.head] = none
	q.head++
	switch {
	case q.head == len(q.items):
		q.items, q.head = nil, 0
	case q.head > 16 && q.head > len(q.items)/2: // each move is paid for by as many pops
		q.items, q.head = slices.Clone(q.items[q.head:]), 0
	}
	return v
}

// lanes holds waiting objects by declared key, oldest first: what by_set and the
// control keys of dynamic_group wait with. The lanes are full when each key has
// an object.
type lanes struct {
	keys    []spec.Key
	index   map[spec.Key]int
	waiting []queue[uint64]
	empty   int // lanes without an object
	size    int // objects in all lanes
	bytes   int // of the keys
}

func newLanes(keys []spec.Key) (lanes, bool) {
	l := lanes{keys: keys, index: make(map[spec.Key]int, len(keys)), waiting: make([]queue[uint64], len(keys)), empty: len(keys)}
	for i, k := range keys {
		l.index[k] = i
		l.bytes += len(k)
	}
	return l, len(l.index) == len(keys) // false if a key is there twice
}

// lane returns the number of key's lane.
func (l *lanes) lane(key spec.Key) (int, bool) {
	i, ok := l.index[key]
	return i, ok
}

func (l *lanes) full() bool { return l.empty == 0 && len(l.keys) > 0 }

func (l *lanes) push(lane int, position uint64) {
	if l.waiting[lane].len() == 0 {
		l.empty--
	}
	l.waiting[lane].push(position)
	l.size++
}

// take removes the oldest object of each key, in the order of the keys. The
// lanes must be full.
func (l *lanes) take() []entry {
	taken := make([]entry, len(l.keys))
	for i, k := range l.keys {
		taken[i] = entry{l.waiting[i].pop(), k}
		if l.waiting[i].len() == 0 {
			l.empty++
		}
	}
	l.size -= len(l.keys)
	return taken
}

func (l *lanes) missing() []spec.Key {
	var missing []spec.Key
	for i, k := range l.keys {
		if len(missing) == maxMissing {
			break
		}
		if l.waiting[i].len() == 0 {
			missing = append(missing, k)
		}
	}
	return missing
}

// maxMissing bounds Waiting.Missing.
const maxMissing = 100

// Clocks are counted in microseconds, as items are stored, and clamped to the
// years that the rest of the system can write down, so that no sum overflows.
var (
	minMicros = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
	maxMicros = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
)

func micros(t time.Time) int64 {
	// Seconds do not overflow where microseconds do.
	switch s := t.Unix(); {
	case s <= minMicros/1e6:
		return minMicros
	case s >= maxMicros/1e6:
		return maxMicros
	}
	return t.UnixMicro()
}

func timeOf(micros int64) time.Time { return time.UnixMicro(micros).UTC() }
