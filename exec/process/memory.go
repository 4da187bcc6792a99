package process

import (
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/pheromone-run/pheromone/client/fn/protocol"
)

const (
	// growth is what the input memory of a process grows by at least.
	growth = 4 << 20
	// leastLent is the size from which on the sink reads an object where its program
	// has written it. What is smaller is copied at once.
	leastLent = 256 << 10
	// futureWrite is F_SEAL_FUTURE_WRITE: no further mapping can be written through.
	futureWrite = 0x10
)

// memory is what the node shares with one process: inputs, which the node writes
// and the process can only read, and outputs, the other way round. Neither can be
// made shorter by anybody, so that what is mapped stays there. A process sees no
// other one's memory: two apps share nothing, and what a process spoils is its own.
type memory struct {
	rt        *Runtime
	inputs    []byte // mapped for writing before it was sealed
	outputs   []byte // mapped for reading
	inputFile *os.File
	output    *os.File

	mu struct {
		sync.Mutex
		users     int // whoever reads or writes a mapping, and the process itself
		closed    bool
		spans     protocol.Spans // of inputs
		committed int64          // bytes of inputs that are in memory
		lent      int            // outputs that sinks have not read yet
	}
}

// newMemory makes the memory of a process. It takes up room as it is used. With an
// error it is returned as far as it was made, for the deferred function to take away.
func newMemory(rt *Runtime) (m *memory, err error) {
	m = &memory{rt: rt}
	defer func() {
		if err != nil {
			m.unmap()
			m = nil
		}
	}()
	size := rt.s.SharedBytes
	if m.inputFile, m.inputs, err = mapped("pheromone-inputs", size, unix.PROT_READ|unix.PROT_WRITE, futureWrite); err != nil {
		return m, err
	}
	if m.output, m.outputs, err = mapped("pheromone-outputs", size, unix.PROT_READ, 0); err != nil {
		return m, err
	}
	m.mu.users = 1
	m.mu.spans.Size = size
	return m, nil
}

// mapped makes memory that keeps its size, and maps it. The seals come after the
// mapping, which may be the last that can be written through.
func mapped(name string, size int64, protection int, seals int) (*os.File, []byte, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, nil, fmt.Errorf("make shared memory: %w", err)
	}
	file := os.NewFile(uintptr(fd), name)
	if err := unix.Ftruncate(fd, size); err != nil {
		_ = file.Close()
		return nil, nil, fmt.Errorf("size shared memory: %w", err)
	}
	b, err := unix.Mmap(fd, 0, int(size), protection, unix.MAP_SHARED)
	if err != nil {
		_ = file.Close()
		return nil, nil, fmt.Errorf("map shared memory: %w", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL|seals); err != nil {
		_ = unix.Munmap(b)
		_ = file.Close()
		return nil, nil, fmt.Errorf("seal shared memory: %w", err)
	}
	return file, b, nil
}

// files are what a process inherits.
func (m *memory) files() []*os.File {
	if m == nil {
		return nil
	}
	return []*os.File{m.inputFile, m.output}
}

// hold keeps the mappings until drop is called; it tells whether they are there.
func (m *memory) hold() bool {
	if m == nil {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.closed {
		return false
	}
	m.mu.users++
	return true
}

func (m *memory) drop() {
	m.mu.Lock()
	m.mu.users--
	last := m.mu.users == 0
	m.mu.Unlock()
	if last {
		m.unmap()
	}
}

// close gives the memory back once nobody uses it any more: its process is gone,
// or does not share it.
func (m *memory) close() {
	if m == nil {
		return
	}
	m.mu.Lock()
	closed := m.mu.closed
	m.mu.closed = true
	m.mu.Unlock()
	if !closed {
		m.drop()
	}
}

func (m *memory) unmap() {
	for _, b := range [][]byte{m.inputs, m.outputs} {
		if b != nil {
			_ = unix.Munmap(b)
		}
	}
	for _, f := range []*os.File{m.inputFile, m.output} {
		if f != nil {
			_ = f.Close()
		}
	}
	m.rt.shared.give(m.mu.committed)
}

// take returns a part of the inputs, nil if there is no room for it.
func (m *memory) take(size int64) (protocol.Span, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.closed {
		return protocol.Span{}, false
	}
	span, ok := m.mu.spans.Take(size)
	if !ok {
		return span, false
	}
	if !m.commit(span.Offset + span.Length) {
		m.mu.spans.Give(span.Offset)
		return protocol.Span{}, false
	}
	return span, true
}

// commit has the inputs in memory up to end. Room is asked for before it is
// touched: where there is none, a write would end the node. The mutex is held.
func (m *memory) commit(end int64) bool {
	need := end - m.mu.committed
	if need <= 0 {
		return true
	}
	need = min((need+growth-1)/growth*growth, int64(len(m.inputs))-m.mu.committed)
	if !m.rt.shared.take(need) {
		return false
	}
	if err := unix.Fallocate(int(m.inputFile.Fd()), 0, m.mu.committed, need); err != nil {
		m.rt.shared.give(need)
		return false
	}
	// Mapping the pages now costs less than a fault for each; where the kernel does
	// not know how, they fault.
	_ = unix.Madvise(m.inputs[m.mu.committed:m.mu.committed+need], unix.MADV_POPULATE_WRITE)
	m.mu.committed += need
	return true
}

func (m *memory) give(span protocol.Span) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.spans.Give(span.Offset)
}

