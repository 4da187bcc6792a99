package triggers

import (
	"encoding/binary"
	"iter"
	"sort"
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
// A window with many objects fires in parts of at most so many as a step may fire,
// in order, all of them with the same Window; each object is in exactly one of
// them. What is not needed after a part is dropped with it. Until the last part
// has fired, and the windows that are due after it have, the machine is behind:
// objects that come meanwhile are counted, at their time, and so are part of
// windows that close later, or of one that is due but has not begun to fire.
//
// Waiting objects are in order of time, so a window is a stretch of them. It
// begins with the first one, since those are dropped whose last window has closed.
type byTime struct {
	progress
	windows    windows
	allowEmpty bool
	waiting    []timedEntry

	timeline
	end  int64    // the end of the window that closes next: the first boundary after closed
	head timeline // what the header says
}

// timeline is where a byTime stands. Counting moves closed and leaves the header
// alone, for the item's time says it too, unless the machine is behind.
type timeline struct {
	started bool
	closed  int64 // the last boundary all of whose windows have fired; not before started
	behind  bool
	// fired is the last position that has been in a part of the window that ends at
	// end, 0 if it has not begun to fire.
	fired uint64
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
	started := !b.started && b.allowEmpty
	if started {
		b.startAt(now)
	}
	write := b.closeDue(now, ev.Limit, &out) || started
	if ev.Kind == ObjectArrived && b.take(ev.Object.Position) {
		b.count(ev.Object, now, &out)
	}
	out.Changed = write && b.timeline != b.head
	b.finish(ev.Limit, &out)
	if out.Changed {
		b.head = b.timeline
	}
	out.Timer = b.timer(now)
	return out
}

func (b *byTime) count(o Object, now int64, out *Outcome) {
	t := b.clock(now)
	if !b.started || len(b.waiting) == 0 && t >= b.end {
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

// due tells whether the next window is to fire: it is over, or has begun to fire
// before the clock jumped back.
func (b *byTime) due(now int64) bool {
	return len(b.waiting) > 0 && (b.end <= now || b.fired != 0 && b.end != never)
}

// closeDue fires the windows that end at or before now, as far as the step may, and
// reports whether the header has to say so.
func (b *byTime) closeDue(now int64, limit Limit, out *Outcome) bool {
	if !b.started {
		return false
	}
	write, left := b.behind, limit.budget()
	for b.due(now) {
		if first := b.waiting[0].time; first >= b.end { // windows without objects
			b.startAt(first)
			b.fireEmpty(out)
		} else if !b.firePart(left, out) {
			break
		}
		write = true
	}
	if b.allowEmpty && len(b.waiting) == 0 && b.end <= now {
		b.startAt(now)
		b.fireEmpty(out)
		write = true
	}
	if b.behind = b.due(now); b.behind {
		return true
	}
	if len(b.waiting) == 0 {
		b.waiting, b.fired = nil, 0
	}
	return write
}

// fireEmpty fires for the windows without objects up to closed.
func (b *byTime) fireEmpty(out *Outcome) {
	if b.allowEmpty {
		out.Firings = append(out.Firings, Firing{Window: timeOf(b.closed)})
	}
}

// firePart fires the next objects of the window that ends at end, and closes it
// after the last ones. It reports whether the step may go on.
func (b *byTime) firePart(left *budget, out *Outcome) bool {
	from, to := 0, sort.Search(len(b.waiting), func(i int) bool { return b.waiting[i].time >= b.end })
	if b.fired != 0 {
		from = sort.Search(to, func(i int) bool { return b.waiting[i].position > b.fired })
	}
	n, bytes := left.limit.part(b.waiting[from:to])
	if !left.take(n, bytes) {
		return false
	}
	if n > 0 {
		f := Firing{Inputs: make([]Object, n), Window: timeOf(b.end)}
		for i, e := range b.waiting[from : from+n] {
			f.Inputs[i] = e.object()
		}
		out.Firings = append(out.Firings, f)
		b.fired = b.waiting[from+n-1].position
	}
	gone, start := 0, b.windows.startAfter(b.end)
	for gone < min(from+n, left.limit.objects()) && b.waiting[gone].time < start {
		out.Drop = append(out.Drop, b.waiting[gone].position)
		gone++
	}
	out.DropsFirst = true
	// More than a part's objects are dropped only where a new version of the trigger
	// no longer needs those of earlier parts.
	if from+n == to && (gone == to || b.waiting[gone].time >= start) {
		b.closed, b.end, b.fired = b.end, b.windows.next(b.end), 0
	}
	b.waiting = b.waiting[gone:]
	return true
}

func (b *byTime) timer(now int64) time.Time {
	switch {
	case len(b.waiting) == 0 && !b.allowEmpty || !b.started || b.end == never:
		return time.Time{}
	case b.fired != 0:
		return timeOf(min(b.end, now)) // what has begun does not wait for the clock
	}
	return timeOf(b.end)
}

func (b *byTime) Header(dst []byte) []byte {
	if b.written == 0 && !b.head.started {
		return dst
	}
	version := byte(headerVersion)
	if b.head.behind {
		version = headerUnderWay
	}
	dst = appendFlag(b.appendVersion(dst, version), b.head.started)
	dst = binary.AppendVarint(dst, b.head.closed)
	if b.head.behind {
		dst = binary.AppendUvarint(dst, b.head.fired)
	}
	return dst
}

func (b *byTime) restore(h *headerReader, items iter.Seq[Item]) error {
	b.restoreFrom(h)
	if !h.empty {
		b.head = timeline{started: h.flag(), closed: h.varint(), behind: h.underWay}
		if b.head.behind {
			b.head.fired = h.uvarint()
		}
		if b.head.closed < minMicros || b.head.closed > maxMicros || b.head.behind && !b.head.started {
			return errDamaged
		}
	}
	if b.head.started {
		b.startAt(b.head.closed)
		b.behind, b.fired = b.head.behind, b.head.fired
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
		if !b.started || !b.behind && latest >= b.end {
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
	return Waiting{Have: len(b.waiting), Deadline: b.timer(never), Armed: len(b.waiting) > 0}
}
