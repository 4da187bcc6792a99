package debounce_test

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pheromone-run/pheromone/examples/custom-primitive/debounce"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/triggers"
)

func trigger(quiet, maxWait string) *spec.Trigger {
	t := &spec.Trigger{Name: "t", Primitive: debounce.Name, Scope: spec.ScopeBucket, Options: spec.Options{"quiet": quiet}}
	if maxWait != "" {
		t.Options["max_wait"] = maxWait
	}
	return t
}

// leader does with outcomes what a node does: it stores the header when it has
// changed, and items one by one.
type leader struct {
	machine triggers.Machine
	header  []byte
	items   map[uint64]triggers.Item
}

func (l *leader) step(ev triggers.Event) triggers.Outcome {
	out := l.machine.Step(ev)
	for _, position := range out.Drop {
		delete(l.items, position)
	}
	for _, it := range out.Keep {
		l.items[it.Position] = it
	}
	if out.Changed {
		l.header = l.machine.Header(nil)
	}
	return out
}

// restart makes the machine again from what is stored.
func (l *leader) restart(t *spec.Trigger) error {
	m, err := triggers.Restore(t, l.header, func(yield func(triggers.Item) bool) {
		for _, position := range slices.Sorted(maps.Keys(l.items)) {
			if !yield(l.items[position]) {
				return
			}
		}
	})
	l.machine = m
	return err
}

func newLeader(t *spec.Trigger) *leader {
	m, err := triggers.New(t)
	if err != nil {
		panic(err)
	}
	return &leader{machine: m, items: map[uint64]triggers.Item{}}
}

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestARestartAtAnyPointChangesNoOutcome(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tr := trigger(rapid.SampledFrom([]string{"1s", "5s"}).Draw(t, "quiet"), rapid.SampledFrom([]string{"", "2s", "9s"}).Draw(t, "max wait"))
		steady, restarted := newLeader(tr), newLeader(tr)
		now, position := epoch, uint64(0)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.Int64Range(-1_000_000, 4_000_000).Draw(t, "passed")) * time.Microsecond)
			limit := triggers.Limit{Firings: rapid.IntRange(0, 2).Draw(t, "limit")}
			ev := triggers.Event{Kind: triggers.Tick, Now: now, Limit: limit}
			if rapid.IntRange(0, 3).Draw(t, "arrives") > 0 {
				position += uint64(rapid.IntRange(1, 3).Draw(t, "further"))
				key := spec.Key(rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "key"))
				ev = triggers.Event{Kind: triggers.ObjectArrived, Now: now, Limit: limit, Object: triggers.Object{Position: position, Key: key}}
			}
			if rapid.Bool().Draw(t, "restart") {
				if err := restarted.restart(tr); err != nil {
					t.Fatalf("restore: %v", err)
				}
			}
			if got, want := restarted.machine.Waiting(), steady.machine.Waiting(); !reflect.DeepEqual(got, want) {
				t.Fatalf("after a restart it waits with %+v, without with %+v", got, want)
			}
			got, want := restarted.step(ev), steady.step(ev)
			if !reflect.DeepEqual(got, want) {
				t.Fatalf("after a restart: %+v\nwithout:         %+v", got, want)
			}
			if limit.Firings > 0 && len(got.Firings) > limit.Firings {
				t.Fatalf("it fires %d times, %d are allowed", len(got.Firings), limit.Firings)
			}
			if !reflect.DeepEqual(restarted.items, steady.items) || string(restarted.header) != string(steady.header) {
				t.Fatalf("what is stored differs")
			}
		}
	})
}

