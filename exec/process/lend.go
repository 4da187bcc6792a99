package process

import (
	"slices"
	"time"

	"github.com/pheromone-run/pheromone/exec"
)

// Room implements exec.Lender.
func (rt *Runtime) Room(t *exec.Task) exec.Room {
	rt.mu.Lock()
	if rt.mu.closed {
		rt.mu.Unlock()
		return exec.Room{}
	}
	g := rt.mu.known[groupRef{t.App, t.Artifact, t.Function}]
	if g == nil {
		g = rt.mu.groups[groupKey(t, rt.s.Program(t.Function))]
	}
	rt.mu.Unlock()
	if g != nil {
		return g.room()
	}
	return rt.coldRoom()
}

// coldRoom is the room of a process that has to be started: how many attempts it
// takes is not known before it says so.
func (rt *Runtime) coldRoom() exec.Room {
	if len(rt.places) == cap(rt.places) {
		return exec.Room{}
	}
	return exec.Room{Free: 1, Cold: true}
}

func (g *group) room() exec.Room {
	g.mu.Lock()
	defer g.mu.Unlock()
	free := 0
	for _, p := range g.mu.procs {
		if p.hasRoom() {
			free += p.hello.Concurrency - len(p.calls)
		}
	}
	switch {
	case g.mu.closed || len(g.mu.ring) > 0 && !g.mu.starting:
		return exec.Room{}
	case free > 0 && len(g.mu.ring) == 0:
		return exec.Room{Free: free}
	case g.mu.starting:
		return exec.Room{Free: 1, Cold: true}
	case len(g.mu.procs) >= g.rt.s.GroupProcesses || time.Now().Before(g.mu.retryAt):
		return exec.Room{}
	}
	return g.rt.coldRoom()
}

// Withdraw implements exec.Lender.
func (rt *Runtime) Withdraw(ref exec.TaskRef) *exec.Task {
	rt.mu.Lock()
	c := rt.mu.calls[ref]
	var g *group
	if c != nil {
		g = rt.mu.known[groupRef{c.task.App, c.task.Artifact, c.task.Function}]
	}
	rt.mu.Unlock()
	if g == nil || !g.unqueue(c) {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended.Swap(true) {
		return nil // it was cancelled just now
	}
	rt.forget(c)
	return c.task
}

// unqueue takes c out of what waits; it tells whether c did.
func (g *group) unqueue(c *call) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	q := g.mu.queues[c.task.Function.Name]
	if q == nil {
		return false
	}
	i := slices.Index(q.calls, c)
	if i < 0 {
		return false
	}
	if len(q.calls) > 1 {
		q.calls = slices.Delete(q.calls, i, i+1)
		return true
	}
	delete(g.mu.queues, q.function)
	at := slices.Index(g.mu.ring, q)
	g.mu.ring = slices.Delete(g.mu.ring, at, at+1)
	if g.mu.turn > at {
		g.mu.turn--
	}
	return true
}
