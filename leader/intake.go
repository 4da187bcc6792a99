package leader

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/pheromone-run/pheromone/spec"
)

// intake is where commands wait for the loop: a lane for each app, served in turn,
// so that one app's many commands do not stand before another's few.
//
// What the loop has taken is evaluated in order and applied in order, so a command
// also waits for all that was taken before it and is neither applied nor lingers. While more
// than one app is at work each may have only so many commands there: what is over
// that waits in its lane, where the others can pass it. An app alone is not held up.
type intake struct {
	places *semaphore.Weighted // of intakeCommands
	ready  chan struct{}       // capacity 1: there may be something to take
	now    func() time.Time

	mu struct {
		sync.Mutex
		lanes map[spec.AppName]*lane
		ring  []*lane // the same in the order in which they are served
		turn  int
		apps  int // of the lanes, those of apps
	}
}

// lane is the commands of one app. What belongs to no app, as the acknowledgement
// of mail does, has a lane with an empty name.
type lane struct {
	app     spec.AppName
	places  *semaphore.Weighted // of laneCommands
	waiting fifo[*request]      // oldest first
	taken   int                 // by the loop, and not given back yet
	offers  int                 // on their way into the lane
	seen    time.Time           // when the last command came
}

const (
	intakeCommands = 8192 // commands queued before callers wait
	// laneCommands is what one app may have queued: the others find a place.
	laneCommands = intakeCommands / 4
	// takenTogether is how many commands all apps together may have with the loop
	// while there are several; each of them has an equal part, at least takenLeast.
	takenTogether = 32
	takenLeast    = 2
	// laneKept is how long an app counts as being at work after its last command: a
	// session's commands come some milliseconds apart.
	laneKept = time.Second
)

func newIntake(now func() time.Time) *intake {
	q := &intake{places: semaphore.NewWeighted(intakeCommands), ready: make(chan struct{}, 1), now: now}
	q.mu.lanes = make(map[spec.AppName]*lane)
	return q
}

// owned is a command on behalf of an app.
type owned interface{ owner() spec.AppName }

func (p Put) owner() spec.AppName         { return p.App }
func (d Delete) owner() spec.AppName      { return d.App }
func (n attemptName) owner() spec.AppName { return n.app }
func (h *handed) owner() spec.AppName     { return h.app }
func (c *look) owner() spec.AppName       { return c.name.app }
func (c *inspect) owner() spec.AppName    { return c.name.app }
func (c *cancel) owner() spec.AppName     { return c.name.app }
func (c *refire) owner() spec.AppName     { return c.name.app }
func (c *reported) owner() spec.AppName   { return c.name.app }
func (c *take) owner() spec.AppName       { return c.mail.App }

func ownerOf(c command) spec.AppName {
	if o, ok := c.(owned); ok {
		return o.owner()
	}
	return ""
}

// enter finds or makes the lane of an app for a command that is on its way.
func (q *intake) enter(app spec.AppName) *lane {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.mu.lanes[app]
	if l == nil {
		l = &lane{app: app, places: semaphore.NewWeighted(laneCommands)}
		q.mu.lanes[app] = l
		q.mu.ring = append(q.mu.ring, l)
		if app != "" {
			q.mu.apps++
		}
	}
	l.offers++
	return l
}

// tryOffer queues a request if there is a place for it now.
func (q *intake) tryOffer(req *request) bool {
	l := q.enter(ownerOf(req.command))
	ok := l.places.TryAcquire(1)
	if ok && !q.places.TryAcquire(1) {
		l.places.Release(1)
		ok = false
	}
	q.arrive(l, req, ok)
	return ok
}

// offer queues a request, waiting for a place until ctx ends.
func (q *intake) offer(ctx context.Context, req *request) error {
	l := q.enter(ownerOf(req.command))
	err := l.places.Acquire(ctx, 1)
	if err == nil {
		if err = q.places.Acquire(ctx, 1); err != nil {
			l.places.Release(1)
		}
	}
	q.arrive(l, req, err == nil)
	return err
}

// arrive puts a request into its lane, if it has a place.
func (q *intake) arrive(l *lane, req *request, placed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l.offers--
	if !placed {
		return
	}
	l.seen = q.now()
	req.lane = l
	l.waiting.push(req)
	q.signal()
}

func (q *intake) signal() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// take returns the command whose turn it is, nil if there is none that may be
// taken now. It is the loop's until it is given back.
func (q *intake) take() *request {
	q.mu.Lock()
	defer q.mu.Unlock()
	most := max(takenTogether/max(q.mu.apps, 1), takenLeast)
	for range len(q.mu.ring) {
		q.mu.turn %= len(q.mu.ring)
		l := q.mu.ring[q.mu.turn]
		if q.leave(l) {
			continue
		}
		q.mu.turn++
		if l.waiting.len() == 0 || l.app != "" && q.mu.apps > 1 && l.taken >= most {
			continue
		}
		req := l.waiting.pop()
		l.taken++
		l.places.Release(1)
		q.places.Release(1)
		return req
	}
	return nil
}

// leave takes the lane whose turn it is off the ring if its app is not at work any
// more. q.mu is held.
func (q *intake) leave(l *lane) bool {
	if l.waiting.len()+l.taken+l.offers > 0 || len(q.mu.ring) == 1 || q.now().Sub(l.seen) < laneKept {
		return false
	}
	delete(q.mu.lanes, l.app)
	q.mu.ring = append(q.mu.ring[:q.mu.turn], q.mu.ring[q.mu.turn+1:]...)
	if l.app != "" {
		q.mu.apps--
	}
	return true
}

// rest empties the intake.
func (q *intake) rest() (all []*request) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, l := range q.mu.ring {
		for l.waiting.len() > 0 {
			all = append(all, l.waiting.pop())
		}
	}
	return all
}

// giveBack tells that commands that were taken are applied, or lost.
func (q *intake) giveBack(taken []*request) {
	q.mu.Lock()
	defer q.mu.Unlock()
	waits := false
	for _, req := range taken {
		req.lane.taken--
		waits = waits || req.lane.waiting.len() > 0
	}
	if waits {
		q.signal()
	}
}
