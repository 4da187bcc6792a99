package triggers_test

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/triggers"
)

func TestChangedOptionsTakeEffectOnWhatWaits(t *testing.T) {
	set := func(scope spec.Scope, keys ...spec.Key) *spec.Trigger {
		return &spec.Trigger{Primitive: spec.BySet, Scope: scope, Keys: keys}
	}
	batch := func(n int) *spec.Trigger { return &spec.Trigger{Primitive: spec.ByBatchSize, Count: n} }
	redundant := func(k, n int) *spec.Trigger {
		return &spec.Trigger{Primitive: spec.Redundant, Scope: spec.ScopeBucket, K: k, N: n}
	}
	window := func(every time.Duration) *spec.Trigger { return &spec.Trigger{Primitive: spec.ByTime, Every: every} }
	group := func(keys ...spec.Key) *spec.Trigger {
		return &spec.Trigger{Primitive: spec.DynamicGroup, GroupBy: spec.GroupBy{Prefix: ":"}, Until: spec.Until{Keys: keys}}
	}
	for _, c := range []struct {
		name     string
		old, new *spec.Trigger
		put      []spec.Key
		fired    string // by the tick after the restore
		kept     []uint64
		rejected []uint64
	}{
		{"a key less completes a set", set(spec.ScopeSession, "a", "b"), set(spec.ScopeSession, "a"), []spec.Key{"a"}, " a", nil, nil},
		{"a key that is not named any more is rejected", set(spec.ScopeBucket, "a", "b"), set(spec.ScopeBucket, "b", "c"), []spec.Key{"a", "a"}, "", nil, []uint64{1, 2}},
		{"a smaller count makes several batches", batch(9), batch(2), []spec.Key{"a", "b", "c", "d", "e"}, " a b | c d", []uint64{5}, nil},
		{"a smaller k ends rounds", redundant(5, 9), redundant(1, 2), []spec.Key{"a", "b", "c"}, " a | c", nil, []uint64{2}},
		{"shorter windows are over", window(time.Hour), window(time.Second), []spec.Key{"a", "b"}, " a b", nil, nil},
		{"longer windows go on", window(time.Hour), window(2 * time.Hour), []spec.Key{"a", "b"}, "", []uint64{1, 2}, nil},
		{"a control key less completes a stage", group("c", "d"), group("c"), []spec.Key{"a:1", "c"}, " a: a:1", nil, []uint64{2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := newOwner(t, c.old)
			play(o, c.put...)
			o.restoreAs(c.new)
			o.step(triggers.Event{Kind: triggers.Tick, Now: epoch.Add(30 * time.Second)})
			wantFired(t, inputsOf(o), c.fired)
			if !slices.Equal(o.kept(), c.kept) {
				t.Errorf("keeps %v, should keep %v", o.kept(), c.kept)
			}
			for _, p := range c.rejected {
				if !o.rejected[p] {
					t.Errorf("%d is not rejected", p)
				}
			}
			if len(o.rejected) != len(c.rejected) {
				t.Errorf("rejected %v, should have rejected %v", o.rejected, c.rejected)
			}
			o.restore()
		})
	}
}

func TestRestoreRefusesWhatNoMachineWrote(t *testing.T) {
	join := &spec.Trigger{Primitive: spec.DynamicJoin, Scope: spec.ScopeSession}
	bucketJoin := &spec.Trigger{Primitive: spec.DynamicJoin, Scope: spec.ScopeBucket}
	timed := &spec.Trigger{Primitive: spec.ByTime, Every: time.Second}
	batch := &spec.Trigger{Primitive: spec.ByBatchSize, Count: 9}
	group := &spec.Trigger{Primitive: spec.DynamicGroup, Scope: spec.ScopeBucket, GroupBy: spec.GroupBy{Prefix: ":"}, Until: spec.Until{Keys: []spec.Key{"end"}}}
	a := triggers.Item{Object: triggers.Object{Position: 1, Key: "a"}}
	b := triggers.Item{Object: triggers.Object{Position: 2, Key: "b"}}
	for _, c := range []struct {
		name    string
		trigger *spec.Trigger
		header  []byte
		items   []triggers.Item
		want    string
	}{
		{"an unknown version", batch, []byte{9, 1}, nil, "version 9"},
		{"a header that is cut off", batch, []byte{1}, nil, "damaged"},
		{"a header with something after its end", batch, []byte{1, 1, 1}, nil, "damaged"},
		{"a flag that is neither set nor not", timed, []byte{1, 1, 2, 0}, nil, "damaged"},
		{"a window under way that has not started", timed, []byte{2, 1, 0, 0, 1}, nil, "damaged"},
		{"stages out of order", group, []byte{2, 9, 0, 2, 5, 5, 0}, nil, "damaged"},
		{"a stage under way without a stage", group, []byte{2, 9, 0, 0, 0}, nil, "damaged"},
		{"a time out of bounds", timed, binary.AppendVarint([]byte{1, 1, 1}, 1<<62), nil, "damaged"},
		{"more sets than the header has room for", join, []byte{1, 1, 0, 200, 1}, nil, "damaged"},
		{"a key longer than the header", join, []byte{1, 1, 0, 1, 1, 99, 'a'}, nil, "damaged"},
		{"a set that would have fired", join, []byte{1, 1, 0, 1, 1, 1, 'a'}, []triggers.Item{a}, "damaged"},
		{"a set that would have fired in the bucket", bucketJoin, []byte{1, 1, 1, 1, 1, 'a'}, []triggers.Item{a}, "damaged"},
		{"served objects that are not there", join, []byte{1, 1, 1, 0, 2, 0}, []triggers.Item{a}, "damaged"},
		{"items out of order", batch, nil, []triggers.Item{b, a}, "in order of position"},
		{"an item twice", batch, nil, []triggers.Item{a, a}, "in order of position"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := triggers.Restore(c.trigger, c.header, slices.Values(c.items))
			if m != nil || err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("machine %v, error %v", m, err)
			}
		})
	}
}

