package triggers_test

import (
	"fmt"
	"iter"
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/triggers"
)

// anyLimit is small, so that most of what fires has to go in parts.
func anyLimit(t *rapid.T) triggers.Limit {
	return triggers.Limit{
		Objects:  rapid.IntRange(1, 4).Draw(t, "objects"),
		KeyBytes: rapid.SampledFrom([]int{1, 7, 1000}).Draw(t, "key bytes"),
		Firings:  rapid.IntRange(1, 3).Draw(t, "firings"),
		Full:     rapid.Bool().Draw(t, "full"),
	}
}

// drain ticks as long as the machine asks for it at once, as its owner does.
func (o *owner) drain(t *rapid.T, now time.Time) {
	for n := 0; !o.timer.IsZero() && !o.timer.After(now); n++ {
		if n > 10_000 {
			t.Fatalf("does not come to an end: timer at %v, now %v", o.timer, now)
		}
		o.limit = anyLimit(t)
		o.limit.Full = false
		had := len(o.firings) + len(o.kept())
		out := o.step(triggers.Event{Kind: triggers.Tick, Now: now})
		if len(out.Firings) == 0 && len(out.Drop) == 0 && had > 0 && !o.timer.IsZero() && !o.timer.After(now) {
			t.Fatalf("a tick does nothing and asks for another")
		}
		if rapid.IntRange(0, 3).Draw(t, "then") == 0 {
			o.restore()
		}
	}
}

// playInParts plays random events against a machine that may fire little at a time,
// or nothing, and is restored on the way.
func playInParts(t *rapid.T, o *owner, after func(ev triggers.Event)) (history []triggers.Event, now time.Time) {
	now = epoch
	position := uint64(0)
	for range rapid.IntRange(1, 60).Draw(t, "steps") {
		o.limit = anyLimit(t)
		now = now.Add(time.Duration(rapid.SampledFrom([]int{0, 0, 300, 1000, 2500, 9000}).Draw(t, "passes")) * time.Millisecond)
		ev := triggers.Event{Kind: triggers.Tick, Now: now}
		switch rapid.SampledFrom([]string{"put", "put", "put", "done", "tick", "restore"}).Draw(t, "action") {
		case "put":
			position++
			ev.Kind, ev.Object = triggers.ObjectArrived, triggers.Object{Position: position, Key: someKeys.Draw(t, "key")}
			if o.trigger.GroupBy.Meta != "" {
				ev.Object.Group = rapid.SampledFrom([]string{"", "eu", "us"}).Draw(t, "group")
			}
		case "done":
			ev.Kind = triggers.StageDone
		case "restore":
			o.restore()
			continue
		}
		o.step(ev)
		history = append(history, ev)
		after(ev)
	}
	return history, now
}

func TestWhatFiresInPartsIsWhatWouldHaveFiredAtOnce(t *testing.T) {
	for _, p := range []spec.Primitive{spec.BySet, spec.ByBatchSize, spec.Redundant, spec.DynamicGroup} {
		t.Run(string(p), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				trigger := anyTrigger(t, p)
				trigger.MaxWait = 0 // with it, a batch that has to wait may take in what comes meanwhile
				o := newOwner(t, trigger)
				history, now := playInParts(t, o, func(triggers.Event) {})
				o.drain(t, now)
				want := models[p](trigger, history)
				if got, want := show(o.firings), show(want.firings); got != want {
					t.Fatalf("fired\n%s\nshould have fired\n%s", got, want)
				}
				if !slices.Equal(o.kept(), want.kept) {
					t.Fatalf("keeps %v, should keep %v", o.kept(), want.kept)
				}
			})
		})
	}
}

