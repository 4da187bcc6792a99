package leader

import (
	"cmp"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
	"github.com/pheromone-run/pheromone/store"
	"github.com/pheromone-run/pheromone/triggers"
)

// A trigger is stalled while it has no machine: its primitive is not known here,
// its state is damaged or of a version that this program does not read, or its
// machine has panicked or asked for what can't be. The shard goes on without it.
//
// In scope session that fails the session, which can be run again later. In scope
// bucket nothing is lost: objects that come, and sets that are named, are kept
// behind the items that the machine has, its backlog, and the record says where it
// begins. A reign or a version of the app that comes later tries again. Once
// there is a machine it steps through the backlog, a bounded part in each round, as
// if each came when it came; what arrives meanwhile stays behind it.

const (
	// backlogRound is how many objects of a backlog are counted in one round.
	backlogRound = 256
	// backlogBytes is how many bytes the names may have of what is taken in one round;
	// a set alone may have more.
	backlogBytes = 1 << 20
	// backlogPause is how long a backlog waits for entries that are in flight.
	backlogPause = 5 * time.Millisecond
	// retainedHeader is up to which size the header of a built-in primitive's machine
	// is taken after each step, and not only once a round.
	retainedHeader = 4 << 10

	// customHeader bounds the header of a custom primitive.
	customHeader = 1 << 20
)

// stalls names the triggers of scope bucket that are stalled, for status.
type stalls struct {
	sync.Mutex
	byName map[machineName]wire.StalledTrigger
}

// stall takes a trigger's machine away.
func (t *tx) stall(m *machine, why error) {
	m.Machine, m.stalled = nil, why.Error()
	if p, ok := errors.AsType[*panicked](why); ok {
		m.stack = p.stack
	}
	n := m.name
	if n.session != "" {
		return // its session tells
	}
	t.leader.cfg.Log.Error("a trigger is stalled: what comes for it is kept until a program leads that can go on",
		"app", n.app, "bucket", n.bucket, "trigger", n.trigger, "primitive", m.spec.Primitive, "reason", m.stalled, "stack", m.stack)
	t.stalls.Lock()
	defer t.stalls.Unlock()
	t.stalls.byName[n] = wire.StalledTrigger{App: n.app, Bucket: n.bucket, Trigger: n.trigger, Primitive: m.spec.Primitive, Reason: m.stalled}
}

// unstall forgets which triggers of an app are stalled: they are loaded again, or gone.
func (r *reign) unstall(app spec.AppName) {
	r.stalls.Lock()
	defer r.stalls.Unlock()
	for name := range r.stalls.byName {
		if name.app == app {
			delete(r.stalls.byName, name)
		}
	}
}

// Stalled lists the triggers of scope bucket that are stalled.
func (l *Leader) Stalled() []wire.StalledTrigger {
	r := l.reigning()
	if r == nil {
		return nil
	}
	r.stalls.Lock()
	defer r.stalls.Unlock()
	var list []wire.StalledTrigger
	for _, s := range r.stalls.byName {
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b wire.StalledTrigger) int {
		return cmp.Or(cmp.Compare(a.App, b.App), cmp.Compare(a.Bucket, b.Bucket), cmp.Compare(a.Trigger, b.Trigger))
	})
	return list
}

// failBy has a session fail at the end of the round, because a trigger of it is
// stalled: what it would have fired will not be.
func (t *tx) failBy(s *session, m *machine) {
	if s.failing != nil {
		return
	}
	s.failing = &store.Failure{
		Kind: exec.Trigger,
		Message: clip(fmt.Sprintf("trigger %q (%s) on bucket %q can't go on: %s; run the session again once that is mended",
			m.name.trigger, m.spec.Primitive, m.name.bucket, m.stalled), failureMessage),
		Detail: clip(m.stack, failureDetail),
	}
	t.touch(s)
}

// failByTrigger ends a session that failBy has marked.
func (t *tx) failByTrigger(s *session) {
	if s.rec.Failure == nil {
		s.rec.Failure = s.failing
	}
	t.stop(s, store.SessionFailed, "a trigger of the session can't go on")
}

// advance passes an event to a machine. If the machine can't take it, nothing has
// changed but that the trigger is stalled, and ok is false.
func (t *tx) advance(m *machine, ev triggers.Event) (out triggers.Outcome, ok bool) {
	if m.stalled != "" {
		return out, false
	}
	ev.Limit = t.partOf(m.name, m)
	out, header, err := m.try(ev)
	if err == nil && m.spec.Primitive.Custom() {
		err = t.sound(m, &ev, &out, header)
	}
	if err != nil {
		if m.stale && m.name.session == "" {
			t.broken(err) // what the steps before it made of the header is lost with the machine
		}
		t.stall(m, err)
		return triggers.Outcome{}, false
	}
	if out.Changed {
		m.header, m.stale = header, header == nil
	}
	return out, true
}

