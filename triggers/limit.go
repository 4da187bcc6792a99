package triggers

import (
	"time"
)

// What a step fires unless its owner says otherwise.
const (
	MaxFiringObjects  = 50_000  // objects of all firings together
	MaxFiringKeyBytes = 4 << 20 // bytes of their keys and of the names of groups
	MaxFirings        = 5_000
)

// Limit bounds what one step fires, and what it drops, because the owner makes
// all of it durable at once. A machine that has more to fire than that keeps it,
// and asks to be ticked at once. So a large window fires in parts, and the groups
// of a large stage fire some at a time. A firing that can't be divided, as a batch
// or a group, may exceed the limit, and is then the only one of its step.
//
// Fields that are 0 have the constants above.
type Limit struct {
	Objects, KeyBytes, Firings int
	// Full says that the owner can't take another large firing with what it makes
	// durable just now. Windows, groups, batches and sets wait for the next tick;
	// the other primitives fire all the same.
	Full bool
}

func (l Limit) objects() int {
	if l.Objects > 0 {
		return l.Objects
	}
	return MaxFiringObjects
}

func (l Limit) keyBytes() int {
	if l.KeyBytes > 0 {
		return l.KeyBytes
	}
	return MaxFiringKeyBytes
}

// budget is what a step may still fire and drop.
type budget struct {
	limit                   Limit
	objects, bytes, firings int
	spent                   bool
}

func (l Limit) budget() *budget {
	firings := l.Firings
	if firings == 0 {
		firings = MaxFirings
	}
	return &budget{limit: l, objects: l.objects(), bytes: l.keyBytes(), firings: firings}
}

// take tells whether the step may make a firing with so many objects, whose keys
// have so many bytes. It may always make one, unless the owner is full: a firing
// that is too large now will be too large at the next tick.
func (b *budget) take(objects, bytes int) bool {
	if b.limit.Full || b.spent && (b.firings < 1 || objects > b.objects || bytes > b.bytes) {
		return false
	}
	b.spent = true
	b.firings--
	b.objects -= objects
	b.bytes -= bytes
	return true
}

// part returns how many of the first of waiting one firing may have, and the bytes
// of their keys.
func (l Limit) part(waiting []timedEntry) (n, bytes int) {
	for n < min(len(waiting), l.objects()) {
		size := len(waiting[n].key)
		if n > 0 && bytes+size > l.keyBytes() {
			break
		}
		bytes += size
		n++
	}
	return n, bytes
}

func keyBytes(objects []entry) int {
	size := 0
	for i := range objects {
		size += len(objects[i].key)
	}
	return size
}

// atOnce is the timer of a machine that has more to do, or not.
func atOnce(more bool, now time.Time) time.Time {
	if !more {
		return time.Time{}
	}
	return timeOf(micros(now))
}
