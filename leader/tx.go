package leader

import (
	"errors"

	"github.com/pheromone-run/pheromone/internal/failpoint"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// tx collects what the commands of one entry do: writes, and effects to be run
// once the entry is applied. Reads see the writes of this and of earlier entries.
type tx struct {
	*reign
	counters store.Counters
	batch    *store.Batch
	seq      uint64        // of the entry in the making
	slot     chan struct{} // that the entry's token goes back to
	steps    failpoint.Entry
	keys     []string
	effects  []func(error)
	out      []func()     // what goes out once the entry is proposed
	adopted  []*payload   // blobs that the entry refers to
	at       store.Micros // the time of this round

	left   bool       // it has lingered
	lazy   bool       // something is in it that nobody waits for: it may linger
	urgent bool       // something else is
	moved  []*session // to be settled at the end of this round

	// dirty is what commands changed, to be written with the entry.
	dirty struct {
		sessions    []*session
		invocations []*invocation
		machines    []*machine
	}
	cause  spec.FunctionName // of the attempt whose emission is evaluated
	trace  string            // its or the request's traceparent
	firing int               // bytes that the round's invocations will take when they are written
	chain  int               // conditions that failed on dead letters of one another
}

func (r *reign) begin(slot chan struct{}) *tx {
	r.writes.Reset() // raft has copied what the last round made of it
	return &tx{
		slot:     slot,
		reign:    r,
		counters: r.counters,
		batch:    &r.writes,
		seq:      r.proposed + 1,
		at:       micros(r.now()),
	}
}

// run evaluates one request. Its answer, good or bad, rests on everything before
// it and so waits for it, unless that is what nobody waits for.
func (t *tx) run(req *request) {
	lingers := t.lingers(req.command)
	t.urgent = t.urgent || !lingers
	err := req.command.evaluate(t)
	if req.answer == nil {
		return
	}
	if lingers {
		t.outgoing(func() { req.answer <- err })
		return
	}
	t.after(func(lost error) {
		if lost != nil {
			req.answer <- errTermOver(t.leader.cfg.Shard)
			return
		}
		req.answer <- err
	})
}

// after has f run once the entry is applied (nil) or lost.
func (t *tx) after(f func(lost error)) { t.effects = append(t.effects, f) }

// onApplied has f run once the entry is applied, and not if it is lost.
func (t *tx) onApplied(f func()) {
	t.effects = append(t.effects, func(lost error) {
		if lost == nil {
			f()
		}
	})
}

// fail runs the effects of a transaction that is not proposed.
func (t *tx) fail(reason error) {
	for _, f := range t.effects {
		f(reason)
	}
}

// broken notes that memory and store can't be told apart any more: the round's
// writes are thrown away and the term is given up.
func (t *tx) broken(err error) {
	if t.failed == nil {
		t.failed = err
	}
}

// get reads a key that was written with put; ok tells whether it is there.
func (t *tx) get(key []byte) (value []byte, ok bool) {
	if v, found := t.overlay.get(key); found {
		return v, v != nil
	}
	v, err := t.leader.cfg.DB.Get(key)
	if errors.Is(err, store.ErrNotFound) {
		return nil, false
	}
	if err != nil {
		t.broken(err)
		return nil, false
	}
	return v, true
}

// put writes a key that later evaluation may read. It keeps value.
func (t *tx) put(key, value []byte) {
	t.batch.Set(key, value)
	k := string(key)
	t.overlay.put(k, value, t.seq)
	t.keys = append(t.keys, k)
}

// remove deletes a key that was written with put.
func (t *tx) remove(key []byte) {
	t.batch.Delete(key)
	k := string(key)
	t.overlay.put(k, nil, t.seq)
	t.keys = append(t.keys, k)
}

// write writes a key that evaluation never reads back while it is in flight,
// because memory holds its subject.
func (t *tx) write(key, value []byte) { t.batch.Set(key, value) }

// erase deletes a key that was written with write.
func (t *tx) erase(key []byte) { t.batch.Delete(key) }

// revision counts up the shard's revision.
func (t *tx) revision() spec.Revision {
	t.counters.Revision++
	return t.counters.Revision
}

// settleMoved settles what the round's commands have touched.
func (t *tx) settleMoved() {
	for i := 0; i < len(t.moved); i++ { // settling may fire and so touch more
		t.settle(t.moved[i])
		t.moved[i].moved = false
	}
	clear(t.moved)
	t.moved = t.moved[:0]
}

// flush writes what the commands left dirty: each session, invocation and machine
// once, however many of them touched it.
func (t *tx) flush() {
	for _, inv := range t.dirty.invocations {
		t.writeInvocation(inv)
	}
	for _, m := range t.dirty.machines {
		t.writeMachine(m)
	}
	for _, s := range t.dirty.sessions {
		t.writeSession(s)
	}
	if t.counters != t.reign.counters {
		t.write(store.AppendCountersKey(t.scratch.key(), t.shard()), store.AppendCounters(t.scratch.record(), &t.counters))
	}
	t.overlay.seal(t.seq, t.keys)
}

func (t *tx) shard() spec.ShardID { return t.leader.cfg.Shard }
