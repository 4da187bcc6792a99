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
	// it can't work with.
	New func(t *spec.Trigger) (Machine, error)
	// Restore makes the machine again that had this header and kept these items,
	// which come in order of position. The options of the trigger may have changed
	// since, which is no error; a damaged header is one, and never a panic. Not
	// needed for a stateless primitive.
	Restore func(t *spec.Trigger, header []byte, items iter.Seq[Item]) (Machine, error)
	// Stateless says that the machines keep nothing: the header is always empty
	// and no item is ever kept.
	Stateless bool
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
// A name that is taken, or a factory that lacks what it needs, is a mistake of
// the program and panics.
func Register(name spec.Primitive, f Factory) {
	factories.Lock()
	defer factories.Unlock()
	if _, ok := factories.byName[name]; ok {
		panic(fmt.Sprintf("triggers: primitive %q is registered twice", name))
	}
	if name == "" || f.New == nil || f.Restore == nil && !f.Stateless {
		panic(fmt.Sprintf("triggers: primitive %q needs a name, New and, unless it is stateless, Restore", name))
	}
	factories.byName[name] = f
}

// New returns t's machine in its first state.
func New(t *spec.Trigger) (Machine, error) {
	f, err := factoryOf(t)
	if err != nil {
		return nil, err
	}
	return f.New(t)
}

// Restore returns t's machine as it was when it had this header and kept these
// items, which must come in order of position. The owner steps it with a Tick
// next: if t's options have changed meanwhile, what waits may be due at once, or
// of no use any more.
func Restore(t *spec.Trigger, header []byte, items iter.Seq[Item]) (Machine, error) {
	f, err := factoryOf(t)
	if err != nil {
		return nil, err
	}
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
		WithField("primitive").WithHint("one of " + strings.Join(known, ", "))
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
