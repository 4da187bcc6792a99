package exec

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/pheromone-run/pheromone/spec"
)

// Pool is the Runtime of a node: it routes tasks to the runtimes by
// Function.Runtime, and lets no more attempts of a function run at once than its
// Concurrency. What is over that waits here in order of arrival; what an
// executor has no room for waits in its runtime; and what an executor has taken
// waits for its inputs to fit into memory, before they are read.
type Pool struct {
	runtimes map[spec.Runtime]Runtime
	inputs   *budget         // nil: not bounded
	started  sync.WaitGroup  // goroutines that hand over what waited
	ctx      context.Context // ends with Close
	cancel   context.CancelFunc

	mu struct {
		sync.Mutex
		closed    bool
		functions map[functionRef]*lane
		waiting   map[TaskRef]*entry // what waits here, for Cancel
	}
}

type functionRef struct {
	app      spec.AppName
	function spec.FunctionName
}

// lane is the traffic of one function.
type lane struct {
	handed  int      // tasks with the runtime
	running int      // of these, with an executor
	waiting []*entry // beyond the function's concurrency, oldest first
	live    int      // entries of waiting that were not cancelled
}

// Settings of a Pool.
type Settings struct {
	// InputBytes bounds the inputs that attempts hold in memory together; 0 is no
	// bound. An attempt with larger inputs runs when no other one has large inputs.
	InputBytes int64
}

