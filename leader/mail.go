package leader

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/internal/failpoint"
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
	t.send(s, to, &store.Mail{
		Kind: store.MailObject, Slot: spec.BucketSlot(s.name.app, bucket),
		App: s.name.app, Bucket: bucket, Trigger: trigger, Session: s.name.session, Object: *rec,
	})
}

// postSet writes the naming of a set for a trigger on another shard into the outbox.
func (t *tx) postSet(s *session, to spec.ShardID, bucket spec.BucketName, trigger spec.TriggerName, keys []spec.Key) {
	t.send(s, to, &store.Mail{
		Kind: store.MailSet, Slot: spec.BucketSlot(s.name.app, bucket),
		App: s.name.app, Bucket: bucket, Trigger: trigger, Session: s.name.session, Keys: keys,
	})
}

func (t *tx) send(s *session, to spec.ShardID, m *store.Mail) {
	t.steps.Pass(failpoint.Posted, m.App)
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
		stopped bool // nothing more is sent
		waiting map[uint64]bool
		first   uint64 // nothing below it waits
		last    uint64 // nothing above it does
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
	o.mu.waiting = make(map[uint64]bool)
	return o
}

func (o *outbox) stop() {
	o.mu.Lock()
	o.mu.stopped = true
	o.mu.Unlock()
	o.cancel()
	o.done.Wait()
}

// add sends a message, and again until it is acknowledged or the reign is over.
func (o *outbox) add(sequence uint64, m *store.Mail) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.mu.stopped || o.mu.waiting[sequence] {
		return // a message that recovering has written is found in the store as well
	}
	if len(o.mu.waiting) == 0 {
		o.mu.first, o.mu.last = sequence, sequence
	}
	o.mu.waiting[sequence] = true
	o.mu.first, o.mu.last = min(o.mu.first, sequence), max(o.mu.last, sequence)
	o.done.Go(func() {
		for wait := mailRetryFirst; ; wait = min(2*wait, mailRetryMax) {
			if !o.waits(sequence) {
				return // its app has been deleted
			}
			failpoint.At(failpoint.Sending, m.App)
			err := o.deliver(sequence, m)
			if err == nil {
				failpoint.At(failpoint.Sent, m.App)
				break
			}
			select {
			case <-o.ctx.Done():
				return
			case <-time.After(wait):
				o.reign.leader.cfg.Log.Debug("mail not delivered yet", "sequence", sequence, "error", err)
			}
		}
		_ = o.reign.intake.offer(o.ctx, &request{command: &mailed{sequence, m}})
	})
}

func (o *outbox) waits(sequence uint64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.mu.waiting[sequence]
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
		From: cfg.Shard, Sequence: sequence, Unacknowledged: o.lowest(), Mail: *m,
	})
}

// lowest returns the number below which nothing waits.
func (o *outbox) lowest() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.mu.first
}

func (o *outbox) acknowledged(sequence uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.mu.waiting, sequence)
	for o.mu.first < o.mu.last && !o.mu.waiting[o.mu.first] {
		o.mu.first++
	}
}

// mailed is the command for a message that its receiver has.
type mailed struct {
	sequence uint64
	mail     *store.Mail
}

func (c *mailed) evaluate(t *tx) error {
	t.steps.Pass(failpoint.Acknowledged, c.mail.App)
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
	if err := l.cfg.DB.Writable(); err != nil {
		return err
	}
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
	code := spec.CodeOf(err)
	l.letGo(m.App, c.payload, code == spec.CodeUnavailable || code == spec.CodeTimeout)
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
	if err := t.staged(m.App, c.payload); err != nil {
		return err
	}
	if m.Kind == store.MailSet { // before the mark: one that is refused is sent again
		if err := t.takeSet(m.App, m.Bucket, m.Trigger, m.Keys); err != nil {
			return err
		}
	}
	t.steps.Pass(failpoint.Taken, m.App)
	t.put(mark, []byte{1}) // an empty value reads as deleted while it is in flight
	if m.Unacknowledged > low {
		t.put(floor, store.AppendCount(nil, m.Unacknowledged))
		t.eraseMarks(m.From, low, m.Unacknowledged)
	}
	if c.payload != nil {
		t.adopt(m.App, c.payload)
	}
	switch m.Kind {
	case store.MailObject:
		t.hold(m.App, m.Bucket, m.Trigger, &m.Object)
	case store.MailSet: // taken above
	case store.MailStart, store.MailEnd, store.MailCancel:
		t.takeForSession(&m.Mail)
	default:
		t.leader.cfg.Log.Error("a message of an unknown kind is dropped", "kind", m.Kind, "from", m.From)
	}
	return nil
}

// marksOneByOne is up to how many marks are deleted one by one: a sender numbers
// its messages to all shards in one row, so there may be far more numbers than marks.
const marksOneByOne = 64

// eraseMarks deletes the marks of a sender's messages from low up to high.
func (t *tx) eraseMarks(from spec.ShardID, low, high uint64) {
	if high-low > marksOneByOne {
		t.batch.DeleteRange(store.AppendInboxMarkKey(nil, t.shard(), from, low), store.AppendInboxMarkKey(nil, t.shard(), from, high))
		return
	}
	for s := low; s < high; s++ {
		t.erase(store.AppendInboxMarkKey(nil, t.shard(), from, s))
	}
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
