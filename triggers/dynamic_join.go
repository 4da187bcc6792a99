package triggers

import (
	"encoding/binary"
	"iter"
	"slices"

	"github.com/pheromone-run/pheromone/spec"
)

// A dynamic_join fires for each set that was named at run time, once all of its
// keys have objects, with them in the order in which the set names them. Sets and
// objects come in any order; a key that a naming repeats counts once, a set of no
// keys fires at once, and the same set named twice is two sets. Sets are state of
// the header, which a naming and a firing rewrite, and nothing else does: which
// objects a set has follows from the items.
//
// Within a session objects are shared: sessionJoin. Across a bucket each object
// is used once: bucketJoin.
func newDynamicJoin(t *spec.Trigger) (restorable, error) {
	if t.Scope == spec.ScopeBucket {
		return newBucketJoin(), nil
	}
	return newSessionJoin(), nil
}

// sessionJoin joins within a session, where a key has one object, and every set
// that names the key gets it: sets named already and sets yet to be named. So an
// object stays until the session ends, and its owner bounds how many there are;
// 24 bytes and a place in a map are what each takes. A second object of a key is
// rejected.
type sessionJoin struct {
	progress
	positions []uint64         // of the objects, in order of arrival
	have      map[spec.Key]int // index in positions
	served    spans            // indexes of the objects that have been part of a firing
	sets      []*sharedSet     // not fired yet, in order of naming
	wanted    map[spec.Key][]*sharedSet
}

type sharedSet struct {
	keys    []spec.Key
	missing int
}

func newSessionJoin() *sessionJoin {
	return &sessionJoin{have: map[spec.Key]int{}, wanted: map[spec.Key][]*sharedSet{}}
}

func (j *sessionJoin) Step(ev Event) Outcome {
	var out Outcome
	switch ev.Kind {
	case SetNamed:
		j.name(ev.Keys, &out)
	case ObjectArrived:
		if j.take(ev.Object.Position) {
			j.count(ev, &out)
		}
	}
	j.finish(ev.Limit, &out)
	return out
}

func (j *sessionJoin) name(keys []spec.Key, out *Outcome) {
	s := &sharedSet{keys: distinct(keys)}
	if j.admit(s); s.missing > 0 {
		out.Changed = true
		return
	}
	j.fire(s, out)
}

// admit takes in a set, unless it is complete already.
func (j *sessionJoin) admit(s *sharedSet) {
	for _, k := range s.keys {
		if _, ok := j.have[k]; !ok {
			j.wanted[k] = append(j.wanted[k], s)
			s.missing++
		}
	}
	if s.missing > 0 {
		j.sets = append(j.sets, s)
	}
}

func (j *sessionJoin) count(ev Event, out *Outcome) {
	o := ev.Object
	if _, ok := j.have[o.Key]; ok {
		out.Rejected = append(out.Rejected, o.Position)
		return
	}
	j.add(o)
	out.Keep = append(out.Keep, entryOf(o).item(ev.Now))
	complete := false
	for _, s := range j.wanted[o.Key] {
		if s.missing--; s.missing == 0 {
			j.fire(s, out)
			complete = true
		}
	}
	delete(j.wanted, o.Key)
	if complete {
		j.sets = slices.DeleteFunc(j.sets, func(s *sharedSet) bool { return s.missing == 0 })
		out.Changed = true
	}
}

func (j *sessionJoin) add(o Object) {
	j.have[o.Key] = len(j.positions)
	j.positions = append(j.positions, o.Position)
}

func (j *sessionJoin) fire(s *sharedSet, out *Outcome) {
	f := Firing{Inputs: make([]Object, len(s.keys))}
	indexes := make([]int, len(s.keys))
	for i, k := range s.keys {
		indexes[i] = j.have[k]
		f.Inputs[i] = entry{j.positions[indexes[i]], k}.object()
	}
	out.Firings = append(out.Firings, f)
	slices.Sort(indexes) // in order they lengthen a span, else each begins one
	for _, index := range indexes {
		if j.served.add(index) {
			out.Changed = true
		}
	}
}

func (j *sessionJoin) Header(dst []byte) []byte {
	if j.written == 0 && len(j.sets) == 0 {
		return dst
	}
	dst = j.served.append(j.appendHead(dst))
	dst = binary.AppendUvarint(dst, uint64(len(j.sets)))
	for _, s := range j.sets {
		dst = appendKeys(dst, s.keys)
	}
	return dst
}

func (j *sessionJoin) restore(h *headerReader, items iter.Seq[Item]) error {
	j.restoreFrom(h)
	for it := range items {
		if err := j.restoreItem(it); err != nil {
			return err
		}
		if _, ok := j.have[it.Key]; ok {
			return errDamaged
		}
		j.add(it.Object)
	}
	if !h.empty {
		j.served = readSpans(h, len(j.positions))
		for range h.count() {
			s := &sharedSet{keys: distinct(h.keys())}
			if j.admit(s); s.missing == 0 {
				return errDamaged // it would have fired
			}
		}
	}
	return j.restored(h)
}

func (j *sessionJoin) Waiting() Waiting {
	w := Waiting{Have: len(j.positions) - j.served.size, Need: len(j.wanted)}
	w.Armed = w.Have > 0 || len(j.sets) > 0
	seen := map[spec.Key]bool{}
	for _, s := range j.sets {
		for _, k := range s.keys {
			if len(w.Missing) == min(maxMissing, len(j.wanted)) {
				return w
			}
			if _, ok := j.have[k]; !ok && !seen[k] {
				seen[k] = true
				w.Missing = append(w.Missing, k)
			}
		}
	}
	return w
}

// distinct returns a copy of keys without repetitions.
func distinct(keys []spec.Key) []spec.Key {
	seen := make(map[spec.Key]bool, len(keys))
	out := make([]spec.Key, 0, len(keys))
	for _, k := range keys {
		if !seen[k] {
			seen[k] = true
			out = append(out, k)
		}
	}
	return out
}
