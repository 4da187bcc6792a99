package process

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pheromone-run/pheromone/client/fn/protocol"
	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/spec"
)

// status is how a process ended.
type status interface {
	String() string
	Success() bool
}

// process is a running executor. Fields below the line are guarded by the
// mutex of its group.
type process struct {
	g         *group
	name      string
	pid       int
	hello     protocol.ProcessHello
	functions map[spec.FunctionName]int
	parallel  int
	mayFork   bool // it was asked to
	socket    *socket
	frames    *protocol.Reader
	output    *output
	memory    *memory // nil if it shares none
	scratch   string
	exited    chan struct{} // closed once the process is reaped
	status    status        // set when exited is closed
	gets      gets
	dirty     []*call     // calls with pending emissions; the reader's own
	spoke     atomic.Bool // since the last sweep
	life      struct {
		sync.Mutex
		reaped bool
	}

	// ---

	calls     map[uint64]*call // nil once the process is gone
	lastID    uint64
	lastCall  *call // the last that was released
	idleSince time.Time
	suspect   bool   // a cancelled attempt runs on: no further attempts
	resting   bool   // its memory is being given back: no attempts meanwhile
	leaving   bool   // idle for long, said goodbye, or gone
	proven    bool   // it has ended an attempt
	killed    string // why we killed it; "" if we did not
	pinged    time.Time
}

// hasRoom tells whether p takes another attempt. The group's mutex is held.
func (p *process) hasRoom() bool {
	return !p.suspect && !p.leaving && !p.resting && p.killed == "" && len(p.calls) < p.hello.Concurrency && p.socket.queued.Load() < maxQueued
}

// assign gives c a place. The group's mutex is held.
func (p *process) assign(c *call) {
	p.lastID++
	c.p, c.id = p, p.lastID
	c.lease.m = p.memory
	p.calls[c.id] = c
}

// release gives the place of c back: the process has ended it, or never got it.
func (p *process) release(c *call) {
	p.g.mu.Lock()
	if p.calls[c.id] != c {
		p.g.mu.Unlock()
		return
	}
	delete(p.calls, c.id)
	p.lastCall = c
	if len(p.calls) == 0 {
		p.idleSince = time.Now()
	}
	p.g.mu.Unlock()
	c.lease.end() // may wait while another call of p has memory made ready
	p.roomChanged()
}

// roomChanged goes on with what waits, or with the end of a suspect process.
func (p *process) roomChanged() {
	p.g.mu.Lock()
	waiting := len(p.g.mu.ring) > 0
	forsaken := p.suspect && p.killed == "" && !p.hasLive()
	p.g.mu.Unlock()
	if forsaken {
		p.kill("an attempt ignored that it was cancelled")
	}
	if waiting {
		p.g.signal()
	}
}

// hasLive tells whether an attempt runs whose result counts. The group's mutex is
// held.
func (p *process) hasLive() bool {
	for _, c := range p.calls {
		if !c.late {
			return true
		}
	}
	return false
}

// abandon asks the function of c to stop, whose task has ended. If it has not
// within the grace time, p gets no further attempts, and is killed when the
// others have ended or have had time to.
func (p *process) abandon(c *call, reason uint32) {
	p.g.mu.Lock()
	running := p.calls[c.id] == c
	c.late = true
	p.g.mu.Unlock()
	if !running {
		return
	}
	p.say(protocol.Header{Type: protocol.Cancel, ID: c.id, Arg: reason}, nil)
	time.AfterFunc(p.g.rt.s.CancelGrace, func() {
		p.g.mu.Lock()
		running := p.calls[c.id] == c
		first := running && !p.suspect
		p.suspect = p.suspect || running
		p.g.mu.Unlock()
		if !running {
			return
		}
		if first {
			time.AfterFunc(p.g.rt.s.SuspectLimit, func() { p.kill("an attempt ignored that it was cancelled") })
		}
		p.roomChanged()
		p.g.signal()
	})
}

// say sends a frame with at most a text, at the node's own wish.
func (p *process) say(h protocol.Header, text []byte) {
	batch := batches.Get().(*protocol.Batch)
	batch.Add(h, nil, text)
	p.socket.send(batch)
}

