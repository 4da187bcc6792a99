package leader_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/triggers"
)

// program is the version of the custom primitive test.pair that a test's nodes
// have compiled in. A trigger names the one of its test.
type program struct {
	mu      sync.Mutex
	version byte
	poison  spec.Key // the object with this key makes Step panic
	wrong   func(*triggers.Outcome)
	lack    bool // New and Restore refuse
	pad     int  // bytes behind the header
}

var programs sync.Map // of *program by name

func (p *program) set(change func(*program)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

// pair fires with each two objects in the order in which they come, or with one
// that has waited long enough. Its header is the version and the last position.
type pair struct {
	program *program
	first   *triggers.Item
	last    uint64
	wait    time.Duration
}

func init() {
	triggers.Register("test.pair", triggers.Factory{New: newPair, Restore: restorePair, Fires: "with two objects"})
}

func newPair(t *spec.Trigger) (triggers.Machine, error) {
	o := t.Options.Read()
	name, wait := o.Text("program", ""), o.Duration("wait", time.Hour, 0, time.Hour)
	if err := o.Err(); err != nil {
		return nil, err
	}
	found, _ := programs.LoadOrStore(name, &program{version: 1})
	p := found.(*program)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lack {
		return nil, errors.New("not compiled in")
	}
	return &pair{program: p, wait: wait}, nil
}

func restorePair(t *spec.Trigger, header []byte, items iter.Seq[triggers.Item]) (triggers.Machine, error) {
	m, err := newPair(t)
	if err != nil || len(header) == 0 {
		return m, err
	}
	p := m.(*pair)
	p.program.mu.Lock()
	defer p.program.mu.Unlock()
	if header[0] > p.program.version {
		return nil, fmt.Errorf("header has version %d, this program reads up to %d", header[0], p.program.version)
	}
	p.last, _ = binary.Uvarint(header[1:])
	for it := range items {
		if it.Position > p.last {
			return nil, fmt.Errorf("item %d is no part of the state up to %d", it.Position, p.last)
		}
		p.first = &it
	}
	return p, nil
}

func (m *pair) Step(ev triggers.Event) triggers.Outcome {
	m.program.mu.Lock()
	defer m.program.mu.Unlock()
	var out triggers.Outcome
	if ev.Kind == triggers.ObjectArrived {
		if ev.Object.Position <= m.last {
			panic(fmt.Sprintf("object %d comes after %d", ev.Object.Position, m.last))
		}
		m.last, out.Changed = ev.Object.Position, true
		if m.program.poison != "" && ev.Object.Key == m.program.poison {
			panic("poisoned")
		}
	}
	if m.first != nil && !m.first.Time.Add(m.wait).After(ev.Now) {
		m.fire(&out, m.first.Object)
	}
	switch {
	case ev.Kind != triggers.ObjectArrived:
	case m.first == nil:
		m.first = &triggers.Item{Object: ev.Object, Time: ev.Now}
		out.Keep = []triggers.Item{*m.first}
	default:
		m.fire(&out, m.first.Object, ev.Object)
	}
	if m.first != nil {
		out.Timer = m.first.Time.Add(m.wait)
	}
	if m.program.wrong != nil && ev.Kind == triggers.ObjectArrived {
		m.program.wrong(&out)
	}
	return out
}

func (m *pair) fire(out *triggers.Outcome, inputs ...triggers.Object) {
	out.Firings = append(out.Firings, triggers.Firing{Inputs: inputs})
	out.Drop = append(out.Drop, m.first.Position)
	m.first, out.Changed = nil, true
}

func (m *pair) Header(dst []byte) []byte {
	if m.last == 0 {
		return dst
	}
	return append(binary.AppendUvarint(append(dst, m.program.version), m.last), make([]byte, m.program.pad)...)
}

func (m *pair) Waiting() triggers.Waiting { return triggers.Waiting{} }
