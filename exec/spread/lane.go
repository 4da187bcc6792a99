package spread

import (
	"time"

	"github.com/pheromone-run/pheromone/exec"
)

// lane is the attempts of one function that wait, oldest first, some of which may
// have begun or ended meanwhile.
type lane struct {
	waiting []*entry
}

// head returns the oldest that waits, nil if none does. rt.mu is held.
func (l *lane) head() *entry {
	for len(l.waiting) > 0 {
		if e := l.waiting[0]; e.where == home || e.where == adrift {
			return e
		}
		l.pop()
	}
	return nil
}

func (l *lane) pop() {
	l.waiting[0] = nil
	l.waiting = l.waiting[1:]
}

const (
	// bytesGuessed is up to where a bound of the inputs' bytes is taken for them.
	bytesGuessed   = 128 << 10
	bytesUnknown   = -1
	bytesBeingRead = -2
)

// enqueue has an entry offered to other nodes if no local executor takes it soon.
func (rt *Runtime) enqueue(e *entry) {
	if !portable(e.task) {
		return
	}
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if rt.mu.closed || e.stays || e.where != home && e.where != adrift {
		return
	}
	f := functionOf(e.task)
	l := rt.mu.lanes[f]
	if l == nil {
		l = &lane{}
		rt.mu.lanes[f] = l
	}
	l.waiting = append(l.waiting, e)
	if len(l.waiting) == 1 {
		rt.signal()
	}
}

func (rt *Runtime) signal() {
	select {
	case rt.wake <- struct{}{}:
	default:
	}
}

// run offers what waits to other nodes, until the runtime closes.
func (rt *Runtime) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if again, waits := rt.offer(); waits {
			timer.Reset(again)
		} else {
			timer.Stop()
		}
		select {
		case <-rt.wake:
		case <-timer.C:
		case <-rt.ctx.Done():
			return
		}
	}
}

// offer has other nodes run what has waited for long enough, as far as they have
// room. It tells whether something waits, and when to look at it again.
func (rt *Runtime) offer() (again time.Duration, waits bool) {
	rt.mu.Lock()
	refs := make([]functionRef, 0, len(rt.mu.lanes))
	for f := range rt.mu.lanes {
		refs = append(refs, f)
	}
	rt.mu.Unlock()
	again = rt.cfg.Poll
	for _, f := range refs {
		for {
			w, ok := rt.oldest(f)
			if !ok {
				break
			}
			c := rt.choose(w)
			if c.node == "" && !c.nowhere {
				again, waits = min(again, c.again), true
				break
			}
			if !rt.move(w, &c) {
				again, waits = min(again, takenSoon), true
				break
			}
		}
	}
	return again, waits
}

// takenSoon is when an entry is looked at again that local executors are just taking.
const takenSoon = time.Millisecond

// waiting is an entry as it was found to wait.
type waiting struct {
	*entry
	adrift bool
	since  time.Time
}

// oldest returns the first of a function that waits.
func (rt *Runtime) oldest(f functionRef) (w waiting, ok bool) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	l := rt.mu.lanes[f]
	if l == nil {
		return w, false
	}
	e := l.head()
	if e == nil {
		delete(rt.mu.lanes, f)
		return w, false
	}
	return waiting{e, e.where == adrift, e.since}, true
}

// choice is what is to become of an entry that waits.
type choice struct {
	node    string // that is to run it; "" for none
	replica bool   // it has a replica of the shard
	nowhere bool   // no node has the function: the local executors say so
	again   time.Duration
}

// choose finds a node for an entry: one for which it has waited long enough, that
// has room, with a replica if there is one.
func (rt *Runtime) choose(e waiting) choice {
	replicas, others := rt.nodes(e.task.Shard, e.adrift)
	now := time.Now()
	c := choice{again: rt.cfg.Poll, nowhere: e.adrift}
	warm := e.adrift || !rt.cfg.Local.Room(e.task).Cold
	for _, group := range []struct {
		nodes   []string
		replica bool
	}{{replicas, true}, {others, false}} {
		bytes := int64(0)
		if !group.replica {
			if bytes = rt.bytesOf(e.entry); bytes < 0 && len(group.nodes) > 0 {
				c.nowhere = false
				continue // woken once they are counted
			}
		}
		best, answering := exec.Room{}, false
		for _, node := range group.nodes {
			if wait := rt.peers.cost(node, bytes) - now.Sub(e.since); wait > 0 && !e.adrift {
				c.again = min(c.again, wait)
				continue
			}
			room, known := rt.peers.room(node, functionOf(e.task), now)
			if !known || room.Free <= 0 {
				rt.ask(node)
				answering = answering || !known && rt.peers.answering(node, now)
			}
			c.nowhere = c.nowhere && known && room.Absent
			// Starting an executor there is no better than waiting for one that starts here.
			if !known || room.Absent || room.Free <= 0 || room.Cold && !warm {
				continue
			}
			if c.node == "" || best.Cold && !room.Cold || best.Cold == room.Cold && best.Free < room.Free {
				c.node, c.replica, best = node, group.replica, room
			}
		}
		if c.node != "" || group.replica && answering {
			c.nowhere = false
			return c
		}
	}
	return c
}

// bytesOf returns the bytes of an entry's inputs, and has them counted if they are
// not known yet.
func (rt *Runtime) bytesOf(e *entry) int64 {
	if e.bytes.CompareAndSwap(bytesUnknown, bytesBeingRead) {
		rt.wg.Go(func() {
			n, err := e.task.Source.Size(rt.ctx)
			if err != nil {
				n = exec.MaxInputBytes // whoever loads them will say what is wrong
			}
			e.bytes.Store(n)
			rt.signal()
		})
	}
	return e.bytes.Load()
}

// move takes an entry from the local executors and has another node run it, or
// gives it to the local ones if no node has its function. It returns false if the
// local executors are just taking it.
func (rt *Runtime) move(w waiting, c *choice) bool {
	e := w.entry
	if !w.adrift && rt.cfg.Local.Withdraw(e.task.Ref()) == nil {
		rt.mu.Lock()
		defer rt.mu.Unlock()
		return e.where != home
	}
	rt.mu.Lock()
	if l := rt.mu.lanes[functionOf(e.task)]; l != nil && len(l.waiting) > 0 && l.waiting[0] == e {
		l.pop()
	}
	var f *exec.Failure
	switch {
	case e.where == ended:
		rt.mu.Unlock()
		return true
	case e.cancelled:
		f = cancelledFailure()
	case rt.mu.closed:
		f = stopping()
	case c.nowhere:
		e.where = home
		rt.mu.Unlock()
		rt.submitHome(e)
		return true
	}
	if f != nil {
		rt.forget(e)
		rt.mu.Unlock()
		go e.task.Sink.Done(e.task, nil, f)
		return true
	}
	t := newTrip(e, c)
	e.where, e.trip = away, t
	rt.peers.took(c.node, functionOf(e.task))
	rt.wg.Go(t.run)
	rt.mu.Unlock()
	return true
}
