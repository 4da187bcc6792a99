package triggers

import (
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"

	"github.com/pheromone-run/pheromone/spec"
)

// Factory makes the machines of one primitive.
type Factory struct {
	// New makes a machine in its first state. It refuses a trigger whose options
	// it can't work with; the faults of an spec.OptionReader become faults of the
	// manifest, each with its place. It is called for each session or bucket, and
	// when a manifest is applied.
	New func(t *spec.Trigger) (Machine, error)
	// Restore makes the machine again that had this header and kept these items,
	// which come in order of position. The header is empty if none was written yet;
	// there may be items all the same. The options of the trigger may have changed
	// since, which is no error. A header that it can't read, because it is damaged or
	// of a version that this program does not know, is one: the trigger is stalled
	// until a program comes that can. Restore keeps neither header nor items. Not
	// needed for a stateless primitive.
	Restore func(t *spec.Trigger, header []byte, items iter.Seq[Item]) (Machine, error)
	// Stateless says that the machines keep nothing: the header is always empty
	// and no item is ever kept.
	Stateless bool
	// Scope is the default scope of the triggers. Empty is session.
	Scope spec.Scope
	// Fires completes "fires …" where the primitive is described to people.
	Fires string
}

// factories holds the built-in primitives and, beside them, the custom ones.
var factories = struct {
	sync.RWMutex
	byName map[spec.Primitive]Factory
}{byName: map[spec.Primitive]Factory{
	spec.Immediate:    stateless(newImmediate),
	spec.ByName:       stateless(newByName),
	spec.BySet:        stateful(newBySet),
	spec.ByBatchSize:  stateful(newByBatchSize),
	spec.ByTime:       stateful(newByTime),
	spec.Redundant:    stateful(newRedundant),
	spec.DynamicJoin:  stateful(newDynamicJoin),
	spec.DynamicGroup: stateful(newDynamicGroup),
}}

// Register adds a custom primitive, as the built-in ones are there already.
// Call it from an init function or before the first node starts: all nodes of a
// cluster must know the same primitives, since any of them may lead a shard. Only
// the leader runs machines, so a new version of a primitive may decide otherwise
// than the old one did, as long as it reads the headers that the old one wrote.
// The name has a dot, as in acme.debounce, so that no later built-in one is ever
// called the same. A name that is none or is taken, or a factory that lacks what
// it needs, is a mistake of the program and panics.
func Register(name spec.Primitive, f Factory) {
	if f.New == nil || f.Restore == nil && !f.Stateless {
		panic(fmt.Sprintf("triggers: primitive %q needs New and, unless it is stateless, Restore", name))
	}
	factories.Lock()
	defer factories.Unlock()
	spec.RegisterPrimitive(spec.CustomPrimitive{Name: name, Scope: f.Scope, Fires: f.Fires})
	factories.byName[name] = f
}

// New returns t's machine in its first state. A factory that panics is told as
// an error, as by Restore and Check.
func New(t *spec.Trigger) (m Machine, err error) {
	f, err := factoryOf(t)
	if err != nil {
		return nil, err
	}
	defer recovered(t, "make", &m, &err)
	return f.New(t)
}

// Check tells whether a machine can be made for t: a spec.TriggerCheck.
func Check(t *spec.Trigger) error {
	_, err := New(t)
	return err
}

// recovered turns a panic of a factory into the error that it should have been:
// code from outside of the house must not take a node down.
func recovered(t *spec.Trigger, what string, m *Machine, err *error) {
	if p := recover(); p != nil {
		*m, *err = nil, spec.Errorf(spec.CodeInternal, "%s a machine of trigger %q (%s): panic: %v", what, t.Name, t.Primitive, p)
	}
}

// Restore returns t's machine as it was when it had this header and kept these
// items, which must come in order of position. The owner steps it with a Tick
// next: if t's options have changed meanwhile, what waits may be due at once, or
// of no use any more.
func Restore(t *spec.Trigger, header []byte, items iter.Seq[Item]) (m Machine, err error) {
	f, err := factoryOf(t)
	if err != nil {
		return nil, err
	}
	defer recovered(t, "restore", &m, &err)
	if f.Stateless {
		return f.New(t)
	}
	return f.Restore(t, header, items)
}

// Stateless reports whether machines of p keep no state at all, so that their
// owner need not store or restore them. They can't tell repetitions either: the
// owner passes each object to them once.
func Stateless(p spec.Primitive) bool {
	factories.RLock()
	defer factories.RUnlock()
	return factories.byName[p].Stateless
}

func factoryOf(t *spec.Trigger) (Factory, error) {
	factories.RLock()
	defer factories.RUnlock()
	if f, ok := factories.byName[t.Primitive]; ok {
		return f, nil
	}
	var known []string
	for name := range factories.byName {
		known = append(known, string(name))
	}
	slices.Sort(known)
	return Factory{}, spec.Errorf(spec.CodeInvalid, "trigger %q has the unknown primitive %q", t.Name, t.Primitive).
		WithField("primitive").WithHint("this program has " + strings.Join(known, ", "))
}

// restorable is a built-in machine with state, before its first step.
type restorable interface {
	Machine
	// restore brings the machine into the state that h and items describe.
	restore(h *headerReader, items iter.Seq[Item]) error
}

func stateful[M restorable](create func(*spec.Trigger) (M, error)) Factory {
	return Factory{
		New: func(t *spec.Trigger) (Machine, error) {
			m, err := create(t)
			if err != nil {
				return nil, err // not m: a nil M is no nil Machine
			}
			return m, nil
		},
		Restore: func(t *spec.Trigger, header []byte, items iter.Seq[Item]) (Machine, error) {
			m, err := create(t)
			if err != nil {
				return nil, err
			}
			h, err := readHeader(header)
			if err == nil {
				err = m.restore(h, items)
			}
			if err != nil {
				return nil, spec.Errorf(spec.CodeInternal, "restore trigger %q (%s): %w", t.Name, t.Primitive, err)
			}
			return m, nil
		},
	}
}

func stateless(create func(*spec.Trigger) (Machine, error)) Factory {
	return Factory{New: create, Stateless: true}
}

// badOption is the error of New for options that spec would not have let pass.
func badOption(t *spec.Trigger, field, format string, args ...any) error {
	return spec.Errorf(spec.CodeInvalid, "trigger %q (%s): "+format,
		append([]any{t.Name, t.Primitive}, args...)...).WithField(field)
}
