package leader

import (
	"errors"
	"iter"

	"github.com/pheromone-run/pheromone/internal/failpoint"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
	"github.com/pheromone-run/pheromone/triggers"
)

// step passes an event to a trigger's machine in a session and does what it asks.
func (t *tx) step(s *session, bucket spec.BucketName, tr *spec.Trigger, ev triggers.Event) {
	name := machineName{s.name.app, s.name.session, bucket, tr.Name}
	m := t.machine(s, name, tr)
	if m == nil || s.failing != nil {
		return
	}
	if ev.Kind == triggers.ObjectArrived {
		t.steps.Pass(failpoint.Counted, s.name.app)
	}
	ev.Now = timeOf(t.at)
	ev.Room = t.takeRoom() // a firing that is refused makes an object, which may be counted in here
	defer t.leaveRoom(ev.Room)
	out, ok := t.advance(m, ev)
	if !ok {
		t.failBy(s, m)
		return
	}
	t.keep(s, name, m, &out)
	for i := range out.Firings {
		f := &out.Firings[i]
		var several []store.InputRef
		if len(f.Inputs) > 1 {
			several = inputRefs(make([]store.InputRef, 0, len(f.Inputs)), bucket, f)
		}
		for _, target := range tr.Target {
			inputs := several
			if inputs == nil {
				inputs = inputRefs(t.scratch.input[:0], bucket, f)
			}
			if !t.fits(0, refs(bucket, f)) {
				t.refuseFiring(s, target, bucket, tr.Name, f, inputs[:min(len(inputs), inputsShown)])
				continue
			}
			t.fire(s, target, bucket, tr.Name, f, inputs, 0)
		}
	}
	if out.CancelRest {
		t.cancelRest(s, bucket, &out)
	}
}

// inputRefs appends the inputs of a firing in a session.
func inputRefs(dst []store.InputRef, bucket spec.BucketName, f *triggers.Firing) []store.InputRef {
	for _, o := range f.Inputs {
		dst = append(dst, store.InputRef{Bucket: bucket, Key: o.Key, Revision: spec.Revision(o.Position)})
	}
	return dst
}

// takeRoom returns room for a step, which is that step's until it is left.
func (r *reign) takeRoom() *triggers.Room {
	n := len(r.rooms)
	if n == 0 {
		return &triggers.Room{}
	}
	room := r.rooms[n-1]
	r.rooms = r.rooms[:n-1]
	return room
}

func (r *reign) leaveRoom(room *triggers.Room) {
	*room = triggers.Room{}
	r.rooms = append(r.rooms, room)
}

// keep makes durable what a step changed of a machine.
func (t *tx) keep(s *session, name machineName, m *machine, out *triggers.Outcome) {
	session := name.session
	for i := range out.Keep {
		it := &out.Keep[i]
		t.write(store.AppendTriggerItemKey(t.scratch.key(), t.shard(), name.app, session, name.bucket, name.trigger, it.Position),
			store.AppendItem(t.scratch.record(), &store.Item{Key: it.Key, Group: it.Group, Time: micros(it.Time)}))
	}
	if n := len(out.Drop); out.DropsFirst && n > pointDeletes {
		t.batch.DeleteRange(store.AppendTriggerItemsPrefix(nil, t.shard(), name.app, session, name.bucket, name.trigger),
			store.AppendTriggerItemKey(nil, t.shard(), name.app, session, name.bucket, name.trigger, out.Drop[n-1]+1))
	} else {
		for _, position := range out.Drop {
			t.erase(store.AppendTriggerItemKey(t.scratch.key(), t.shard(), name.app, session, name.bucket, name.trigger, position))
		}
	}
	var want store.Micros
	if !out.Timer.IsZero() {
		want = micros(out.Timer)
	}
	rearmed := t.rearm(s, name, m, want)
	if !out.Changed && !rearmed && (m.known || len(out.Keep) == 0) {
		return // items alone: the header stands as it is
	}
	if !m.known {
		m.known = true
		if s != nil {
			s.rec.Machines++
		}
	}
	t.markMachine(m, name)
	if s != nil {
		t.touch(s)
	}
}

// rearm moves a machine's timer to where it wants it, and tells whether it moved.
func (t *tx) rearm(s *session, name machineName, m *machine, want store.Micros) bool {
	if want == m.timer {
		return false
	}
	subject := store.Timer{Kind: store.TimerTrigger, App: name.app, Session: name.session, Bucket: name.bucket, Trigger: name.trigger}
	if m.timer != 0 {
		t.disarm(m.timer, subject)
		if s != nil {
			s.rec.Timers--
		}
	}
	m.timer = want
	if want != 0 {
		t.arm(want, subject)
		if s != nil {
			s.rec.Timers++
		}
	}
	return true
}

