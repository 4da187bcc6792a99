package process

import (
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/spec"
)

// group is the functions of one app that share processes, the processes, and
// what waits for them.
type group struct {
	rt       *Runtime
	app      spec.AppName
	artifact string
	program  Program
	touched  atomic.Int64  // when a task last came, nanoseconds since 1970
	wake     chan struct{} // capacity 1: there may be something to dispatch

	mu struct {
		sync.Mutex
		closed   bool
		procs    []*process
		starting bool
		parent   *parent   // what executors are forked from; nil if there is none
		alone    bool      // the program can't be forked: each executor is started
		failures int       // starts failed in a row
		retryAt  time.Time // no start before
		queues   map[spec.FunctionName]*queue
		ring     []*queue // queues that hold something, in turn
		turn     int
	}
}

// queue is what waits of one function.
type queue struct {
	function spec.FunctionName
	calls    []*call
}

func newGroup(rt *Runtime, t *exec.Task, program Program) *group {
	if program.Name == "" {
		program.Name = strings.Join(program.Command, " ")
	}
	if program.MaxInputBytes == 0 || program.MaxInputBytes > rt.s.MaxInputBytes {
		program.MaxInputBytes = rt.s.MaxInputBytes
	}
	g := &group{
		rt: rt, app: t.App, artifact: t.Artifact, program: program, wake: make(chan struct{}, 1),
	}
	g.mu.queues = make(map[spec.FunctionName]*queue)
	return g
}

// submit hands c to a process that has room, or lets it wait.
func (g *group) submit(c *call) {
	g.mu.Lock()
	if g.mu.closed {
		g.mu.Unlock()
		go c.finish(closedFailure())
		return
	}
	if len(g.mu.ring) == 0 {
		if p := g.pick(); p != nil {
			p.assign(c)
			g.mu.Unlock()
			c.start(p)
			return
		}
	}
	g.enqueue(c)
	g.mu.Unlock()
	g.signal()
}

func (g *group) signal() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// dispatch hands out what waits whenever there is room. One goroutine per group.
func (g *group) dispatch() {
	for {
		select {
		case <-g.wake:
		case <-g.rt.ctx.Done():
			return
		}
		for {
			g.mu.Lock()
			if g.mu.closed {
				g.mu.Unlock()
				return
			}
			c, p := g.next()
			g.mu.Unlock()
			if c == nil {
				break
			}
			// Loading the inputs of one attempt must not hold up the others.
			g.rt.wg.Go(func() { c.start(p) })
		}
	}
}

// next takes the call whose turn it is and a process for it, or returns nil.
// g.mu is held.
func (g *group) next() (*call, *process) {
	for len(g.mu.ring) > 0 {
		g.mu.turn %= len(g.mu.ring)
		q := g.mu.ring[g.mu.turn]
		if q.calls[0].ended.Load() { // cancelled while it waited
			g.pop(q)
			continue
		}
		p := g.pick()
		if p == nil {
			return nil, nil
		}
		c := g.pop(q)
		p.assign(c)
		return c, p
	}
	return nil, nil
}

// enqueue and pop keep the ring: the queues with something in them, in the order
// in which they get their turn. g.mu is held.
func (g *group) enqueue(c *call) {
	name := c.task.Function.Name
	q := g.mu.queues[name]
	if q == nil {
		q = &queue{function: name}
		g.mu.queues[name] = q
		g.mu.ring = append(g.mu.ring, q)
	}
	q.calls = append(q.calls, c)
}

func (g *group) pop(q *queue) *call {
	c := q.calls[0]
	q.calls[0] = nil
	q.calls = q.calls[1:]
	if len(q.calls) > 0 {
		g.mu.turn++
		return c
	}
	delete(g.mu.queues, q.function)
	g.mu.ring = append(g.mu.ring[:g.mu.turn], g.mu.ring[g.mu.turn+1:]...)
	return c
}

