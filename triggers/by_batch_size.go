package triggers

import (
	"iter"
	"time"

	"github.com/pheromone-run/pheromone/spec"
)

// byBatchSize fires with exactly count objects in order of arrival. With a
// max_wait, what waits fires once that long has passed since its first object
// was counted, however few they are: by the timer, or by an object that comes
// before the timer does and then begins the next batch. It is the same machine in
// both scopes.
type byBatchSize struct {
	progress
	count   int
	maxWait time.Duration
	waiting []timedEntry // fewer than count, unless the machine has to wait or was restored with a smaller count
}

// timedEntry is an entry with the time at which it was counted.
type timedEntry struct {
	entry
	time int64
}

func newByBatchSize(t *spec.Trigger) (*byBatchSize, error) {
	if t.Count < 1 {
		return nil, badOption(t, "count", "count is %d, needs 1 or more", t.Count)
	}
	if t.MaxWait < 0 {
		return nil, badOption(t, "max_wait", "max_wait is %s, needs 0 or more", t.MaxWait)
	}
	return &byBatchSize{count: t.Count, maxWait: t.MaxWait}, nil
}

func (b *byBatchSize) Step(ev Event) Outcome {
	var out Outcome
	left := ev.Limit.budget()
	b.fireDue(micros(ev.Now), left, &out)
	if ev.Kind == ObjectArrived && b.take(ev.Object.Position) {
		b.waiting = append(b.waiting, timedEntry{entryOf(ev.Object), micros(ev.Now)})
		if len(b.waiting) != b.count || !b.fire(b.count, ev.Object.Position, left, &out) {
			out.Keep = append(out.Keep, entryOf(ev.Object).item(ev.Now))
		}
	}
	b.finish(ev.Limit, &out)
	if out.Timer = b.deadline(); len(b.waiting) >= b.count {
		out.Timer = atOnce(true, ev.Now)
	}
	return out
}

// fireDue fires full batches, which only a machine has that had to wait, or that
// was restored with a smaller count, and the one that has waited long enough.
func (b *byBatchSize) fireDue(now int64, left *budget, out *Outcome) {
	for len(b.waiting) >= b.count {
		if !b.fire(b.count, 0, left, out) {
			return
		}
	}
	if d := b.deadline(); !d.IsZero() && d.UnixMicro() <= now {
		b.fire(len(b.waiting), 0, left, out)
	}
}

// fire fires the first n of those that wait, if it may; the one at fresh was not
// kept.
func (b *byBatchSize) fire(n int, fresh uint64, left *budget, out *Outcome) bool {
	inputs, bytes := make([]Object, n), 0
	for i, e := range b.waiting[:n] {
		inputs[i] = e.object()
		bytes += len(e.key)
	}
	if !left.take(n, bytes) {
		return false
	}
	for _, e := range b.waiting[:n] {
		if e.position != fresh {
			out.Drop = append(out.Drop, e.position)
		}
	}
	out.Firings = append(out.Firings, Firing{Inputs: inputs})
	out.DropsFirst = true
	if b.waiting = b.waiting[n:]; len(b.waiting) == 0 {
		b.waiting = nil
	}
	return true
}

func (b *byBatchSize) deadline() time.Time {
	if b.maxWait == 0 || len(b.waiting) == 0 {
		return time.Time{}
	}
	// At least a microsecond, which is what clocks count here.
	return timeOf(b.waiting[0].time + max(b.maxWait.Microseconds(), 1))
}

func (b *byBatchSize) Header(dst []byte) []byte {
	if b.written == 0 {
		return dst
	}
	return b.appendHead(dst)
}

func (b *byBatchSize) restore(h *headerReader, items iter.Seq[Item]) error {
	b.restoreFrom(h)
	for it := range items {
		if err := b.restoreItem(it); err != nil {
			return err
		}
		b.waiting = append(b.waiting, timedEntry{entryOf(it.Object), micros(it.Time)})
	}
	return b.restored(h)
}

func (b *byBatchSize) Waiting() Waiting {
	return Waiting{
		Have:     len(b.waiting),
		Need:     max(b.count-len(b.waiting), 0),
		Deadline: b.deadline(),
		Armed:    len(b.waiting) > 0,
	}
}
