package node

import (
	"bytes"
	"errors"
	"io"
	"sync"

	"github.com/pheromone-run/pheromone/leader"
)

// replayBytes is how much of a question's body is kept to be sent again.
const replayBytes = leader.InlineBytes

// replay is a body that can be read from its beginning again while no more than
// its head was read.
type replay struct {
	none bool
	head []byte
	from io.Reader // what comes after the head; nil if nothing does

	mu      sync.Mutex
	try     int // the newest reader; older ones read nothing more
	touched bool
}

// newReplay reads the head of a body. An error of reading it comes again at the
// same place.
func newReplay(body io.Reader) *replay {
	if body == nil {
		return &replay{none: true}
	}
	head, err := io.ReadAll(io.LimitReader(body, replayBytes+1))
	switch {
	case err != nil:
		return &replay{head: head, from: failing{err}}
	case len(head) <= replayBytes:
		return &replay{head: head}
	}
	return &replay{head: head, from: body}
}

// reader returns the body from its beginning, or false if that is gone.
func (r *replay) reader() (io.Reader, bool) {
	switch {
	case r.none:
		return nil, true
	case r.from == nil:
		return bytes.NewReader(r.head), true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.try++
	return io.MultiReader(bytes.NewReader(r.head), &replayRest{r, r.try}), !r.touched
}

// replayRest reads what comes after the head, for one try.
type replayRest struct {
	of  *replay
	try int
}

var errReplayed = errors.New("the body is read by another try")

func (r *replayRest) Read(p []byte) (int, error) {
	r.of.mu.Lock()
	defer r.of.mu.Unlock()
	if r.try != r.of.try {
		return 0, errReplayed
	}
	r.of.touched = true
	return r.of.from.Read(p)
}

// end has nothing more read of the body, and returns once nothing is: after an early
// answer a connection may be at it yet, and the body goes back to who brought it.
func (r *replay) end() {
	if r.from == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.try++
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
