package leader

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/internal/failpoint"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// outbox sends what waits for its receivers. The store is the queue; of each route
// memory holds the head, and what lies behind it is read when there is room. Loop,
// effects, deliveries and the reader share it.
//
// What routes share, memory and deliveries, they share by one rule: a route takes no
// more of it than it leaves to the others. So one alone has half of it, and a
// receiver that does not answer leaves the rest to those that do.
type outbox struct {
	reign  *reign
	bounds MailBounds
	ctx    context.Context // ends with the outbox, and all deliveries with it
	cancel context.CancelFunc
	done   sync.WaitGroup
	wake   chan struct{} // has the reader look; one token says all

	mu struct {
		sync.Mutex
		open    bool // messages are sent
		routes  map[spec.ShardID]*route
		letters int    // in memory, of all routes
		bytes   int    // of those that are not delivered
		flights int    // deliveries on their way
		probes  int    // of them those that find out whether a receiver is back
		last    uint64 // the newest message
		drops   uint64 // how often messages were dropped
	}
}

const (
	outboxFlights = 64                // deliveries on their way at once
	outboxProbes  = outboxFlights / 2 // of them to receivers that failed
	// readAhead is how many messages of a route wait in memory while there are more.
	readAhead = outboxFlights / 2

	// deliverWait is how long a delivery may take, besides a second for each MiB that
	// the receiver has to copy.
	deliverWait = 10 * time.Second
)

// mailRetry is how deliveries are repeated: of a message, and to a receiver.
var mailRetry = spec.Retry{Backoff: 20 * time.Millisecond, MaxBackoff: 2 * time.Second}

func newOutbox(r *reign) *outbox {
	o := &outbox{reign: r, bounds: r.leader.cfg.Mail, wake: make(chan struct{}, 1)}
	o.ctx, o.cancel = context.WithCancel(context.Background())
	o.mu.routes = make(map[spec.ShardID]*route)
	return o
}

