package leader

import (
	"context"
	"fmt"
	"io"
	"slices"

	"github.com/pheromone-run/pheromone/internal/failpoint"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// Mail is a message to another shard on its way. It is sent until it is
// acknowledged; the receiver's marks make its effect happen once.
type Mail struct {
	From     spec.ShardID
	Sequence uint64
	// Unacknowledged is the lowest sequence number of a message of From to this
	// receiver that is not acknowledged: the receiver needs no marks below it.
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

// send writes a message of a session into the outbox. Its slot, which says where
// it goes also after a restart, is one of the shard to; a blob of its object is
// the message's own reference.
func (t *tx) send(s *session, to spec.ShardID, m *store.Mail) {
	t.steps.Pass(failpoint.Posted, m.App)
	t.urgent = true
	t.counters.Mail++
	sequence := t.counters.Mail
	m.Incarnation = t.born[m.App]
	rec := store.AppendMail(nil, m)
	t.write(store.AppendOutboxKey(nil, t.shard(), sequence), rec)
	t.mailN.Add(1)
	s.rec.Mail++
	t.touch(s)
	t.onApplied(func() { t.outbox.add(sequence, to, m, len(rec)) })
}

// mailed is the command for a message that its receiver has.
type mailed struct {
	route  *route
	letter *letter
	mail   *store.Mail
}

func (c *mailed) evaluate(t *tx) error {
	key := store.AppendOutboxKey(nil, t.shard(), c.letter.sequence)
	there, err := t.leader.cfg.DB.Has(key)
	if err != nil {
		t.broken(err)
		return err
	}
	if !there { // its app has been deleted
		return nil
	}
	t.steps.Pass(failpoint.Acknowledged, c.mail.App)
	t.erase(key)
	t.mailN.Add(-1)
	if b := c.mail.Object.Blob; b != nil {
		t.release(c.mail.App, b)
	}
	if s := t.session(sessionName{c.mail.App, c.mail.Session}); s != nil && s.rec.Mail > 0 {
		s.rec.Mail--
		t.touch(s)
	}
	t.onApplied(func() { t.outbox.acknowledged(c.route, c.letter) })
	return nil
}

// mails tells whether what is put into a bucket goes to a trigger on another shard.
func (l *Leader) mails(app *spec.App, bucket spec.BucketName) bool {
	b, ok := app.Bucket(bucket)
	return ok && l.cfg.Router.ShardOf(spec.BucketSlot(app.Name, bucket)) != l.cfg.Shard &&
		slices.ContainsFunc(b.Triggers, func(tr *spec.Trigger) bool { return tr.Scope == spec.ScopeBucket })
}

// outboxFull tells whether more messages wait than may be added to from outside.
func (r *reign) outboxFull() bool { return r.mailN.Load() > int64(r.leader.cfg.Mail.Outbox) }

// roomInOutbox refuses a put from outside that would add to an outbox that is full.
func (t *tx) roomInOutbox(app *spec.App, bucket spec.BucketName) error {
	if !t.outboxFull() || !t.leader.mails(app, bucket) {
		return nil
	}
	return spec.Errorf(spec.CodeOverloaded, "%d messages of shard %d wait for triggers on other shards, and bucket %q has such a trigger", t.mailN.Load(), t.shard(), bucket)
}

// TakeMail takes a message of another shard. It returns once its effect is
// durable, also if an earlier delivery had it. If the message's object has a blob,
// r gives the bytes; the receiver has a copy of its own.
func (l *Leader) TakeMail(ctx context.Context, m Mail, r io.Reader) error {
	if err := l.cfg.DB.Writable(); err != nil {
		return err
	}
	if here, known, _ := l.cfg.Replica.Led(); known && !here {
		return errNotTaken(l.cfg.Shard) // before its bytes are copied
	}
	c := &take{mail: m}
	if b := m.Object.Blob; b != nil {
		p, err := l.copyMail(ctx, &m, r)
		if err != nil {
			return fmt.Errorf("copy the bytes of a message: %w", err)
		}
		c.payload, c.mail.Object.Blob = p, p.blob
		if p.blob.Sum != b.Sum || p.blob.CRC != b.CRC || p.size != b.Size {
			l.letGo(m.App, p, false)
			return spec.Errorf(spec.CodeHashMismatch, "message %d of shard %d came with other bytes than it was sent with", m.Sequence, m.From)
		}
	}
	err := l.doSpread(ctx, m.App, c.payload, c, len(m.Object.Inline))
	l.letGo(m.App, c.payload, undecided(err))
	return err
}

func (l *Leader) copyMail(ctx context.Context, m *Mail, r io.Reader) (*payload, error) {
	if r == nil {
		return nil, spec.Errorf(spec.CodeInvalid, "message %d of shard %d came without its bytes", m.Sequence, m.From)
	}
	return l.stageBlob(ctx, m.App, r, m.Object.Blob.Size)
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
	past, err := t.ofThePast(&m.Mail)
	if err != nil {
		return err
	}
	if !past {
		if err := t.staged(m.App, c.payload); err != nil {
			return err
		}
	}
	if m.Kind == 0 || m.Kind > store.MailCancel { // of a newer version: it waits at its sender until this one knows it
		t.leader.cfg.Log.Warn("message of an unknown kind refused", "from", uint64(m.From), "sequence", m.Sequence, "kind", uint8(m.Kind))
		return spec.Errorf(spec.CodeUnsupported, "shard %d does not know messages of kind %d", t.shard(), m.Kind)
	}
	t.steps.Pass(failpoint.Taken, m.App)
	t.put(mark, []byte{1}) // an empty value reads as deleted while it is in flight
	if m.Unacknowledged > low {
		t.put(floor, store.AppendCount(nil, m.Unacknowledged))
		t.eraseMarks(m.From, low, m.Unacknowledged)
	}
	if past { // it is taken, and its app is not the one that there is now
		return nil
	}
	if c.payload != nil {
		t.adopt(m.App, c.payload)
	}
	switch m.Kind {
	case store.MailObject:
		t.hold(m.App, m.Bucket, m.Trigger, &m.Object, nil)
	case store.MailSet:
		t.takeSet(m.App, m.Bucket, m.Trigger, m.Keys, nil)
	case store.MailStart, store.MailEnd, store.MailCancel:
		t.takeForSession(&m.Mail)
	}
	return nil
}

// ofThePast tells whether a message is of an app that was deleted since and deployed
// again. One of an app that this shard has not taken over yet waits at its sender.
func (t *tx) ofThePast(m *store.Mail) (bool, error) {
	born := t.born[m.App]
	if m.Incarnation != store.AnyIncarnation && m.Incarnation > born {
		return false, errNotTakenOver(m.App, t.shard())
	}
	return m.Incarnation < born, nil
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