// The model: time passes in milliseconds, and an object fires unless another one
// of its key follows within quiet.
func TestEachBurstFiresOnceWithItsNewestObject(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		quiet := time.Duration(rapid.IntRange(1, 20).Draw(t, "quiet")) * time.Millisecond
		l := newLeader(trigger(spec.FormatDuration(quiet), ""))
		var fired []string
		note := func(out triggers.Outcome) {
			for _, f := range out.Firings {
				fired = append(fired, fmt.Sprint(f.Inputs[0].Position))
			}
		}
		var want []string
		type object struct {
			at  time.Duration
			key spec.Key
		}
		var objects []object
		for range rapid.IntRange(0, 30).Draw(t, "objects") {
			objects = append(objects, object{
				time.Duration(rapid.IntRange(0, 200).Draw(t, "at")) * time.Millisecond,
				spec.Key(rapid.SampledFrom([]string{"a", "b"}).Draw(t, "key")),
			})
		}
		slices.SortStableFunc(objects, func(a, b object) int { return int(a.at - b.at) })
		for i, o := range objects {
			alone := !slices.ContainsFunc(objects[i+1:], func(next object) bool { return next.key == o.key && next.at < o.at+quiet })
			if alone {
				want = append(want, fmt.Sprint(i+1))
			}
		}
		next := 0
		for at := time.Duration(0); at <= 300*time.Millisecond; at += time.Millisecond {
			note(l.step(triggers.Event{Kind: triggers.Tick, Now: epoch.Add(at)}))
			for ; next < len(objects) && objects[next].at == at; next++ {
				note(l.step(triggers.Event{Kind: triggers.ObjectArrived, Now: epoch.Add(at),
					Object: triggers.Object{Position: uint64(next + 1), Key: objects[next].key}}))
			}
		}
		slices.Sort(fired)
		slices.Sort(want)
		if !slices.Equal(fired, want) {
			t.Fatalf("fired %v, want %v", fired, want)
		}
		if len(l.items) > 0 {
			t.Fatalf("items are left: %v", l.items)
		}
	})
}

func TestMaxWaitBoundsABurstThatDoesNotEnd(t *testing.T) {
	l := newLeader(trigger("10s", "25s"))
	var fired []uint64
	for i := range 40 { // one object a second
		out := l.step(triggers.Event{Kind: triggers.ObjectArrived, Now: epoch.Add(time.Duration(i) * time.Second),
			Object: triggers.Object{Position: uint64(i + 1), Key: "k"}})
		for _, f := range out.Firings {
			fired = append(fired, f.Inputs[0].Position)
		}
		if len(l.items) > 2 {
			t.Fatalf("%d items are kept", len(l.items))
		}
	}
	if !slices.Equal(fired, []uint64{25}) {
		t.Errorf("fired %v", fired)
	}
}

func TestAStepFiresABoundedNumberAndAsksToGoOn(t *testing.T) {
	l := newLeader(trigger("1s", ""))
	for i := range 1000 {
		l.step(triggers.Event{Kind: triggers.ObjectArrived, Now: epoch, Object: triggers.Object{Position: uint64(i + 1), Key: spec.Key(fmt.Sprint(i))}})
	}
	now, fired, steps := epoch.Add(time.Minute), 0, 0
	for timer := epoch; !timer.IsZero(); steps++ {
		if timer.After(now) {
			t.Fatalf("the timer is set to %s, though more is due", timer)
		}
		out := l.step(triggers.Event{Kind: triggers.Tick, Now: now})
		fired, timer = fired+len(out.Firings), out.Timer
	}
	if fired != 1000 || steps != 4 {
		t.Errorf("%d fired in %d steps", fired, steps)
	}
}

func TestARepetitionIsNotCounted(t *testing.T) {
	l := newLeader(trigger("1s", ""))
	arrival := triggers.Event{Kind: triggers.ObjectArrived, Now: epoch, Object: triggers.Object{Position: 7, Key: "k"}}
	l.step(arrival)
	l.step(triggers.Event{Kind: triggers.Tick, Now: epoch.Add(time.Minute)})
	if err := l.restart(trigger("1s", "")); err != nil {
		t.Fatal(err)
	}
	if out := l.step(arrival); len(out.Keep) > 0 || !out.Timer.IsZero() {
		t.Errorf("a repetition does %+v", out)
	}
}

func TestHeadersAndOptionsThatItCannotReadAreRefused(t *testing.T) {
	for header, want := range map[string]string{"\x02\x07": "version 2", "\x01": "damaged", "\x01\x07\x07": "damaged"} {
		l := &leader{header: []byte(header)}
		if err := l.restart(trigger("1s", "")); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("header %q: %v", header, err)
		}
	}
	bad := trigger("0", "soon")
	bad.Options["quite"] = "1s"
	err := triggers.Check(bad)
	e, ok := err.(*spec.Error)
	if !ok || len(e.Faults) != 3 {
		t.Errorf("bad options: %v", err)
	}
}