// load finds the messages that are in the store, returns how many there are, and
// begins to send. What is added before is found there as well.
func (o *outbox) load() (int, error) {
	n := 0
	err := o.scan(1, func(sequence uint64, to spec.ShardID, m *store.Mail, size int) bool {
		n++
		o.mu.Lock()
		defer o.mu.Unlock()
		o.offer(sequence, to, m, size, true)
		return true
	})
	if err != nil {
		return 0, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.mu.open = true
	o.pumpAll()
	o.done.Go(o.read)
	o.wakeReader()
	return n, nil
}

// stop ends all deliveries. Those on their way may or may not have been taken.
func (o *outbox) stop() {
	o.mu.Lock()
	o.mu.open = false
	for _, l := range o.mu.routes {
		if l.timer != nil {
			l.timer.Stop()
		}
	}
	o.mu.Unlock()
	o.cancel()
	o.done.Wait()
}

// add takes over a message that is in the store now. It is called in sequence.
func (o *outbox) add(sequence uint64, to spec.ShardID, m *store.Mail, size int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.mu.open {
		return
	}
	if l := o.offer(sequence, to, m, size, false); l != nil {
		o.pump(l)
	}
}

// offer notes a message, and takes it into memory if that holds all before it in
// its route and has room. It returns the route then. What is borrowed is copied.
func (o *outbox) offer(sequence uint64, to spec.ShardID, m *store.Mail, size int, borrowed bool) *route {
	l := o.route(to)
	behind := l.last >= l.next
	o.mu.last, l.last = max(o.mu.last, sequence), max(l.last, sequence)
	if behind || sequence < l.next { // the reader comes to it, or has been there
		return nil
	}
	if !o.fits(l, size) {
		l.need = size
		return nil
	}
	o.enter(l, sequence, m, size, borrowed)
	return l
}

func (o *outbox) route(to spec.ShardID) *route {
	l := o.mu.routes[to]
	if l == nil {
		l = &route{to: to, next: 1}
		o.mu.routes[to] = l
	}
	return l
}

// fits tells whether a route may have one letter more in memory.
func (o *outbox) fits(l *route, size int) bool {
	return len(l.letters) == 0 || len(l.letters) < o.bounds.Messages-o.mu.letters && l.bytes+size <= o.bounds.Bytes-o.mu.bytes
}

func (o *outbox) enter(l *route, sequence uint64, m *store.Mail, size int, borrowed bool) {
	if borrowed {
		m.Object.Inline = bytes.Clone(m.Object.Inline)
	}
	l.letters = append(l.letters, &letter{sequence: sequence, mail: m, size: size})
	l.next, l.need = sequence+1, 0
	l.waiting++
	l.bytes += size
	o.mu.letters++
	o.mu.bytes += size
}

// deliver sends a letter and has the loop acknowledge it.
func (o *outbox) deliver(l *route, x *letter, m *Mail) {
	wait := deliverWait
	if b := m.Object.Blob; b != nil {
		wait += time.Duration(b.Size>>20) * time.Second
	}
	ctx, cancel := context.WithTimeout(o.ctx, wait)
	failpoint.At(failpoint.Sending, m.App)
	err := o.reign.leader.cfg.Router.Deliver(ctx, l.to, *m)
	cancel()
	if err == nil {
		failpoint.At(failpoint.Sent, m.App)
	}
	if err != nil {
		o.reign.leader.cfg.Log.Debug("mail not delivered yet", "to", uint64(l.to), "sequence", m.Sequence, "error", err)
	}
	if o.landed(l, x, err) {
		// While the loop has too much waiting the delivery counts as on its way.
		_ = o.reign.intake.offer(o.ctx, &request{command: &mailed{route: l, letter: x, mail: &m.Mail}})
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	l.flights--
	o.mu.flights--
	if x.probe {
		x.probe = false
		o.mu.probes--
	}
	o.pumpAll()
	o.wakeReader()
}

// landed notes how a delivery ended, and tells whether the message is to be
// acknowledged now.
func (o *outbox) landed(l *route, x *letter, err error) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	answered := err == nil || refused(err)
	if answered {
		l.failures = 0
	}
	if x.state != letterFlies {
		return false // its app has been deleted
	}
	if err == nil {
		x.state = letterDelivered
		o.unload(l, x)
		return true
	}
	x.state = letterWaits
	l.waiting++
	x.tries++
	now := time.Now()
	x.due = now.Add(backoff(mailRetry, x.tries))
	if !answered && (l.failures == 0 || !now.Before(l.retry)) { // those that were sent together fail together
		l.failures++
		l.retry = now.Add(backoff(mailRetry, l.failures))
	}
	return false
}

// refused tells whether a receiver is there and does not take this one message, as
// one of a kind that it does not know. The others to it need not wait.
func refused(err error) bool {
	code := spec.CodeOf(err)
	return code == spec.CodeConflict || code == spec.CodeUnsupported
}

// unload lets go of a letter's message.
func (o *outbox) unload(l *route, x *letter) {
	l.bytes -= x.size
	o.mu.bytes -= x.size
	x.mail = nil
}

// acknowledged forgets a message whose key is gone from the store.
func (o *outbox) acknowledged(l *route, x *letter) {
	o.mu.Lock()
	defer o.mu.Unlock()
	x.state = letterAcknowledged
	o.trim(l)
	o.wakeReader()
}

func (o *outbox) trim(l *route) {
	for len(l.letters) > 0 && l.letters[0].state == letterAcknowledged {
		l.letters[0] = nil
		l.letters = l.letters[1:]
		o.mu.letters--
	}
}

// drop forgets the messages of an app up to one: they are gone from the store.
func (o *outbox) drop(app spec.AppName, upTo uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.mu.drops++
	for _, l := range o.mu.routes {
		for _, x := range l.letters {
			if x.mail == nil || x.mail.App != app || x.sequence > upTo {
				continue
			}
			if x.state == letterWaits {
				l.waiting--
			}
			x.state = letterAcknowledged
			o.unload(l, x)
		}
		o.trim(l)
	}
	o.wakeReader()
}

// pumpAll sends what may be sent. Maps have no order, so no route is always first.
func (o *outbox) pumpAll() {
	for _, l := range o.mu.routes {
		o.pump(l)
	}
}

// pump sends what a route may send now and sees to it that the rest is sent later.
func (o *outbox) pump(l *route) {
	if l.waiting == 0 || !o.mu.open {
		return
	}
	now := time.Now()
	for o.mayFly(l, now) {
		x, due := l.ready(now)
		if x == nil {
			l.remind(due.Sub(now), o)
			return
		}
		x.state = letterFlies
		l.waiting--
		l.flights++
		o.mu.flights++
		if x.probe = l.failures > 0; x.probe {
			o.mu.probes++
		}
		m := &Mail{From: o.reign.leader.cfg.Shard, Sequence: x.sequence, Unacknowledged: l.letters[0].sequence, Mail: *x.mail}
		o.done.Go(func() { o.deliver(l, x, m) })
	}
	if l.waiting > 0 && l.failures > 0 && l.flights == 0 && now.Before(l.retry) {
		l.remind(l.retry.Sub(now), o)
	}
}

// mayFly tells whether a route may have one delivery more. To a receiver that
// failed there is one at a time, until one succeeds.
func (o *outbox) mayFly(l *route, now time.Time) bool {
	if l.waiting == 0 || l.flights >= outboxFlights-o.mu.flights {
		return false
	}
	return l.failures == 0 || l.flights == 0 && o.mu.probes < outboxProbes && !now.Before(l.retry)
}

// remind has the route pumped again after a while.
func (l *route) remind(wait time.Duration, o *outbox) {
	if l.timer != nil {
		l.timer.Reset(wait)
		return
	}
	l.timer = time.AfterFunc(wait, func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.pump(l)
	})
}

