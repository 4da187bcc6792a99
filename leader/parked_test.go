package leader_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// boundedWorld is a world of one shard that keeps little in memory.
func boundedWorld(t *testing.T, bounds leader.MemoryBounds, manifest string, functions map[string]function) *world {
	t.Helper()
	w := newWorld(t, 1, manifest, functions)
	w.memory = bounds
	w.restart()
	return w
}

func (w *world) memoryKept() leader.Kept {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	kept, err := w.leaders[1].Kept(ctx)
	if err != nil {
		w.t.Fatal(err)
	}
	return kept
}

func (w *world) pending() int {
	_, n, _ := w.leaders[1].Status()
	return n
}

// order notes in which order attempts begin.
type order struct {
	mu   sync.Mutex
	keys []string
}

func (o *order) add(c *call) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.keys = append(o.keys, string(c.in[0].Key))
}

func (o *order) all() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.keys)
}

const threeFunctions = `
  f: {runtime: inproc, timeout: 1h}
  g: {runtime: inproc, timeout: 1h}
  h: {runtime: inproc, timeout: 1h}`

const threeBuckets = `
  f: {triggers: [{name: t, primitive: immediate, target: f}]}
  g: {triggers: [{name: t, primitive: immediate, target: g}]}
  h: {triggers: [{name: t, primitive: immediate, target: h}]}`

func TestWhatExecutorsAreNotGivenYetRunsInOrderOfArrivalAlsoAfterARestart(t *testing.T) {
	var began order
	gate := make(chan struct{})
	w := boundedWorld(t, leader.MemoryBounds{Dispatched: 1, Sessions: 1}, conditional(threeFunctions, threeBuckets), map[string]function{
		"f": func(c *call) error {
			began.add(c)
			return c.waitFor(gate)
		},
	})
	var ids []spec.SessionID
	var want []string
	for i := range 30 {
		key := fmt.Sprintf("k%d", (i*7)%30) // names say nothing of the order
		ids = append(ids, w.put("f", key, "v"))
		want = append(want, key)
	}
	eventually(t, "the first has begun", func() bool { return len(began.all()) == 1 })
	if kept := w.memoryKept(); kept.Dispatched != 1 || kept.Parked != 29 || kept.Sessions > 4 {
		t.Errorf("of 30 that are pending memory has %+v", kept)
	}
	eventually(t, "its start is written", func() bool { return len(w.history(ids[0]).Invocations[0].Attempts) == 1 })
	w.restart()
	if n := w.pending(); n != 30 {
		t.Errorf("%d are pending after the restart, want 30", n)
	}
	eventually(t, "the first begins again", func() bool { return len(began.all()) == 2 })
	close(gate)
	for _, id := range ids {
		w.completed(id)
	}
	if got := began.all()[1:]; !slices.Equal(got, want) {
		t.Errorf("attempts began in the order %q, want %q", got, want)
	}
	if first := w.history(ids[0]).Invocations[0].Attempts; len(first) != 2 || first[0].Error == nil {
		t.Errorf("the one that ran when the node stopped has attempts %+v", first)
	}
	if kept := w.memoryKept(); w.pending() != 0 || kept.Dispatched != 0 || kept.Parked != 0 {
		t.Errorf("in the end %d are pending, and memory has %+v", w.pending(), kept)
	}
}

func TestAFunctionThatIsStuckHoldsNoOtherUp(t *testing.T) {
	gate := make(chan struct{})
	stuck := func(c *call) error { return c.waitFor(gate) }
	w := boundedWorld(t, leader.MemoryBounds{Dispatched: 1, Sessions: 1}, conditional(threeFunctions, threeBuckets), map[string]function{
		"f": stuck, "g": stuck, "h": func(*call) error { return nil },
	})
	var ids []spec.SessionID
	for i := range 5 {
		ids = append(ids, w.put("f", fmt.Sprint(i), ""), w.put("g", fmt.Sprint(i), ""))
	}
	for i := range 5 {
		w.completed(w.put("h", fmt.Sprint(i), ""))
	}
	close(gate)
	for _, id := range ids {
		w.completed(id)
	}
}

func TestWhatIsCancelledBeforeItWasGivenToExecutorsNeverRuns(t *testing.T) {
	var began order
	gate := make(chan struct{})
	w := boundedWorld(t, leader.MemoryBounds{Dispatched: 1, Sessions: 1}, conditional(threeFunctions, threeBuckets), map[string]function{
		"f": func(c *call) error {
			began.add(c)
			return c.waitFor(gate)
		},
	})
	ids := map[string]spec.SessionID{}
	for i := range 6 {
		key := fmt.Sprint("k", i)
		ids[key] = w.put("f", key, "")
	}
	for _, key := range []string{"k1", "k3", "k5"} {
		if err := w.leaders[1].Cancel(t.Context(), "demo", ids[key]); err != nil {
			t.Fatal(err)
		}
		if r := w.result(ids[key]); r.Status != wire.SessionCancelled {
			t.Errorf("%s is %s", key, r.Status)
		}
	}
	close(gate)
	for _, key := range []string{"k0", "k2", "k4"} {
		w.completed(ids[key])
	}
	eventually(t, "nothing is pending", func() bool { return w.pending() == 0 })
	if got := began.all(); !slices.Equal(got, []string{"k0", "k2", "k4"}) {
		t.Errorf("attempts of %q began", got)
	}
}