func (t *tx) writeMachine(m *machine) {
	m.dirty = false
	n := m.name
	if m.Machine == nil && n.session != "" {
		return // what is stored stays as it is, for people who look into it
	}
	header := m.headerOf()
	m.headerBytes = len(header)
	t.write(store.AppendTriggerStateKey(t.scratch.key(), t.shard(), n.app, n.session, n.bucket, n.trigger),
		store.AppendTriggerState(t.scratch.record(), &store.TriggerState{Timer: m.timer, Header: header, Primitive: m.spec.Primitive, Stalled: m.backlog}))
}

// machine returns the state machine of a trigger in a session, or of scope bucket
// if s is nil, loading it if it is not in memory.
func (t *tx) machine(s *session, name machineName, tr *spec.Trigger) *machine {
	in := t.machines
	if s != nil && triggers.Stateless(tr.Primitive) && !tr.Primitive.Custom() {
		return t.stateless(s.plan, name, tr)
	}
	if s != nil {
		if s.machines == nil {
			s.machines = make(map[machineName]*machine)
		}
		in = s.machines
	}
	if m, ok := in[name]; ok {
		return m
	}
	m, err := t.loadMachine(s, name, tr)
	if err != nil {
		t.broken(err)
		return nil
	}
	in[name] = m
	return m
}

// stateless returns the machine of a built-in trigger that keeps nothing from one step
// to the next. Sessions do not have one each: most triggers are of that kind.
func (t *tx) stateless(p *plan, name machineName, tr *spec.Trigger) *machine {
	at := triggerName{name.bucket, name.trigger}
	m := p.stateless[at]
	if m == nil || m.stalled != "" { // what one session has made of it is not the next one's
		m = t.newMachine(name, tr)
		p.stateless[at] = m
	}
	m.name = name
	return m
}

// newMachine makes a machine in its first state.
func (t *tx) newMachine(name machineName, tr *spec.Trigger) *machine {
	m := &machine{spec: tr, name: name}
	var err error
	if m.Machine, err = triggers.New(tr); err != nil {
		t.stall(m, err)
	}
	return m
}

// loadMachine makes a machine from what is stored of it, which is stalled if
// that can't be done. Its errors are those of the store.
func (t *tx) loadMachine(s *session, name machineName, tr *spec.Trigger) (*machine, error) {
	// Across a bucket also a stateless one may have stalled, and have a backlog.
	if s != nil && (s.fresh || s.rec.Machines == 0 || triggers.Stateless(tr.Primitive)) {
		return t.newMachine(name, tr), nil
	}
	value, err := t.leader.cfg.DB.Get(store.AppendTriggerStateKey(nil, t.shard(), name.app, name.session, name.bucket, name.trigger))
	if errors.Is(err, store.ErrNotFound) {
		return t.newMachine(name, tr), nil
	}
	if err != nil {
		return nil, err
	}
	rec, err := store.DecodeTriggerState(value)
	if err != nil {
		return nil, err
	}
	if rec.Primitive != tr.Primitive {
		t.leader.cfg.Log.Warn("trigger starts anew: its primitive has changed",
			"app", name.app, "bucket", name.bucket, "trigger", name.trigger, "from", rec.Primitive, "to", tr.Primitive)
		t.forgetMachine(name, rec.Timer)
		if s != nil && rec.Timer != 0 {
			s.rec.Timers--
		}
		return t.newMachine(name, tr), nil
	}
	m := &machine{spec: tr, name: name, timer: rec.Timer, known: true, backlog: rec.Stalled}
	if m.retains() {
		m.header = rec.Header
	}
	items, failed := t.items(name, rec.Stalled)
	m.Machine, err = triggers.Restore(tr, rec.Header, items)
	if *failed != nil {
		return nil, *failed
	}
	if err != nil {
		t.stall(m, err)
	}
	m.headerBytes = len(rec.Header)
	m.widest, err = t.widestHeld(name)
	return m, err
}

// items reads what is kept for a machine, up to before a position unless that is 0;
// the error is set when the sequence ends.
func (t *tx) items(name machineName, before uint64) (iter.Seq[triggers.Item], *error) {
	failed := new(error)
	return func(yield func(triggers.Item) bool) {
		lower, upper := store.Bounds(store.AppendTriggerItemsPrefix(nil, t.shard(), name.app, name.session, name.bucket, name.trigger))
		if before != 0 {
			upper = store.AppendTriggerItemKey(nil, t.shard(), name.app, name.session, name.bucket, name.trigger, before)
		}
		err := t.leader.cfg.DB.Scan(lower, upper, func(k, v []byte) bool {
			_, position, keyErr := store.DecodeTriggerItemKey(k)
			it, err := store.DecodeItem(v)
			if *failed = errors.Join(keyErr, err); *failed != nil {
				return false
			}
			return yield(triggers.Item{Object: triggers.Object{Position: position, Key: it.Key, Group: it.Group}, Time: timeOf(it.Time)})
		})
		if *failed == nil {
			*failed = err
		}
	}, failed
}

