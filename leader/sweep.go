package leader

import (
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// What a trigger of scope bucket holds is let go of in parts once the trigger is
// gone, by a timer that says up to which position: a trigger that comes to bear the
// same name holds objects at higher ones.

// sweepObjects is how many held objects a round lets go of.
const sweepObjects = 5000

// sweepFrom has all that a trigger holds up to a position let go of.
func (t *tx) sweepFrom(name machineName, last uint64) {
	subject := store.Timer{Kind: store.TimerSweep, App: name.app, Bucket: name.bucket, Trigger: name.trigger, Number: last}
	t.sweeps[subject] = t.seq
	t.arm(t.at, subject)
}

// sweep lets go of a part of what a trigger held that is gone.
func (t *tx) sweep(subject store.Timer) {
	if t.sweeps[subject] > t.appliedSeq.Load() { // it looks into the store
		t.rest(subject)
		return
	}
	sh := t.shard()
	lower := store.AppendHeldPrefix(nil, sh, subject.App, subject.Bucket, subject.Trigger)
	upper := store.AppendHeldKey(nil, sh, subject.App, subject.Bucket, subject.Trigger, subject.Number+1)
	n, more := 0, false
	t.scan(lower, upper, func(k, v []byte) error {
		if n == sweepObjects {
			upper, more = append([]byte(nil), k...), true
			return errEnough
		}
		n++
		return t.releaseOf(subject.App, v)
	})
	if t.batch.DeleteRange(lower, upper); !more {
		delete(t.sweeps, subject)
		return
	}
	t.sweeps[subject] = t.seq
	t.rest(subject)
}

// releaseOf lets go of the bytes of an object's record, if they are a blob.
func (t *tx) releaseOf(app spec.AppName, value []byte) error {
	rec, err := store.DecodeObject(value)
	if err == nil && rec.Blob != nil {
		t.release(app, rec.Blob)
	}
	return err
}