func TestEachObjectIsInOnePartOfEachOfItsWindows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		trigger := anyTrigger(t, spec.ByTime)
		trigger.AllowEmpty = trigger.AllowEmpty && trigger.Scope == spec.ScopeBucket
		o := newOwner(t, trigger)
		counted := map[uint64]time.Time{}
		_, now := playInParts(t, o, func(ev triggers.Event) {
			if it, ok := o.items[ev.Object.Position]; ok && ev.Kind == triggers.ObjectArrived {
				counted[ev.Object.Position] = it.Time
			}
		})
		o.limit = triggers.Limit{}
		now = now.Add(time.Hour)
		o.step(triggers.Event{Kind: triggers.Tick, Now: now})
		o.drain(t, now)
		if kept := o.kept(); len(kept) > 0 {
			t.Fatalf("keeps %v after all windows have closed", kept)
		}
		windows := map[uint64][]time.Time{}
		var last time.Time
		before := uint64(0)
		for _, f := range o.firings {
			if f.Window.Before(last) {
				t.Fatalf("window %v after window %v", f.Window, last)
			}
			if f.Window.After(last) {
				before = 0
			}
			last = f.Window
			for _, in := range f.Inputs {
				if in.Position <= before {
					t.Fatalf("in window %v, object %d comes after object %d", f.Window, in.Position, before)
				}
				before = in.Position
				windows[in.Position] = append(windows[in.Position], f.Window)
			}
		}
		for p, at := range counted {
			var want []time.Time
			for end := floor(at, trigger.Slide).Add(trigger.Slide); !end.After(floor(at, trigger.Slide).Add(trigger.Every)); end = end.Add(trigger.Slide) {
				want = append(want, end)
			}
			if !slices.EqualFunc(windows[p], want, time.Time.Equal) {
				t.Fatalf("object %d, counted at %v, was in windows %v, want %v", p, at, windows[p], want)
			}
		}
		if len(windows) != len(counted) {
			t.Fatalf("%d objects fired, %d were counted", len(windows), len(counted))
		}
	})
}

func TestAWindowThatHasBegunToFireGoesOnWhenTheClockJumpsBack(t *testing.T) {
	for _, trigger := range []*spec.Trigger{
		{Primitive: spec.ByTime, Scope: spec.ScopeBucket, Every: time.Minute},
		{Primitive: spec.ByTime, Scope: spec.ScopeBucket, Cron: "* * * * *"},
	} {
		o := newOwner(t, trigger)
		play(o, "a", "b", "c")
		o.limit.Objects = 1
		o.step(triggers.Event{Kind: triggers.Tick, Now: o.timer})
		wantFired(t, inputsOf(o), " a")
		o.restore()
		back := epoch.Add(-5 * time.Hour)
		for range 2 {
			o.step(triggers.Event{Kind: triggers.Tick, Now: back})
		}
		wantFired(t, inputsOf(o), " a | b | c")
		if !o.timer.IsZero() || len(o.kept()) > 0 {
			t.Errorf("timer at %v, keeps %v", o.timer, o.kept())
		}
		play(o, "d") // counted after the window that has closed
		o.step(triggers.Event{Kind: triggers.Tick, Now: o.timer})
		wantFired(t, inputsOf(o), " a | b | c | d")
		if first, second := o.firings[0].Window, o.firings[3].Window; !second.After(first) {
			t.Errorf("window %v after window %v", second, first)
		}
	}
}

