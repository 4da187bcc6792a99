package leader_test

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/spec/wire"
)

var fanOut = flag.Int("leader.objects", 10_000, "objects of the session that fans out")

// skewed is a clock that runs as the system's and can be put forward and back.
type skewed struct{ offset atomic.Int64 }

func (c *skewed) now() time.Time      { return time.Now().Add(time.Duration(c.offset.Load())) }
func (c *skewed) set(d time.Duration) { c.offset.Store(int64(d)) }

// forward puts the leaders' clock forward, and returns once each has looked at what is due.
func (w *world) forward(d time.Duration) {
	w.t.Helper()
	w.clock.offset.Add(int64(d))
	for id, l := range w.leaders {
		eventually(w.t, fmt.Sprintf("shard %d looks at its clock", id), func() bool {
			_, err := l.Kept(w.t.Context())
			return err == nil
		})
	}
}

// midday is far from where hours and days begin.
func midday() time.Duration {
	return time.Until(time.Date(2026, time.March, 20, 12, 30, 0, 0, time.UTC))
}

func TestWindowsThatWereMissedWhileTheNodeWasDownFireLate(t *testing.T) {
	for name, trigger := range map[string]string{
		"every": "{name: x, primitive: by_time, every: 1h, target: fire}",
		"cron":  "{name: x, primitive: by_time, cron: '0 6 * * *', timezone: Europe/Paris, target: fire}",
	} {
		t.Run(name, func(t *testing.T) {
			var got collector
			w := newWorld(t, 1, oneTrigger(trigger), map[string]function{"fire": got.take})
			w.putAll("in", numbered(20), func(string) string { return "v" })
			if n := len(got.keys()); n != 0 {
				t.Fatalf("%d objects fired before their window was over", n)
			}
			w.close()
			w.clock.set(midday() + 50*time.Hour)
			w.start()
			eventually(t, "the window that was missed fires", func() bool { return len(got.keys()) == 20 })
			w.putAll("in", []string{"later"}, func(string) string { return "v" })
			w.clock.set(midday() + 100*time.Hour)
			w.restart()
			eventually(t, "the next one fires, too", func() bool { return len(got.keys()) == 21 })
			w.quiet()
			if firings := got.sorted(); len(firings) != 2 {
				t.Errorf("there were firings %q", firings)
			}
		})
	}
}

func TestAClockThatJumpsLosesNothingAndRepeatsNothing(t *testing.T) {
	var got collector
	w := newWorld(t, 1, oneTrigger("{name: x, primitive: by_time, every: 200ms, slide: 100ms, target: fire}"), map[string]function{"fire": got.take})
	var want []string
	for i, offset := range []time.Duration{0, -3 * time.Hour, 2 * time.Hour, -time.Minute, 30 * time.Hour, 0, 30*time.Hour + time.Minute} {
		w.clock.set(midday() + offset)
		key := fmt.Sprint("k", i)
		w.put("in", key, "v")
		want = append(want, key, key) // in two windows
	}
	eventually(t, "all windows are over", func() bool { return len(got.keys()) >= len(want) })
	w.quiet()
	slices.Sort(want)
	if keys := got.keys(); !slices.Equal(keys, want) {
		t.Errorf("the windows hold %q, want %q", keys, want)
	}
}

// The default is small for the sake of the race detector; 100,000 are a matter of
// seconds without it.
func TestASessionFansOutToManyObjectsAndGathersThem(t *testing.T) {
	w := newWorld(t, 1, oneTrigger("{name: x, primitive: dynamic_group, group_by: {prefix: ':'}, until: {functions: [each]}, target: fire}"), map[string]function{
		"seed": func(c *call) error {
			for i := range *fanOut {
				c.put("work", fmt.Sprint("w", i), "v")
			}
			return nil
		},
		"each": func(c *call) error { c.put("in", "all:"+string(c.in[0].Key), ""); return nil },
		"fire": func(c *call) error { c.output(c.Group, fmt.Sprint(len(c.in))); return nil },
	})
	began := time.Now()
	session := w.put("seeds", "s", "")
	eventuallyIn(t, 10*time.Minute, "the session ends", func() bool {
		return w.session(session).Status != wire.SessionRunning
	})
	t.Logf("%d objects: %v", *fanOut, time.Since(began).Round(time.Millisecond))
	if got := strings.Join(outputs(w.result(session)), " "); got != fmt.Sprintf("all=%d", *fanOut) {
		t.Errorf("outputs %q", got)
	}
}
