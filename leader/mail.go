package leader

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// Mail is a message to another shard on its way. It is sent until it is
// acknowledged; the receiver's marks make its effect happen once.
type Mail struct {
	From     spec.ShardID
	Sequence uint64
	// Unacknowledged is the lowest sequence number of From that is not acknowledged:
	// the receiver needs no marks below it.
	Unacknowledged uint64
	store.Mail
}

// post writes an object for a trigger on another shard into the outbox.
func (t *tx) post(s *session, to spec.ShardID, bucket spec.BucketName, trigger spec.TriggerName, rec *store.Object) {
	if rec.Blob != nil { // the bytes must be there until the receiver has its copy
		t.share(s.name.app, rec.Blob)
	}
	t.send(s, to, &store.Mail{App: s.name.app, Bucket: bucket, Trigger: trigger, Session: s.name.session, Object: *rec})
}

// postSet writes the naming of a set for a trigger on another shard into the outbox.
func (t *tx) postSet(s *session, to spec.ShardID, bucket spec.BucketName, trigger spec.TriggerName, keys []spec.Key) {
	t.send(s, to, &store.Mail{App: s.name.app, Bucket: bucket, Trigger: trigger, Session: s.name.session, Keys: keys, Set: true})
}

func (t *tx) send(s *session, to spec.ShardID, m *store.Mail) {
	m.Slot = spec.BucketSlot(m.App, m.Bucket)
	t.counters.Mail++
	sequence := t.counters.Mail
	t.write(store.AppendOutboxKey(nil, t.shard(), sequence), store.AppendMail(nil, m))
	s.rec.Mail++
	t.touch(s)
	t.onApplied(func() { t.outbox.add(sequence, m) })
}

// outbox sends what waits for its receiver. It is shared by the loop's effects
// and its own goroutines.
type outbox struct {
	reign  *reign
	ctx    context.Context
	cancel context.CancelFunc
	done   sync.WaitGroup
	gate   chan struct{} // bounds the messages on their way

	mu struct {
		sync.Mutex
		waiting map[uint64]*store.Mail
	}
}

const (
	outboxFlights  = 64 // messages on their way at once
	mailRetryFirst = 20 * time.Millisecond
	mailRetryMax   = 2 * time.Second
)

func newOutbox(r *reign) *outbox {
	o := &outbox{reign: r, gate: make(chan struct{}, outboxFlights)}
	o.ctx, o.cancel = context.WithCancel(context.Background())
	o.mu.waiting = make(map[uint64]*store.Mail)
	return o
}

func (o *outbox) stop() {
	o.cancel()
	o.done.Wait()
}

// add sends a message, and again until it is acknowledged or the reign is over.
func (o *outbox) add(sequence uint64, m *store.Mail) {
	o.mu.Lock()
	o.mu.waiting[sequence] = m
	o.mu.Unlock()
	if o.ctx.Err() != nil {
		return
	}
	o.done.Go(func() {
		for wait := mailRetryFirst; ; wait = min(2*wait, mailRetryMax) {
			err := o.deliver(sequence, m)
			if err == nil {
				break
			}
			select {
			case <-o.ctx.Done():
				return
			case <-time.After(wait):
				o.reign.leader.cfg.Log.Debug("mail not delivered yet", "sequence", sequence, "error", err)
			}
		}
		select {
		case o.reign.intake <- &request{command: &mailed{sequence, m}}:
		case <-o.ctx.Done():
		}
	})
}

func (o *outbox) deliver(sequence uint64, m *store.Mail) error {
	select {
	case o.gate <- struct{}{}:
		defer func() { <-o.gate }()
	case <-o.ctx.Done():
		return o.ctx.Err()
	}
	cfg := &o.reign.leader.cfg
	return cfg.Router.Deliver(o.ctx, cfg.Router.ShardOf(m.Slot), Mail{
		From: cfg.Shard, Sequence: sequence, Unacknowledged: o.lowest(sequence), Mail: *m,
	})
}

func (o *outbox) lowest(sequence uint64) uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	for s := range o.mu.waiting {
		sequence = min(sequence, s)
	}
	return sequence
}

func (o *outbox) acknowledged(sequence uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.mu.waiting, sequence)
}

// mailed is the command for a message that its receiver has.
type mailed struct {
	sequence uint64
	mail     *store.Mail
}

func (c *mailed) evaluate(t *tx) error {
	t.erase(store.AppendOutboxKey(nil, t.shard(), c.sequence))
	if b := c.mail.Object.Blob; b != nil {
		t.release(c.mail.App, b)
	}
	if s := t.session(sessionName{c.mail.App, c.mail.Session}); s != nil && s.rec.Mail > 0 {
		s.rec.Mail--
		t.touch(s)
	}
	t.onApplied(func() { t.outbox.acknowledged(c.sequence) })
	return nil
}

// TakeMail takes a message of another shard. It returns once its effect is
// durable, also if an earlier delivery had it.
func (l *Leader) TakeMail(ctx context.Context, m Mail) error {
	c := &take{mail: m}
	if b := m.Object.Blob; b != nil {
		r := l.cfg.DB.OpenBlob(m.From, m.App, *b)
		copied, err := l.cfg.DB.StageBlob(ctx, l.cfg.Shard, m.App, r, b.Size)
		_ = r.Close()
		if err != nil {
			return fmt.Errorf("copy the bytes of a message: %w", err)
		}
		c.payload = &payload{blob: &copied, size: copied.Size}
		c.mail.Object.Blob = &copied
	}
	err := l.do(ctx, c, len(m.Object.Inline))
	l.letGo(m.App, c.payload, err != nil)
	return err
}

// take is the command of a message's receiver.
type take struct {
	mail    Mail
	payload *payload
}

func (c *take) evaluate(t *tx) error {
	m := &c.mail
	mark := store.AppendInboxMarkKey(nil, t.shard(), m.From, m.Sequence)
	floor := store.AppendInboxKey(nil, t.shard(), m.From)
	low, err := t.counted(floor)
	if err != nil {
		return err
	}
	if _, seen := t.get(mark); seen || m.Sequence < low {
		return nil
	}
	t.put(mark, []byte{1}) // an empty value reads as deleted while it is in flight
	if m.Unacknowledged > low {
		t.put(floor, store.AppendCount(nil, m.Unacknowledged))
		for s := low; s < m.Unacknowledged; s++ {
			t.erase(store.AppendInboxMarkKey(nil, t.shard(), m.From, s))
		}
	}
	if m.Set {
		t.takeSet(m.App, m.Bucket, m.Trigger, m.Keys)
		return nil
	}
	if c.payload != nil {
		t.adopt(m.App, c.payload)
	}
	t.hold(m.App, m.Bucket, m.Trigger, &m.Object)
	return nil
}

// counted reads a count, 0 if it is not there.
func (t *tx) counted(key []byte) (uint64, error) {
	value, ok := t.get(key)
	if !ok {
		return 0, nil
	}
	n, err := store.DecodeCount(value)
	if err != nil {
		t.broken(err)
	}
	return n, err
}