func TestALaneOfParkedInvocationsKeepsItsOrderAndNotWhatHasEnded(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 5))
	var l leader.ParkedLane
	var model []uint64
	var number uint64
	check := func() {
		t.Helper()
		_, n, ok := l.Next()
		if ok != (len(model) > 0) || ok && n != model[0] {
			t.Fatalf("next is %d (%v), want %v", n, ok, model[:min(len(model), 3)])
		}
		if ok {
			model = model[1:]
		}
	}
	for range 40 {
		for range random.IntN(3000) {
			number++
			l.Park("s", number)
			model = append(model, number)
		}
		for range random.IntN(3000) {
			if len(model) == 0 {
				break
			}
			at := random.IntN(len(model))
			l.Remove("s", model[at])
			if random.IntN(10) == 0 { // it comes again, at the end
				l.Park("s", model[at])
				model = append(model, model[at])
			}
			model = slices.Delete(model, at, at+1)
		}
		for range random.IntN(500) {
			check()
		}
		if n := l.Len(); n > 4*len(model)+8*1024 {
			t.Fatalf("the lane has %d entries for %d invocations", n, len(model))
		}
	}
	for range 20_000 { // of a function that is stuck, whose sessions give up
		number++
		l.Park("s", number)
		l.Remove("s", number)
	}
	if n := l.Len(); n > 4*len(model)+8*1024 {
		t.Fatalf("the lane has %d entries for %d invocations", n, len(model))
	}
	for len(model) > 0 {
		check()
	}
	check()
}

func TestADeletedAppTakesWhatIsParkedWithIt(t *testing.T) {
	var began order
	w := boundedWorld(t, leader.MemoryBounds{Dispatched: 1, Sessions: 1}, conditional(threeFunctions, threeBuckets), map[string]function{
		"f": func(c *call) error {
			began.add(c)
			if strings.HasPrefix(string(c.in[0].Key), "old") {
				return c.waitFor(nil)
			}
			return nil
		},
	})
	w.put("f", "old0", "")
	waited := w.put("f", "old1", "")
	told := make(chan error, 1)
	go func() {
		_, err := w.leaders[1].Result(context.Background(), "demo", waited, time.Hour, false)
		told <- err
	}()
	for i := range 20 {
		w.put("f", fmt.Sprint("old", i+2), "")
	}
	eventually(t, "the session that is waited for has left memory", func() bool { return w.memoryKept().Sessions <= 4 })
	w.apps.delete()
	w.tellOfApps()
	wantCode(t, <-told, spec.CodeNotFound)
	if kept := w.memoryKept(); w.pending() != 0 || kept.Parked != 0 || kept.Dispatched != 0 {
		t.Errorf("after the app was deleted %d are pending, and memory has %+v", w.pending(), kept)
	}
	w.deploy(conditional(threeFunctions, threeBuckets))
	w.completed(w.put("f", "new", ""))
	if got := began.all(); !slices.Equal(got, []string{"old0", "new"}) {
		t.Errorf("attempts of %q began", got)
	}
}

func TestWhatWaitsOfAnAppThatCanNotBeReadWaitsForAProgramThatCan(t *testing.T) {
	gate := make(chan struct{})
	w := boundedWorld(t, leader.MemoryBounds{Dispatched: 1, Sessions: 1}, conditional(threeFunctions, threeBuckets), map[string]function{
		"f": func(c *call) error { return c.waitFor(gate) },
		"h": func(*call) error { return nil },
	})
	var ids []spec.SessionID
	for i := range 4 {
		ids = append(ids, w.put("f", fmt.Sprint(i), ""))
	}
	eventually(t, "the first has begun, and its start is written", func() bool { return len(w.history(ids[0]).Invocations[0].Attempts) == 1 })
	w.deploy(conditional(threeFunctions, threeBuckets))

	w.apps.hide(2) // the newest: nothing of the app is run
	w.restart()
	for _, id := range ids[:2] { // one that ran and one that waited
		if err := w.leaders[1].Cancel(t.Context(), "demo", id); err != nil {
			t.Fatal(err)
		}
		if r := w.result(id); r.Status != wire.SessionCancelled {
			t.Errorf("session %s is %s", id, r.Status)
		}
	}
	w.apps.hide(1) // the one that the sessions are of
	w.restart()
	w.completed(w.put("h", "k", ""))
	w.apps.hide(0)
	close(gate)
	w.restart()
	for _, id := range ids[2:] {
		w.completed(id)
	}
	if n := w.pending(); n != 0 {
		t.Errorf("%d invocations are pending in the end", n)
	}
}
