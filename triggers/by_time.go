package triggers

import (
	"encoding/binary"
	"iter"
	"time"

	"github.com/pheromone-run/pheromone/spec"
)

// byTime fires when a window closes, with the objects counted in it in order of
// position.
//
// Windows are half-open: an object counted at time t is in the windows with
// start <= t < end. A window fires once now >= end, by the timer, or by any event
// that finds it due before the timer does, and then before that event's object is
// counted. Windows that were missed (the node was down, the clock jumped) fire
// late and in order, if they have objects. With allow_empty, which only scope
// bucket has, since a session with a timer that never ends would never end,
// windows without objects fire too; all that were missed in a row count as one
// firing, for the newest of them.
//
// The machine's clock never goes back: an object's time is now, or the end of the
// last closed window, or the time of the object before it, whichever is latest.
// So a clock that jumps back never reopens a window.
//
// It follows that all waiting objects are in the window that closes next: they
// were counted before its end, since a step that finds the end behind it closes
// the window first, and they are dropped once the last of their windows has
// closed. So closing a window takes all that wait, and drops a prefix of it.
type byTime struct {
	progress
	windows    windows
	allowEmpty bool
	waiting    []timedEntry

	// closed is the last boundary behind the machine's clock and end the next one:
	// the end of the window that closes next. Before started there is neither.
	started     bool
	closed, end int64

	// What the header says. Counting moves closed and leaves the header alone, for
	// the item's time says it too.
	startedWritten bool
	closedWritten  int64
}

// windows are the boundaries of time, in microseconds.
type windows interface {
	// floor returns the last boundary at or before t.
	floor(t int64) int64
	// next returns the first boundary after t, never if there is none.
	next(t int64) int64
	// startAfter returns where the window that closes after the one ending at end
	// begins.
	startAfter(end int64) int64
}

func newByTime(t *spec.Trigger) (*byTime, error) {
	b := &byTime{allowEmpty: t.AllowEmpty && t.Scope == spec.ScopeBucket}
	var err error
	if t.Cron != "" {
		b.windows, err = newCronWindows(t)
	} else {
		b.windows, err = newAlignedWindows(t)
	}
	return b, err
}

func (b *byTime) Step(ev Event) Outcome {
	var out Outcome
	now := micros(ev.Now)
	if !b.started && b.allowEmpty {
		b.startAt(now)
		out.Changed = true
	}
	b.closeDue(now, &out)
	if ev.Kind == ObjectArrived && b.take(ev.Object.Position) {
		b.count(ev.Object, now, &out)
	}
	b.finish(&out)
	if out.Changed {
		b.startedWritten, b.closedWritten = b.started, b.closed
	}
	out.Timer = b.timer()
	return out
}

func (b *byTime) count(o Object, now int64, out *Outcome) {
	t := b.clock(now)
	if !b.started || t >= b.end {
		b.startAt(t) // nothing waits, or closeDue had closed this window
	}
	e := timedEntry{entryOf(o), t}
	b.waiting = append(b.waiting, e)
	out.Keep = append(out.Keep, e.item(timeOf(t)))
}

// clock returns now as the machine counts it.
func (b *byTime) clock(now int64) int64 {
	if b.started {
		now = max(now, b.closed)
	}
	if n := len(b.waiting); n > 0 {
		now = max(now, b.waiting[n-1].time)
	}
	return now
}

func (b *byTime) startAt(t int64) {
	b.started, b.closed = true, b.windows.floor(t)
	b.end = b.windows.next(b.closed)
}

// closeDue closes all windows that end at or before now.
func (b *byTime) closeDue(now int64, out *Outcome) {
	if !b.started || b.end > now {
		return
	}
	// Each window has a suffix of what waits, so all of them share one list.
	inputs := make([]Object, len(b.waiting))
	for i, e := range b.waiting {
		inputs[i] = e.object()
	}
	for len(b.waiting) > 0 && b.end <= now {
		out.Firings = append(out.Firings, Firing{Inputs: inputs, Window: timeOf(b.end)})
		b.closed, b.end = b.end, b.windows.next(b.end)
		gone, start := 0, b.windows.startAfter(b.closed)
		for gone < len(b.waiting) && b.waiting[gone].time < start {
			out.Drop = append(out.Drop, b.waiting[gone].position)
			gone++
		}
		b.waiting, inputs = b.waiting[gone:], inputs[gone:]
		out.Changed = true
	}
	if len(b.waiting) == 0 {
		b.waiting = nil
	}
	if b.allowEmpty && b.end <= now {
		b.startAt(now)
		out.Firings = append(out.Firings, Firing{Window: timeOf(b.closed)})
		out.Changed = true
	}
}

func (b *byTime) timer() time.Time {
	if len(b.waiting) == 0 && !b.allowEmpty || !b.started || b.end == never {
		return time.Time{}
	}
	return timeOf(b.end)
}

func (b *byTime) Header(dst []byte) []byte {
	if b.written == 0 && !b.startedWritten {
		return dst
	}
	dst = appendFlag(b.appendHead(dst), b.startedWritten)
	return binary.AppendVarint(dst, b.closedWritten)
}

func (b *byTime) restore(h *headerReader, items iter.Seq[Item]) error {
	b.restoreFrom(h)
	if !h.empty {
		b.startedWritten, b.closedWritten = h.flag(), h.varint()
		if b.closedWritten < minMicros || b.closedWritten > maxMicros {
			return errDamaged
		}
	}
	if b.startedWritten {
		b.startAt(b.closedWritten)
	}
	latest := minMicros
	for it := range items {
		if err := b.restoreItem(it); err != nil {
			return err
		}
		latest = max(latest, micros(it.Time))
		b.waiting = append(b.waiting, timedEntry{entryOf(it.Object), latest})
	}
	if len(b.waiting) > 0 {
		if !b.started || latest >= b.end {
			b.startAt(latest)
		}
		// Where the windows have changed, an object may have waited for one that does
		// not exist any more; it goes into the next.
		start := b.windows.startAfter(b.closed)
		for i := range b.waiting {
			b.waiting[i].time = max(b.waiting[i].time, start)
		}
	}
	return b.restored(h)
}

func (b *byTime) Waiting() Waiting {
	return Waiting{Have: len(b.waiting), Deadline: b.timer(), Armed: len(b.waiting) > 0}
}
