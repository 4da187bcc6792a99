package leader

import (
	"sync"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// hub wakes those who wait for something of the shard to be applied: the end of a
// session, an output of it, a change of a key-value object. What happened they
// read from the store, but for words, which are told before it is there.
type hub struct {
	mu struct {
		sync.Mutex
		waiters map[sessionName]map[chan struct{}]bool // true: for an output, too
		words   map[sessionName]*word
		changes chan struct{} // closed and replaced by every change
		watched bool          // somebody has asked for changes since the last one
	}
}

func newHub() *hub {
	h := &hub{}
	h.mu.waiters = make(map[sessionName]map[chan struct{}]bool)
	h.mu.words = make(map[sessionName]*word)
	h.mu.changes = make(chan struct{})
	return h
}

// wait returns a channel that gets a token whenever the session ends or has one
// more output, and a function that ends the waiting.
func (h *hub) wait(name sessionName, output bool) (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.waiters[name] == nil {
		h.mu.waiters[name] = make(map[chan struct{}]bool)
	}
	h.mu.waiters[name][c] = output
	return c, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.mu.waiters[name], c)
		if len(h.mu.waiters[name]) == 0 {
			delete(h.mu.waiters, name)
		}
	}
}

// awaitsOutput tells whether somebody waits for a session's next output.
func (h *hub) awaitsOutput(name sessionName) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, output := range h.mu.waiters[name] {
		if output {
			return true
		}
	}
	return false
}

// word is what is known of a session that the store does not have yet: its result, or
// with none that it is there.
type word struct {
	result  *wire.Result
	retired bool // the store has it, or it is lost
}

// announce keeps a word for those who ask for a session until it is retired.
func (h *hub) announce(name sessionName, w *word) {
	h.mu.Lock()
	if !w.retired {
		h.mu.words[name] = w
	}
	h.mu.Unlock()
	if w.result != nil {
		h.wake(name)
	}
}

func (h *hub) retire(name sessionName, w *word) {
	h.mu.Lock()
	defer h.mu.Unlock()
	w.retired = true
	if h.mu.words[name] == w {
		delete(h.mu.words, name)
	}
}

// wordOf returns what is known of a session beyond the store, nil if nothing is.
func (h *hub) wordOf(name sessionName) *word {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mu.words[name]
}

func (h *hub) ended(name sessionName)      { h.wake(name) }
func (h *hub) progressed(name sessionName) { h.wake(name) }

func (h *hub) wake(name sessionName) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.mu.waiters[name] {
		select {
		case c <- struct{}{}:
		default: // it has a token that it has not taken
		}
	}
}

// dropped wakes all who wait for sessions of an app.
func (h *hub) dropped(app spec.AppName) {
	h.mu.Lock()
	var names []sessionName
	for name := range h.mu.waiters {
		if name.app == app {
			names = append(names, name)
		}
	}
	h.mu.Unlock()
	for _, name := range names {
		h.wake(name)
	}
}

// changed wakes all watches of the shard.
func (h *hub) changed(spec.Revision) {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.mu.changes)
	h.mu.changes = make(chan struct{})
	h.mu.watched = false
}

// awaitsChange tells whether somebody waits for the next change.
func (h *hub) awaitsChange() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mu.watched
}

// changes returns a channel that is closed by the next change.
func (h *hub) changes() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.watched = true
	return h.mu.changes
}