// lookup returns the running call of a frame; nil if its task has ended.
func (p *process) lookup(id uint64) *call {
	p.g.mu.Lock()
	defer p.g.mu.Unlock()
	return p.calls[id]
}

// awaitHello reads the first frame of a started program and answers it.
func (p *process) awaitHello() error {
	f, err := p.frames.Next()
	if err != nil {
		return err
	}
	if f.Type != protocol.Hello {
		return protocol.Violation(fmt.Sprintf("it began with %s instead of HELLO", f.Type))
	}
	if err := json.Unmarshal(f.Payload, &p.hello); err != nil {
		return protocol.Violation("its HELLO is not the JSON of a hello: " + err.Error())
	}
	h := &p.hello
	if !slices.Contains(h.Versions, protocol.Version) {
		p.say(protocol.Header{Type: protocol.Goodbye}, mustJSON(protocol.Reason{Reason: fmt.Sprintf("this node speaks protocol version %d", protocol.Version)}))
		return protocol.Violation(fmt.Sprintf("it speaks protocol versions %v, this node speaks %d", h.Versions, protocol.Version))
	}
	if h.Concurrency < 1 || h.Concurrency > 1<<16 || h.Parallel < 0 || len(h.SDK) > 100 {
		return protocol.Violation("its HELLO is out of bounds: concurrency is 1 to 65536, parallel at least 0, sdk at most 100 bytes")
	}
	if h.Forks && !p.mayFork {
		return protocol.Violation("it forks executors, and was not asked to by " + protocol.ForkVariable)
	}
	p.parallel = h.Concurrency
	if h.Parallel > 0 {
		p.parallel = min(h.Parallel, h.Concurrency)
	}
	p.functions = make(map[spec.FunctionName]int, len(h.Functions))
	for i, name := range h.Functions {
		p.functions[spec.FunctionName(name)] = i
	}
	s := &p.g.rt.s
	answer := protocol.NodeHello{
		Version: protocol.Version, App: string(p.g.app), Executor: p.name, MaxObjectBytes: s.MaxObjectBytes, MaxBodyBytes: s.maxBody(),
	}
	switch {
	case h.Memory && p.memory != nil:
		answer.InputMemory, answer.OutputMemory = s.SharedBytes, s.SharedBytes
	case p.memory != nil: // an SDK that knows nothing of it
		p.memory.close()
		p.memory = nil
	}
	p.say(protocol.Header{Type: protocol.Hello}, mustJSON(answer))
	return nil
}

// read takes what the process sends until its connection ends. It owns the
// process's end.
func (p *process) read() {
	var err error
	for err == nil {
		var f protocol.Frame
		if f, err = p.frames.Next(); err == nil {
			err = p.take(f)
		}
	}
	p.end(err)
}

// Read is the source of the frames. Before it waits, it hands over what is
// pending: nothing more has come that could travel along.
func (p *process) Read(b []byte) (int, error) {
	if len(p.dirty) > 0 {
		n, err := p.socket.read(b, false)
		if err != unix.EAGAIN {
			return n, err
		}
		p.emitPending()
	}
	return p.socket.read(b, true)
}

func (p *process) emitPending() {
	for i, c := range p.dirty {
		c.emit()
		p.dirty[i] = nil
	}
	p.dirty = p.dirty[:0]
}

// take acts on a frame. What concerns a task that has ended is dropped.
func (p *process) take(f protocol.Frame) error {
	p.spoke.Store(true)
	if p.socket.answers.Load() > maxAnswers {
		return protocol.Violation("it does not read what it is answered")
	}
	switch f.Type {
	case protocol.Put, protocol.Start, protocol.Join, protocol.Get, protocol.Result, protocol.Error:
		c := p.lookup(f.ID)
		if c == nil {
			return p.unknown(f)
		}
		return p.takeFor(c, f)
	case protocol.Log:
		p.output.logged(p, f)
	case protocol.Ping:
		batch := batches.Get().(*protocol.Batch)
		batch.Add(protocol.Header{Type: protocol.Pong, ID: f.ID}, nil)
		p.socket.answer(batch)
	case protocol.Pong:
		p.g.mu.Lock()
		p.pinged = time.Time{}
		p.g.mu.Unlock()
	case protocol.Goodbye:
		p.g.mu.Lock()
		p.leaving = true
		p.g.mu.Unlock()
		p.g.signal()
	default:
		return protocol.Violation(fmt.Sprintf("it sent %s, which a program does not send now", f.Type))
	}
	return nil
}

