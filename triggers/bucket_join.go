package triggers

import (
	"encoding/binary"
	"iter"
	"slices"

	"github.com/pheromone-run/pheromone/spec"
)

// bucketJoin joins across a bucket, where a key has objects again and again and
// each object is used once. Per key, the first object goes to the set that named
// the key first, the second object to the second set, and so on: an object belongs
// to its set from then on, whether the others of that set are there or not. So what
// fires with what does not depend on the order in which the objects of different
// keys arrive, and a restored machine finds the same pairs again.
type bucketJoin struct {
	progress
	sets    []*ownSet // not fired yet, in order of naming
	waiting map[spec.Key]*queue[uint64]
	wanted  map[spec.Key]*queue[place]
	have    int // objects that wait, with a set or without
	missing int // places that are open
}

// ownSet is a set with the objects that belong to it; position 0, which no
// object has, stands for one that is missing.
type ownSet struct {
	keys    []spec.Key
	objects []uint64
	missing int
}

// place is where an object belongs in a set.
type place struct {
	set   *ownSet
	index int
}

func newBucketJoin() *bucketJoin {
	return &bucketJoin{waiting: map[spec.Key]*queue[uint64]{}, wanted: map[spec.Key]*queue[place]{}}
}

func (j *bucketJoin) Step(ev Event) Outcome {
	var out Outcome
	switch ev.Kind {
	case SetNamed:
		s := j.admit(ev.Keys)
		out.Changed = s.missing > 0
		j.fire(s, 0, &out)
	case ObjectArrived:
		o := ev.Object
		if !j.take(o.Position) {
			break
		}
		if s := j.add(entryOf(o)); s == nil || !j.fire(s, o.Position, &out) {
			out.Keep = append(out.Keep, entryOf(o).item(ev.Now))
		}
	}
	j.finish(ev.Limit, &out)
	return out
}

// admit takes in a set and gives it the objects that wait for it.
func (j *bucketJoin) admit(keys []spec.Key) *ownSet {
	s := &ownSet{keys: distinct(keys)}
	s.objects = make([]uint64, len(s.keys))
	for i, k := range s.keys {
		if q := j.waiting[k]; q != nil {
			s.objects[i] = pop(j.waiting, k)
			continue
		}
		push(j.wanted, k, place{s, i})
		s.missing++
	}
	j.missing += s.missing
	j.sets = append(j.sets, s)
	return s
}

// add gives an object to the set that wants it, and returns the set if there is
// one.
func (j *bucketJoin) add(e entry) *ownSet {
	j.have++
	if j.wanted[e.key] == nil {
		push(j.waiting, e.key, e.position)
		return nil
	}
	p := pop(j.wanted, e.key)
	p.set.objects[p.index] = e.position
	p.set.missing--
	j.missing--
	return p.set
}

// fire fires s if it is complete, and reports whether it was. The object at
// fresh was not kept.
func (j *bucketJoin) fire(s *ownSet, fresh uint64, out *Outcome) bool {
	if s.missing > 0 {
		return false
	}
	f := Firing{Inputs: make([]Object, len(s.keys))}
	for i, k := range s.keys {
		f.Inputs[i] = entry{s.objects[i], k}.object()
		if s.objects[i] != fresh {
			out.Drop = append(out.Drop, s.objects[i])
		}
	}
	out.Firings = append(out.Firings, f)
	j.have -= len(s.keys)
	i := slices.Index(j.sets, s)
	j.sets = slices.Delete(j.sets, i, i+1)
	return true
}

func (j *bucketJoin) Header(dst []byte) []byte {
	if j.written == 0 && len(j.sets) == 0 {
		return dst
	}
	dst = binary.AppendUvarint(j.appendHead(dst), uint64(len(j.sets)))
	for _, s := range j.sets {
		dst = appendKeys(dst, s.keys)
	}
	return dst
}

func (j *bucketJoin) restore(h *headerReader, items iter.Seq[Item]) error {
	j.restoreFrom(h)
	if !h.empty {
		for range h.count() {
			j.admit(h.keys())
		}
	}
	for it := range items {
		if err := j.restoreItem(it); err != nil {
			return err
		}
		j.add(entryOf(it.Object))
	}
	for _, s := range j.sets {
		if s.missing == 0 {
			return errDamaged // it would have fired
		}
	}
	return j.restored(h)
}

// Waiting lists a key once for each object of it that is missing.
func (j *bucketJoin) Waiting() Waiting {
	w := Waiting{Have: j.have, Need: j.missing, Armed: j.have > 0 || len(j.sets) > 0}
	for _, s := range j.sets {
		for i, k := range s.keys {
			if len(w.Missing) == min(maxMissing, j.missing) {
				return w
			}
			if s.objects[i] == 0 {
				w.Missing = append(w.Missing, k)
			}
		}
	}
	return w
}

// push and pop keep queues by key, without empty ones.
func push[T any](queues map[spec.Key]*queue[T], key spec.Key, v T) {
	q := queues[key]
	if q == nil {
		q = &queue[T]{}
		queues[key] = q
	}
	q.push(v)
}

func pop[T any](queues map[spec.Key]*queue[T], key spec.Key) T {
	q := queues[key]
	v := q.pop()
	if q.len() == 0 {
		delete(queues, key)
	}
	return v
}
