package leader

import "github.com/pheromone-run/pheromone/raft/shard"

// InMemory tells how many messages to other shards, and bytes of them, are in the
// leader's memory.
func (l *Leader) InMemory() (messages, bytes int) {
	l.mu.Lock()
	r := l.mu.reign
	l.mu.Unlock()
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

// StartDelay is how long the start of an attempt waits for an entry to be written with.
const StartDelay = startDelay
