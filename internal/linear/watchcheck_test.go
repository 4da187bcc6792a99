package linear

import (
	"slices"
	"testing"

	"github.com/anishathalye/porcupine"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// What a broken watch would show of one key, and what has to be said of it.
func TestAWatchThatShowsTooMuchOrTooLittleIsFound(t *testing.T) {
	op := func(o operation, out outcome) porcupine.Operation {
		o.key = "k"
		return porcupine.Operation{Input: o, Output: out}
	}
	history := []porcupine.Operation{
		op(operation{kind: putting, value: "a"}, outcome{revision: 1}),
		op(operation{kind: putting, value: "b", ifRevision: 1}, outcome{revision: 2}),
		op(operation{kind: deleting}, outcome{}),
		op(operation{kind: putting, value: "lost"}, outcome{ending: unknown}),
	}
	shown := func(revision int, value string) change {
		return change{kind: "put", value: value, revision: spec.Revision(revision)}
	}
	gone := func(revision int) change { return change{kind: "delete", revision: spec.Revision(revision)} }
	for name, c := range map[string]struct {
		changes []change
		found   bool
	}{
		"all of it":                            {[]change{shown(1, "a"), shown(2, "b"), gone(3), shown(9, "end")}, false},
		"with the put whose answer was lost":   {[]change{shown(1, "a"), shown(2, "b"), gone(3), shown(5, "lost"), shown(9, "end")}, false},
		"an acknowledged put is left out":      {[]change{shown(2, "b"), gone(3), shown(9, "end")}, true},
		"the last one is left out":             {[]change{shown(1, "a"), shown(2, "b"), gone(3)}, true},
		"a deletion is left out":               {[]change{shown(1, "a"), shown(2, "b"), shown(9, "end")}, true},
		"a put comes twice":                    {[]change{shown(1, "a"), shown(1, "a"), shown(2, "b"), gone(3), shown(9, "end")}, true},
		"a deletion comes twice":               {[]change{shown(1, "a"), shown(2, "b"), gone(3), gone(4), shown(9, "end")}, true},
		"a put nobody asked for":               {[]change{shown(1, "a"), shown(2, "b"), gone(3), shown(4, "x"), shown(9, "end")}, true},
		"a put with another revision":          {[]change{shown(1, "a"), shown(2, "b"), gone(3), shown(8, "end")}, true},
		"the order is another":                 {[]change{shown(2, "b"), shown(1, "a"), gone(3), shown(9, "end")}, true},
		"what is deleted was not there before": {[]change{gone(1), shown(1, "a"), shown(2, "b"), gone(3), shown(9, "end")}, true},
	} {
		if faults := checkChanges("k", c.changes, history, 9); (len(faults) > 0) != c.found {
			t.Errorf("%s: found %v", name, faults)
		}
	}
}

// Two watches of the same keys show the same, whatever happened to them.
func TestAWatchThatShowsSomethingElseIsFound(t *testing.T) {
	event := func(revision int, key spec.Key, value string) wire.WatchEvent {
		return wire.WatchEvent{Type: "put", Object: wire.Object{Key: key, Revision: spec.Revision(revision), Meta: map[string]string{"value": value}}}
	}
	all := []wire.WatchEvent{event(1, "k", "0-1-0"), event(2, "k", "0-2-0"), event(3, "l", "0-3-0")}
	right := &follower{keys: []spec.Key{"k", "l"}, events: all}
	otherBytes := slices.Clone(all)
	otherBytes[1].Object.Data = []byte("0-1-0;")
	for name, c := range map[string]struct {
		events []wire.WatchEvent
		found  bool
	}{
		"the same":           {all, false},
		"a gap":              {[]wire.WatchEvent{all[0], all[2]}, true},
		"a duplicate":        {[]wire.WatchEvent{all[0], all[0], all[1], all[2]}, true},
		"another order":      {[]wire.WatchEvent{all[1], all[0], all[2]}, true},
		"nothing of a key":   {all[:2], true},
		"a key too many":     {append(slices.Clone(all), event(4, "m", "0-4-0")), true},
		"the bytes of other": {otherBytes, true},
	} {
		f := &follower{name: name, keys: right.keys, events: c.events}
		if faults := f.compare(right.byKey()); (len(faults) > 0) != c.found {
			t.Errorf("%s: found %v", name, faults)
		}
	}
}