// unknown judges a frame for a call that does not run: late frames are no fault,
// frames for calls that never were are.
func (p *process) unknown(f protocol.Frame) error {
	p.g.mu.Lock()
	last := p.lastID
	p.g.mu.Unlock()
	if f.ID == 0 || f.ID > last {
		return protocol.Violation(fmt.Sprintf("it sent %s for attempt %d, which was never given to it", f.Type, f.ID))
	}
	if f.Type != protocol.Put && f.Type != protocol.Start {
		return nil
	}
	parts, err := outputOf(f)
	if err != nil {
		return err
	}
	p.giveBack(parts)
	return nil
}

func (p *process) takeFor(c *call, f protocol.Frame) error {
	switch f.Type {
	case protocol.Put, protocol.Start, protocol.Join:
		decode := decodePut
		switch f.Type {
		case protocol.Start:
			decode = decodeStart
		case protocol.Join:
			decode = decodeJoin
		}
		e, at, err := decode(f, p.memory)
		if err != nil {
			return err
		}
		if limit := c.maxObject(); int64(len(e.Data)) > limit {
			what := fmt.Sprintf("object %q for bucket %q", e.Key, e.Bucket)
			if e.Child != nil {
				what = fmt.Sprintf("the input of a child session of function %q", e.Child.Function)
			}
			c.stop(&exec.Failure{Kind: exec.Refused, Message: fmt.Sprintf(
				"%s has %d bytes, at most %d are allowed", what, len(e.Data), limit)}, protocol.CancelRefused)
			if e.Lent {
				p.giveBack([]protocol.Descriptor{at})
			}
			return nil
		}
		switch {
		case e.Lent:
			p.g.rt.shared.outputs.add(len(e.Data))
		case len(e.Data) >= protocol.SharedBytes:
			p.g.rt.shared.wentInline(len(e.Data), p.memory != nil)
		}
		if e.Lent && len(e.Data) < leastLent {
			e.Data, e.Lent = bytes.Clone(e.Data), false
			p.giveBack([]protocol.Descriptor{at})
		}
		taken, first, full := c.add(e, at)
		if !taken && e.Lent {
			p.giveBack([]protocol.Descriptor{at})
		}
		if first {
			p.dirty = append(p.dirty, c)
		}
		if full {
			c.emit()
		}
	case protocol.Get:
		bucket, key, err := decodeGet(f)
		if err != nil {
			return err
		}
		c.emit() // a function sees what it has put
		return p.get(asked{c, f.Arg, bucket, key})
	case protocol.Result:
		p.ended(c, nil)
	case protocol.Error:
		failure, err := decodeError(f)
		if err != nil {
			return err
		}
		p.ended(c, failure)
	}
	return nil
}

// ended ends a call as the function did. Its place is free before the sink
// hears of it, so that what follows finds the process warm and free.
func (p *process) ended(c *call, f *exec.Failure) {
	p.g.mu.Lock()
	p.proven = true
	p.g.mu.Unlock()
	p.release(c)
	if f != nil && c.overdue() {
		f = c.timeout() // an SDK sees the deadline too: what fails then fails of it
	}
	c.finish(f)
	if len(p.dirty) == 1 && p.dirty[0] == c {
		p.dirty = p.dirty[:0]
	}
}

func (c *call) maxObject() int64 {
	if limit := c.task.MaxObjectBytes; limit > 0 {
		return min(limit, c.rt.s.MaxObjectBytes)
	}
	return c.rt.s.MaxObjectBytes
}

// giveBack tells the process that it may write to parts of its outputs again.
func (p *process) giveBack(parts []protocol.Descriptor) {
	if len(parts) == 0 {
		return
	}
	var fields []byte
	for _, d := range parts {
		fields = protocol.AppendObject(fields, d)
	}
	batch := batches.Get().(*protocol.Batch)
	batch.Add(protocol.Header{Type: protocol.Release}, fields)
	p.socket.answer(batch)
}
