package process

import (
	"maps"
	"math"
	"slices"
	"time"

	"github.com/pheromone-run/pheromone/client/fn/protocol"
)

// pingAfter is how long a process may be silent and idle before it is asked
// whether it lives, and how long it may take to answer.
const pingAfter = 15 * time.Second

// sweep ends what has been idle for long, until the runtime closes.
func (rt *Runtime) sweep() {
	every := max(min(rt.s.IdleTimeout/4, rt.s.GroupIdleTimeout/4, time.Second), 10*time.Millisecond)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-rt.ctx.Done():
			return
		case now := <-ticker.C:
			for _, g := range rt.groups() {
				g.sweep(now)
			}
			rt.dropGroups(now)
			if rt.shared.wanting.Swap(false) {
				rt.retireLargest(now.Add(-every))
			}
			if rt.wanting.Load() > 0 {
				rt.retireIdlest()
			}
		}
	}
}

func (rt *Runtime) groups() []*group {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	return slices.Collect(maps.Values(rt.mu.groups))
}

// sweep retires idle processes: those beyond the first after IdleTimeout, the
// last after GroupIdleTimeout. It pings the others that are idle and silent.
//
// Of those that stay, what their outputs take up is given back. Inputs are sealed
// against that: they go with their process, which goes if memory is short
// (retireLargest).
func (g *group) sweep(now time.Time) {
	g.mu.Lock()
	var retire, ping, frozen, punch []*process
	staying := len(g.mu.procs)
	for _, p := range slices.Backward(g.mu.procs) { // the oldest stays longest
		idle := now.Sub(p.idleSince)
		switch {
		case p.leaving || len(p.calls) > 0:
			continue
		case idle >= g.rt.s.IdleTimeout && staying > 1 || idle >= g.rt.s.GroupIdleTimeout:
			staying--
			p.leaving = true
			retire = append(retire, p)
		case idle >= g.rt.s.IdleTimeout && !p.resting && p.memory.punchable():
			p.resting = true
			punch = append(punch, p)
		case !p.pinged.IsZero() && now.Sub(p.pinged) >= pingAfter:
			frozen = append(frozen, p)
		case p.pinged.IsZero() && idle >= pingAfter && !p.spoke.Swap(false):
			p.pinged = now
			ping = append(ping, p)
		}
	}
	g.mu.Unlock()
	for _, p := range retire {
		g.rt.wg.Go(func() { p.stop(g.rt.s.StopGrace, "idle") })
	}
	for _, p := range punch {
		g.rt.wg.Go(func() {
			p.memory.punch()
			g.mu.Lock()
			p.resting = false
			g.mu.Unlock()
			g.signal()
		})
	}
	for _, p := range ping {
		p.say(protocol.Header{Type: protocol.Ping}, nil)
	}
	for _, p := range frozen {
		p.kill("it did not answer a PING")
	}
}

// dropGroups forgets groups without processes that nothing has come for.
func (rt *Runtime) dropGroups(now time.Time) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if rt.mu.closed {
		return
	}
	for key, g := range rt.mu.groups {
		if now.Sub(time.Unix(0, g.touched.Load())) < rt.s.GroupIdleTimeout || !g.retire() {
			continue
		}
		delete(rt.mu.groups, key)
		for ref, known := range rt.mu.known {
			if known == g {
				delete(rt.mu.known, ref)
			}
		}
	}
}

// retire closes a group that is empty; it tells whether it was.
func (g *group) retire() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.mu.procs) > 0 || g.mu.starting || len(g.mu.ring) > 0 {
		return false
	}
	g.mu.closed = true
	g.dropParent()
	g.signal()
	return true
}

// retireIdlest ends the process of the node that has been idle for longest.
func (rt *Runtime) retireIdlest() {
	rt.retireFirst("another app needs its place", func(p *process) int64 { return math.MaxInt64 - p.idleSince.UnixNano() })
}

// retireLargest ends the process that takes up most of the inputs' memory, of those
// that are idle since then or longer: somebody else finds no room. One that waits
// for its next attempt no longer than that would soon take as much again.
func (rt *Runtime) retireLargest(since time.Time) {
	rt.retireFirst("another process needs its memory", func(p *process) int64 {
		if p.resting || p.idleSince.After(since) {
			return 0
		}
		return p.memory.held()
	})
}

// retireFirst ends the idle process of the node for which order is greatest, if that
// is more than 0. The group's mutex is held when order is called.
func (rt *Runtime) retireFirst(why string, order func(*process) int64) {
	var first *process
	greatest := int64(0)
	for _, g := range rt.groups() {
		g.mu.Lock()
		for _, p := range g.mu.procs {
			if p.leaving || len(p.calls) > 0 {
				continue
			}
			if rank := order(p); rank > greatest {
				first, greatest = p, rank
			}
		}
		g.mu.Unlock()
	}
	if first == nil {
		return
	}
	first.g.mu.Lock()
	taken := first.leaving || len(first.calls) > 0
	if !taken {
		first.leaving = true
	}
	first.g.mu.Unlock()
	if !taken {
		rt.wg.Go(func() { first.stop(rt.s.StopGrace, why) })
	}
}