func TestAStepFiresNoMoreThanItsLimit(t *testing.T) {
	const objects = triggers.MaxFiringObjects + 10_000
	fill := func(trigger *spec.Trigger, key func(i int) spec.Key) *owner {
		m, err := triggers.New(trigger)
		if err != nil {
			t.Fatal(err)
		}
		o := &owner{t: t, trigger: trigger, machine: m}
		for i := range objects {
			m.Step(triggers.Event{Kind: triggers.ObjectArrived, Now: epoch, Object: triggers.Object{Position: uint64(i + 1), Key: key(i)}})
		}
		return o
	}
	same := func(i int) spec.Key { return spec.Key(fmt.Sprintf("g:%d", i)) }
	each := func(i int) spec.Key { return spec.Key(fmt.Sprintf("g%d:", i)) }
	long := func(i int) spec.Key { return spec.Key(fmt.Sprintf("%01000d:", i)) }
	sliding := &spec.Trigger{Primitive: spec.ByTime, Every: time.Hour, Slide: time.Minute}
	groups := &spec.Trigger{Primitive: spec.DynamicGroup, GroupBy: spec.GroupBy{Prefix: ":"}, Until: spec.Until{Functions: []spec.FunctionName{"f"}}}
	for name, c := range map[string]struct {
		trigger *spec.Trigger
		key     func(int) spec.Key
		event   triggers.EventKind
		firings int
	}{
		"a window":           {&spec.Trigger{Primitive: spec.ByTime, Every: time.Hour}, same, triggers.Tick, 2},
		"sliding windows":    {sliding, same, triggers.Tick, 60 * 2},
		"long keys":          {&spec.Trigger{Primitive: spec.ByTime, Every: time.Hour}, long, triggers.Tick, (objects*1001 + 4<<20 - 1) / (4 << 20)},
		"groups of one":      {groups, each, triggers.StageDone, objects},
		"a single group":     {groups, same, triggers.StageDone, 1},
		"groups, long names": {groups, long, triggers.StageDone, objects},
	} {
		t.Run(name, func(t *testing.T) {
			o := fill(c.trigger, c.key)
			now := epoch.Add(3 * time.Hour)
			out := o.machine.Step(triggers.Event{Kind: c.event, Now: now})
			firings, dropped := 0, 0
			for {
				bytes, inputs := 0, 0
				for _, f := range out.Firings {
					inputs += len(f.Inputs)
					for _, in := range f.Inputs {
						bytes += len(in.Key)
					}
				}
				if len(out.Firings) > triggers.MaxFirings || len(out.Drop) > triggers.MaxFiringObjects || bytes > triggers.MaxFiringKeyBytes ||
					inputs > triggers.MaxFiringObjects && name != "a single group" {
					t.Fatalf("a step fires %d times with %d objects of %d bytes, and drops %d", len(out.Firings), inputs, bytes, len(out.Drop))
				}
				firings, dropped = firings+len(out.Firings), dropped+len(out.Drop)
				if out.Timer.IsZero() {
					break
				}
				if out.Timer.After(now) {
					t.Fatalf("waits until %v", out.Timer)
				}
				out = o.machine.Step(triggers.Event{Kind: triggers.Tick, Now: now})
			}
			if dropped != objects || firings < c.firings || firings > c.firings+1 {
				t.Errorf("fired %d times, want %d, and dropped %d objects", firings, c.firings, dropped)
			}
		})
	}
}

func TestHeadersOfBeforeFiringsHadPartsAreRead(t *testing.T) {
	items := func(yield func(triggers.Item) bool) {
		for i := range 3 {
			if !yield(triggers.Item{Object: triggers.Object{Position: uint64(i + 5), Key: "a:1"}, Time: epoch}) {
				return
			}
		}
	}
	window := &spec.Trigger{Primitive: spec.ByTime, Every: time.Minute}
	group := &spec.Trigger{Primitive: spec.DynamicGroup, GroupBy: spec.GroupBy{Prefix: ":"}, Until: spec.Until{Keys: []spec.Key{"end"}}}
	for _, c := range []struct {
		trigger *spec.Trigger
		header  []byte
		items   iter.Seq[triggers.Item]
		have    int
	}{
		{window, []byte{1, 4, 1, 0}, items, 3},
		{group, []byte{1, 4, 0}, items, 3},
		{group, []byte{1, 4, 1}, func(func(triggers.Item) bool) {}, 0},
	} {
		m, err := triggers.Restore(c.trigger, c.header, c.items)
		if err != nil || m.Waiting().Have != c.have {
			t.Errorf("%s: %v, %+v", c.trigger.Primitive, err, m)
		}
	}
}

func TestAnUpdateLetsGoOfWhatItHasNoUseForInParts(t *testing.T) {
	o := newOwner(t, &spec.Trigger{Primitive: spec.BySet, Scope: spec.ScopeBucket, Keys: []spec.Key{"a", "b"}})
	for range 7 {
		play(o, "a")
	}
	o.restoreAs(&spec.Trigger{Primitive: spec.BySet, Scope: spec.ScopeBucket, Keys: []spec.Key{"c"}})
	o.limit.Objects = 3
	for _, left := range []int{4, 1, 0} {
		o.step(triggers.Event{Kind: triggers.Tick, Now: epoch})
		if len(o.kept()) != left || o.timer.IsZero() != (left == 0) {
			t.Fatalf("keeps %v, timer at %v", o.kept(), o.timer)
		}
		o.restore()
	}
	if got := slices.Sorted(maps.Keys(o.rejected)); len(got) != 7 {
		t.Errorf("rejected %v", got)
	}
}