// try steps a machine, and takes its header if it has changed: should a later
// step of the same round panic, the machine could not be asked any more.
func (m *machine) try(ev triggers.Event) (out triggers.Outcome, header []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &panicked{fmt.Sprintf("panic: %v", p), string(debug.Stack())}
		}
	}()
	out = m.Step(ev)
	if out.Changed && m.retains() && (m.spec.Primitive.Custom() || !m.stale && len(m.header) <= retainedHeader) {
		header = m.Header([]byte{})
	}
	return out, header, nil
}

// panicked is the error of a machine that has panicked.
type panicked struct{ message, stack string }

func (p *panicked) Error() string { return p.message }

// retains tells whether a machine's header stays in memory: without its machine,
// a stalled trigger's record is written from it. Sessions are not stalled, they fail.
func (m *machine) retains() bool { return m.name.session == "" || m.spec.Primitive.Custom() }

// waiting is Machine.Waiting for machines that may be missing, or panic.
func (m *machine) waiting() (w triggers.Waiting) {
	if m.Machine == nil {
		return w
	}
	defer func() {
		if recover() != nil {
			w = triggers.Waiting{}
		}
	}()
	w = m.Machine.Waiting()
	w.Missing = w.Missing[:min(len(w.Missing), missingMost)]
	return w
}

// missingMost is how many missing keys a machine may tell.
const missingMost = 100

// sound tells what is wrong with the outcome of a custom primitive: one that asks
// for what is not there must not be taken for a damaged store.
func (t *tx) sound(m *machine, ev *triggers.Event, out *triggers.Outcome, header []byte) error {
	if n := len(out.Firings); n > ev.Limit.Firings {
		return fmt.Errorf("one step fires %d times, %d are allowed: let it fire the rest at the next tick", n, ev.Limit.Firings)
	}
	if n := len(out.Drop); n > triggers.MaxFiringObjects {
		return fmt.Errorf("one step drops %d objects, %d are allowed: let it drop the rest at the next tick", n, triggers.MaxFiringObjects)
	}
	out.DropsFirst = false // what it says of others' items is not relied on
	if len(header) > customHeader {
		return fmt.Errorf("its header has %d bytes, %d are allowed: let it keep objects as items", len(header), customHeader)
	}
	arrived := uint64(0)
	if ev.Kind == triggers.ObjectArrived {
		arrived = ev.Object.Position
	}
	if n := len(out.Keep); n > 1 || n == 1 && (arrived == 0 || out.Keep[0].Position != arrived || out.Keep[0].Key != ev.Object.Key) {
		return errors.New("it keeps something else than the object that has come")
	}
	for i := range out.Firings {
		if len(out.Firings[i].Group) > spec.MaxKeyBytes {
			return fmt.Errorf("the name of a group has %d bytes, %d are allowed", len(out.Firings[i].Group), spec.MaxKeyBytes)
		}
		for _, o := range out.Firings[i].Inputs {
			if (arrived == 0 || o != ev.Object) && !t.has(m, &o) {
				return fmt.Errorf("it fires object %d (%q), which it does not have", o.Position, o.Key)
			}
		}
	}
	dropped := make(map[uint64]bool, len(out.Drop))
	for _, position := range out.Drop {
		if dropped[position] || position == arrived || m.name.session == "" && !t.has(m, &triggers.Object{Position: position}) {
			return fmt.Errorf("it drops object %d, which it does not keep", position)
		}
		dropped[position] = true
	}
	if y := out.Timer.Year(); !out.Timer.IsZero() && (y < 1970 || y > 9999) {
		return fmt.Errorf("its timer is set to %s", out.Timer)
	}
	return nil
}

// has tells whether an object is there that a machine names.
func (t *tx) has(m *machine, o *triggers.Object) bool {
	n := m.name
	if n.session == "" {
		_, ok := t.get(store.AppendHeldKey(nil, t.shard(), n.app, n.bucket, n.trigger, o.Position))
		return ok
	}
	value, ok := t.get(store.AppendSessionObjectKey(nil, t.shard(), n.app, n.bucket, n.session, o.Key))
	if !ok {
		return false
	}
	rec, err := store.DecodeObject(value)
	return err == nil && uint64(rec.Revision) == o.Position
}

// behind tells whether what comes for a trigger of scope bucket has to wait.
func (m *machine) behind() bool { return m.stalled != "" || m.backlog != 0 }

// stepBehind is stepBucket for a trigger that is stalled, or has a backlog yet.
func (t *tx) stepBehind(p *plan, m *machine, ev triggers.Event) {
	if !t.putBehind(m, ev) && m.stalled == "" && ev.Kind == triggers.Tick {
		t.catchUp(p, m)
	}
}

// putBehind adds an object or a set to a trigger's backlog, and tells whether the
// event was one.
func (t *tx) putBehind(m *machine, ev triggers.Event) bool {
	n := m.name
	var position uint64
	switch ev.Kind {
	case triggers.ObjectArrived:
		position = ev.Object.Position
		t.write(store.AppendTriggerItemKey(nil, t.shard(), n.app, "", n.bucket, n.trigger, position),
			store.AppendItem(nil, &store.Item{Key: ev.Object.Key, Group: ev.Object.Group, Time: t.at}))
	case triggers.SetNamed: // in order with the objects: the first ones that come belong to it
		position = uint64(t.revision())
		t.write(store.AppendTriggerSetKey(nil, t.shard(), n.app, n.bucket, n.trigger, position),
			store.AppendNamedSet(nil, &store.NamedSet{Keys: ev.Keys, Time: t.at}))
	default:
		return false
	}
	m.tail = position
	if m.backlog == 0 {
		m.backlog, m.known = position, true
		t.markMachine(m, n)
	}
	return true
}

