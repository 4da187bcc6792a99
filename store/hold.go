package store

import (
	"errors"
	"sync"
	"time"
)

// holds are the snapshots that readers of large objects hold while they send the
// bytes. Pebble keeps what a snapshot sees on disk, so each is let go of after a
// while, and all of them when the store closes.
type holds struct {
	limit time.Duration

	mu struct {
		sync.Mutex
		open   map[*hold]struct{}
		closed bool
	}
}

// hold is one of them. Its end may come while it is read, from a timer.
type hold struct {
	of    *holds
	db    *DB
	timer *time.Timer

	mu struct {
		sync.Mutex
		snap   *Snapshot // nil: it was let go of
		closed bool      // the store is
	}
}

var errClosed = errors.New("store: it is closed")

func (hs *holds) take(s *Snapshot) *hold {
	h := &hold{of: hs, db: s.db}
	h.mu.snap = s
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.mu.closed {
		h.mu.closed = true
		h.letGo()
		return h
	}
	if hs.mu.open == nil {
		hs.mu.open = make(map[*hold]struct{})
	}
	hs.mu.open[h] = struct{}{}
	h.timer = time.AfterFunc(hs.limit, h.letGo)
	return h
}

// close lets go of all snapshots: pebble does not close with one open.
func (hs *holds) close() {
	hs.mu.Lock()
	open := hs.mu.open
	hs.mu.open, hs.mu.closed = nil, true
	hs.mu.Unlock()
	for h := range open {
		h.mu.Lock()
		h.mu.closed = true
		h.mu.Unlock()
		h.letGo()
	}
}

// GetTo reads from the snapshot, or from the store once that is let go of.
func (h *hold) GetTo(dst, key []byte) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.mu.closed:
		return dst, errClosed
	case h.mu.snap != nil:
		return h.mu.snap.GetTo(dst, key)
	}
	return h.db.GetTo(dst, key)
}

// over tells whether the snapshot is let go of.
func (h *hold) over() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mu.snap == nil
}

// end is for the reader that needs it no more.
func (h *hold) end() {
	h.of.mu.Lock()
	delete(h.of.mu.open, h)
	h.of.mu.Unlock()
	if h.timer != nil {
		h.timer.Stop()
	}
	h.letGo()
}

func (h *hold) letGo() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.snap != nil {
		_ = h.mu.snap.Close() // only a snapshot that is closed twice has an error
		h.mu.snap = nil
	}
}
