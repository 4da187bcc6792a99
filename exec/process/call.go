package process

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pheromone-run/pheromone/client/fn/protocol"
	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/spec"
)

const (
	// pendingBytes and pendingCount bound what of one attempt is held back for its
	// result to come along.
	pendingBytes = 8 << 20
	pendingCount = 4096
)

// call is a task on its way through a group and a process. Its mutex is held
// while the sink is called, so that calls come one at a time and Done is the last.
type call struct {
	rt   *Runtime
	task *exec.Task
	p    *process // nil while it waits; set by assign
	id   uint64   // on p's connection
	late bool     // Done was called while it ran on; guarded by the group's mutex
	// lease is what its inputs have of p's memory; its m is nil if there is none.
	lease lease

	ended atomic.Bool // written under mu
	mu    struct {
		sync.Mutex
		sent    bool
		due     time.Time // when the attempt times out; zero if it does not
		timer   *time.Timer
		seq     uint64
		pending []exec.Emission
		bytes   int
		lent    []protocol.Descriptor // of pending, what the process may not write to yet
	}
}

func (c *call) ref() exec.TaskRef { return c.task.Ref() }

// start loads the inputs and sends the attempt to p.
func (c *call) start(p *process) {
	c.mu.Lock()
	if c.ended.Load() {
		c.mu.Unlock()
		p.release(c)
		return
	}
	c.task.Sink.Started(c.task, p.name)
	c.mu.Unlock()

	index, ok := p.functions[c.task.Function.Name]
	if !ok {
		c.giveUp(p, &exec.Failure{Kind: exec.Refused, Message: fmt.Sprintf(
			"the program %q does not register the function %q; it registers %q", p.g.program.Name, c.task.Function.Name, p.hello.Functions)})
		return
	}
	ctx, done := c.placing()
	defer done()
	in, err := c.task.Source.Load(ctx)
	if err != nil {
		c.giveUp(p, exec.LoadFailure(err))
		return
	}
	batch := batches.Get().(*protocol.Batch)
	if err := encodeInvoke(batch, c, index, in, p.g.program.MaxInputBytes); err != nil {
		c.giveUp(p, &exec.Failure{Kind: exec.Refused, Message: err.Error()})
		return
	}
	c.mu.Lock()
	if c.ended.Load() {
		c.mu.Unlock()
		p.release(c)
		return
	}
	c.mu.sent = true
	if c.task.Timeout > 0 {
		c.mu.due = time.Now().Add(c.task.Timeout)
		c.mu.timer = time.AfterFunc(c.task.Timeout, c.timedOut)
	}
	c.mu.Unlock()
	p.socket.send(batch)
}

// giveUp ends a call that was not sent. The sink hears it from another
// goroutine, because this one may be the one that submitted.
func (c *call) giveUp(p *process, f *exec.Failure) {
	go func() {
		p.release(c)
		c.finish(f)
	}()
}

// add takes an emission of the attempt, to be handed over with the next ones or
// with the result. It tells whether it has, and then whether it is the first that is pending, and whether
// no more should be held back.
func (c *call) add(e exec.Emission, at protocol.Descriptor) (taken, first, full bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended.Load() {
		return false, false, false
	}
	if e.Lent {
		c.p.memory.lend()
		c.mu.lent = append(c.mu.lent, at)
	}
	c.mu.seq++
	e.Seq = c.mu.seq
	c.mu.pending = append(c.mu.pending, e)
	c.mu.bytes += len(e.Data)
	return true, len(c.mu.pending) == 1, c.mu.bytes >= pendingBytes || len(c.mu.pending) >= pendingCount
}

// emit hands over what is pending. It blocks as long as the sink does: the
// process is not read meanwhile.
func (c *call) emit() {
	c.mu.Lock()
	if c.ended.Load() || len(c.mu.pending) == 0 {
		c.mu.Unlock()
		return
	}
	e := c.mu.pending
	c.mu.pending, c.mu.bytes = nil, 0
	err := c.task.Sink.Emit(c.task, e)
	c.giveBack()
	c.mu.Unlock()
	if err != nil {
		c.stop(emitFailure(err), protocol.CancelRefused)
	}
}

func emitFailure(err error) *exec.Failure {
	kind := exec.Refused
	if spec.CodeOf(err) == spec.CodeConflict {
		kind = exec.Conflict
	}
	return &exec.Failure{Kind: kind, Message: err.Error()}
}

// finish ends the task, once; it tells whether it was this call that did.
func (c *call) finish(f *exec.Failure) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended.Swap(true) {
		return false
	}
	if c.mu.timer != nil {
		c.mu.timer.Stop()
	}
	c.rt.forget(c)
	e := c.mu.pending
	c.mu.pending = nil
	c.task.Sink.Done(c.task, e, f)
	c.giveBack()
	return true
}

// giveBack ends the time in which the sink could read what was pending where the
// process has written it. The mutex is held.
func (c *call) giveBack() {
	if lent := c.mu.lent; len(lent) > 0 {
		c.mu.lent = nil
		c.p.giveBack(lent)
		c.p.memory.returned(len(lent))
	}
}

// placing has large inputs read to the memory of the process. What done ends has
// to be over before they are.
func (c *call) placing() (ctx context.Context, done func()) {
	if c.lease.m == nil || !c.lease.use() {
		return c.rt.ctx, func() {}
	}
	return exec.WithPlace(c.rt.ctx, c.lease.place), c.lease.done
}

func (c *call) timedOut() { c.stop(c.timeout(), protocol.CancelTimeout) }

func (c *call) timeout() *exec.Failure {
	return &exec.Failure{Kind: exec.TimedOut, Message: fmt.Sprintf("no result after %s, the function's timeout", c.task.Timeout)}
}

// overdue tells whether the deadline has passed, though its timer may not have run.
func (c *call) overdue() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.mu.due.IsZero() && !time.Now().Before(c.mu.due)
}

func (c *call) cancelled() {
	c.stop(&exec.Failure{Kind: exec.Cancelled, Message: "the attempt was cancelled"}, protocol.CancelAsked)
}

// stop ends the task at once and asks the function to stop. What it sends from
// now on is dropped; a process in which it runs on for long is suspect.
func (c *call) stop(f *exec.Failure, reason uint32) {
	c.mu.Lock()
	sent := c.mu.sent
	c.mu.Unlock()
	if !c.finish(f) || !sent {
		return // a call that is not sent yet is released by start
	}
	c.p.abandon(c, reason)
}
