package leader

import (
	"errors"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// tx collects what the commands of one entry do: writes, and effects to be run
// once the entry is applied. Reads see the writes of this and of earlier entries.
type tx struct {
	*reign
	*entry
	*changed
	counters store.Counters
	batch    *store.Batch
	keys     []string
	adopted  []*payload   // blobs that the entry refers to
	at       store.Micros // the time of this round

	left   bool // it has lingered
	lazy   bool // something is in it that nobody waits for: it may linger
	urgent bool // something else is

	counting store.Object      // what triggers of its session are passed just now
	cause    spec.FunctionName // of the attempt whose emission is evaluated
	trace    string            // its or the request's traceparent
	firing   int               // bytes that the round's invocations will take when they are written
	chain    int               // conditions that failed on dead letters of one another
}

// changed is what the commands of an entry leave to be done at its end. There is one
// entry in the making at a time, so the next one has its memory.
type changed struct {
	out   []effect   // what goes out once the entry is proposed
	moved []*session // to be settled at the end of the round

	// dirty is to be written with the entry.
	dirty struct {
		sessions    []*session
		invocations []*invocation
		machines    []*machine
	}
}

// reset forgets all of it.
func (c *changed) reset() {
	again(&c.out)
	again(&c.moved)
	again(&c.dirty.sessions)
	again(&c.dirty.invocations)
	again(&c.dirty.machines)
}

// again empties a list, and keeps its memory unless that is very much.
func again[T any](list *[]T) {
	if cap(*list) > effectsSpared {
		*list = nil
		return
	}
	clear(*list)
	*list = (*list)[:0]
}

func (r *reign) begin(slot chan struct{}) *tx {
	r.writes.Reset() // raft has copied what the last round made of it
	r.changed.reset()
	e := r.newEntry()
	e.slot, e.seq = slot, r.proposed+1
	return &tx{
		reign:    r,
		entry:    e,
		changed:  &r.changed,
		counters: r.counters,
		batch:    &r.writes,
		keys:     r.overlay.keys(),
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
	if req.err = err; lingers {
		t.outgoing(req)
		return
	}
	t.follow(req)
}

// follow has an effect settled with the entry.
func (t *tx) follow(f effect) { t.effects = append(t.effects, f) }

// after has f run once the entry is applied (nil) or lost.
func (t *tx) after(f func(lost error)) { t.follow(settled(f)) }

// onApplied has f run once the entry is applied, and not if it is lost.
func (t *tx) onApplied(f func()) {
	t.after(func(lost error) {
		if lost == nil {
			f()
		}
	})
}

// finished runs the effects of a transaction that is not proposed.
func (t *tx) finished(lost error) {
	t.entry.settle(t.reign, lost)
	t.spare(t.entry)
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
	t.overlie(key, value)
}

// putObject writes an object's record under a key.
func (t *tx) putObject(key []byte, rec *store.Object) {
	t.put(key, t.slab.keep(store.AppendObject(t.slab.room(), rec)))
}

// overlie has a key read as what the entry makes of it.
func (t *tx) overlie(key, value []byte) {
	k := t.slab.text(key)
	t.overlay.put(k, value, t.seq)
	t.keys = append(t.keys, k)
}

// remove deletes a key that was written with put.
func (t *tx) remove(key []byte) {
	t.batch.Delete(key)
	t.overlie(key, nil)
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
	again(&t.moved)
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
