package leader_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec"
)

const narrow = `
  f: {runtime: inproc, timeout: 1h, retry: {max_attempts: 1}, max_pending: 2}
  g: {runtime: inproc}`

const narrowBuckets = `
  in: {triggers: [{name: t, primitive: immediate, target: f}]}
  both: {triggers: [{name: t, primitive: immediate, target: [g, f]}]}
  other: {triggers: [{name: t, primitive: immediate, target: g}]}
  plain: {}`

// refused puts an object and wants to hear that f has too much pending.
func (w *world) refused(bucket string) {
	w.t.Helper()
	_, err := w.tryPut(leader.Put{Bucket: spec.BucketName(bucket), Key: "one too many", Body: strings.NewReader("")})
	wantCode(w.t, err, spec.CodeOverloaded, `function "f"`, "2", "functions.f.max_pending")
}

func TestMoreThanMayBePendingOfAFunctionIsOverload(t *testing.T) {
	gate := make(chan struct{})
	w := newWorld(t, 1, conditional(narrow, narrowBuckets), map[string]function{
		"f": func(c *call) error { return c.waitFor(gate) },
		"g": func(c *call) error {
			if string(c.in[0].Data) == "more" {
				c.put("in", "from a function", "")
			}
			return nil
		},
	})
	ids := []spec.SessionID{w.put("in", "a", ""), w.put("in", "b", "")}
	full := func() {
		t.Helper()
		for _, bucket := range []string{"in", "both", "@f"} {
			w.refused(bucket)
		}
		_, err := w.tryInto(string(ids[0]), "in", "late", "")
		wantCode(t, err, spec.CodeOverloaded, "max_pending")
	}
	full()
	w.completed(w.put("other", "x", ""))
	w.put("plain", "x", "")
	ids = append(ids, w.put("other", "y", "more")) // what a function puts is always taken
	eventually(t, "three are pending", func() bool { _, n, _ := w.leaders[1].Status(); return n == 3 })
	w.restart()
	full()
	close(gate)
	for _, id := range ids {
		w.completed(id)
	}
	for _, bucket := range []string{"in", "both", "@f"} {
		w.completed(w.put(bucket, "room again", ""))
	}
}

func TestACancelledInvocationMakesRoomForAnother(t *testing.T) {
	w := newWorld(t, 1, conditional(narrow, narrowBuckets), map[string]function{"f": func(c *call) error { return c.waitFor(nil) }})
	id := w.put("in", "a", "")
	w.put("in", "b", "")
	w.refused("in")
	if err := w.leaders[1].Cancel(t.Context(), "demo", id); err != nil {
		t.Fatal(err)
	}
	w.put("in", "c", "")
	w.refused("in")
}

func TestADeletedAppHasNothingPending(t *testing.T) {
	w := newWorld(t, 1, conditional(narrow, narrowBuckets), map[string]function{"f": func(c *call) error { return c.waitFor(nil) }})
	for range 2 {
		w.put("in", "a", "")
		w.put("in", "b", "")
		w.refused("in")
		w.apps.delete()
		w.tellOfApps()
		w.deploy(conditional(narrow, narrowBuckets))
	}
}

func TestAnInvocationThatARuleRunsAgainIsCountedOnce(t *testing.T) {
	var n tries
	w := newWorld(t, 1, conditional(narrow, `
  in: {triggers: [{name: t, primitive: immediate, target: f}]}
  out: {triggers: [{name: t, primitive: immediate, target: g, rerun: [{source: f, timeout: 10m, max: 100}]}]}`), map[string]function{
		"f": func(c *call) error {
			switch key := string(c.in[0].Key); {
			case key == "waits":
				return c.waitFor(nil)
			case n.next(key) == 1:
				return errors.New("no luck")
			}
			c.put("out", "x", "")
			return nil
		},
		"g": func(*call) error { return nil },
	})
	for i := range 3 {
		id := w.put("in", fmt.Sprint("fails ", i), "")
		w.attempted(id, 1, "f failed failed")
		w.forward(20 * time.Minute)
		w.completed(id)
	}
	if got := w.run.count("f"); got != 6 {
		t.Fatalf("%d attempts, want two for each", got)
	}
	w.put("in", "waits", "")
	w.into("other", "in", "waits", "")
	w.refused("in")
}
