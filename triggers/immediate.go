package triggers

import (
	"github.com/pheromone-run/pheromone/spec"
)

// perObject fires for each object that it wants, with that object: immediate and
// by_name. It keeps no state, so it does not tell repetitions.
type perObject struct {
	wants func(spec.Key) bool
}

func newImmediate(*spec.Trigger) (Machine, error) {
	return perObject{func(spec.Key) bool { return true }}, nil
}

func newByName(t *spec.Trigger) (Machine, error) {
	if (len(t.Keys) == 0) == (t.Match == "") {
		return nil, badOption(t, "keys", "needs either keys or match")
	}
	if t.Match != "" {
		return perObject{func(k spec.Key) bool { return spec.MatchKey(t.Match, k) }}, nil
	}
	named := make(map[spec.Key]bool, len(t.Keys))
	for _, k := range t.Keys {
		named[k] = true
	}
	return perObject{func(k spec.Key) bool { return named[k] }}, nil
}

func (p perObject) Step(ev Event) Outcome {
	switch {
	case ev.Kind != ObjectArrived:
		return Outcome{}
	case p.wants(ev.Object.Key):
		return Outcome{Firings: ev.Room.fire(ev.Object)}
	}
	return Outcome{Rejected: []uint64{ev.Object.Position}}
}

func (p perObject) Header(dst []byte) []byte { return dst }

func (p perObject) Waiting() Waiting { return Waiting{} }
