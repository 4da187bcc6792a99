package leader

import "github.com/pheromone-run/pheromone/internal/failpoint"

// effect is something that is to happen once an entry is applied (lost is nil), or lost.
// The effects that nearly every entry has are things that are there anyway, and take no
// memory of their own.
type effect interface {
	settle(r *reign, lost error)
}

// settled is any other effect.
type settled func(lost error)

func (f settled) settle(_ *reign, lost error) { f(lost) }

// sessionEnded and sessionProgressed wake those who wait for a session.
type (
	sessionEnded      session
	sessionProgressed session
)

func (s *sessionEnded) settle(r *reign, lost error) {
	if lost == nil {
		r.leader.hub.ended(s.name)
	}
}

func (s *sessionProgressed) settle(r *reign, lost error) {
	if lost == nil {
		r.leader.hub.progressed(s.name)
	}
}

// settle answers a request.
func (req *request) settle(r *reign, lost error) {
	if lost != nil {
		req.answer <- errTermOver(r.leader.cfg.Shard)
		return
	}
	req.answer <- req.err
}

// entry is a proposed batch, or one in the making, with what is to happen once it is
// applied. Entries that are settled are used again.
type entry struct {
	seq     uint64
	bytes   int
	slot    chan struct{} // that its token goes back to
	steps   failpoint.Entry
	effects []effect
	taken   []*request // to be given back to the intake
}

// settle runs the effects of an entry that is applied, or lost.
func (e *entry) settle(r *reign, lost error) {
	for _, f := range e.effects {
		f.settle(r, lost)
	}
	if len(e.taken) > 0 {
		r.intake.giveBack(e.taken)
	}
}

// join has the effects of an entry that has nothing to write follow those of another.
func (e *entry) join(last *entry) {
	last.effects = append(last.effects, e.effects...)
	last.taken = append(last.taken, e.taken...)
}

// entriesSpared and effectsSpared bound what is kept of settled entries for the next ones.
const (
	entriesSpared = window
	effectsSpared = 2 * entryCommands
)

// newEntry returns an empty entry.
func (r *reign) newEntry() *entry {
	r.inflight.Lock()
	defer r.inflight.Unlock()
	n := len(r.inflight.spare)
	if n == 0 {
		return &entry{}
	}
	e := r.inflight.spare[n-1]
	r.inflight.spare = r.inflight.spare[:n-1]
	return e
}

// spare keeps an entry that is settled for another use.
func (r *reign) spare(e *entry) {
	clear(e.effects)
	clear(e.taken)
	*e = entry{effects: e.effects[:0], taken: e.taken[:0]}
	if cap(e.effects) > effectsSpared || cap(e.taken) > effectsSpared {
		return
	}
	r.inflight.Lock()
	defer r.inflight.Unlock()
	if len(r.inflight.spare) < entriesSpared {
		r.inflight.spare = append(r.inflight.spare, e)
	}
}
