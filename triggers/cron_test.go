package triggers_test

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/triggers"
)

func cronTrigger(cron, zone string) *spec.Trigger {
	return &spec.Trigger{Name: "c", Primitive: spec.ByTime, Scope: spec.ScopeBucket, Cron: cron, Timezone: zone, AllowEmpty: true}
}

// ticks returns when windows end between from and to, in UTC, by following the
// timer.
func ticks(t tester, trigger *spec.Trigger, from, to time.Time) (ends []time.Time) {
	t.Helper()
	o := newOwner(t, trigger)
	for o.step(triggers.Event{Kind: triggers.Tick, Now: from}); !o.timer.After(to); {
		at := o.timer
		out := o.step(triggers.Event{Kind: triggers.Tick, Now: at})
		if len(out.Firings) != 1 || !out.Firings[0].Window.Equal(at) || !o.timer.After(at) {
			t.Fatalf("at %v: fired %v, next timer %v", at, out.Firings, o.timer)
		}
		ends = append(ends, at)
	}
	return ends
}

func TestCronTicksWhereTheClocksChange(t *testing.T) {
	// Paris goes from 02:00 to 03:00 on 29 March 2026 and from 03:00 back to 02:00 on
	// 25 October, both at 01:00 UTC.
	const spring, autumn = "2026-03-28T22:30:00Z", "2026-10-24T22:30:00Z"
	for _, c := range []struct {
		name, cron, zone, from string
		hours                  time.Duration
		want                   []string // UTC
	}{
		{"a fixed hour that is left out comes at the change", "30 2 * * *", "Europe/Paris", spring, 30,
			[]string{"03-29 01:00", "03-30 00:30"}},
		{"a fixed hour that comes twice ticks the first time", "30 2 * * *", "Europe/Paris", autumn, 30,
			[]string{"10-25 00:30", "10-26 01:30"}},
		{"a fixed hour at the end of the change is one tick", "0 2,3 * * *", "Europe/Paris", spring, 6,
			[]string{"03-29 01:00"}},
		{"a fixed hour elsewhere keeps local time", "0 6 * * *", "Europe/Paris", autumn, 34,
			[]string{"10-25 05:00", "10-26 05:00"}},
		{"every half hour follows the time that passes in spring", "*/30 * * * *", "Europe/Paris", spring, 4,
			[]string{"03-28 23:00", "03-28 23:30", "03-29 00:00", "03-29 00:30", "03-29 01:00", "03-29 01:30", "03-29 02:00", "03-29 02:30"}},
		{"every half hour follows the time that passes in autumn", "*/30 * * * *", "Europe/Paris", autumn, 4,
			[]string{"10-24 23:00", "10-24 23:30", "10-25 00:00", "10-25 00:30", "10-25 01:00", "10-25 01:30", "10-25 02:00", "10-25 02:30"}},
		{"a quarter past every hour has nothing to make up for", "15 * * * *", "Europe/Paris", spring, 4,
			[]string{"03-28 23:15", "03-29 00:15", "03-29 01:15", "03-29 02:15"}},
		{"west of Greenwich the first of two hours counts too", "30 1 * * *", "America/New_York", "2026-11-01T00:00:00Z", 34,
			[]string{"11-01 05:30", "11-02 06:30"}},
		{"workdays leave out the weekend", "0 6 * * 1-5", "", "2026-01-02T07:00:00Z", 96,
			[]string{"01-05 06:00", "01-06 06:00"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			from, err := time.Parse(time.RFC3339, c.from)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, tick := range ticks(t, cronTrigger(c.cron, c.zone), from, from.Add(c.hours*time.Hour)) {
				got = append(got, tick.Format("01-02 15:04"))
			}
			if !slices.Equal(got, c.want) {
				t.Fatalf("ticks %v, should be %v", got, c.want)
			}
		})
	}
}

func TestAnObjectOfTheSpringChangeIsInTheWindowThatEndsAtTheChange(t *testing.T) {
	trigger := cronTrigger("30 2 * * *", "Europe/Paris")
	trigger.AllowEmpty = false
	o := newOwner(t, trigger)
	change := time.Date(2026, 3, 29, 1, 0, 0, 0, time.UTC)
	for i, at := range []time.Time{change.Add(-time.Second), change} {
		o.step(triggers.Event{Kind: triggers.ObjectArrived, Now: at, Object: triggers.Object{Position: uint64(i + 1), Key: "k"}})
		o.restore()
	}
	if len(o.firings) != 1 || !o.firings[0].Window.Equal(change) || len(o.firings[0].Inputs) != 1 {
		t.Fatalf("fired %+v", o.firings)
	}
	if next := time.Date(2026, 3, 30, 0, 30, 0, 0, time.UTC); !o.timer.Equal(next) {
		t.Fatalf("timer at %v, should be at %v", o.timer, next)
	}
}

func TestCronTicksOnTheLastDayOfALeapYear(t *testing.T) {
	from := time.Date(2096, 12, 30, 12, 0, 0, 0, time.UTC)
	var got []string
	for _, tick := range ticks(t, cronTrigger("0 */12 * * *", "Europe/Paris"), from, from.Add(48*time.Hour)) {
		got = append(got, tick.Format("01-02 15:04"))
	}
	if want := []string{"12-30 23:00", "12-31 11:00", "12-31 23:00", "01-01 11:00"}; !slices.Equal(got, want) {
		t.Fatalf("ticks %v, should be %v", got, want)
	}
}

func TestALeapDayIsFoundAcrossAYearWithoutOne(t *testing.T) {
	o := newOwner(t, cronTrigger("0 0 29 2 *", "Europe/Paris"))
	o.step(triggers.Event{Kind: triggers.Tick, Now: time.Date(2096, 3, 1, 0, 0, 0, 0, time.UTC)})
	if want := time.Date(2104, 2, 28, 23, 0, 0, 0, time.UTC); !o.timer.Equal(want) {
		t.Fatalf("timer at %v, should be at %v", o.timer, want)
	}
}

// Wherever the search begins, it finds the same ticks: from a tick to the next
// one there is no other.
func TestCronTicksDoNotDependOnWhereTheSearchBegins(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		trigger := cronTrigger(
			rapid.SampledFrom([]string{"*/20 * * * *", "30 2 * * *", "5 */2 * * *", "0,45 1-3 * * *", "15 0 * * 0"}).Draw(t, "cron"),
			rapid.SampledFrom([]string{"UTC", "Europe/Paris", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"}).Draw(t, "zone"),
		)
		from := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(rapid.IntRange(0, 365*24*60).Draw(t, "minute")) * time.Minute)
		all := ticks(t, trigger, from, from.Add(36*time.Hour))
		later := from.Add(time.Duration(rapid.IntRange(0, 24*3600).Draw(t, "second")) * time.Second)
		want := slices.DeleteFunc(slices.Clone(all), func(tick time.Time) bool { return !tick.After(later) })
		if got := ticks(t, trigger, later, from.Add(36*time.Hour)); !slices.Equal(got, want) {
			t.Fatalf("from %v: %v\nfrom %v: %v", from, want, later, got)
		}
	})
}
