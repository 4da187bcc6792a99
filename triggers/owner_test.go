package triggers_test

import (
	"bytes"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/triggers"
)

// tester is what *testing.T and *rapid.T share.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
}

// owner does with outcomes what the leader does: it stores the header when it has
// changed, and items one by one. It holds machines to the contract on the way.
type owner struct {
	t        tester
	trigger  *spec.Trigger
	machine  triggers.Machine
	header   []byte
	items    map[uint64]triggers.Item
	firings  []triggers.Firing
	rejected map[uint64]bool
	cancels  int
	timer    time.Time
	limit    triggers.Limit
	last     uint64 // position put
	// seen is the last position that the machine has seen, known the last one that
	// the stored state covers: only repetitions up to there are told from new objects
	// after a restore.
	seen, known uint64
}

func newOwner(t tester, trigger *spec.Trigger) *owner {
	t.Helper()
	m, err := triggers.New(trigger)
	if err != nil {
		t.Fatalf("new %s: %v", trigger.Primitive, err)
	}
	return &owner{t: t, trigger: trigger, machine: m, items: map[uint64]triggers.Item{}, rejected: map[uint64]bool{}}
}

func (o *owner) step(ev triggers.Event) triggers.Outcome {
	o.t.Helper()
	before := o.machine.Header(nil)
	ev.Limit = o.limit
	out := o.machine.Step(ev)
	after := o.machine.Header([]byte("x"))
	if after[0] != 'x' {
		o.t.Fatalf("the header was not appended")
	}
	after = after[1:]
	if out.Changed != !bytes.Equal(before, after) {
		o.t.Fatalf("changed is %v, the header went from %x to %x", out.Changed, before, after)
	}
	if ev.Kind == triggers.ObjectArrived {
		o.last = max(o.last, ev.Object.Position)
		o.seen = max(o.seen, ev.Object.Position)
	}
	if first := o.kept(); out.DropsFirst && !slices.Equal(out.Drop, first[:len(out.Drop)]) {
		o.t.Fatalf("dropped %v, which are not the first of %v", out.Drop, first)
	}
	for _, p := range out.Drop {
		if _, ok := o.items[p]; !ok {
			o.t.Fatalf("dropped %d, which is not kept", p)
		}
		delete(o.items, p)
	}
	for _, it := range out.Keep {
		if it.Position != ev.Object.Position || it.Key != ev.Object.Key {
			o.t.Fatalf("kept %v on the arrival of %v", it, ev.Object)
		}
		o.items[it.Position] = it
		o.known = o.seen
	}
	for _, p := range out.Rejected {
		if _, ok := o.items[p]; ok {
			o.t.Fatalf("rejected %d is kept all the same", p)
		}
		if o.rejected[p] {
			o.t.Fatalf("rejected %d twice", p)
		}
		o.rejected[p] = true
	}
	if out.Changed {
		o.header = after
		o.known = o.seen
	}
	if out.CancelRest {
		o.cancels++
	}
	o.firings = append(o.firings, out.Firings...)
	o.timer = out.Timer
	return out
}

// restore takes a new machine from what is stored, and makes sure it is the same.
func (o *owner) restore() {
	o.t.Helper()
	old := o.machine
	o.restoreAs(o.trigger)
	if got, want := o.machine.Header(nil), old.Header(nil); !bytes.Equal(got, want) || !bytes.Equal(got, o.header) {
		o.t.Fatalf("restored header %x, was %x, stored %x", got, want, o.header)
	}
	if got, want := o.machine.Waiting(), old.Waiting(); !reflect.DeepEqual(got, want) {
		o.t.Fatalf("restored machine waits with %+v, it was %+v", got, want)
	}
}

// restoreAs restores for a trigger whose options may have changed.
func (o *owner) restoreAs(trigger *spec.Trigger) {
	o.t.Helper()
	m, err := triggers.Restore(trigger, o.header, o.sortedItems)
	if err != nil {
		o.t.Fatalf("restore: %v", err)
	}
	o.machine, o.trigger, o.seen = m, trigger, o.known
}

func (o *owner) sortedItems(yield func(triggers.Item) bool) {
	for _, p := range slices.Sorted(maps.Keys(o.items)) {
		if !yield(o.items[p]) {
			return
		}
	}
}

func (o *owner) kept() []uint64 { return slices.Sorted(maps.Keys(o.items)) }