// held is how much memory the inputs take up.
func (m *memory) held() int64 {
	if m == nil {
		return 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.committed
}

// object returns the bytes of an object that the process has sent, or written here.
func (m *memory) object(d protocol.Descriptor, payload []byte) ([]byte, error) {
	switch {
	case d.Kind == protocol.KindInline:
		return d.Within(payload)
	case d.Kind != protocol.KindOutput || m == nil:
		return nil, d.Unsupported()
	}
	return d.Within(m.outputs)
}

// lend begins the time in which a sink may read an output.
func (m *memory) lend() {
	m.hold()
	m.mu.Lock()
	m.mu.lent++
	m.mu.Unlock()
}

// returned ends the time of so many outputs.
func (m *memory) returned(n int) {
	m.mu.Lock()
	m.mu.lent -= n
	m.mu.Unlock()
	for range n {
		m.drop()
	}
}

// punchable tells whether the outputs take up memory that nobody reads. The file
// itself is asked: a program may have written what it never sent. The caller knows
// that the process runs nothing.
func (m *memory) punchable() bool {
	if m == nil {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.lent > 0 || m.mu.closed {
		return false
	}
	var stat unix.Stat_t
	return unix.Fstat(int(m.output.Fd()), &stat) == nil && stat.Blocks > 0
}

// punch gives back what the outputs take up.
func (m *memory) punch() {
	if !m.hold() {
		return
	}
	defer m.drop()
	_ = unix.Fallocate(int(m.output.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, int64(len(m.outputs)))
}

// sharedBudget is how much memory the inputs of all processes may take up.
type sharedBudget struct {
	left    atomic.Int64
	wanting atomic.Bool // somebody was refused since a sweep looked

	inputs, outputs, inline passed // as in Shared
	refused                 atomic.Uint64
}

// passed counts objects, and their bytes.
type passed struct{ objects, bytes atomic.Uint64 }

func (p *passed) add(bytes int) {
	p.objects.Add(1)
	p.bytes.Add(uint64(bytes))
}

func (p *passed) count() Passed { return Passed{p.objects.Load(), p.bytes.Load()} }

func (b *sharedBudget) take(bytes int64) bool {
	for {
		left := b.left.Load()
		if left < bytes {
			b.wanting.Store(true)
			return false
		}
		if b.left.CompareAndSwap(left, left-bytes) {
			return true
		}
	}
}

func (b *sharedBudget) give(bytes int64) { b.left.Add(bytes) }

// wentInline counts a large object that travelled on a socket; shares tells whether
// its process shares memory.
func (b *sharedBudget) wentInline(bytes int, shares bool) {
	b.inline.add(bytes)
	if shares {
		b.refused.Add(1)
	}
}

// Shared tells how large objects, those of 64 KiB and more, have travelled, and what
// they take up.
type Shared struct {
	Bytes   int64  // in memory, of the inputs of all processes
	Inputs  Passed // that a process has read in place
	Outputs Passed // that were read where a process wrote them
	Inline  Passed // that travelled on a socket
	// Refused is how many of Inline would have gone through memory, had there been room.
	Refused uint64
}

// Passed counts objects, and their bytes.
type Passed struct{ Objects, Bytes uint64 }

// Shared tells how large objects have travelled so far.
func (rt *Runtime) Shared() Shared {
	s := &rt.shared
	return Shared{
		Bytes: max(rt.s.SharedBytes, 0) - s.left.Load(), Inputs: s.inputs.count(), Outputs: s.outputs.count(), Inline: s.inline.count(),
		Refused: s.refused.Load(),
	}
}

// lease is what one call has of its process's inputs. It is given back when the
// process has ended the attempt and nobody writes to it any more.
type lease struct {
	m  *memory
	mu sync.Mutex
	// Guarded by mu.
	spans map[*byte]protocol.Span // by the first byte
	users int
	over  bool
}

// use begins to write to the lease; it tells whether that can be done. done ends it.
func (l *lease) use() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over || !l.m.hold() {
		return false
	}
	l.users++
	return true
}

func (l *lease) done() {
	l.mu.Lock()
	l.users--
	l.clear()
	l.mu.Unlock()
	l.m.drop()
}

// end has everything given back once it is not used: the attempt reads no more.
func (l *lease) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	l.clear()
}

// clear gives everything back when it is time. mu is held.
func (l *lease) clear() {
	if !l.over || l.users > 0 {
		return
	}
	for _, span := range l.spans {
		l.m.give(span)
	}
	l.spans = nil
}

// place is an exec.Place, for those who use the lease.
func (l *lease) place(size int64) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if size < protocol.SharedBytes || l.users == 0 {
		return nil
	}
	span, ok := l.m.take(size)
	if !ok {
		return nil
	}
	room := l.m.inputs[span.Offset : span.Offset+size : span.Offset+size]
	if l.spans == nil {
		l.spans = make(map[*byte]protocol.Span)
	}
	l.spans[&room[0]] = span
	return room
}

// describe says where an input is, and copies it there if it is large and there is
// room. It returns what is left to be sent inline, at offset.
func (c *call) describe(data []byte, offset int64) (d protocol.Descriptor, rest []byte) {
	size := int64(len(data))
	if size >= protocol.SharedBytes {
		if span, ok := c.lease.spanOf(data); ok {
			c.rt.shared.inputs.add(len(data))
			return protocol.Descriptor{Kind: protocol.KindInput, Offset: uint64(span.Offset), Length: uint64(size)}, nil
		}
		c.rt.shared.wentInline(len(data), c.lease.m != nil)
	}
	return protocol.Descriptor{Offset: uint64(offset), Length: uint64(size)}, data
}

// spanOf finds data in the lease, or copies it there if there is room.
func (l *lease) spanOf(data []byte) (protocol.Span, bool) {
	l.mu.Lock()
	span, ok := l.spans[&data[0]]
	l.mu.Unlock()
	if ok {
		return span, true
	}
	room := l.place(int64(len(data)))
	if room == nil {
		return span, false
	}
	copy(room, data)
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.spans[&room[0]], true
}
