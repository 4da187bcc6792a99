package fn

import (
	"context"
	"sync"
	"time"
)

// deadlineContext is a context with a deadline that has a timer only once somebody
// waits for its end. Most functions never do, and a timer costs a module, whose
// runtime is slower, a tenth of a short attempt.
type deadlineContext struct {
	context.Context // the parent: cancelled with the attempt
	at              time.Time

	mu struct {
		sync.Mutex
		armed context.Context // with the timer; nil until it is needed
		stop  context.CancelFunc
	}
}

// withDeadline returns a context that ends at the deadline, with the cause
// errDeadline. stop frees its timer.
func withDeadline(parent context.Context, timeout time.Duration) (ctx context.Context, stop func()) {
	c := &deadlineContext{Context: parent, at: time.Now().Add(timeout)}
	return c, c.stop
}

func (c *deadlineContext) Deadline() (time.Time, bool) { return c.at, true }

func (c *deadlineContext) Done() <-chan struct{} { return c.arm().Done() }

func (c *deadlineContext) Err() error {
	c.mu.Lock()
	armed := c.mu.armed
	c.mu.Unlock()
	switch {
	case armed != nil:
		return armed.Err()
	case c.Context.Err() != nil:
		return c.Context.Err()
	case time.Now().Before(c.at):
		return nil
	}
	return c.arm().Err()
}

// Value is asked for the cause and by contexts that derive from this one, after
// Err or Done.
func (c *deadlineContext) Value(key any) any {
	c.mu.Lock()
	armed := c.mu.armed
	c.mu.Unlock()
	if armed != nil {
		return armed.Value(key)
	}
	return c.Context.Value(key)
}

func (c *deadlineContext) arm() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.armed == nil {
		c.mu.armed, c.mu.stop = context.WithDeadlineCause(c.Context, c.at, errDeadline)
	}
	return c.mu.armed
}

func (c *deadlineContext) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.mu.stop != nil {
		c.mu.stop()
	}
}
