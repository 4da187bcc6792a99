package leader_test

import (
	"slices"
	"sync"
	"testing"

	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/raft/shard"
)

// gate stands between a leader and its raft group. While it is shut, batches wait in
// it: they are proposed, as far as the leader knows, and not committed.
type gate struct {
	mu   sync.Mutex
	left int // batches that are let through; below 0: all
	term *gatedTerm
	most int // batches that waited at once
}

type gatedTerm struct {
	*shard.Term
	gate *gate
	held []heldBatch
	lost bool // nothing more is let through
	over bool
	done chan struct{}
}

type heldBatch struct {
	body []byte
	done func(error)
}

// newGated makes a world of one shard with a gate, which is open.
func newGated(t testing.TB, manifest string, functions map[string]function) (*world, *gate) {
	g := &gate{left: -1}
	w := &world{t: t, dir: t.TempDir(), shards: 1, apps: &deployed{}, run: newRunner(functions), own: g.take}
	w.apps.apply(t, manifest)
	w.start()
	t.Cleanup(w.close)
	t.Cleanup(g.open) // before the leader waits for what is in it
	t.Cleanup(w.run.stop)
	return w, g
}

// take has a new term pass through the gate.
func (g *gate) take(t *shard.Term) leader.Term {
	own := &gatedTerm{Term: t, gate: g, done: make(chan struct{})}
	g.mu.Lock()
	g.term = own
	g.mu.Unlock()
	go own.end()
	return own
}

func (t *gatedTerm) Propose(body []byte, done func(error)) error {
	t.gate.mu.Lock()
	defer t.gate.mu.Unlock()
	switch {
	case t.over:
		return t.Err()
	case t.gate.left == 0 || t.lost:
		t.held = append(t.held, heldBatch{slices.Clone(body), done})
		t.gate.most = max(t.gate.most, len(t.held))
		return nil
	case t.gate.left > 0:
		t.gate.left--
	}
	return t.Term.Propose(body, done)
}

// end loses what waits when the term is over.
func (t *gatedTerm) end() {
	<-t.Term.Done()
	t.gate.mu.Lock()
	defer t.gate.mu.Unlock()
	t.over = true
	for _, b := range t.held {
		b.done(t.Err())
	}
	t.held = nil
	close(t.done)
}

func (t *gatedTerm) Done() <-chan struct{} { return t.done }

// shut lets n more batches through.
func (g *gate) shut(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.left = n
}

// open lets everything through that waits, and what comes after it.
func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.left = -1
	for _, b := range g.term.held {
		if err := g.term.Term.Propose(b.body, b.done); err != nil {
			b.done(err)
		}
	}
	g.term.held = nil
}

// lose ends the term, and with it all that waits. The next one is let through.
func (g *gate) lose() {
	g.mu.Lock()
	g.left = -1
	term := g.term
	term.lost = true
	g.mu.Unlock()
	term.Resign()
}

// waiting tells how many batches wait.
func (g *gate) waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.term.held)
}
