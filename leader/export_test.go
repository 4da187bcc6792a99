package leader

import (
	"context"

	"github.com/pheromone-run/pheromone/raft/shard"
	"github.com/pheromone-run/pheromone/spec"
)

// InMemory tells how many messages to other shards, and bytes of them, are in the
// leader's memory.
func (l *Leader) InMemory() (messages, bytes int) {
	r := l.reigning()
	if r == nil {
		return 0, 0
	}
	r.outbox.mu.Lock()
	defer r.outbox.mu.Unlock()
	return r.outbox.mu.letters, r.outbox.mu.bytes
}

// Term is what a reign needs of a *shard.Term.
type Term = term

// Wrap has the leader work with f of each term that begins from now on.
func (l *Leader) Wrap(f func(*shard.Term) Term) { l.own = f }

// TakesNoMoreBytes tells whether an entry waits for bytes and for no more of them.
func (l *Leader) TakesNoMoreBytes() bool {
	r := l.reigning()
	return r != nil && r.behind.paused.Load()
}

// StartDelay is how long the start of an attempt waits for an entry to be written with.
const StartDelay = startDelay

// Kept is how much of what waits is in the leader's memory.
type Kept struct{ Sessions, Timers, Dispatched, Parked int }

type countKept struct{ kept Kept }

func (c *countKept) evaluate(t *tx) error {
	c.kept = Kept{Sessions: len(t.sessions), Timers: len(t.timers.queue), Dispatched: t.parking.all}
	for _, l := range t.parking.lanes {
		c.kept.Parked += len(l.queue) - l.first
	}
	return nil
}

// Kept counts what is in memory.
func (l *Leader) Kept(ctx context.Context) (Kept, error) {
	var c countKept
	err := l.do(ctx, &c, 0)
	return c.kept, err
}

// ParkedLane is the invocations of one function that wait for executors.
type ParkedLane struct{ of parkedLane }

func (l *ParkedLane) Park(session spec.SessionID, number uint64) {
	l.of.park(parked{session: session, number: number})
}

func (l *ParkedLane) Remove(session spec.SessionID, number uint64) {
	l.of.remove(parkedName{session, number})
}

func (l *ParkedLane) Next() (session spec.SessionID, number uint64, ok bool) {
	p, ok := l.of.next()
	return p.session, p.number, ok
}

// Len counts what takes memory.
func (l *ParkedLane) Len() int { return len(l.of.queue) + len(l.of.dead) }
