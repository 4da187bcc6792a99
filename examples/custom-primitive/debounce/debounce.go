// Package debounce is a custom primitive, example.debounce: it fires with the
// newest object of a key once no other has come for that key for a while. A
// program that imports it has it, and so has the node that it embeds.
package debounce

import (
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/triggers"
)

// Name is what manifests call the primitive.
const Name spec.Primitive = "example.debounce"

func init() {
	triggers.Register(Name, triggers.Factory{
		New:     func(t *spec.Trigger) (triggers.Machine, error) { return create(t) },
		Restore: restore,
		Scope:   spec.ScopeBucket,
		Fires:   "with the newest object of a key, once no other has come for that key for quiet, or max_wait after the first",
	})
}

// maxFirings bounds the firings of one step, which become durable together, as
// does Event.Limit. What else is due fires in the next one: a timer that is in the
// past goes off at once.
const maxFirings = 256

// machine is one trigger. What survives of it are two items for each key that
// waits, and a header with the last position that it took.
type machine struct {
	quiet, maxWait time.Duration // maxWait is 0 for none

	keys    map[spec.Key]*waiting
	due     queue
	last    uint64 // the last position that was taken
	written uint64 // last, as the header has it
}

// waiting is a key whose objects have not fired. The first object is kept for its
// time, from which max_wait counts.
type waiting struct {
	first, newest triggers.Item
	deadline      time.Time
	index         int // in the queue
}

func create(t *spec.Trigger) (*machine, error) {
	o := t.Options.Read()
	m := &machine{
		quiet:   o.Duration("quiet", time.Second, time.Millisecond, 24*time.Hour),
		maxWait: o.Duration("max_wait", 0, time.Millisecond, 24*time.Hour),
		keys:    map[spec.Key]*waiting{},
	}
	return m, o.Err()
}

// Step takes an event. Objects that are overtaken are let go of at once.
func (m *machine) Step(ev triggers.Event) triggers.Outcome {
	var out triggers.Outcome
	most := maxFirings
	if ev.Limit.Firings > 0 {
		most = min(most, ev.Limit.Firings)
	}
	arrived := ev.Kind == triggers.ObjectArrived && ev.Object.Position > m.last
	if w := m.keys[ev.Object.Key]; arrived && w != nil && !w.deadline.After(ev.Now) {
		m.fire(w, &out) // first of all, or the object would join a burst that is over
	}
	for len(m.due) > 0 && len(out.Firings) < most && !m.due[0].deadline.After(ev.Now) {
		m.fire(m.due[0], &out)
	}
	if arrived {
		m.last = ev.Object.Position
		m.take(ev, &out)
	}
	// While objects wait, the newest item tells the last position. Once they have
	// fired only the header can.
	if len(out.Firings) > 0 && m.written != m.last {
		m.written, out.Changed = m.last, true
	}
	if len(m.due) > 0 {
		out.Timer = m.due[0].deadline
	}
	return out
}

func (m *machine) take(ev triggers.Event, out *triggers.Outcome) {
	// Stores count in microseconds: what is restored must be what was in memory.
	item := triggers.Item{Object: ev.Object, Time: ev.Now.Truncate(time.Microsecond)}
	out.Keep = append(out.Keep, item)
	w := m.keys[ev.Object.Key]
	if w == nil {
		m.wait(&waiting{first: item, newest: item})
		return
	}
	if w.newest != w.first || m.maxWait == 0 {
		out.Drop = append(out.Drop, w.newest.Position)
		out.Rejected = append(out.Rejected, w.newest.Position)
		if w.newest == w.first {
			w.first = item
		}
	}
	w.newest = item
	m.wait(w)
}

// wait puts a key into the queue, or where it belongs by now.
func (m *machine) wait(w *waiting) {
	w.deadline = w.newest.Time.Add(m.quiet)
	if most := w.first.Time.Add(m.maxWait); m.maxWait > 0 && most.Before(w.deadline) {
		w.deadline = most
	}
	if m.keys[w.newest.Key] == w {
		heap.Fix(&m.due, w.index)
		return
	}
	m.keys[w.newest.Key] = w
	heap.Push(&m.due, w)
}

func (m *machine) fire(w *waiting, out *triggers.Outcome) {
	heap.Remove(&m.due, w.index)
	delete(m.keys, w.newest.Key)
	out.Firings = append(out.Firings, triggers.Firing{Inputs: []triggers.Object{w.newest.Object}})
	out.Drop = append(out.Drop, w.newest.Position)
	if w.first != w.newest {
		out.Drop = append(out.Drop, w.first.Position)
		out.Rejected = append(out.Rejected, w.first.Position)
	}
}

// version is that of the header. A program that writes another one reads this one
// as well, so that it can take over from the one before.
const version = 1

// Header is the version and the last position. In the first state it is empty.
func (m *machine) Header(dst []byte) []byte {
	if m.written == 0 {
		return dst
	}
	return binary.AppendUvarint(append(dst, version), m.written)
}

// restore makes the machine again that had this header and these items.
func restore(t *spec.Trigger, header []byte, items iter.Seq[triggers.Item]) (triggers.Machine, error) {
	m, err := create(t)
	if err != nil {
		return nil, err
	}
	if len(header) > 0 {
		if header[0] != version {
			return nil, fmt.Errorf("the header has version %d, this program reads version %d", header[0], version)
		}
		var n int
		if m.written, n = binary.Uvarint(header[1:]); n <= 0 || n != len(header)-1 {
			return nil, errors.New("the header is damaged")
		}
	}
	for it := range items {
		w := m.keys[it.Key]
		switch {
		case w == nil:
			w = &waiting{first: it, newest: it}
		case w.newest != w.first:
			return nil, fmt.Errorf("there are more than two items of key %q", it.Key)
		}
		w.newest = it
		m.wait(w)
		m.last = it.Position
	}
	m.last = max(m.last, m.written)
	return m, nil
}

// Waiting tells people how many keys wait.
func (m *machine) Waiting() triggers.Waiting {
	w := triggers.Waiting{Have: len(m.keys), Armed: len(m.keys) > 0}
	if w.Armed {
		w.Deadline = m.due[0].deadline
	}
	return w
}

// queue has the key first that is due first: a heap.Interface.
type queue []*waiting

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	if c := q[i].deadline.Compare(q[j].deadline); c != 0 {
		return c < 0
	}
	return q[i].newest.Position < q[j].newest.Position
}
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}
func (q *queue) Push(x any) {
	w := x.(*waiting)
	w.index = len(*q)
	*q = append(*q, w)
}
func (q *queue) Pop() any {
	last := (*q)[len(*q)-1]
	(*q)[len(*q)-1] = nil
	*q = (*q)[:len(*q)-1]
	return last
}
