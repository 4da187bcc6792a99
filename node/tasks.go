package node

import "sync"

// tasks are the goroutines of a node. Those that requests begin may come while it
// stops, when nobody waits for more of them.
type tasks struct {
	mu     sync.Mutex // orders Go and end
	ended  bool
	active sync.WaitGroup
}

// Go runs f, or tells that it does not because the node stops.
func (t *tasks) Go(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return false
	}
	t.active.Go(f)
	return true
}

// end has no more tasks begin, and waits for those that have.
func (t *tasks) end() {
	t.mu.Lock()
	t.ended = true
	t.mu.Unlock()
	t.active.Wait()
}
