package leader_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

const waitingFunctions = `
  f: {runtime: inproc, retry: {max_attempts: 3, backoff: 1h, max_backoff: 1h}}
  g: {runtime: inproc}`

const waitingBuckets = `
  failing: {triggers: [{name: t, primitive: immediate, target: f}]}
  in: {triggers: [{name: t, primitive: immediate, target: g}]}
  window: {triggers: [{name: t, primitive: by_time, every: 1h, scope: session, target: g}]}
  plain: {}`

func TestSessionsThatWaitLeaveMemoryAndGoOnAsIfTheyHadNot(t *testing.T) {
	for name, sessions := range map[string]int{"all stay": 1000, "one stays": 1} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1, conditional(waitingFunctions, waitingBuckets)+"\nretention: 240h\n", map[string]function{"g": fired, "f": func(c *call) error {
				if c.Attempt < 3 {
					return errors.New("not yet")
				}
				c.output("done", fmt.Sprint(c.Attempt))
				return nil
			}})
			w.memory = leader.MemoryBounds{Sessions: sessions, Timers: 4}
			w.restart()
			var delayed, windows, failing []spec.SessionID
			for i := range 15 {
				key := fmt.Sprint("k", i)
				res, err := w.tryPut(leader.Put{Bucket: "in", Key: spec.Key(key), Body: strings.NewReader(""), DeliverAfter: time.Hour})
				if err != nil {
					t.Fatal(err)
				}
				delayed = append(delayed, res.Session)
				windows = append(windows, w.put("window", key, ""))
				failing = append(failing, w.put("failing", key, ""))
			}
			for _, id := range failing {
				eventually(t, "the first attempt has failed", func() bool { return w.states(id)[0] == "f retrying failed" })
			}
			if _, err := w.tryInto(string(windows[3]), "window", "late", ""); err != nil {
				t.Fatal(err)
			}
			if kept := w.memoryKept(); sessions == 1 && kept.Sessions > 6 || kept.Timers > 12 {
				t.Errorf("of 45 sessions that wait memory has %+v", kept)
			}
			if err := w.leaders[1].Cancel(t.Context(), "demo", windows[7]); err != nil {
				t.Fatal(err)
			}
			for round := range 3 {
				w.clock.set(midday() + time.Duration(round+1)*2*time.Hour)
				w.put("plain", "wakes", "")
				for _, id := range failing {
					eventually(t, "the next attempt has ended", func() bool { return len(w.history(id).Invocations[0].Attempts) >= min(round+2, 3) })
				}
			}
			for i := range 15 {
				key := fmt.Sprint("k", i)
				w.completed(delayed[i], "g:inv-1="+key)
				switch i {
				case 3:
					key = "k3+late"
				case 7:
					if r := w.result(windows[i]); r.Status != wire.SessionCancelled {
						t.Errorf("the one that was cancelled is %s", r.Status)
					}
					continue
				}
				w.completed(windows[i], "g:inv-1="+key)
			}
			for _, id := range failing {
				w.completed(id, "done=3")
				wantLines(t, w.states(id), "f succeeded failed failed")
			}
			if n := w.pending(); n != 0 {
				t.Errorf("%d are pending in the end", n)
			}
		})
	}
}

func TestTimersBeyondThoseInMemoryGoOffAllTheSame(t *testing.T) {
	var early atomic.Int64
	var w *world
	w = newWorld(t, 1, conditional(waitingFunctions, waitingBuckets)+"\nretention: 240h\n", map[string]function{"g": func(c *call) error {
		due, err := time.Parse(time.RFC3339Nano, string(c.in[0].Data))
		if err != nil {
			return permanent(err.Error())
		}
		if w.clock.now().Before(due) {
			early.Add(1)
		}
		return fired(c)
	}})
	w.memory = leader.MemoryBounds{Timers: 3}
	w.restart()
	random := rand.New(rand.NewPCG(7, 11))
	var ids []spec.SessionID
	for i := range 120 {
		after := time.Duration(random.IntN(5*60)) * 100 * time.Millisecond // some at the same time, some beyond what is loaded
		res, err := w.tryPut(leader.Put{Bucket: "in", Key: spec.Key(fmt.Sprint(i)), DeliverAfter: after + time.Minute,
			Body: strings.NewReader(w.clock.now().Add(after + time.Minute).UTC().Format(time.RFC3339Nano))})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, res.Session)
		if i == 60 {
			w.restart()
		}
		if i%20 == 19 {
			w.forward(20 * time.Second)
			if kept := w.memoryKept(); kept.Timers > 12 {
				t.Errorf("%d timers are in memory", kept.Timers)
			}
		}
	}
	w.forward(time.Hour)
	for i, id := range ids {
		w.completed(id, fmt.Sprint("g:inv-1=", i))
	}
	if n := early.Load(); n > 0 {
		t.Errorf("%d objects were counted before they were due", n)
	}
}
