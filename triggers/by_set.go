package triggers

import (
	"iter"

	"github.com/pheromone-run/pheromone/spec"
)

// bySet fires when all its keys are there, with their objects in the order in
// which the keys are declared. In a session that is once: whatever comes later,
// comes twice or is not named is rejected. Across a bucket it goes in rounds: the
// objects of a key wait in a line of their own, and whenever every key has one,
// the oldest of each fire together.
type bySet struct {
	progress
	rounds bool
	lanes  lanes
	fired  bool // in a session
}

func newBySet(t *spec.Trigger) (*bySet, error) {
	l, distinct := newLanes(t.Keys)
	if len(t.Keys) == 0 || !distinct {
		return nil, badOption(t, "keys", "needs keys, each of them once")
	}
	return &bySet{rounds: t.Scope == spec.ScopeBucket, lanes: l}, nil
}

func (s *bySet) Step(ev Event) Outcome {
	var out Outcome
	left := ev.Limit.budget()
	s.fire(0, left, &out)
	if ev.Kind == ObjectArrived && s.take(ev.Object.Position) {
		if lane, ok := s.accepts(ev.Object.Key); ok {
			s.lanes.push(lane, ev.Object.Position)
			if !s.fire(ev.Object.Position, left, &out) {
				out.Keep = append(out.Keep, entryOf(ev.Object).item(ev.Now))
			}
		} else {
			out.Rejected = append(out.Rejected, ev.Object.Position)
		}
	}
	s.finish(ev.Limit, &out)
	out.Timer = atOnce(s.lanes.full() || len(s.orphans) > 0, ev.Now)
	return out
}

// accepts returns the lane of an object with this key, if it is of use.
func (s *bySet) accepts(key spec.Key) (int, bool) {
	lane, ok := s.lanes.lane(key)
	if s.rounds {
		return lane, ok
	}
	return lane, ok && !s.fired && s.lanes.waiting[lane].len() == 0
}

// fire fires what is complete, and reports whether the object at fresh, which was
// not kept, is part of it. Before an object has come, only a restored machine can
// be complete whose keys were changed, or one that had to wait.
func (s *bySet) fire(fresh uint64, left *budget, out *Outcome) bool {
	used := false
	for s.lanes.full() && left.take(len(s.lanes.keys), s.lanes.bytes) {
		var f Firing
		for _, e := range s.lanes.take() {
			f.Inputs = append(f.Inputs, e.object())
			if e.position == fresh {
				used = true
			} else {
				out.Drop = append(out.Drop, e.position)
			}
		}
		out.Firings = append(out.Firings, f)
		out.Changed = out.Changed || !s.rounds
		s.fired = !s.rounds
	}
	return used
}

func (s *bySet) Header(dst []byte) []byte {
	if s.written == 0 && !s.fired {
		return dst
	}
	return appendFlag(s.appendHead(dst), s.fired)
}

func (s *bySet) restore(h *headerReader, items iter.Seq[Item]) error {
	s.restoreFrom(h)
	if !h.empty {
		s.fired = h.flag()
	}
	for it := range items {
		if err := s.restoreItem(it); err != nil {
			return err
		}
		if lane, ok := s.accepts(it.Key); ok {
			s.lanes.push(lane, it.Position)
		} else {
			s.orphans = append(s.orphans, it.Position)
		}
	}
	return s.restored(h)
}

func (s *bySet) Waiting() Waiting {
	if s.fired {
		return Waiting{Done: true}
	}
	return Waiting{
		Have:    s.lanes.size,
		Need:    s.lanes.empty,
		Missing: s.lanes.missing(),
		Armed:   s.lanes.size > 0,
	}
}
