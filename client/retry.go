package client

import (
	"context"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/pheromone-run/pheromone/spec"
)

// Retry bounds how a call is repeated that may be: to the next server, if there
// are several, after a wait that is random between nothing and Backoff·2^(n-1), at
// most MaxBackoff, and no earlier than the server's Retry-After allows.
type Retry struct {
	// For is how long after its beginning a call is sent again; default 30 s. The
	// end of the call's context comes first.
	For time.Duration
	// Reach takes the place of For until any server has answered this client at all,
	// so that an address that is wrong is told soon; default: as For.
	Reach time.Duration

	// Silence is how long a server may take to begin its answer, beyond a wait that it
	// was asked for, before a call that may be repeated goes to another one, if there
	// is another; default 10 s.
	Silence time.Duration

	// Again, if it is set, is called before a call is sent once more, with what came of
	// it so far; it must not block.
	Again func(error)

	MaxAttempts int           // default: as many as there is time for; 1 sends once
	Backoff     time.Duration // default 50 ms
	MaxBackoff  time.Duration // default 2 s
}

var defaultRetry = Retry{For: 30 * time.Second, Silence: 10 * time.Second, Backoff: 50 * time.Millisecond, MaxBackoff: 2 * time.Second,
	Again: func(error) {}}

func (r Retry) orElse(other Retry) Retry {
	set := func(d *time.Duration, or time.Duration) {
		if *d <= 0 {
			*d = or
		}
	}
	set(&r.For, other.For)
	set(&r.Reach, other.Reach)
	set(&r.Silence, other.Silence)
	set(&r.Backoff, other.Backoff)
	set(&r.MaxBackoff, other.MaxBackoff)
	if r.Again == nil {
		r.Again = other.Again
	}
	if r.MaxAttempts <= 0 {
		r.MaxAttempts = other.MaxAttempts
	}
	return r
}

// over says whether a call that began then is not sent once more.
func (c *Client) over(attempt int, began time.Time) bool {
	limit := c.retry.For
	if c.retry.Reach > 0 && !c.servers.reached() {
		limit = c.retry.Reach
	}
	return c.retry.MaxAttempts > 0 && attempt >= c.retry.MaxAttempts || time.Since(began) >= limit
}

// mayRepeat says whether sending r once more can't do its work twice.
func mayRepeat(r *request, failure *Error) bool {
	switch {
	case failure.cutShort():
		return false
	case failure.Status == http.StatusTooManyRequests:
		return true
	case failure.Status == http.StatusServiceUnavailable, failure.Status == http.StatusBadGateway:
		return r.repeatable
	case failure.Status != 0 || failure.Err.Code != spec.CodeUnavailable:
		return false
	}
	return r.repeatable || !failure.sent
}

func (c *Client) backoff(attempt int) time.Duration {
	d := c.retry.MaxBackoff
	if attempt < 20 { // beyond that the shift would overflow
		d = min(d, c.retry.Backoff<<(attempt-1))
	}
	return rand.N(d + 1)
}

// pause waits for d and says whether ctx let it.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
