package spec_test

import (
	"slices"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"pgregory.net/rapid"
)

func TestASessionIDThatWasMadeForASlotIsPlacedOnItInEveryApp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		slot := spec.Slot(rapid.IntRange(0, spec.Slots-1).Draw(t, "slot"))
		app := spec.AppName(drawName.Draw(t, "app"))
		now := time.UnixMilli(rapid.Int64Range(0, 1<<44).Draw(t, "now"))
		id := spec.NewSessionID(slot, now)
		if got := spec.SessionSlot(app, id); got != slot {
			t.Fatalf("%s of slot %d is placed on %d", id, slot, got)
		}
		if err := spec.ValidSessionID(string(id)); err != nil {
			t.Fatal(err)
		}
	})
}

func TestSessionIDsSortByAge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		older := rapid.Int64Range(0, 1<<44).Draw(t, "older")
		younger := older + rapid.Int64Range(1, 1<<40).Draw(t, "apart")
		slots := rapid.SliceOfN(rapid.IntRange(0, spec.Slots-1), 2, 2).Draw(t, "slots")
		a := spec.NewSessionID(spec.Slot(slots[0]), time.UnixMilli(older))
		b := spec.NewSessionID(spec.Slot(slots[1]), time.UnixMilli(younger))
		if a >= b {
			t.Fatalf("%s of %d is not before %s of %d", a, older, b, younger)
		}
	})
}

func TestSessionIDsOfOneMomentDiffer(t *testing.T) {
	now := time.UnixMilli(1_700_000_000_000)
	seen := map[spec.SessionID]bool{}
	for range 10_000 {
		seen[spec.NewSessionID(7, now)] = true
	}
	if len(seen) != 10_000 {
		t.Errorf("%d different ids of 10000", len(seen))
	}
}

// Slots place what is stored, so what they are must never change.
func TestSlotsStayWhatTheyAre(t *testing.T) {
	got := []spec.Slot{
		spec.SessionSlot("shop", "order-7"), spec.SessionSlot("shop2", "order-7"),
		spec.KeySlot("shop", "orders", "7"), spec.KeySlot("shop", "order", "s7"), spec.BucketSlot("shop", "orders"),
	}
	if want := []spec.Slot{1764, 2534, 1183, 2191, 1582}; !slices.Equal(got, want) {
		t.Errorf("slots are %v, want %v", got, want)
	}
}

func TestKeysSpreadOverTheSlots(t *testing.T) {
	var hits [spec.Slots]int
	for i := range spec.Slots * 8 {
		hits[spec.KeySlot("shop", "orders", spec.Key(time.Duration(i).String()))]++
	}
	if most := slices.Max(hits[:]); most > 40 {
		t.Errorf("a slot has %d keys, 8 are the mean", most)
	}
}

func FuzzSessionSlot(f *testing.F) {
	f.Add("shop", "order-7")
	f.Add("shop", string(spec.NewSessionID(4095, time.UnixMilli(1_700_000_000_000))))
	f.Add("", "szzzzzzzzzzzzzzzzzzzzzz")
	f.Fuzz(func(t *testing.T, app, session string) {
		a := spec.SessionSlot(spec.AppName(app), spec.SessionID(session))
		if a >= spec.Slots || a != spec.SessionSlot(spec.AppName(app), spec.SessionID(session)) {
			t.Fatalf("%q in %q is placed on %d", session, app, a)
		}
	})
}

func TestAChildSessionHasTheSameNameForEveryAttemptAndASlotOfItsOwn(t *testing.T) {
	parent := spec.InvocationID{Session: spec.NewSessionID(7, time.UnixMilli(1_700_000_000_000)), Number: 3}
	queued := time.UnixMilli(1_700_000_000_500)
	seen := map[spec.SessionID]bool{}
	slots := map[spec.Slot]bool{}
	for emission := range uint64(1000) {
		id := spec.ChildSessionID(parent, emission, queued)
		if again := spec.ChildSessionID(parent, emission, queued); again != id {
			t.Fatalf("emission %d starts %s, then %s", emission, id, again)
		}
		if err := spec.ValidSessionID(string(id)); err != nil {
			t.Fatal(err)
		}
		seen[id], slots[spec.SessionSlot("shop", id)] = true, true
	}
	if len(seen) != 1000 || len(slots) < 800 {
		t.Errorf("1000 children have %d names on %d slots", len(seen), len(slots))
	}
}
