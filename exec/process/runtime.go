package process

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pheromone-run/pheromone/client/python"
	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/spec"
)

// Runtime runs tasks in processes. It implements exec.Runtime.
type Runtime struct {
	s        Settings
	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	spawner  *spawner
	places   chan struct{} // one token for each process of the node
	parents  chan struct{} // one token for each process that executors are forked from
	wanting  atomic.Int64  // starts that wait for a place
	shared   sharedBudget
	lastName atomic.Uint64
	pythons  sync.Map       // path and folder -> the interpreter itself
	wg       sync.WaitGroup // every goroutine of the runtime

	mu struct {
		sync.Mutex
		closed bool
		groups map[string]*group
		known  map[groupRef]*group // the same groups, by what a task carries
		calls  map[exec.TaskRef]*call
	}
}

// groupRef finds a group without looking at the whole command and environment: a
// Function never changes once it is built.
type groupRef struct {
	app      spec.AppName
	artifact string
	function *spec.Function
}

// New starts a Runtime. It empties the scratch folder and writes the Python SDK
// there.
func New(s Settings) (*Runtime, error) {
	s, err := s.withDefaults()
	if err != nil {
		return nil, err
	}
	if s.Scratch, err = filepath.Abs(s.Scratch); err != nil {
		return nil, fmt.Errorf("process runtime: %w", err)
	}
	if err := prepareScratch(s.Scratch); err != nil {
		return nil, err
	}
	rt := &Runtime{s: s, places: make(chan struct{}, s.Processes), parents: make(chan struct{}, s.Processes)}
	rt.shared.left.Store(max(s.SharedBytes, 0))
	rt.ctx, rt.cancel = context.WithCancel(context.Background())
	rt.mu.groups = make(map[string]*group)
	rt.mu.known = make(map[groupRef]*group)
	rt.mu.calls = make(map[exec.TaskRef]*call)
	keepDescriptors()
	rt.spawner = newSpawner()
	rt.wg.Go(rt.sweep)
	return rt, nil
}

func prepareScratch(dir string) error {
	killLeftOver(dir)
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("empty the scratch folder: %w", err)
	}
	sdk := filepath.Join(dir, "python")
	if err := os.MkdirAll(sdk, 0o755); err != nil {
		return fmt.Errorf("make the scratch folder: %w", err)
	}
	if err := os.WriteFile(filepath.Join(sdk, "pheromone.py"), python.Source, 0o444); err != nil {
		return fmt.Errorf("write the Python SDK: %w", err)
	}
	return nil
}

// Submit implements exec.Runtime. If a process has room, Sink.Started and Source.Load
// are called, and the attempt is sent, before Submit returns; no other method of
// the sink is called from Submit.
func (rt *Runtime) Submit(t *exec.Task) {
	c := &call{rt: rt, task: t}
	rt.mu.Lock()
	if rt.mu.closed {
		rt.mu.Unlock()
		go c.finish(closedFailure())
		return
	}
	g := rt.groupOf(t)
	rt.mu.calls[c.ref()] = c
	rt.mu.Unlock()
	g.submit(c)
}

// groupOf finds or makes the group of a task. rt.mu is held.
func (rt *Runtime) groupOf(t *exec.Task) *group {
	ref := groupRef{t.App, t.Artifact, t.Function}
	if g := rt.mu.known[ref]; g != nil {
		g.touched.Store(time.Now().UnixNano())
		return g
	}
	program := rt.s.Program(t.Function)
	key := groupKey(t, program)
	g := rt.mu.groups[key]
	if g == nil {
		g = newGroup(rt, t, program)
		rt.mu.groups[key] = g
		rt.wg.Go(g.dispatch)
	}
	g.touched.Store(time.Now().UnixNano())
	rt.mu.known[ref] = g
	return g
}

func groupKey(t *exec.Task, program Program) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q %q %q", t.App, t.Artifact, program.Command)
	for _, name := range slices.Sorted(maps.Keys(program.Env)) {
		fmt.Fprintf(&b, " %q=%q", name, program.Env[name])
	}
	return b.String()
}

// Cancel implements exec.Runtime.
func (rt *Runtime) Cancel(ref exec.TaskRef) {
	rt.mu.Lock()
	c := rt.mu.calls[ref]
	if c == nil || rt.mu.closed {
		rt.mu.Unlock()
		return
	}
	// Not on this goroutine: the sink may be called, and the caller may be the one
	// who serves it.
	rt.wg.Go(c.cancelled)
	rt.mu.Unlock()
}

func (rt *Runtime) forget(c *call) {
	rt.mu.Lock()
	if rt.mu.calls[c.ref()] == c {
		delete(rt.mu.calls, c.ref())
	}
	rt.mu.Unlock()
}

// Close implements exec.Runtime: every task ends as lost, every process is gone
// when it returns.
func (rt *Runtime) Close() error {
	rt.mu.Lock()
	if rt.mu.closed {
		rt.mu.Unlock()
		return nil
	}
	rt.mu.closed = true
	groups := slices.Collect(maps.Values(rt.mu.groups))
	rt.mu.Unlock()
	rt.cancel()
	for _, g := range groups {
		g.close()
	}
	rt.wg.Wait()
	rt.spawner.close()
	killLeftOver(rt.s.Scratch)
	if err := os.RemoveAll(rt.s.Scratch); err != nil {
		return fmt.Errorf("remove the scratch folder: %w", err)
	}
	return nil
}

// Processes tells what runs now.
func (rt *Runtime) Processes() []exec.ProcessStats {
	rt.mu.Lock()
	groups := slices.Collect(maps.Values(rt.mu.groups))
	rt.mu.Unlock()
	var all []exec.ProcessStats
	for _, g := range groups {
		all = append(all, g.stats()...)
	}
	slices.SortFunc(all, func(a, b exec.ProcessStats) int { return strings.Compare(a.Name, b.Name) })
	return all
}

func closedFailure() *exec.Failure {
	return &exec.Failure{Kind: exec.Lost, Message: "the node is stopping"}
}
