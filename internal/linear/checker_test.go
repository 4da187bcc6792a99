package linear

import (
	"testing"

	"github.com/anishathalye/porcupine"

	"github.com/pheromone-run/pheromone/spec"
)

// A checker that accepts everything proves nothing: these histories are what a
// broken node would leave.
func TestTheCheckerTellsGoodHistoriesFromBad(t *testing.T) {
	at := func(call, back int64, op operation, out outcome) porcupine.Operation {
		op.key = "k"
		return porcupine.Operation{Input: op, Output: out, Call: call, Return: back}
	}
	write := func(value string) operation { return operation{kind: putting, value: value} }
	is := func(value string, revision int) outcome {
		return outcome{value: value, revision: spec.Revision(revision)}
	}
	absent, rejected, lost := outcome{ending: missing}, outcome{ending: refused}, outcome{ending: unknown}
	fresh := operation{kind: putting, value: "b", ifAbsent: true}
	swap := func(value string, revision int) operation {
		return operation{kind: putting, value: value, ifRevision: spec.Revision(revision)}
	}
	erase := operation{kind: deleting}
	read := operation{kind: get}

	for name, c := range map[string]struct {
		history []porcupine.Operation
		want    porcupine.CheckResult
	}{
		"a put is read":                         {[]porcupine.Operation{at(1, 2, write("a"), is("", 1)), at(3, 4, read, is("a", 1))}, porcupine.Ok},
		"an acknowledged put is lost":           {[]porcupine.Operation{at(1, 2, write("a"), is("", 1)), at(3, 4, read, absent)}, porcupine.Illegal},
		"a get is stale":                        {[]porcupine.Operation{at(1, 2, write("a"), is("", 1)), at(3, 4, write("b"), is("", 2)), at(5, 6, read, is("a", 1))}, porcupine.Illegal},
		"a get during the put may see either":   {[]porcupine.Operation{at(1, 2, write("a"), is("", 1)), at(3, 6, write("b"), is("", 2)), at(4, 5, read, is("a", 1))}, porcupine.Ok},
		"two gets go back in time":              {[]porcupine.Operation{at(1, 2, write("a"), is("", 1)), at(3, 9, write("b"), is("", 2)), at(4, 5, read, is("b", 2)), at(6, 7, read, is("a", 1))}, porcupine.Illegal},
		"a revision is not the put's":           {[]porcupine.Operation{at(1, 2, write("a"), is("", 1)), at(3, 4, read, is("a", 2))}, porcupine.Illegal},
		"revisions go back":                     {[]porcupine.Operation{at(1, 2, write("a"), is("", 5)), at(3, 4, write("b"), is("", 4))}, porcupine.Illegal},
		"a delete is forgotten":                 {[]porcupine.Operation{at(1, 2, write("a"), is("", 1)), at(3, 4, erase, outcome{}), at(5, 6, read, is("a", 1))}, porcupine.Illegal},
		"what is deleted is deleted again":      {[]porcupine.Operation{at(1, 2, write("a"), is("", 1)), at(3, 4, erase, outcome{}), at(5, 6, erase, outcome{})}, porcupine.Illegal},
		"a delete uses up a revision":           {[]porcupine.Operation{at(1, 2, write("a"), is("", 1)), at(3, 4, erase, outcome{}), at(5, 6, write("b"), is("", 2))}, porcupine.Illegal},
		"both of two puts find the key new":     {[]porcupine.Operation{at(1, 4, operation{kind: putting, value: "a", ifAbsent: true}, is("", 1)), at(2, 5, fresh, is("", 2))}, porcupine.Illegal},
		"a new key is refused":                  {[]porcupine.Operation{at(1, 2, fresh, rejected)}, porcupine.Illegal},
		"both of two puts replace the revision": {[]porcupine.Operation{at(1, 2, write("a"), is("", 1)), at(3, 6, swap("b", 1), is("", 2)), at(4, 7, swap("c", 1), is("", 3))}, porcupine.Illegal},
		"the right revision is refused":         {[]porcupine.Operation{at(1, 2, write("a"), is("", 1)), at(3, 4, swap("b", 1), rejected)}, porcupine.Illegal},
		"a put of unknown outcome was done":     {[]porcupine.Operation{at(1, never, write("a"), lost), at(3, 4, read, is("a", 7)), at(5, 6, swap("b", 7), is("", 8))}, porcupine.Ok},
		"a put of unknown outcome was not done": {[]porcupine.Operation{at(1, never, write("a"), lost), at(3, 4, read, absent)}, porcupine.Ok},
		"it is done late":                       {[]porcupine.Operation{at(1, never, write("a"), lost), at(3, 4, read, absent), at(5, 6, read, is("a", 7))}, porcupine.Ok},
		"it is done, and undone by itself":      {[]porcupine.Operation{at(1, never, write("a"), lost), at(3, 4, read, is("a", 7)), at(5, 6, read, absent)}, porcupine.Illegal},
		"it is done twice":                      {[]porcupine.Operation{at(1, never, write("a"), lost), at(3, 4, read, is("a", 7)), at(5, 6, write("b"), is("", 8)), at(7, 8, read, is("a", 9))}, porcupine.Illegal},
	} {
		if got := porcupine.CheckOperations(model, c.history); got != (c.want == porcupine.Ok) {
			t.Errorf("%s: accepted is %v, want %s", name, got, c.want)
		}
	}
}
