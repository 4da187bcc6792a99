package exec

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/semaphore"

	"github.com/pheromone-run/pheromone/spec"
)

// Inputs of attempts take their bytes from a budget of the node. What an attempt
// needs it takes at once and in full before it reads any of it, and gives back
// when it has ended: nobody waits while holding a part, so none can wait for each
// other. One that needs more than there is takes all.
//
// Those that wait are served in order of arrival, so that a large one is not
// overtaken for ever. Small ones have an eighth of the budget to themselves:
// they need not wait behind a large one for attempts that hold large inputs.
type budget struct {
	large, small           *semaphore.Weighted
	largeBytes, smallBytes int64
}

const (
	smallPart = 8  // one part in so many of the budget is for small attempts
	smallMost = 64 // one attempt of so many that the small part has room for is small
)

// newBudget makes a budget of bytes, nil for none.
func newBudget(bytes int64) *budget {
	if bytes <= 0 {
		return nil
	}
	small := bytes / smallPart
	b := &budget{largeBytes: bytes - small, smallBytes: small}
	b.large, b.small = semaphore.NewWeighted(b.largeBytes), semaphore.NewWeighted(b.smallBytes)
	return b
}

// part returns where an attempt's bytes are taken from, and how many.
func (b *budget) part(bytes int64) (*semaphore.Weighted, int64) {
	if bytes <= b.smallBytes/smallMost {
		return b.small, bytes
	}
	return b.large, min(bytes, b.largeBytes)
}

// share is what an attempt has of the budget.
type share struct {
	from  *semaphore.Weighted
	bytes int64
}

// try takes bytes if nobody has to wait for them.
func (b *budget) try(bytes int64) (share, bool) {
	from, n := b.part(bytes)
	return share{from, n}, from.TryAcquire(n)
}

// take waits for bytes, until ctx ends.
func (b *budget) take(ctx context.Context, bytes int64) (share, error) {
	from, n := b.part(bytes)
	if err := from.Acquire(ctx, n); err != nil {
		return share{}, err
	}
	return share{from, n}, nil
}

// keep gives back all but bytes.
func (s *share) keep(bytes int64) {
	if over := s.bytes - bytes; s.from != nil && over > 0 {
		s.from.Release(over)
		s.bytes -= over
	}
}

// MaxInputBytes bounds the inputs of one attempt together.
const MaxInputBytes = 1 << 30

type tooLarge struct{ bytes int64 }

func (e *tooLarge) Error() string {
	return fmt.Sprintf("the inputs have %s together: an attempt takes at most %s", spec.FormatSize(e.bytes), spec.FormatSize(MaxInputBytes))
}

// LoadFailure is what becomes of an attempt whose inputs could not be read: another attempt
// may find its inputs, but not smaller ones.
func LoadFailure(err error) *Failure {
	if large, ok := errors.AsType[*tooLarge](err); ok {
		return &Failure{Kind: Refused, Message: large.Error()}
	}
	return &Failure{Kind: Lost, Message: "load the inputs: " + err.Error()}
}

// source is an entry as its runtime reads the inputs from it.
type source entry

// inputs is what an entry has of the budget.
type inputs struct {
	mu      sync.Mutex
	share   share
	begun   bool // Load was called
	loading bool
	ended   bool
	stop    context.CancelFunc // ends the wait for the budget; nil if there is none
}

// reserve takes a task's bound of its inputs, if there is room for it now.
func (e *entry) reserve() bool {
	if e.task.SizeAtMost <= 0 {
		return false
	}
	s, ok := e.pool.inputs.try(e.task.SizeAtMost)
	if ok {
		e.inputs.mu.Lock()
		e.inputs.share = s
		e.inputs.mu.Unlock()
	}
	return ok
}

// unreserve gives back what reserve took, if the runtime had no room for the task:
// what waits for an executor holds nothing.
func (e *entry) unreserve() {
	in := &e.inputs
	in.mu.Lock()
	defer in.mu.Unlock()
	if !in.begun {
		in.share.keep(0)
	}
}

// Size implements Source.
func (s *source) Size(ctx context.Context) (int64, error) { return s.task.Source.Size(ctx) }

// Load implements Source: it takes what the inputs need from the budget and reads them.
func (s *source) Load(ctx context.Context) ([]Input, error) {
	e, in := (*entry)(s), &s.inputs
	in.mu.Lock()
	in.begun, in.loading = true, true
	reserved := in.share.bytes > 0
	in.mu.Unlock()
	if !reserved {
		if err := e.wait(ctx); err != nil {
			return nil, err
		}
	}
	list, err := e.task.Source.Load(ctx)
	var bytes int64
	for i := range list {
		bytes += int64(len(list[i].Data))
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.loading = false; in.ended || err != nil {
		bytes = 0
	}
	in.share.keep(bytes)
	return list, err
}

// wait waits for the bytes that the inputs need, until the task or the pool ends.
func (e *entry) wait(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(e.pool.ctx, cancel)()
	in := &e.inputs
	in.mu.Lock()
	if in.stop = cancel; in.ended {
		cancel()
	}
	in.mu.Unlock()
	bytes := e.task.SizeAtMost
	if bytes <= 0 {
		var err error
		if bytes, err = e.task.Source.Size(ctx); err != nil {
			return err
		}
	}
	if bytes > MaxInputBytes {
		return &tooLarge{bytes}
	}
	s, err := e.pool.inputs.take(ctx, bytes)
	if err != nil {
		return err
	}
	in.mu.Lock()
	in.share = s
	in.mu.Unlock()
	return nil
}

// release gives everything back: the attempt has ended. One that still loads gives
// it back when it has.
func (e *entry) release() {
	in := &e.inputs
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.ended = true; in.loading {
		if in.stop != nil {
			in.stop()
		}
		return
	}
	in.share.keep(0)
}
