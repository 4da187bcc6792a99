package inproc

import (
	"context"
	"fmt"
	"sync"

	"github.com/pheromone-run/pheromone/client/fn"
	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/spec"
)

// Settings of a Runtime. A zero value means the default.
type Settings struct {
	// Concurrency bounds the attempts that run at once; default 1024.
	Concurrency int
	// MaxObjectBytes bounds an object that a function emits; default 256 MiB.
	MaxObjectBytes int64
	// Log takes what functions log. It must not block for long. Default: dropped.
	Log func(exec.LogRecord)
}

// Runtime runs tasks on goroutines. It implements exec.Runtime.
type Runtime struct {
	s      Settings
	ctx    context.Context // ends with Close
	reads  sync.WaitGroup  // what reads from the node now; Close waits for it
	cancel context.CancelFunc

	mu struct {
		sync.Mutex
		closed    bool
		functions map[functionRef]fn.Handler
		attempts  map[exec.TaskRef]*attempt
		waiting   []*attempt // no place yet, oldest first
		live      int        // of those that wait, the ones not withdrawn
		free      int
		leaving   int // places whose attempts have returned and are about to free them
	}
}

type functionRef struct {
	app      spec.AppName
	function spec.FunctionName
}

// New makes a Runtime without functions.
func New(s Settings) *Runtime {
	if s.Concurrency <= 0 {
		s.Concurrency = 1024
	}
	if s.MaxObjectBytes <= 0 {
		s.MaxObjectBytes = 256 << 20
	}
	if s.Log == nil {
		s.Log = func(exec.LogRecord) {}
	}
	rt := &Runtime{s: s}
	rt.ctx, rt.cancel = context.WithCancel(context.Background())
	rt.mu.functions = make(map[functionRef]fn.Handler)
	rt.mu.attempts = make(map[exec.TaskRef]*attempt)
	rt.mu.free = s.Concurrency
	return rt
}

// Register makes h the function of app. Registering again replaces it for the
// attempts to come.
func (rt *Runtime) Register(app spec.AppName, function spec.FunctionName, h fn.Handler) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	rt.mu.functions[functionRef{app, function}] = h
}

// Submit implements exec.Runtime. No method of the sink is called from Submit.
func (rt *Runtime) Submit(t *exec.Task) {
	a := &attempt{rt: rt, task: t}
	a.ctx, a.cancel = context.WithCancelCause(rt.ctx)
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if rt.mu.closed {
		go a.finish(closedFailure())
		return
	}
	rt.mu.attempts[a.ref()] = a
	if rt.mu.free == 0 {
		a.waits = true
		rt.mu.waiting = append(rt.mu.waiting, a)
		rt.mu.live++
		return
	}
	rt.mu.free--
	go rt.work(a)
}

// work runs a, and then what waits, on one place.
func (rt *Runtime) work(a *attempt) {
	for a != nil {
		a.run(rt.handler(a.task))
		a = rt.next()
	}
}

func (rt *Runtime) next() *attempt {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	for len(rt.mu.waiting) > 0 && !rt.mu.closed {
		a := rt.mu.waiting[0]
		rt.mu.waiting[0] = nil
		rt.mu.waiting = rt.mu.waiting[1:]
		if !a.waits {
			continue
		}
		a.waits = false
		rt.mu.live--
		if !a.ended.Load() {
			return a
		}
	}
	rt.mu.free++
	return nil
}

func (rt *Runtime) leaving(n int) {
	rt.mu.Lock()
	rt.mu.leaving += n
	rt.mu.Unlock()
}

func (rt *Runtime) handler(t *exec.Task) fn.Handler {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	return rt.mu.functions[functionRef{t.App, t.Function.Name}]
}

// Cancel implements exec.Runtime.
func (rt *Runtime) Cancel(ref exec.TaskRef) {
	rt.mu.Lock()
	a := rt.mu.attempts[ref]
	rt.mu.Unlock()
	if a != nil {
		// Not on this goroutine: it may be the one that serves the sink.
		go a.stop(&exec.Failure{Kind: exec.Cancelled, Message: "the attempt was cancelled"}, errCancelled)
	}
}

// Room implements exec.Lender.
func (rt *Runtime) Room(t *exec.Task) exec.Room {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if rt.mu.functions[functionRef{t.App, t.Function.Name}] == nil {
		return exec.Room{Absent: true}
	}
	return exec.Room{Free: max(0, rt.mu.free+rt.mu.leaving-rt.mu.live)}
}

// Withdraw implements exec.Lender.
func (rt *Runtime) Withdraw(ref exec.TaskRef) *exec.Task {
	rt.mu.Lock()
	a := rt.mu.attempts[ref]
	if a == nil || !a.waits {
		rt.mu.Unlock()
		return nil
	}
	a.waits = false // it is passed over when its turn comes
	rt.mu.live--
	delete(rt.mu.attempts, ref)
	rt.mu.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended.Swap(true) {
		return nil // it was cancelled just now
	}
	a.cancel(errCancelled)
	return a.task
}

func (rt *Runtime) forget(a *attempt) {
	rt.mu.Lock()
	if rt.mu.attempts[a.ref()] == a {
		delete(rt.mu.attempts, a.ref())
	}
	rt.mu.Unlock()
}

// Close implements exec.Runtime: every task ends as lost. It waits for what reads
// from the node, and not for functions that ignore their context.
func (rt *Runtime) Close() error {
	rt.mu.Lock()
	if rt.mu.closed {
		rt.mu.Unlock()
		return nil
	}
	rt.mu.closed = true
	var left []*attempt
	for _, a := range rt.mu.attempts {
		left = append(left, a)
	}
	rt.mu.waiting = nil
	rt.mu.Unlock()
	// Each is over before its function is told: what that returns then counts no more.
	for _, a := range left {
		a.stop(closedFailure(), errCancelled)
	}
	rt.cancel()
	rt.reads.Wait() // the store is closed next
	return nil
}

// reading begins a read from the node. It returns false once the runtime is closed.
func (rt *Runtime) reading() bool {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if rt.mu.closed {
		return false
	}
	rt.reads.Add(1)
	return true
}

func closedFailure() *exec.Failure {
	return &exec.Failure{Kind: exec.Lost, Message: "the node is stopping"}
}

func unknownFunction(t *exec.Task) *exec.Failure {
	return &exec.Failure{Kind: exec.Refused, Message: fmt.Sprintf("the program does not register the function %q of app %q", t.Function.Name, t.App)}
}
