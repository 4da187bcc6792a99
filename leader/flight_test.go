package leader_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec"
)

// heldWorld is a world whose entries stay in flight until its gate is opened.
func heldWorld(t *testing.T, bounds leader.MemoryBounds) (*world, *gate) {
	t.Helper()
	w, g := newGated(t, conditional(waitingFunctions, waitingBuckets)+"\nretention: 240h\n", map[string]function{"g": fired})
	w.clock.set(midday())
	w.memory = bounds
	w.restart()
	g.shut(0)
	return w, g
}

// inFlight puts and returns once the put is in flight; what is sent comes when it has landed.
func (w *world) inFlight(g *gate, entries int, p leader.Put) <-chan leader.PutResult {
	w.t.Helper()
	landed := make(chan leader.PutResult, 1)
	go func() {
		res, err := w.tryPut(p)
		if err != nil {
			w.t.Errorf("put %s: %v", p.Key, err)
		}
		landed <- res
	}()
	eventually(w.t, fmt.Sprint(entries, " entries are in flight"), func() bool { return g.waiting() >= entries })
	return landed
}

func TestATimerThatIsInFlightWhenTheNextOnesAreLoadedGoesOff(t *testing.T) {
	w, g := heldWorld(t, leader.MemoryBounds{})
	delayed := w.inFlight(g, 1, leader.Put{Bucket: "in", Key: "k", Body: strings.NewReader(""), DeliverAfter: 40 * time.Second})
	w.clock.set(midday() + 20*time.Second) // what is due in the next thirty is loaded now
	wakes := w.inFlight(g, 2, leader.Put{Bucket: "plain", Key: "wakes", Body: strings.NewReader("")})
	g.open()
	<-wakes
	id := (<-delayed).Session
	w.clock.set(midday() + 45*time.Second)
	w.put("plain", "wakes again", "")
	w.completed(id, "g:inv-1=k")
}

func TestASessionThatIsInFlightStaysInMemory(t *testing.T) {
	w, g := heldWorld(t, leader.MemoryBounds{Sessions: 1})
	var landed []<-chan leader.PutResult
	put := func(session, key string) {
		t.Helper()
		landed = append(landed, w.inFlight(g, len(landed)+1, leader.Put{Bucket: "window", Session: spec.SessionID(session), Key: spec.Key(key), Body: strings.NewReader("")}))
	}
	for _, session := range []string{"a", "b", "c", "d"} {
		put(session, "first")
	}
	put("a", "second")
	g.open()
	for _, l := range landed {
		<-l
	}
	w.clock.set(midday() + 2*time.Hour)
	w.put("plain", "wakes", "")
	w.completed("a", "g:inv-1=first+second")
}