func TestAnObjectThatServedASetIsKnownToHaveDoneSoAfterARestore(t *testing.T) {
	o := newOwner(t, &spec.Trigger{Primitive: spec.DynamicJoin, Scope: spec.ScopeSession})
	var named []spec.Key
	for i := range 100 {
		key := spec.Key(fmt.Sprint("k", i))
		play(o, key)
		if i%3 > 0 && i != 50 {
			named = append(named, key)
		}
	}
	slices.Reverse(named)
	o.step(triggers.Event{Kind: triggers.SetNamed, Now: epoch, Keys: named})
	o.restore() // compares Have
	if w := o.machine.Waiting(); w.Have != 100-len(named) || !w.Armed {
		t.Fatalf("waits with %+v", w)
	}
	o.step(triggers.Event{Kind: triggers.SetNamed, Now: epoch, Keys: []spec.Key{"k0", "k1", "k3", "k50", "k99"}})
	o.restore()
	if w := o.machine.Waiting(); w.Have != 100-len(named)-4 {
		t.Fatalf("waits with %+v", w)
	}
}

func TestMissingListsAtMostAHundredKeys(t *testing.T) {
	var keys []spec.Key
	for i := range 1000 {
		keys = append(keys, spec.Key(fmt.Sprint("k", i)))
	}
	for _, trigger := range []*spec.Trigger{
		{Primitive: spec.BySet, Keys: keys},
		{Primitive: spec.DynamicJoin, Scope: spec.ScopeSession},
		{Primitive: spec.DynamicJoin, Scope: spec.ScopeBucket},
		{Primitive: spec.DynamicGroup, GroupBy: spec.GroupBy{Prefix: ":"}, Until: spec.Until{Keys: keys}},
	} {
		o := newOwner(t, trigger)
		o.step(triggers.Event{Kind: triggers.SetNamed, Now: epoch, Keys: keys})
		play(o, "k0", "k2")
		w := o.machine.Waiting()
		if w.Need != 998 || len(w.Missing) != 100 || w.Missing[0] != "k1" || w.Missing[1] != "k3" || !w.Armed {
			t.Errorf("%s: waits with need %d, %d missing", trigger.Primitive, w.Need, len(w.Missing))
		}
	}
}

func TestASetOfManyKeysIsWrittenWhenNamedAndNotWhenCounted(t *testing.T) {
	for _, scope := range []spec.Scope{spec.ScopeSession, spec.ScopeBucket} {
		m, err := triggers.New(&spec.Trigger{Primitive: spec.DynamicJoin, Scope: scope})
		if err != nil {
			t.Fatal(err)
		}
		var keys []spec.Key
		for i := range 100_000 {
			keys = append(keys, spec.Key(fmt.Sprint("k", i)))
		}
		if !m.Step(triggers.Event{Kind: triggers.SetNamed, Keys: keys}).Changed {
			t.Fatal("a naming does not change the header")
		}
		for i, k := range keys {
			out := m.Step(triggers.Event{Kind: triggers.ObjectArrived, Object: triggers.Object{Position: uint64(i + 1), Key: k}})
			if last := i == len(keys)-1; out.Changed != last || (len(out.Firings) == 1) != last {
				t.Fatalf("%s: object %d: changed %v, %d firings", scope, i, out.Changed, len(out.Firings))
			}
		}
		if n := len(m.Header(nil)); n > 20 {
			t.Fatalf("header of %d bytes after the firing", n)
		}
	}
}

