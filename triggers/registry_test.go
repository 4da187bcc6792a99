package triggers_test

import (
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/triggers"
)

// everyOther is a custom primitive: its header is one byte.
type everyOther struct{ odd bool }

func (e *everyOther) Step(ev triggers.Event) triggers.Outcome {
	if e.odd = !e.odd; e.odd {
		return triggers.Outcome{Changed: true, Rejected: []uint64{ev.Object.Position}}
	}
	return triggers.Outcome{Changed: true, Firings: []triggers.Firing{{Inputs: []triggers.Object{ev.Object}}}}
}

func (e *everyOther) Header(dst []byte) []byte {
	if e.odd {
		return append(dst, 1)
	}
	return dst
}

func (e *everyOther) Waiting() triggers.Waiting { return triggers.Waiting{} }

var everyOtherFactory = triggers.Factory{
	New: func(*spec.Trigger) (triggers.Machine, error) { return &everyOther{}, nil },
	Restore: func(_ *spec.Trigger, header []byte, _ iter.Seq[triggers.Item]) (triggers.Machine, error) {
		return &everyOther{odd: len(header) == 1}, nil
	},
}

func init() { triggers.Register("test.every_other", everyOtherFactory) }

func TestACustomPrimitiveRunsLikeABuiltInOne(t *testing.T) {
	o := newOwner(t, &spec.Trigger{Primitive: "test.every_other"})
	play(o, "a")
	o.restore()
	wantFired(t, play(o, "b", "c"), " b")
}

func TestRegisterPanicsOnWhatCannotWork(t *testing.T) {
	for name, register := range map[string]func(){
		"a name that is taken by a built-in": func() { triggers.Register(spec.BySet, everyOtherFactory) },
		"a name that is taken":               func() { triggers.Register("test.every_other", everyOtherFactory) },
		"no name":                            func() { triggers.Register("", everyOtherFactory) },
		"a name without a dot":               func() { triggers.Register("every_other", everyOtherFactory) },
		"no restore":                         func() { triggers.Register("test.x", triggers.Factory{New: everyOtherFactory.New}) },
		"no such scope": func() {
			triggers.Register("test.y", triggers.Factory{New: everyOtherFactory.New, Restore: everyOtherFactory.Restore, Scope: "world"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if recover() == nil {
					t.Fatal("did not panic")
				}
			}()
			register()
		})
	}
}

func TestAFactoryThatPanicsIsAnError(t *testing.T) {
	triggers.Register("test.panics", triggers.Factory{
		New:     func(*spec.Trigger) (triggers.Machine, error) { panic("no new ones") },
		Restore: func(*spec.Trigger, []byte, iter.Seq[triggers.Item]) (triggers.Machine, error) { panic("no old ones") },
	})
	trigger := &spec.Trigger{Name: "t", Primitive: "test.panics"}
	if m, err := triggers.New(trigger); m != nil || err == nil || !strings.Contains(err.Error(), "no new ones") {
		t.Errorf("new: %v, %v", m, err)
	}
	if m, err := triggers.Restore(trigger, nil, func(func(triggers.Item) bool) {}); m != nil || err == nil || !strings.Contains(err.Error(), "no old ones") {
		t.Errorf("restore: %v, %v", m, err)
	}
	if err := triggers.Check(trigger); err == nil {
		t.Error("check takes it")
	}
}

func TestOnlyTheDirectPrimitivesAreStateless(t *testing.T) {
	for p := range models {
		if got, want := triggers.Stateless(p), p == spec.Immediate || p == spec.ByName; got != want {
			t.Errorf("%s: stateless is %v", p, got)
		}
	}
	if triggers.Stateless("test.every_other") || triggers.Stateless("unheard_of") {
		t.Error("a primitive that does not say so is stateless")
	}
}

func TestNewRefusesOptionsThatCannotWork(t *testing.T) {
	group := spec.Trigger{Primitive: spec.DynamicGroup, GroupBy: spec.GroupBy{Prefix: ":"}, Until: spec.Until{Keys: []spec.Key{"c"}}}
	groupWith := func(change func(*spec.Trigger)) spec.Trigger { g := group; change(&g); return g }
	for want, trigger := range map[string]spec.Trigger{
		`unknown primitive "nope"`: {Primitive: "nope"},
		"either keys or match":     {Primitive: spec.ByName},
		"each of them once":        {Primitive: spec.BySet, Keys: []spec.Key{"a", "a"}},
		"count is 0":               {Primitive: spec.ByBatchSize},
		"max_wait is -1s":          {Primitive: spec.ByBatchSize, Count: 1, MaxWait: -time.Second},
		"every is 0s":              {Primitive: spec.ByTime},
		"slide is 2s":              {Primitive: spec.ByTime, Every: time.Second, Slide: 2 * time.Second},
		"3600000 windows":          {Primitive: spec.ByTime, Every: time.Hour, Slide: time.Millisecond},
		"bad cron":                 {Primitive: spec.ByTime, Cron: "61 * * * *"},
		`timezone "Mars/Olympus"`:  {Primitive: spec.ByTime, Cron: "0 * * * *", Timezone: "Mars/Olympus"},
		"k is 3 and n is 2":        {Primitive: spec.Redundant, K: 3, N: 2},
		"k is 0":                   {Primitive: spec.Redundant, N: 2},
		"either prefix or meta":    groupWith(func(t *spec.Trigger) { t.GroupBy.Meta = "m" }),
		"either keys or functions": groupWith(func(t *spec.Trigger) { t.Until.Keys = nil }),
		"each key once":            groupWith(func(t *spec.Trigger) { t.Until.Keys = []spec.Key{"c", "c"} }),
		"functions are done in a session": groupWith(func(t *spec.Trigger) {
			t.Scope, t.Until = spec.ScopeBucket, spec.Until{Functions: []spec.FunctionName{"f"}}
		}),
	} {
		m, err := triggers.New(&trigger)
		if m != nil || err == nil || !strings.Contains(err.Error(), want) || spec.CodeOf(err) != spec.CodeInvalid {
			t.Errorf("%s: machine %v, error %v (%s)", want, m, err, spec.CodeOf(err))
		}
	}
}