// forgetMachine deletes a machine with all it holds.
func (t *tx) forgetMachine(name machineName, timer store.Micros) {
	t.erase(store.AppendTriggerStateKey(nil, t.shard(), name.app, name.session, name.bucket, name.trigger))
	t.batch.DeleteRange(store.Bounds(store.AppendTriggerItemsPrefix(nil, t.shard(), name.app, name.session, name.bucket, name.trigger)))
	if name.session == "" {
		t.batch.DeleteRange(store.Bounds(store.AppendTriggerSetsPrefix(nil, t.shard(), name.app, name.bucket, name.trigger)))
		t.sweepFrom(name, uint64(t.counters.Revision))
	}
	if timer != 0 {
		t.disarm(timer, store.Timer{Kind: store.TimerTrigger, App: name.app, Session: name.session, Bucket: name.bucket, Trigger: name.trigger})
	}
}

// triggerDue ticks a trigger whose timer has come.
func (t *tx) triggerDue(subject store.Timer, due store.Micros) {
	name := machineName{subject.App, subject.Session, subject.Bucket, subject.Trigger}
	if subject.Session == "" {
		t.tickBucket(name, due)
		return
	}
	s := t.session(sessionName{subject.App, subject.Session})
	if s == nil || s.rec.State != store.SessionRunning {
		return
	}
	tr := findTrigger(s.plan.app, subject.Bucket, subject.Trigger)
	if tr == nil {
		return
	}
	m := t.machine(s, name, tr)
	if m == nil || m.timer != due {
		return
	}
	t.steps.Pass(failpoint.Ticked, subject.App)
	m.timer = 0
	s.rec.Timers--
	t.touch(s)
	t.step(s, subject.Bucket, tr, triggers.Event{Kind: triggers.Tick})
	t.markMachine(m, name)
}

// markMachine has a machine written with the entry whatever its step said.
func (t *tx) markMachine(m *machine, name machineName) {
	if !m.dirty {
		m.dirty = true
		m.name = name
		t.dirty.machines = append(t.dirty.machines, m)
	}
}

func findTrigger(app *spec.App, bucket spec.BucketName, name spec.TriggerName) *spec.Trigger {
	b, ok := app.Bucket(bucket)
	if !ok {
		return nil
	}
	for _, tr := range b.Triggers {
		if tr.Name == name {
			return tr
		}
	}
	return nil
}

// disarmMachines takes back the timers of a session that ends by force. Those of
// machines that are not in memory find their session ended when they are due.
func (t *tx) disarmMachines(s *session) {
	for name, m := range s.machines {
		if t.rearm(s, name, m, 0) {
			t.markMachine(m, name)
		}
	}
}

// finishStages tells triggers that wait for functions that all their invocations
// in the session are done. If the round is full they are told in a later one: their
// timers see to that.
func (t *tx) finishStages(s *session) {
	if s.rec.Awaited > 0 {
		return // the result of a child session may cause more of any function
	}
	for _, st := range s.plan.stages {
		if !s.stageDone(st.trigger.Until.Functions) || t.expectsMore(s) {
			continue
		}
		name := machineName{s.name.app, s.name.session, st.bucket, st.trigger.Name}
		m := t.machine(s, name, st.trigger)
		if m == nil || m.Machine == nil || s.failing != nil || m.Waiting().Done {
			continue
		}
		if t.full() {
			t.keep(s, name, m, &triggers.Outcome{Timer: timeOf(t.at)})
			continue
		}
		t.step(s, st.bucket, st.trigger, triggers.Event{Kind: triggers.StageDone})
	}
}

// expectsMore tells whether something of the session that is due later may cause
// invocations: a delayed object that is not counted yet, or a re-execution rule that
// may run an invocation again that has ended. Both are timers of the session that
// belong neither to a trigger nor to a pending invocation, which is asked itself.
func (t *tx) expectsMore(s *session) bool {
	others := s.rec.Timers
	for bucket, b := range s.plan.app.Buckets {
		for _, tr := range b.Triggers {
			if others == 0 {
				return false
			}
			if tr.Scope != spec.ScopeSession || triggers.Stateless(tr.Primitive) {
				continue
			}
			if m := t.machine(s, machineName{s.name.app, s.name.session, bucket, tr.Name}, tr); m != nil && m.timer != 0 {
				others--
			}
		}
	}
	for _, inv := range s.pending {
		for i := range inv.rec.Expects {
			if inv.rec.Expects[i].Due != 0 {
				others--
			}
		}
	}
	return others > 0
}
