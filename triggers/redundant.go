package triggers

import (
	"encoding/binary"
	"iter"
	"time"

	"github.com/pheromone-run/pheromone/spec"
)

// redundant fires with the first k of n objects, in order of arrival, and rejects
// the rest. In a session that is once: everything after the firing is rejected.
// Across a bucket it goes in rounds of n objects: the first k fire, the others
// are rejected, and the next one begins a new round.
type redundant struct {
	progress
	k, n       int
	rounds     bool
	cancelRest bool
	waiting    []entry // fewer than k, but after a restore with a smaller k
	fired      bool    // in this round
	counted    int     // objects of this round, once it has fired; only kept in rounds
}

func newRedundant(t *spec.Trigger) (*redundant, error) {
	if t.K < 1 || t.N < t.K {
		return nil, badOption(t, "k", "k is %d and n is %d, needs 1 <= k <= n", t.K, t.N)
	}
	return &redundant{k: t.K, n: t.N, rounds: t.Scope == spec.ScopeBucket, cancelRest: t.CancelRest}, nil
}

func (r *redundant) Step(ev Event) Outcome {
	var out Outcome
	if len(r.waiting) >= r.k {
		r.recount(&out)
	}
	if ev.Kind == ObjectArrived && r.take(ev.Object.Position) {
		r.count(entryOf(ev.Object), ev.Object.Position, ev.Now, &out)
	}
	r.finish(ev.Limit, &out)
	out.Timer = atOnce(len(r.orphans) > 0, ev.Now)
	return out
}

// count counts e, which is kept already unless its position is fresh.
func (r *redundant) count(e entry, fresh uint64, now time.Time, out *Outcome) {
	kept := e.position != fresh
	if r.fired {
		out.Rejected = append(out.Rejected, e.position)
		if kept {
			out.Drop = append(out.Drop, e.position)
		}
		if r.rounds {
			// A rejected object leaves no item, so the header has to count it.
			r.counted++
			out.Changed = true
			r.endRound()
		}
		return
	}
	r.waiting = append(r.waiting, e)
	if len(r.waiting) < r.k {
		if !kept {
			out.Keep = append(out.Keep, e.item(now))
		}
		return
	}
	var f Firing
	for _, w := range r.waiting {
		f.Inputs = append(f.Inputs, w.object())
		if w.position != fresh {
			out.Drop = append(out.Drop, w.position)
		}
	}
	out.Firings = append(out.Firings, f)
	out.CancelRest = out.CancelRest || r.cancelRest
	out.Changed = true
	r.waiting, r.fired = nil, true
	if r.rounds {
		r.counted = r.k
		r.endRound()
	}
}

// recount counts the items of a restored machine again, whose k has become
// smaller.
func (r *redundant) recount(out *Outcome) {
	waiting := r.waiting
	r.waiting = nil
	for _, e := range waiting {
		r.count(e, 0, time.Time{}, out)
	}
}

func (r *redundant) endRound() {
	if r.counted >= r.n {
		r.fired, r.counted = false, 0
	}
}

func (r *redundant) Header(dst []byte) []byte {
	if r.written == 0 && !r.fired {
		return dst
	}
	dst = appendFlag(r.appendHead(dst), r.fired)
	return binary.AppendUvarint(dst, uint64(r.counted))
}

func (r *redundant) restore(h *headerReader, items iter.Seq[Item]) error {
	r.restoreFrom(h)
	if !h.empty {
		r.fired = h.flag()
		r.counted = int(min(h.uvarint(), uint64(r.n)))
	}
	if r.rounds {
		r.endRound()
	}
	for it := range items {
		if err := r.restoreItem(it); err != nil {
			return err
		}
		if r.fired {
			r.orphans = append(r.orphans, it.Position)
		} else {
			r.waiting = append(r.waiting, entryOf(it.Object))
		}
	}
	return r.restored(h)
}

func (r *redundant) Waiting() Waiting {
	if r.fired && !r.rounds {
		return Waiting{Done: true}
	}
	return Waiting{Have: len(r.waiting), Need: max(r.k-len(r.waiting), 0), Armed: len(r.waiting) > 0}
}