// New makes a Pool over runtimes. It closes them with itself.
func New(runtimes map[spec.Runtime]Runtime, s Settings) *Pool {
	p := &Pool{runtimes: runtimes, inputs: newBudget(s.InputBytes)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.mu.functions = make(map[functionRef]*lane)
	p.mu.waiting = make(map[TaskRef]*entry)
	return p
}

// Submit implements Runtime. If an executor has room, Sink.Started and Source.Load are
// called before Submit returns; no other method of the sink is called from Submit.
func (p *Pool) Submit(t *Task) {
	e := &entry{pool: p, task: t, inner: *t}
	e.inner.Sink = e
	if p.inputs != nil {
		e.inner.Source = (*source)(e)
	}
	p.mu.Lock()
	if p.mu.closed {
		p.mu.Unlock()
		go t.Sink.Done(t, nil, stopping())
		return
	}
	l := p.lane(t)
	if limit := t.Function.Concurrency; limit > 0 && (l.handed >= limit || l.live > 0) {
		l.waiting = append(l.waiting, e)
		l.live++
		p.mu.waiting[e.ref()] = e
		p.mu.Unlock()
		return
	}
	l.handed++
	p.mu.Unlock()
	p.hand(e)
}

func (p *Pool) lane(t *Task) *lane {
	ref := functionRef{t.App, t.Function.Name}
	l := p.mu.functions[ref]
	if l == nil {
		l = &lane{}
		p.mu.functions[ref] = l
	}
	return l
}

func (p *Pool) hand(e *entry) {
	r := p.runtimes[e.task.Function.Runtime]
	switch {
	case r == nil:
		go e.Done(&e.inner, nil, &Failure{Kind: Refused, Message: fmt.Sprintf("this node has no runtime %q", e.task.Function.Runtime)})
	case p.inputs == nil:
		r.Submit(&e.inner)
	case e.reserve():
		r.Submit(&e.inner)
		e.unreserve()
	default: // loading may wait for other attempts to end, and Submit must not
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.mu.closed {
			go e.Done(&e.inner, nil, stopping())
			return
		}
		p.started.Go(func() { r.Submit(&e.inner) })
	}
}

func stopping() *Failure { return &Failure{Kind: Lost, Message: "the node is stopping"} }

// Cancel implements Runtime.
func (p *Pool) Cancel(ref TaskRef) {
	p.mu.Lock()
	e := p.unqueue(ref)
	p.mu.Unlock()
	if e != nil {
		go e.task.Sink.Done(e.task, nil, &Failure{Kind: Cancelled, Message: "the attempt was cancelled before it began"})
		return
	}
	for _, r := range p.runtimes {
		r.Cancel(ref)
	}
}

// unlimited stands for the room of a runtime that can't tell.
const unlimited = 1 << 30

// Room implements Lender.
func (p *Pool) Room(t *Task) Room {
	r := p.runtimes[t.Function.Runtime]
	if r == nil {
		return Room{Absent: true}
	}
	room := Room{Free: unlimited}
	if l, ok := r.(Lender); ok {
		room = l.Room(t)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.closed {
		return Room{}
	}
	if limit := t.Function.Concurrency; limit > 0 {
		if l := p.mu.functions[functionRef{t.App, t.Function.Name}]; l != nil {
			limit -= l.handed
		}
		room.Free = max(0, min(room.Free, limit))
	}
	return room
}

// Withdraw implements Lender.
func (p *Pool) Withdraw(ref TaskRef) *Task {
	p.mu.Lock()
	e := p.unqueue(ref)
	p.mu.Unlock()
	if e != nil {
		return e.task
	}
	for _, r := range p.runtimes {
		l, ok := r.(Lender)
		if !ok {
			continue
		}
		if inner := l.Withdraw(ref); inner != nil {
			e := inner.Sink.(*entry)
			e.release()
			p.ended(e)
			return e.task
		}
	}
	return nil
}

// unqueue takes a task out of those that wait here, nil if it does not. p.mu is
// held.
func (p *Pool) unqueue(ref TaskRef) *entry {
	e := p.mu.waiting[ref]
	if e == nil {
		return nil
	}
	delete(p.mu.waiting, ref)
	e.cancelled = true // it is passed over when its turn comes
	l := p.lane(e.task)
	l.live--
	p.tidy(e.task, l)
	return e
}

// ended gives the place of an ended task to the next that waits for it.
func (p *Pool) ended(e *entry) {
	p.mu.Lock()
	l := p.lane(e.task)
	l.handed--
	if e.started {
		l.running--
	}
	var next []*entry
	for len(l.waiting) > 0 && !p.mu.closed {
		first := l.waiting[0]
		if !first.cancelled {
			// Each task brings the limit of its version of the function.
			if limit := first.task.Function.Concurrency; limit > 0 && l.handed >= limit {
				break
			}
			l.handed++
			l.live--
			delete(p.mu.waiting, first.ref())
			next = append(next, first)
		}
		l.waiting[0] = nil
		l.waiting = l.waiting[1:]
	}
	p.tidy(e.task, l)
	if len(next) > 0 {
		// Not on this goroutine: it may be the one that reads an executor, and
		// loading inputs takes time.
		p.started.Go(func() {
			for _, e := range next {
				p.hand(e)
			}
		})
	}
	p.mu.Unlock()
}

// tidy forgets a function of which there is nothing. p.mu is held.
func (p *Pool) tidy(t *Task, l *lane) {
	if l.live == 0 {
		l.waiting = nil
	}
	if l.handed == 0 && l.live == 0 {
		delete(p.mu.functions, functionRef{t.App, t.Function.Name})
	}
}

// Close implements Runtime.
func (p *Pool) Close() error {
	p.mu.Lock()
	if p.mu.closed {
		p.mu.Unlock()
		return nil
	}
	p.mu.closed = true
	left := p.mu.waiting
	p.mu.waiting = nil
	p.mu.Unlock()
	for _, e := range left {
		e.task.Sink.Done(e.task, nil, stopping())
	}
	p.cancel()
	p.started.Wait()
	var errs []error
	for name, r := range p.runtimes {
		if err := r.Close(); err != nil {
			errs = append(errs, fmt.Errorf("close runtime %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// entry is a task in the pool: it stands between the runtime and the task's sink
// to see when the attempt starts and ends.
type entry struct {
	pool  *Pool
	task  *Task // as submitted
	inner Task  // as the runtime sees it: its Sink is the entry, and its Source, if inputs are counted

	inputs inputs
	// Guarded by the pool's mutex.
	started   bool
	cancelled bool // or withdrawn
}

func (e *entry) ref() TaskRef { return e.task.Ref() }

// Started implements Sink.
func (e *entry) Started(_ *Task, executor string) {
	e.pool.mu.Lock()
	e.started = true
	e.pool.lane(e.task).running++
	e.pool.mu.Unlock()
	e.task.Sink.Started(e.task, executor)
}

// Emit implements Sink.
func (e *entry) Emit(_ *Task, emissions []Emission) error {
	return e.task.Sink.Emit(e.task, emissions)
}

// Get implements Sink.
func (e *entry) Get(ctx context.Context, _ *Task, bucket spec.BucketName, key spec.Key) (Input, error) {
	return e.task.Sink.Get(ctx, e.task, bucket, key)
}

// Done implements Sink. The place, and the memory of the inputs, are free before
// the task's own sink hears of it.
func (e *entry) Done(_ *Task, emissions []Emission, f *Failure) {
	e.release()
	e.pool.ended(e)
	e.task.Sink.Done(e.task, emissions, f)
}

// Stats is what a Pool is doing.
type Stats struct {
	Functions []FunctionStats
	Processes []ProcessStats
}

// FunctionStats counts the tasks of one function on this node.
type FunctionStats struct {
	App      spec.AppName
	Function spec.FunctionName
	Queued   int // no executor has taken them yet
	Running  int
}

// ProcessStats describes an executor process.
type ProcessStats struct {
	App     spec.AppName
	Name    string
	PID     int
	Running int // attempts
}

// Stats counts what waits and runs, by app and function.
func (p *Pool) Stats() Stats {
	var s Stats
	p.mu.Lock()
	for ref, l := range p.mu.functions {
		s.Functions = append(s.Functions, FunctionStats{
			App: ref.app, Function: ref.function, Queued: l.live + l.handed - l.running, Running: l.running,
		})
	}
	p.mu.Unlock()
	slices.SortFunc(s.Functions, func(a, b FunctionStats) int {
		if c := strings.Compare(string(a.App), string(b.App)); c != 0 {
			return c
		}
		return strings.Compare(string(a.Function), string(b.Function))
	})
	for _, r := range p.runtimes {
		if with, ok := r.(interface{ Processes() []ProcessStats }); ok {
			s.Processes = append(s.Processes, with.Processes()...)
		}
	}
	return s
}
