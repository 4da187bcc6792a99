package leader

import (
	"cmp"
	"container/heap"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/pheromone-run/pheromone/store"
)

// timers keeps the timers that are due soon in memory, so many of them at most; the
// store has all. When few are left the next ones are loaded. A timer in memory is a
// reminder only: its subject says whether it still counts.
type timers struct {
	queue   timerQueue
	horizon store.Micros // timers due up to it are in the queue
	flying  []flyingTimer
	kept    int // are loaded
	most    int // stay in memory, if many are armed that are due soon
	clock   *time.Timer
	set     store.Micros // when clock goes off
}

// flyingTimer is a timer that the store may not have yet, because its entry is in flight:
// what is loaded may lack it.
type flyingTimer struct {
	reminder
	seq uint64
}

const (
	// horizonStep is how far ahead timers are loaded, if they are not too many.
	horizonStep = 30 * time.Second
	timersRound = 256 // timers handled in one round
)

type reminder struct {
	due   store.Micros
	timer store.Timer
}

type timerQueue []reminder

func (q timerQueue) Len() int           { return len(q) }
func (q timerQueue) Less(i, j int) bool { return q[i].due < q[j].due }
func (q timerQueue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }
func (q *timerQueue) Push(x any)        { *q = append(*q, x.(reminder)) }
func (q *timerQueue) Pop() any {
	old := *q
	last := old[len(old)-1]
	*q = old[:len(old)-1]
	return last
}

func (ts *timers) init(kept int) {
	ts.clock = time.NewTimer(0)
	ts.kept, ts.most = kept, 2*kept
}

func (ts *timers) stop() { ts.clock.Stop() }

// due is ready when a timer is due or the horizon has to move.
func (ts *timers) due() <-chan time.Time { return ts.clock.C }

// isDue tells whether the clock has gone off, or is about to.
func (ts *timers) isDue(now store.Micros) bool { return ts.set <= now }

// remind sets the clock for the first timer, or for the next look beyond the horizon.
func (r *reign) remind() {
	if r.parking.freed && len(r.parking.lanes) > 0 {
		r.timers.set = 0
		r.timers.clock.Reset(0) // what is parked goes on in the next round
		return
	}
	next := store.Micros(math.MaxInt64)
	if len(r.timers.queue) > 0 {
		next = r.timers.queue[0].due
	}
	if r.timers.few() {
		next = min(next, r.timers.horizon-store.Micros((horizonStep/2).Microseconds()))
	}
	if next == r.timers.set {
		return
	}
	r.timers.set = next
	// A timer must not go off before it is due: the clock counts in microseconds.
	r.timers.clock.Reset(max(0, timeOf(next).Sub(r.now())+time.Microsecond))
}

// arm sets a timer, in the store and in memory.
func (t *tx) arm(due store.Micros, subject store.Timer) {
	t.write(store.AppendTimerKey(t.scratch.key(), t.shard(), due, &subject), nil)
	armed := reminder{due, subject}
	t.timers.flying = append(t.timers.flying, flyingTimer{armed, t.seq})
	if due <= t.timers.horizon {
		heap.Push(&t.timers.queue, armed)
		t.timers.trim()
	}
}

// few tells whether there is room to load timers.
func (ts *timers) few() bool { return len(ts.queue) <= ts.kept/2 }

// trim drops the latest timers if there are too many. Those that are due at one moment
// stay together, so there may be many still.
func (ts *timers) trim() {
	if len(ts.queue) < ts.most {
		return
	}
	slices.SortFunc(ts.queue, func(a, b reminder) int { return cmp.Compare(a.due, b.due) })
	n := ts.kept
	for n < len(ts.queue) && ts.queue[n].due == ts.queue[ts.kept].due {
		n++
	}
	if n < len(ts.queue) {
		ts.horizon = ts.queue[ts.kept].due
		clear(ts.queue[n:])
		ts.queue = ts.queue[:n]
	}
	ts.most = 2 * n
}

