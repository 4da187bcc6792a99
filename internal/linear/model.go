package linear

import (
	"fmt"

	"github.com/anishathalye/porcupine"

	"github.com/pheromone-run/pheromone/spec"
)

type kind int

const (
	get kind = iota
	putting
	deleting
)

// operation is what a client asked for. Values are unique: a value tells the put
// that it comes from.
type operation struct {
	kind       kind
	key        spec.Key
	value      string
	ifRevision spec.Revision // 0: no such condition
	ifAbsent   bool
}

type ending int

const (
	done    ending = iota
	missing        // there is no such object
	refused        // the condition does not hold
	unknown        // the answer was lost: done, refused, or never heard of
)

// outcome is what the client was told.
type outcome struct {
	ending   ending
	value    string
	revision spec.Revision
}

// state is the model of one key.
type state struct {
	present bool
	value   string
	// revision of the object; 0 as long as nobody has seen it, when the answer of
	// its put was lost. Then it is floor at least.
	revision spec.Revision
	// floor is what the newest revision that the key has seen is at least.
	floor spec.Revision
}

// model is the promise: each operation takes effect at one moment between its
// call and its return. An operation whose outcome is not known never fails a
// history: one that did nothing can as well take effect after everything else.
var model = porcupine.Model{
	Partition:         byKey,
	Init:              func() any { return state{} },
	Step:              func(s, in, out any) (bool, any) { return step(s.(state), in.(operation), out.(outcome)) },
	DescribeOperation: describe,
	DescribeState:     func(s any) string { return fmt.Sprintf("%+v", s) },
}

func step(s state, op operation, out outcome) (bool, state) {
	switch op.kind {
	case get:
		return s.read(out)
	case putting:
		return s.write(op, out)
	default:
		return s.remove(op, out)
	}
}

func (s state) read(out outcome) (bool, state) {
	if out.ending == missing {
		return !s.present, s
	}
	if !s.present || s.value != out.value || !s.mayHave(out.revision) {
		return false, s
	}
	s.revision, s.floor = out.revision, out.revision
	return true, s
}

func (s state) write(op operation, out outcome) (bool, state) {
	holds, mustHold := s.condition(op)
	switch out.ending {
	case refused:
		return !mustHold, s
	case unknown:
		if !holds {
			return true, s
		}
		return true, state{present: true, value: op.value, floor: max(s.floor, op.ifRevision) + 1}
	}
	ok := holds && out.revision > max(s.floor, op.ifRevision)
	return ok, state{present: true, value: op.value, revision: out.revision, floor: out.revision}
}

func (s state) remove(op operation, out outcome) (bool, state) {
	holds, mustHold := s.condition(op)
	gone := state{floor: max(s.floor, op.ifRevision) + 1}
	switch out.ending {
	case missing:
		return !s.present && op.ifRevision == 0, s
	case refused:
		return op.ifRevision != 0 && !mustHold, s
	case unknown:
		if !s.present || !holds {
			return true, s
		}
		return true, gone
	}
	return s.present && holds, gone
}

// condition tells whether op's condition may hold, and whether it does for sure.
func (s state) condition(op operation) (may, must bool) {
	switch {
	case op.ifAbsent:
		return !s.present, !s.present
	case op.ifRevision == 0:
		return true, true
	}
	return s.present && s.mayHave(op.ifRevision), s.present && s.revision == op.ifRevision
}

func (s state) mayHave(r spec.Revision) bool {
	return s.revision == r || s.revision == 0 && r >= s.floor
}

func byKey(history []porcupine.Operation) [][]porcupine.Operation {
	keys := map[spec.Key]int{}
	var parts [][]porcupine.Operation
	for _, o := range history {
		key := o.Input.(operation).key
		n, ok := keys[key]
		if !ok {
			n = len(parts)
			keys[key] = n
			parts = append(parts, nil)
		}
		parts[n] = append(parts[n], o)
	}
	return parts
}

func describe(in, out any) string {
	op, o := in.(operation), out.(outcome)
	condition := ""
	switch {
	case op.ifAbsent:
		condition = " if absent"
	case op.ifRevision != 0:
		condition = fmt.Sprintf(" if %d", op.ifRevision)
	}
	what := [...]string{"get", "put " + op.value, "delete"}[op.kind] + condition
	return what + ": " + [...]string{fmt.Sprintf("%s revision %d", o.value, o.revision), "not there", "refused", "?"}[o.ending]
}
