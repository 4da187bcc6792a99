package fn

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"github.com/pheromone-run/pheromone/client/fn/protocol"
)

// memory is what the program shares with its node: inputs that it can only read,
// and outputs that it writes. A nil memory is one without room.
type memory struct {
	inputs  []byte
	outputs []byte

	mu struct {
		sync.Mutex
		spans   protocol.Spans // of outputs
		touched int64          // outputs from here on were never written to
	}
}

// place is a part of the outputs. It is the program's until it is sent, and again
// once the node has released it.
type place struct{ span protocol.Span }

func newMemory(inputs, outputs []byte) *memory {
	m := &memory{inputs: inputs, outputs: outputs}
	m.mu.spans.Size = int64(len(outputs))
	return m
}

// take finds room for size bytes. used is how many of them may not be zero.
func (m *memory) take(size int) (data []byte, at *place, used int64) {
	if m == nil {
		return nil, nil, 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	span, ok := m.mu.spans.Take(int64(size))
	if !ok {
		return nil, nil, 0
	}
	end := span.Offset + span.Length
	used = min(max(m.mu.touched-span.Offset, 0), span.Length)
	m.mu.touched = max(m.mu.touched, end)
	return m.outputs[span.Offset:end:end], &place{span}, used
}

// create returns memory of zero bytes, nil if there is no room.
func (m *memory) create(size int) ([]byte, *place) {
	data, at, used := m.take(size)
	clear(data[:used])
	return data, at
}

// copyOf puts a copy of the data of e where the node reads it, if there is room.
func (m *memory) copyOf(e *Emission) bool {
	data, at, _ := m.take(len(e.Data))
	if at == nil {
		return false
	}
	copy(data, e.Data)
	e.Data, e.place = data, at
	return true
}

// explain says what a handler has done that wrote to an input.
func (m *memory) explain(err error) error {
	var panicked *PanicError
	if m == nil || !errors.As(err, &panicked) {
		return err
	}
	begin := uintptr(unsafe.Pointer(unsafe.SliceData(m.inputs)))
	if fault, ok := panicked.Value.(interface{ Addr() uintptr }); ok && fault.Addr()-begin < uintptr(len(m.inputs)) {
		panicked.Value = "write to the bytes of an input, which nobody can change: copy them first"
	}
	return err
}

// free gives back a part that was not sent.
func (m *memory) free(at *place) {
	if m == nil || at == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.spans.Give(at.span.Offset)
}

// release takes back what the node has read.
func (m *memory) release(fields []byte) error {
	if m == nil {
		return fmt.Errorf("the node released memory that is not shared with it")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(fields) > 0 {
		tag, value, rest, err := protocol.NextField(fields)
		if err != nil {
			return fmt.Errorf("a RELEASE of the node: %w", err)
		}
		fields = rest
		if tag != protocol.TagObject {
			continue
		}
		d, err := protocol.ParseDescriptor(value)
		if err != nil {
			return fmt.Errorf("a RELEASE of the node: %w", err)
		}
		m.mu.spans.Give(int64(d.Offset))
	}
	return nil
}

// object returns an object of the node with its bytes, from an Object field.
func (m *memory) object(value, payload []byte) (o Object, err error) {
	d, err := protocol.ParseDescriptor(value)
	switch {
	case err != nil:
	case d.Kind == protocol.KindInline:
		o.data, err = d.Within(payload)
	case d.Kind == protocol.KindInput && m != nil:
		o.lent = new(lent)
		o.data, err = d.Within(m.inputs)
	default:
		err = d.Unsupported()
	}
	return o, err
}

// lent is what objects have whose bytes are in the inputs: the node uses the memory
// anew when their attempt has ended.
type lent struct {
	until *stay // set before the function sees the object
	once  sync.Once
	copy  []byte
}

// kept returns a copy of data that stays.
func (l *lent) kept(data []byte) []byte {
	l.once.Do(func() {
		l.until.mu.RLock()
		defer l.until.mu.RUnlock()
		if !l.until.over {
			l.copy = bytes.Clone(data)
		}
	})
	if l.copy == nil {
		panic("fn: Bytes of a large object was called for the first time after the handler had returned: the bytes are gone")
	}
	return l.copy
}

// stay is how long the inputs of an attempt are there.
type stay struct {
	mu   sync.RWMutex
	over bool // guarded by mu
}

// end waits for those who copy.
func (s *stay) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = true
}
