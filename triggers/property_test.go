package triggers_test

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/triggers"
)

var epoch = time.Unix(1_700_000_000, 0).UTC()

func anyTrigger(t *rapid.T, p spec.Primitive) *spec.Trigger {
	trigger := &spec.Trigger{Name: "t", Primitive: p, Scope: rapid.SampledFrom([]spec.Scope{spec.ScopeSession, spec.ScopeBucket}).Draw(t, "scope")}
	switch p {
	case spec.ByName:
		if trigger.Match = rapid.SampledFrom([]string{"", "a*"}).Draw(t, "match"); trigger.Match == "" {
			trigger.Keys = []spec.Key{"a:1", "b:1"}
		}
	case spec.BySet:
		trigger.Keys = rapid.SampledFrom([][]spec.Key{{"a:1"}, {"b:1", "a:1"}, {"a:2", "b:2", "a:1"}}).Draw(t, "keys")
	case spec.ByBatchSize:
		trigger.Count = rapid.IntRange(1, 5).Draw(t, "count")
		trigger.MaxWait = rapid.SampledFrom([]time.Duration{0, time.Second, 20 * time.Second}).Draw(t, "max_wait")
	case spec.ByTime:
		trigger.Slide = rapid.SampledFrom([]time.Duration{time.Second, 7 * time.Second}).Draw(t, "slide")
		trigger.Every = trigger.Slide * time.Duration(rapid.IntRange(1, 4).Draw(t, "slides"))
		trigger.AllowEmpty = rapid.Bool().Draw(t, "allow_empty")
	case spec.Redundant:
		trigger.K = rapid.IntRange(1, 3).Draw(t, "k")
		trigger.N = trigger.K + rapid.IntRange(0, 2).Draw(t, "rest")
		trigger.CancelRest = rapid.Bool().Draw(t, "cancel_rest")
	case spec.DynamicGroup:
		trigger.GroupBy = rapid.SampledFrom([]spec.GroupBy{{Prefix: ":"}, {Meta: "region"}}).Draw(t, "group_by")
		trigger.Until.Keys = rapid.SampledFrom([][]spec.Key{nil, {"c:1"}, {"c:1", "b:2"}}).Draw(t, "until")
		if trigger.Until.Keys == nil {
			trigger.Until.Functions = []spec.FunctionName{"map"}
			trigger.Scope = spec.ScopeSession
		}
	}
	return trigger
}

var someKeys = rapid.SampledFrom([]spec.Key{"a:1", "a:2", "b:1", "b:2", "c:1"})

func TestEveryPrimitiveDoesWhatTheTableSaysWhateverComes(t *testing.T) {
	for _, p := range slices.Sorted(maps.Keys(models)) {
		t.Run(string(p), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) { checkAgainstModel(t, anyTrigger(t, p)) })
		})
	}
}

func checkAgainstModel(t *rapid.T, trigger *spec.Trigger) {
	o := newOwner(t, trigger)
	now := epoch
	var position uint64
	var history []triggers.Event
	objects := map[uint64]triggers.Object{}
	for range rapid.IntRange(1, 40).Draw(t, "steps") {
		action := rapid.SampledFrom([]string{"put", "put", "put", "again", "name", "done", "tick", "restore"}).Draw(t, "action")
		if action == "restore" {
			o.restore()
			continue
		}
		now = now.Add(time.Duration(rapid.SampledFrom([]int{0, 0, 300, 1000, 2500, 9000, 60000, -700, -15000}).Draw(t, "passes")) * time.Millisecond)
		ev := triggers.Event{Kind: triggers.Tick, Now: now}
		asTold := ev // what the model is told
		switch action {
		case "put":
			position += rapid.Uint64Range(1, 3).Draw(t, "gap")
			ev.Kind, ev.Object = triggers.ObjectArrived, triggers.Object{Position: position, Key: someKeys.Draw(t, "key")}
			if trigger.GroupBy.Meta != "" {
				ev.Object.Group = rapid.SampledFrom([]string{"", "eu", "us"}).Draw(t, "group")
			}
			objects[position] = ev.Object
			asTold = ev
		case "again":
			var known []uint64
			for _, p := range slices.Sorted(maps.Keys(objects)) {
				if p <= o.known && !triggers.Stateless(trigger.Primitive) {
					known = append(known, p)
				}
			}
			if len(known) == 0 {
				continue
			}
			ev.Kind, ev.Object = triggers.ObjectArrived, objects[rapid.SampledFrom(known).Draw(t, "again")]
		case "name":
			ev.Kind, ev.Keys = triggers.SetNamed, rapid.SliceOfN(someKeys, 0, 4).Draw(t, "keys")
			asTold = ev
		case "done":
			ev.Kind = triggers.StageDone
			asTold = ev
		}
		o.step(ev)
		history = append(history, asTold)
		compare(t, o, models[trigger.Primitive](trigger, history), objects)
	}
}

func compare(t *rapid.T, o *owner, want expected, objects map[uint64]triggers.Object) {
	if got, want := show(o.firings), show(want.firings); got != want {
		t.Fatalf("fired\n%s\nshould have fired\n%s", got, want)
	}
	rejected := slices.Sorted(maps.Keys(o.rejected))
	slices.Sort(want.rejected)
	if !slices.Equal(rejected, want.rejected) {
		t.Fatalf("rejected %v, should have rejected %v", rejected, want.rejected)
	}
	if !slices.Equal(o.kept(), want.kept) {
		t.Fatalf("keeps %v, should keep %v", o.kept(), want.kept)
	}
	if !o.timer.Equal(want.timer) {
		t.Fatalf("timer at %v, should be at %v", o.timer, want.timer)
	}
	if o.cancels != want.cancels {
		t.Fatalf("cancelled %d times, should be %d", o.cancels, want.cancels)
	}
	w := o.machine.Waiting()
	if w.Have != want.have || !w.Deadline.Equal(want.timer) {
		t.Fatalf("says %+v, should have %d and deadline %v", w, want.have, want.timer)
	}
	nothingLost(t, o, objects)
}

// nothingLost makes sure that every object is in exactly one place: rejected,
// fired, or kept; what is shared by sets or windows may be kept and fired.
func nothingLost(t *rapid.T, o *owner, objects map[uint64]triggers.Object) {
	fired := map[uint64]int{}
	for _, f := range o.firings {
		for _, in := range f.Inputs {
			fired[in.Position]++
			if !reflect.DeepEqual(in, objects[in.Position]) {
				t.Fatalf("fired with %+v, put was %+v", in, objects[in.Position])
			}
		}
	}
	shared := o.trigger.Primitive == spec.ByTime && o.trigger.Slide < o.trigger.Every ||
		o.trigger.Primitive == spec.DynamicJoin && o.trigger.Scope == spec.ScopeSession
	for p := range objects {
		_, kept := o.items[p]
		places := fired[p]
		if shared {
			places = min(places, 1)
		}
		if kept && !(shared && places == 1) {
			places++
		}
		if o.rejected[p] {
			places++
		}
		if places != 1 {
			t.Fatalf("object %d is in %d places: fired %d times, kept %v, rejected %v", p, places, fired[p], kept, o.rejected[p])
		}
	}
}

func show(firings []triggers.Firing) string {
	s := ""
	for _, f := range firings {
		s += fmt.Sprintf("%q %v:", f.Group, f.Window.UTC())
		for _, in := range f.Inputs {
			s += fmt.Sprintf(" %d=%s", in.Position, in.Key)
		}
		s += "\n"
	}
	return s
}
