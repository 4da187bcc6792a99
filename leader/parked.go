package leader

import (
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// Executors keep what they are given in memory until it has run. So no more attempts of
// a function are with them than they can begin soon; of an invocation beyond that the
// store has the record, and memory its name, in the lane of its function. Lanes are
// served in order of arrival.

const (
	// functionsDispatched is how many times as many as one function all of them may have
	// with the executors, and dispatchedShare the part that each may have whatever others have.
	functionsDispatched = 2
	dispatchedShare     = 16
	// unparkRound is how many invocations leave their lanes in one round.
	unparkRound = 256
	// deadLeast is from how many ended ones on a lane is cleared of them.
	deadLeast = 1024
)

// parked is an invocation that waits in a lane.
type parked struct {
	session spec.SessionID
	number  uint64
	queued  store.Micros
	// skip says that an attempt may have run in the reign before whose start was not
	// written: its number is not given again.
	skip bool
}

type parkedName struct {
	session spec.SessionID
	number  uint64
}

// parking is what the executors have of each function, and what waits beyond that.
type parking struct {
	most       int // attempts of a function with the executors
	dispatched map[functionName]int
	all        int // of all functions
	lanes      map[functionName]*parkedLane
	freed      bool // a lane may have to be looked at
	// ahead has attempts go to the executors before what waits: those of a reign before.
	ahead bool
}

type parkedLane struct {
	queue []parked
	first int // of the queue, the ones before it have left
	// dead counts those of the queue that have ended, which are passed over.
	dead map[parkedName]int
}

func newParking(most int) parking {
	return parking{most: most, dispatched: make(map[functionName]int), lanes: make(map[functionName]*parkedLane)}
}

func (inv *invocation) functionName() functionName {
	return functionName{inv.session.name.app, inv.rec.Function}
}

// room tells whether one more attempt of a function may go to the executors.
func (p *parking) room(f functionName) bool {
	n := p.dispatched[f]
	return n < p.most && (p.all < functionsDispatched*p.most || n < max(1, p.most/dispatchedShare))
}

// take counts an attempt that goes to the executors.
func (p *parking) take(inv *invocation) {
	inv.dispatched, inv.parked = true, false
	p.dispatched[inv.functionName()]++
	p.all++
	inv.session.running++
}

// giveBack takes an attempt out of those that are with the executors, if it is.
func (p *parking) giveBack(inv *invocation) {
	if !inv.dispatched {
		return
	}
	inv.dispatched = false
	bump(p.dispatched, inv.functionName(), -1)
	p.all--
	inv.session.running--
	p.freed = true
}

// park has an invocation wait for room. It must not wait already.
func (p *parking) park(f functionName, of parked) {
	l := p.lanes[f]
	if l == nil {
		l = &parkedLane{}
		p.lanes[f] = l
	}
	l.park(of)
}

// unwanted notes that a parked invocation has ended.
func (p *parking) unwanted(inv *invocation) {
	if !inv.parked {
		return
	}
	inv.parked = false
	p.lanes[inv.functionName()].remove(parkedName{inv.session.name.session, inv.number})
}

func (l *parkedLane) park(p parked) { l.queue = append(l.queue, p) }

// remove has an entry of the queue passed over, and clears the queue of such when most
// of it is.
func (l *parkedLane) remove(name parkedName) {
	if l.dead == nil {
		l.dead = make(map[parkedName]int)
	}
	l.dead[name]++
	if n := len(l.dead); n > deadLeast && n > (len(l.queue)-l.first)/2 {
		l.clear()
	}
}

func (l *parkedLane) clear() {
	kept := make([]parked, 0, len(l.queue)-l.first-len(l.dead))
	for _, p := range l.queue[l.first:] {
		if !l.passed(p) {
			kept = append(kept, p)
		}
	}
	l.queue, l.first = kept, 0
}

// passed tells whether an entry of the queue is of an invocation that has ended.
func (l *parkedLane) passed(p parked) bool {
	name := parkedName{p.session, p.number}
	if l.dead[name] == 0 {
		return false
	}
	bump(l.dead, name, -1)
	return true
}

// next takes the first that still counts.
func (l *parkedLane) next() (p parked, ok bool) {
	for l.first < len(l.queue) {
		p = l.queue[l.first]
		l.queue[l.first] = parked{}
		if l.first++; l.first > len(l.queue)/2 && l.first > deadLeast {
			l.queue, l.first = append([]parked(nil), l.queue[l.first:]...), 0
		}
		if !l.passed(p) {
			return p, true
		}
	}
	return p, false
}

// drop forgets all of an app.
func (p *parking) drop(app spec.AppName) {
	for f, n := range p.dispatched {
		if f.app == app {
			delete(p.dispatched, f)
			p.all -= n
		}
	}
	for f := range p.lanes {
		if f.app == app {
			delete(p.lanes, f)
		}
	}
	p.freed = true
}

// dispatch has the next attempt run: by the executors if they have room, or once those
// that came before have gone to them.
func (t *tx) dispatch(inv *invocation) {
	if inv.parked {
		return
	}
	f := inv.functionName()
	if (t.parking.ahead || t.parking.lanes[f] == nil) && t.parking.room(f) {
		t.handOut(inv)
		return
	}
	inv.parked = true
	t.parking.park(f, parked{session: inv.session.name.session, number: inv.number, queued: t.at})
}

// unpark sends what has waited to the executors, as far as they have room by now.
func (t *tx) unpark() {
	if !t.parking.freed {
		return
	}
	left := unparkRound
	for f, l := range t.parking.lanes {
		if t.newest[f.app] == nil {
			continue // this program can't read the app: what waits stays for one that can
		}
		for t.parking.room(f) {
			if left == 0 || t.full() {
				return // the next round goes on
			}
			p, ok := l.next()
			if !ok {
				delete(t.parking.lanes, f)
				break
			}
			left--
			t.unparkOne(f, p)
		}
	}
	t.parking.freed = false
}

// unparkOne sends an invocation to the executors that has left its lane.
func (t *tx) unparkOne(f functionName, p parked) {
	s := t.session(sessionName{f.app, p.session})
	if s == nil {
		t.orphan(f, spec.InvocationID{Session: p.session, Number: p.number})
		return
	}
	inv := s.pending[p.number]
	if inv == nil || !inv.parked {
		return
	}
	if p.skip {
		inv.attempt++
	}
	t.handOut(inv)
}

// orphan deletes a pending invocation that has no session. One whose session this
// program can't read stays in the store for one that can.
func (t *tx) orphan(f functionName, id spec.InvocationID) {
	there, err := t.leader.cfg.DB.Has(store.AppendSessionKey(nil, t.shard(), f.app, id.Session))
	if err != nil {
		t.broken(err)
	}
	if there || err != nil {
		return
	}
	t.leader.cfg.Log.Warn("pending invocation without a session", "app", f.app, "invocation", id.String())
	t.erase(store.AppendPendingKey(nil, t.shard(), f.app, id.Session, id.Number))
	t.countPending(f, -1)
}