// pick returns the process with room that has the fewest attempts, and starts
// another one if all are busy. g.mu is held.
func (g *group) pick() *process {
	var best *process
	resting := false // for a moment only: no reason to start another one
	for _, p := range g.mu.procs {
		resting = resting || p.resting
		if p.hasRoom() && (best == nil || len(p.calls) < len(best.calls)) {
			best = p
		}
	}
	if best == nil && !resting || best != nil && len(best.calls) >= best.parallel {
		g.startAnother()
	}
	return best
}

// startAnother begins to start a process, unless one is starting, the bound is
// reached or the last start failed just now. g.mu is held.
func (g *group) startAnother() {
	if g.mu.closed || g.mu.starting || len(g.mu.procs) >= g.rt.s.GroupProcesses {
		return
	}
	if wait := time.Until(g.mu.retryAt); wait > 0 {
		return // the timer that goes with retryAt wakes the dispatcher
	}
	g.mu.starting = true
	g.rt.wg.Go(func() {
		p, err := g.rt.start(g)
		if err != nil {
			g.startFailed(err)
			return
		}
		g.ready(p)
	})
}

func (g *group) ready(p *process) {
	g.mu.Lock()
	g.mu.starting = false
	closed := g.mu.closed
	if !closed {
		g.mu.procs = append(g.mu.procs, p)
	}
	g.mu.Unlock()
	if closed {
		p.kill("the node is stopping")
	}
	g.rt.wg.Go(p.read)
	g.signal()
}

// startFailed fails what waits, if no other process can take it, and puts off the
// next start.
func (g *group) startFailed(err error) {
	g.mu.Lock()
	g.mu.starting = false
	g.backOff()
	var failed []*call
	if len(g.mu.procs) == 0 && !g.mu.closed {
		failed = g.takeAll()
	}
	g.mu.Unlock()
	f, ok := err.(*startError)
	if !ok {
		f = &startError{message: err.Error()}
	}
	g.rt.s.Logger.Warn("executor did not start", "app", g.app, "command", g.program.Name, "error", err)
	for _, c := range failed {
		c.finish(&exec.Failure{Kind: exec.Start, Message: f.message, Detail: f.detail})
	}
}

// maxStartBackoff bounds the wait between failed starts, which doubles.
const maxStartBackoff = 10 * time.Second

// backOff puts off the next start. g.mu is held.
func (g *group) backOff() {
	wait := min(100*time.Millisecond<<min(g.mu.failures, 20), maxStartBackoff)
	g.mu.failures++
	g.mu.retryAt = time.Now().Add(wait)
	time.AfterFunc(wait, g.signal)
}

// takeAll empties the queues. g.mu is held.
func (g *group) takeAll() []*call {
	var all []*call
	for _, q := range g.mu.ring {
		all = append(all, q.calls...)
	}
	clear(g.mu.queues)
	g.mu.ring = nil
	return all
}

// gone takes p off the group and returns the calls that it had.
func (g *group) gone(p *process) []*call {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i, other := range g.mu.procs {
		if other == p {
			g.mu.procs = append(g.mu.procs[:i], g.mu.procs[i+1:]...)
			break
		}
	}
	if p.proven {
		g.mu.failures = 0
	} else if (p.killed == "" || p.killed == parentEnded) && !p.leaving && !g.mu.closed {
		g.backOff() // it said hello and ended before it did anything, or its parent did
	}
	p.leaving = true
	calls := make([]*call, 0, len(p.calls))
	for _, c := range p.calls {
		calls = append(calls, c)
	}
	p.calls = nil
	return calls
}

func (g *group) close() {
	g.mu.Lock()
	g.mu.closed = true
	waiting := g.takeAll()
	procs := append([]*process(nil), g.mu.procs...)
	g.dropParent()
	g.mu.Unlock()
	g.signal()
	for _, p := range procs {
		g.rt.wg.Go(func() { p.stop(g.rt.s.StopGrace/10, "the node is stopping") })
	}
	for _, c := range waiting {
		g.rt.wg.Go(func() { c.finish(closedFailure()) })
	}
}

func (g *group) stats() []exec.ProcessStats {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make([]exec.ProcessStats, 0, len(g.mu.procs))
	for _, p := range g.mu.procs {
		all = append(all, exec.ProcessStats{App: g.app, Name: p.name, PID: p.pid, Running: len(p.calls)})
	}
	return all
}
