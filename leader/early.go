package leader

import (
	"slices"
	"sync"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// In a pipelined or ephemeral bucket a trigger fires before what it rests on is committed: its
// invocations go to the executors when their entry is proposed, or left to linger, not
// when it is applied. All that is told to the outside waits as ever, and so do invocations of
// durable buckets: entries are applied in order or not at all, so what an early
// attempt hands over becomes part of a later entry, which is applied only after the
// one that its invocation is in. If the term ends between the two, memory is thrown
// away, the attempt is told to stop, what it says is refused, and the next reign runs
// again what is not done.

// earlyInputs is up to how many inputs an invocation goes out early with: each of
// them is looked up in the overlay.
const earlyInputs = 1024

// early tells whether an invocation may go out before the entry in the making is
// applied.
func (t *tx) early(inv *invocation) bool {
	return inv.session.plan.hastened(inv.rec.Bucket) && len(inv.rec.Inputs) <= earlyInputs && inv.firm <= t.appliedSeq.Load()
}

// outgoing has an effect settled once the entry is proposed, or the round leaves it to
// linger.
func (t *tx) outgoing(f effect) { t.out = append(t.out, f) }

func (t *tx) goOut() {
	for _, f := range t.out {
		f.settle(t.reign, nil)
	}
}

// writeInput writes what an early attempt may be given before the entry is applied.
func (t *tx) writeInput(p *plan, bucket spec.BucketName, key, value []byte) {
	if p.hastened(bucket) {
		t.put(key, value)
		return
	}
	t.write(key, value)
}

// flight is those inputs of an early attempt that the store does not have yet. It
// keeps what the overlay has of them, for as long as that does.
type flight struct {
	reign *reign

	mu     sync.Mutex
	inputs map[int]flying // by the input's index; nil if none is needed, or once it has landed
	over   bool           // the entry that they are in is applied, or lost
	lost   error
	landed chan struct{} // closed once it is over, for those who wait
}

// flying is an input that is in flight: its record, and its bytes if they were set
// apart from that just now.
type flying struct{ record, bytes []byte }

// inFlight notes those inputs of an early attempt that are in flight.
func (t *tx) inFlight(out *handout) {
	in := &out.inputs
	takeOff := func() {
		if in.flight == nil {
			in.flight = &out.flight
			in.flight.reign = t.reign
			t.follow(in.flight)
		}
	}
	if in.known {
		takeOff() // to be waited for
		return
	}
	var key []byte
	for i := range in.refs {
		key, _ = in.key(key[:0], i)
		value, found := t.overlay.get(key)
		if !found || value == nil {
			continue
		}
		of := flying{record: value}
		if in.refs[i].Held {
			rec, err := store.DecodeObject(value)
			if err != nil {
				t.broken(err)
				return
			}
			if rec.Blob != nil {
				key = store.AppendBlobChunkKey(key[:0], t.shard(), in.app, rec.Blob.ID, 0)
				of.bytes, _ = t.overlay.get(key)
			}
		}
		if takeOff(); in.flight.inputs == nil {
			in.flight.inputs = make(map[int]flying)
		}
		in.flight.inputs[i] = of
	}
}

// settle lets go of the inputs: the store has them, or nobody will.
func (f *flight) settle(_ *reign, lost error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inputs, f.over, f.lost = nil, true, lost
	if f.landed != nil {
		close(f.landed)
	}
}

// record returns an input that is in flight, for a function to do with as it likes.
func (f *flight) record(i int) (rec store.Object, found bool, err error) {
	if f == nil {
		return store.Object{}, false, nil
	}
	f.mu.Lock()
	of, found := f.inputs[i]
	f.mu.Unlock()
	if !found {
		return store.Object{}, false, nil
	}
	rec, err = store.DecodeObject(slices.Clone(of.record))
	if of.bytes != nil {
		rec.Inline, rec.Blob = slices.Clone(of.bytes), nil
	}
	return rec, true, err
}

// wait waits until the store has all of the inputs.
func (f *flight) wait() error {
	if f == nil {
		return nil
	}
	f.mu.Lock()
	if !f.over && f.landed == nil {
		f.landed = make(chan struct{})
	}
	over, landed := f.over, f.landed
	f.mu.Unlock()
	if !over {
		f.reign.hurry()
		<-landed
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.lost
}