// fuzzTriggers has a trigger of each shape of state.
var fuzzTriggers = []*spec.Trigger{
	{Primitive: spec.BySet, Scope: spec.ScopeSession, Keys: []spec.Key{"a", "b"}},
	{Primitive: spec.BySet, Scope: spec.ScopeBucket, Keys: []spec.Key{"a", "b"}},
	{Primitive: spec.ByBatchSize, Count: 3, MaxWait: time.Second},
	{Primitive: spec.ByTime, Scope: spec.ScopeBucket, Every: time.Hour, Slide: 30 * time.Minute, AllowEmpty: true},
	{Primitive: spec.ByTime, Every: 7 * time.Second, Slide: 5 * time.Second},
	{Primitive: spec.ByTime, Scope: spec.ScopeBucket, Cron: "30 2 * * *", Timezone: "Europe/Paris"},
	{Primitive: spec.Redundant, Scope: spec.ScopeSession, K: 2, N: 3},
	{Primitive: spec.Redundant, Scope: spec.ScopeBucket, K: 2, N: 3},
	{Primitive: spec.DynamicJoin, Scope: spec.ScopeSession},
	{Primitive: spec.DynamicJoin, Scope: spec.ScopeBucket},
	{Primitive: spec.DynamicGroup, GroupBy: spec.GroupBy{Prefix: ":"}, Until: spec.Until{Keys: []spec.Key{"a", "b"}}},
	{Primitive: spec.DynamicGroup, GroupBy: spec.GroupBy{Meta: "m"}, Until: spec.Until{Functions: []spec.FunctionName{"f"}}},
}

// FuzzRestore restores from any bytes. It must not panic, and what it makes must
// go on working: a machine that writes a header can be restored from it.
func FuzzRestore(f *testing.F) {
	for i := range fuzzTriggers {
		f.Add(uint8(i), []byte(nil), "abc", int64(0))
		f.Add(uint8(i), []byte{1, 1, 1, 2}, "ab", int64(1_700_000_000))
		f.Add(uint8(i), []byte{1, 9, 1, 0, 1, 2, 1, 'x', 1, 'a'}, "a", int64(-1))
		f.Add(uint8(i), []byte{2, 3, 1, 2, 3}, "xyz", int64(60))
		f.Add(uint8(i), []byte{2, 3, 0, 1, 2, 1, 1, 'x'}, "xyz", int64(60))
	}
	f.Fuzz(func(t *testing.T, which uint8, header []byte, keys string, seconds int64) {
		if len(keys) > 1000 {
			return
		}
		trigger := fuzzTriggers[int(which)%len(fuzzTriggers)]
		o := &owner{t: t, trigger: trigger, items: map[uint64]triggers.Item{}, rejected: map[uint64]bool{}}
		now := time.Unix(seconds, 0)
		for i, k := range []byte(keys) {
			p := uint64(i + 1)
			o.items[p] = triggers.Item{Object: triggers.Object{Position: p, Key: spec.Key(rune(k)), Group: string(rune(k))}, Time: now}
		}
		m, err := triggers.Restore(trigger, header, o.sortedItems)
		if err != nil {
			return
		}
		for _, ev := range []triggers.Event{
			{Kind: triggers.Tick, Now: now.Add(time.Minute)},
			{Kind: triggers.SetNamed, Now: now, Keys: []spec.Key{"a", "x"}},
			{Kind: triggers.ObjectArrived, Now: now, Object: triggers.Object{Position: 2000, Key: "a"}},
			{Kind: triggers.ObjectArrived, Now: now, Object: triggers.Object{Position: 2001, Key: "b"}},
			{Kind: triggers.StageDone, Now: now},
			{Kind: triggers.Tick, Now: now.Add(time.Hour)},
		} {
			ev.Limit = triggers.Limit{Objects: 2, Firings: 1}
			out := m.Step(ev)
			for _, p := range out.Drop {
				if _, ok := o.items[p]; !ok {
					t.Fatalf("dropped %d, which is not kept", p)
				}
				delete(o.items, p)
			}
			for _, it := range out.Keep {
				o.items[it.Position] = it
			}
			m.Waiting()
		}
		if _, err := triggers.Restore(trigger, m.Header(nil), o.sortedItems); err != nil {
			t.Fatalf("restore what was written: %v", err)
		}
	})
}