// catchUp counts a part of a backlog. The machine's timer goes off soon to go on
// with it; after the last part it is ticked, and has its timer to itself again.
func (t *tx) catchUp(p *plan, m *machine) {
	waiting, last, err := t.waiting(m)
	if err != nil {
		t.broken(err)
		return
	}
	defer t.markMachine(m, m.name)
	counted := 0
	for i := range waiting {
		if t.full() || m.stale {
			break // a stale header is written first, so that a panic can't lose it
		}
		m.backlog = waiting[i].position
		if !t.stepHeld(p, m, waiting[i].Event) {
			return // with what it can't take as the first of the backlog
		}
		if n := m.name; waiting[i].Kind == triggers.SetNamed {
			t.erase(store.AppendTriggerSetKey(nil, t.shard(), n.app, n.bucket, n.trigger, waiting[i].position))
		}
		m.backlog = waiting[i].position + 1
		counted++
	}
	if counted == len(waiting) && last && m.backlog > m.tail {
		m.backlog = 0
		t.stepHeld(p, m, triggers.Event{Kind: triggers.Tick, Now: timeOf(t.at)})
		return
	}
	pause := store.Micros(1)
	if counted == 0 { // the rest is in flight, or the round is full
		pause = store.Micros(backlogPause.Microseconds())
	}
	t.rearm(nil, m.name, m, t.at+pause)
}

// waits is an object or a set of a backlog: what the machine would have been told
// when it came.
type waits struct {
	triggers.Event
	position uint64
}

// waiting reads the first that waits for a machine, in order, and tells whether it
// is all. What entries in flight write is not among it, nor anything behind that:
// objects and sets are read as they were at one time.
func (t *tx) waiting(m *machine) (list []waits, last bool, err error) {
	at := t.leader.cfg.DB.Snapshot()
	defer func() { err = errors.Join(err, at.Close()) }()
	n, sh := m.name, t.shard()
	_, end := store.Bounds(store.AppendTriggerItemsPrefix(nil, sh, n.app, "", n.bucket, n.trigger))
	objects, allObjects, err := page(at, store.AppendTriggerItemKey(nil, sh, n.app, "", n.bucket, n.trigger, m.backlog), end, func(k, v []byte) (waits, int, error) {
		_, position, keyErr := store.DecodeTriggerItemKey(k)
		it, err := store.DecodeItem(v)
		o := triggers.Object{Position: position, Key: it.Key, Group: it.Group}
		return waits{triggers.Event{Kind: triggers.ObjectArrived, Now: timeOf(it.Time), Object: o}, position}, len(k) + len(v), errors.Join(keyErr, err)
	})
	if err != nil {
		return nil, false, err
	}
	_, end = store.Bounds(store.AppendTriggerSetsPrefix(nil, sh, n.app, n.bucket, n.trigger))
	sets, allSets, err := page(at, store.AppendTriggerSetKey(nil, sh, n.app, n.bucket, n.trigger, m.backlog), end, func(k, v []byte) (waits, int, error) {
		_, position, keyErr := store.DecodeTriggerSetKey(k)
		set, err := store.DecodeNamedSet(v)
		return waits{triggers.Event{Kind: triggers.SetNamed, Now: timeOf(set.Time), Keys: set.Keys}, position}, len(k) + len(v), errors.Join(keyErr, err)
	})
	if err != nil {
		return nil, false, err
	}
	known := ^uint64(0) // up to where all is read
	if !allObjects {
		known = objects[len(objects)-1].position
	}
	if !allSets {
		known = min(known, sets[len(sets)-1].position)
	}
	list = append(objects, sets...)
	slices.SortFunc(list, func(a, b waits) int { return cmp.Compare(a.position, b.position) })
	list = slices.DeleteFunc(list, func(w waits) bool { return w.position > known })
	return list, allObjects && allSets, nil
}

// page reads the first records of a range, and tells whether they are all.
func page(at *store.Snapshot, lower, upper []byte, read func(k, v []byte) (waits, int, error)) (list []waits, all bool, err error) {
	var damaged error
	size := 0
	all = true
	err = at.Scan(lower, upper, func(k, v []byte) bool {
		if len(list) == backlogRound || size > backlogBytes {
			all = false
			return false
		}
		w, bytes, err := read(k, v)
		if damaged = err; err != nil {
			return false
		}
		list, size = append(list, w), size+bytes
		return true
	})
	return list, all, errors.Join(damaged, err)
}

// headerOf returns the header to be written for a machine.
func (m *machine) headerOf() []byte {
	if m.Machine != nil && (m.stale || !m.retains()) {
		header := m.Header(nil)
		if !m.retains() {
			return header
		}
		m.header, m.stale = header, false
	}
	return m.header
}