// wakeReader has the reader look if there is something for it.
func (o *outbox) wakeReader() {
	if o.hungry() != nil {
		select {
		case o.wake <- struct{}{}:
		default:
		}
	}
}

// hungry returns a route that has messages in the store only and room for the
// first of them, nil if there is none. A route that has enough waiting is none, so
// that messages are read many at a time.
func (o *outbox) hungry() *route {
	for _, l := range o.mu.routes {
		if l.last >= l.next && l.waiting < readAhead && o.fits(l, l.need) {
			return l
		}
	}
	return nil
}

// read reads what memory has no room for once it has.
func (o *outbox) read() {
	for {
		select {
		case <-o.wake:
		case <-o.ctx.Done():
			return
		}
		for {
			o.mu.Lock()
			l := o.hungry()
			o.mu.Unlock()
			if l == nil {
				break
			}
			err := o.fetch(l)
			if o.ctx.Err() != nil {
				return
			}
			if err != nil {
				o.reign.offer(o.ctx, &request{command: &unreadable{err}})
				return
			}
		}
	}
}

// fetch reads messages of a route until memory has no room for more.
func (o *outbox) fetch(l *route) error {
	o.mu.Lock()
	from, seen, drops := l.next, o.mu.last, o.mu.drops
	o.mu.Unlock()
	whole := true
	err := o.scan(from, func(sequence uint64, to spec.ShardID, m *store.Mail, size int) bool {
		if to != l.to {
			return o.ctx.Err() == nil
		}
		o.mu.Lock()
		defer o.mu.Unlock()
		if whole = o.mu.drops == drops && o.mu.open; !whole {
			return false // what is read may have been deleted meanwhile
		}
		if whole = o.fits(l, size); !whole {
			l.need = size
			return false
		}
		o.enter(l, sequence, m, size, true)
		o.pump(l)
		return true
	})
	if err == nil && whole && o.ctx.Err() == nil {
		o.mu.Lock()
		defer o.mu.Unlock()
		l.next, l.need = max(l.next, seen+1), 0 // what came later may be missing
	}
	return err
}

// scan reads the messages in the store from a sequence number on. What it hands
// out is valid until the function returns, and borrowed from the store.
func (o *outbox) scan(from uint64, fn func(sequence uint64, to spec.ShardID, m *store.Mail, size int) bool) error {
	cfg := &o.reign.leader.cfg
	_, upper := store.Bounds(store.AppendOutboxPrefix(nil, cfg.Shard))
	var damaged error
	err := cfg.DB.Scan(store.AppendOutboxKey(nil, cfg.Shard, from), upper, func(k, v []byte) bool {
		sequence, err := store.DecodeOutboxKey(k)
		if err == nil {
			var m store.Mail
			if m, err = store.DecodeMail(v); err == nil {
				return fn(sequence, cfg.Router.ShardOf(m.Slot), &m, len(v))
			}
		}
		damaged = err
		return false
	})
	if err = errors.Join(err, damaged); err != nil {
		return fmt.Errorf("read the outbox: %w", err)
	}
	return nil
}

// unreadable is the command that ends the term because the outbox can't be read.
type unreadable struct{ err error }

func (c *unreadable) evaluate(t *tx) error {
	t.broken(c.err)
	return nil
}
