package leader

import (
	"bytes"
	"context"
	"slices"
	"time"

	"github.com/pheromone-run/pheromone/raft/shard"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
	"github.com/pheromone-run/pheromone/store"
)

// Nobody waits for the commit of what is put into an ephemeral bucket. So a round that
// did nothing else is not proposed: its entry lingers, and the next rounds add to it.
// It is proposed when something comes that is waited for, when it is large, or after a
// moment. Entries still hold what was done in the order in which it was done, so a
// crash takes the last of it and leaves a state that was: what is pending there is run
// again, and with it all that followed. Nothing that was told as durable rests on what
// lingers, because it is in the same entry or a later one. Entries that refer to bytes
// which are still being written linger for as long as that takes (behind.go).

// lingerFor is how long an entry lingers at most.
const lingerFor = 50 * time.Millisecond

// lull is the clock of the entry that lingers.
type lull struct {
	clock *time.Timer
	end   time.Time
}

func (l *lull) init() {
	l.clock = time.NewTimer(lingerFor)
	l.clock.Stop()
}
func (l *lull) begin(now time.Time) {
	l.end = now.Add(lingerFor)
	l.clock.Reset(lingerFor)
}
func (l *lull) stop()                      { l.clock.Stop() }
func (l *lull) over() <-chan time.Time     { return l.clock.C }
func (l *lull) wasOver(now time.Time) bool { return !now.Before(l.end) }

// lingers tells whether a command's answer does not wait for the commit. An attempt's
// has none: what it does decides.
func (t *tx) lingers(c command) bool {
	if t.leader.firm.Load() > 0 {
		return false
	}
	switch c := c.(type) {
	case *handed, wake:
		return true
	case interface{ lingers(*tx) bool }:
		return c.lingers(t)
	}
	return false
}

// putInto notes that an object was put into a bucket of a session.
func (t *tx) putInto(s *session, bucket spec.BucketName, rec *store.Object) {
	if s.plan.ephemeral(bucket) {
		t.lazy = true
		return
	}
	t.urgent = true
}

// heardOf notes that an invocation's attempt has started or ended.
func (t *tx) heardOf(inv *invocation) {
	if inv.session.plan.ephemeral(inv.rec.Bucket) {
		t.lazy = true
		return
	}
	t.urgent = true
}

// leave has a round's entry linger. What the round did goes out.
func (r *reign) leave(tx *tx) {
	if !tx.left {
		tx.left = true
		r.lull.begin(r.now())
	}
	r.lingering = tx
	r.promise(tx)
	tx.goOut()
	again(&tx.out)
}

// promise notes that answers may have been given that rest on an entry which is not
// applied yet.
func (r *reign) promise(tx *tx) {
	if tx.lazy {
		r.promised.Store(tx.seq)
	}
}

// lingersTooLong tells whether the entry that lingers is to be proposed. One that waits
// for bytes goes on to linger, so that what comes meanwhile need not stand still. But no
// more bytes come that it would wait for.
func (r *reign) lingersTooLong(now time.Time) bool {
	if r.lingering == nil || !r.lull.wasOver(now) {
		return false
	}
	unwritten := r.lingering.unwritten()
	r.behind.paused.Store(unwritten)
	return !unwritten
}

// hasten proposes the entry that lingers, if there is one.
func (r *reign) hasten() error {
	tx := r.lingering
	if tx == nil {
		return nil
	}
	r.lingering = nil
	r.lull.stop()
	return r.close(tx)
}

// partWait bounds how long a leader that stops waits for the commit of what lingers.
const partWait = 5 * time.Second

// part has what was answered committed when the leader stops, as far as it can: what
// lingers, and what is on its way already.
func (r *reign) part() {
	if r.lingering == nil && r.promised.Load() <= r.appliedSeq.Load() {
		return
	}
	defer time.AfterFunc(partWait, r.term.Resign).Stop()
	if r.hasten() == nil {
		_ = r.drain()
	}
}

// Firm has nothing linger until it is released, and returns once what did is
// committed, or can't be. Call it before the lead is handed over.
func (l *Leader) Firm(ctx context.Context) (release func()) {
	l.firm.Add(1)
	if l.reigning() != nil { // what it has promised by now may be more than can be seen
		_ = l.do(ctx, hurry{}, 0)
	}
	return func() { l.firm.Add(-1) }
}

// forsake tells that the entry that lingers is lost.
func (r *reign) forsake() {
	if r.lingering != nil {
		r.lingering.finished(shard.ErrTermOver)
		r.lingering = nil
	}
}

// hurry has the loop propose what lingers.
type hurry struct{}

func (hurry) evaluate(*tx) error { return nil }

func (r *reign) hurry() { _ = r.intake.offer(r.ctx, &request{command: hurry{}}) }

// catchUp waits until the store has all that was answered before it was committed.
func (l *Leader) catchUp(ctx context.Context) error {
	if r := l.reigning(); r == nil || r.promised.Load() <= r.appliedSeq.Load() {
		return nil
	}
	return l.do(ctx, hurry{}, 0)
}

// LedHere returns ErrNotTaken if another replica leads the shard.
func (l *Leader) LedHere() error {
	if here, known, _ := l.cfg.Replica.Led(); known && !here {
		return errNotTaken(l.cfg.Shard)
	}
	return nil
}

// results are the outputs of a session while all of them are in ephemeral buckets and
// small: they are told without a look into the store.
type results struct {
	outputs []wire.Output
	bytes   int
	partial bool // there are others
}

// forget drops what a session that waits would keep in memory. Its end is told once it
// is committed.
func (r *results) forget() {
	if r != nil {
		r.outputs, r.partial = nil, true
	}
}

// resultsMost is how many outputs are kept so.
const resultsMost = 1000

// addResult notes an output of a session that was just counted.
func (s *session) addResult(bucket spec.BucketName, key spec.Key, rec *store.Object) {
	if s.results == nil {
		if !s.fresh || s.rec.Outputs > 1 || !s.plan.ephemeral(bucket) {
			return
		}
		s.results = &results{}
	}
	r := s.results
	r.bytes += len(rec.Inline)
	if r.partial = r.partial || rec.Blob != nil || !s.plan.ephemeral(bucket) || r.bytes > InlineBytes || len(r.outputs) == resultsMost; r.partial {
		r.outputs = nil
		return
	}
	r.outputs = append(r.outputs, wire.Output{Bucket: bucket, Key: key, ContentType: rec.ContentType, Size: rec.Size, Data: bytes.Clone(rec.Inline)})
}

// tellEnd tells those who wait for a session that it has completed, if all that it has
// is ephemeral. Others are told once that is committed.
func (t *tx) tellEnd(s *session) {
	durable := func(b spec.BucketName) bool { return !s.plan.ephemeral(b) }
	if s.rec.State != store.SessionCompleted || s.results == nil || s.results.partial ||
		s.rec.Children > 0 || slices.ContainsFunc(s.rec.Buckets, durable) {
		t.urgent = true
		return
	}
	t.lazy = true
	t.announce(s, &wire.Result{Session: s.name.session, Status: wireStatus(s.rec.State), Outputs: slices.Clone(s.results.outputs)})
}

// announce lets those who ask for a session know what is not committed yet: that it is
// there, or its result.
func (t *tx) announce(s *session, result *wire.Result) {
	name := s.name
	word := &word{result: result}
	t.outgoing(settled(func(error) { t.leader.hub.announce(name, word) }))
	t.after(func(error) { t.leader.hub.retire(name, word) })
}
