package leader_test

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

func TestTwoAppsAtWorkAreBothServed(t *testing.T) {
	w := newWorld(t, 1, plainBuckets, echo)
	w.apps.mu.Lock()
	w.apps.also = "other"
	w.apps.mu.Unlock()
	w.tellOfApps()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var clients sync.WaitGroup
	for _, app := range []spec.AppName{"demo", "other"} {
		for client := range 20 { // more than may be in flight at once
			clients.Go(func() {
				for i := range 10 {
					p := leader.Put{App: app, Bucket: "notes", Key: spec.Key(fmt.Sprint(client, i)), Body: strings.NewReader("x")}
					if _, err := w.leaders[1].Put(ctx, p); err != nil {
						t.Errorf("put of app %s: %v", app, err)
						return
					}
				}
			})
		}
	}
	clients.Wait()
}

func TestWorkGoesOnOverManyTermsWithoutALossOrALeak(t *testing.T) {
	w := newWorld(t, 1, manifest(`
functions: {fan: {runtime: inproc}, leaf: {runtime: inproc}, join: {runtime: inproc}}
buckets:
  in: {triggers: [{name: t, primitive: immediate, target: fan}]}
  leaves: {triggers: [{name: t, primitive: immediate, target: leaf}]}
  done: {triggers: [{name: all, primitive: dynamic_join, target: join}]}
`), map[string]function{
		"fan": func(c *call) error {
			var keys []spec.Key
			for i := range 8 {
				keys = append(keys, spec.Key(fmt.Sprint(i)))
				c.put("leaves", fmt.Sprint(i), string(c.in[0].Data))
			}
			c.join("done", "all", keys...)
			return nil
		},
		"leaf": func(c *call) error { c.put("done", string(c.in[0].Key), string(c.in[0].Data)); return c.flush() },
		"join": func(c *call) error {
			for _, in := range c.in {
				if !bytes.Equal(in.Data, c.in[0].Data) {
					return permanent("the inputs differ")
				}
			}
			c.output("n", fmt.Sprint(len(c.in), len(c.in[0].Data)))
			return nil
		},
	})
	const size = 100 << 10
	var unrest sync.WaitGroup
	unrest.Go(func() {
		for range 12 { // an attempt may be lost with its term sixteen times
			before, _ := w.leaders[1].Revision(context.Background())
			eventually(t, "something is done in this term", func() bool {
				now, _ := w.leaders[1].Revision(context.Background())
				return now > before+3 || len(w.sessions(wire.SessionRunning)) == 0
			})
			w.unseat(1)
		}
	})
	var clients sync.WaitGroup
	for client := range 4 {
		clients.Go(func() {
			for i := range 3 {
				key := fmt.Sprint(client, "-", i)
				id := w.putOnce(leader.Put{Session: spec.SessionID("run-" + key), Bucket: "in", Key: spec.Key(key), Body: strings.NewReader(noise(size, 1))}).Session
				eventually(t, "the session ends", func() bool {
					res, err := w.home(id).Result(context.Background(), "demo", id, 5*time.Second, false)
					if err != nil {
						t.Errorf("result: %v", err)
						return true
					}
					if len(res.Outputs) == 1 && string(res.Outputs[0].Data) != fmt.Sprint(8, size) {
						t.Errorf("the output is %q", res.Outputs[0].Data)
					}
					return len(res.Outputs) == 1
				})
			}
		})
	}
	clients.Wait()
	unrest.Wait()
	for _, s := range w.sessions("") {
		if err := w.home(s.Session).Purge(t.Context(), "demo", s.Session); err != nil {
			t.Errorf("purge: %v", err)
		}
	}
	for _, key := range w.left() {
		if !strings.HasPrefix(key, "70 ") && !strings.HasPrefix(key, "50 ") { // idempotency keys and their timers
			t.Errorf("left in the store: %.100s", key)
		}
	}
}

func TestALeaderThatLosesItsTermWhileItRecoversClaimsAgain(t *testing.T) {
	gate := make(chan struct{})
	w := newWorld(t, 1, oneTrigger("{name: x, primitive: immediate, target: fire}"), map[string]function{"fire": func(c *call) error {
		if err := c.waitFor(gate); err != nil {
			return err
		}
		return fired(c)
	}})
	w.into("run", "in", "k", "")
	var usurpers sync.WaitGroup
	for range 2 { // each ends the term of the other and of the leader, at whatever it is
		usurpers.Go(func() {
			for range 40 {
				w.unseat(1)
			}
		})
	}
	usurpers.Wait()
	close(gate)
	w.completed("run", "fire:inv-1=k")
}

func TestACallerThatGivesUpIsToldThatTheOutcomeIsNotKnown(t *testing.T) {
	w := newWorld(t, 1, plainBuckets, echo)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := w.leaders[1].Put(ctx, leader.Put{App: "demo", Bucket: "notes", Key: "k", Body: strings.NewReader("v")})
	if code := spec.CodeOf(err); code != spec.CodeTimeout && code != spec.CodeOverloaded {
		t.Errorf("the error is %v (%s)", err, code)
	}
}

func TestWithoutALeaderCommandsWaitAndAreThenRefused(t *testing.T) {
	w := newWorld(t, 1, plainBuckets, echo)
	w.stop()
	w.done.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := w.leaders[1].Put(ctx, leader.Put{App: "demo", Bucket: "notes", Key: "k", Body: strings.NewReader("v")})
	wantCode(t, err, spec.CodeUnavailable, "no leader")
	if w.leaders[1].Leading() {
		t.Error("it says that it leads")
	}
}

func TestALeaderThatEndsLeavesNoGoroutines(t *testing.T) {
	opt := goleak.IgnoreCurrent()
	w := newWorld(t, 3, oneTrigger("{name: x, primitive: by_batch_size, count: 2, target: fire}"), map[string]function{"fire": fired})
	for i := range 20 {
		w.put("in", fmt.Sprint(i), "v")
	}
	w.restart()
	w.quiet()
	w.run.stop()
	w.close()
	var left error
	defer func() {
		if t.Failed() {
			t.Log(left)
		}
	}()
	eventually(t, "its goroutines have ended", func() bool {
		left = goleak.Find(opt,
			// Started once in the process by the raft library, and never stopped.
			goleak.IgnoreAnyFunction("github.com/golang/glog.(*fileSink).flushDaemon"))
		return left == nil
	})
}