// land forgets timers that the store has by now.
func (ts *timers) land(applied uint64) {
	n := 0
	for n < len(ts.flying) && ts.flying[n].seq <= applied {
		ts.flying[n] = flyingTimer{}
		n++
	}
	ts.flying = ts.flying[n:]
}

// rest comes back to a timer that is due a little later: what is left to do has to
// see in the store what was done so far.
func (t *tx) rest(subject store.Timer) { t.arm(t.at+store.Micros(restPause.Microseconds()), subject) }

// restPause is how long rest waits: about as long as an entry takes.
const restPause = 10 * time.Millisecond

// disarm takes a timer back. Its reminder finds that it does not count any more.
func (t *tx) disarm(due store.Micros, subject store.Timer) {
	t.erase(store.AppendTimerKey(t.scratch.key(), t.shard(), due, &subject))
}

// fireTimers handles what is due.
func (r *reign) fireTimers(t *tx) {
	r.timers.set = 0
	if step := store.Micros(horizonStep.Microseconds()); t.at >= r.timers.horizon-step/2 && r.timers.few() {
		r.lookAhead(t.at + step)
	}
	for n := 0; n < timersRound && !t.full() && len(r.timers.queue) > 0 && r.timers.queue[0].due <= t.at; n++ {
		t.urgent = true
		due := heap.Pop(&r.timers.queue).(reminder)
		t.disarm(due.due, due.timer)
		t.timerDue(due)
	}
}

// timerDue does what a timer is for, if that is still wanted. Each kind compares
// the time it is due with what its subject says: a timer comes twice when it was
// in memory and loaded as well.
func (t *tx) timerDue(due reminder) {
	switch subject := due.timer; subject.Kind {
	case store.TimerRetry:
		t.retryDue(subject, due.due)
	case store.TimerTrigger:
		t.triggerDue(subject, due.due)
	case store.TimerPurge:
		t.purgeDue(subject, due.due)
	case store.TimerExpire:
		t.expire(subject, due.due)
	case store.TimerDeliver:
		t.deliver(sessionName{subject.App, subject.Session}, subject.Bucket, subject.Key, due.due)
	case store.TimerRerun:
		t.rerunDue(subject, due.due)
	case store.TimerDeadline:
		t.deadlineDue(subject, due.due)
	case store.TimerFollow:
		t.followDue(subject)
	case store.TimerRequest:
		t.forgetRequest(subject, due.due)
	case store.TimerSweep:
		t.sweep(subject)
	}
}

// lookAhead loads the timers due up to the new horizon, or as many as are kept.
func (r *reign) lookAhead(horizon store.Micros) {
	ts := &r.timers
	if horizon <= ts.horizon {
		return
	}
	sh := r.leader.cfg.Shard
	lower := store.AppendTimersPrefix(nil, sh)
	if ts.horizon != 0 {
		lower = store.AppendTimersUntil(nil, sh, ts.horizon)
	}
	ts.land(r.appliedSeq.Load()) // before the store is read: what it has then need not be known
	last := ts.horizon
	var damaged error
	err := r.leader.cfg.DB.Scan(lower, store.AppendTimersUntil(nil, sh, horizon), func(k, _ []byte) bool {
		due, timer, err := store.DecodeTimer(k)
		if err != nil {
			damaged = err
			return false
		}
		if due != last && len(ts.queue) >= ts.kept {
			horizon = last
			return false
		}
		last = due
		heap.Push(&ts.queue, reminder{due, timer})
		return true
	})
	if err == nil {
		err = damaged
	}
	if err != nil {
		r.failed = fmt.Errorf("load timers: %w", err)
		return
	}
	for _, f := range ts.flying {
		if ts.horizon < f.due && f.due <= horizon {
			heap.Push(&ts.queue, f.reminder)
		}
	}
	ts.horizon = horizon
}

func timeOf(m store.Micros) time.Time { return time.UnixMicro(int64(m)).UTC() }
