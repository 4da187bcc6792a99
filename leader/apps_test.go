package leader_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// deploy applies a version of the app and tells every leader.
func (w *world) deploy(manifest string) {
	w.t.Helper()
	w.apps.apply(w.t, manifest)
	w.tellOfApps()
}

func (w *world) tellOfApps() {
	w.t.Helper()
	for id, l := range w.leaders {
		if err := l.AppsChanged(context.Background()); err != nil {
			w.t.Fatalf("apps changed, shard %d: %v", id, err)
		}
	}
}

func TestARunningSessionStaysOnItsVersion(t *testing.T) {
	gate := make(chan struct{})
	w := newWorld(t, 1, oneTrigger("{name: x, primitive: immediate, target: fire}"), map[string]function{
		"fire": fired, "other": fired,
		"seed": func(c *call) error {
			if err := c.waitFor(gate); err != nil {
				return err
			}
			c.put("in", "k", "")
			return nil
		},
	})
	old := w.put("seeds", "old", "")
	w.deploy(oneTrigger("{name: x, primitive: immediate, target: other}"))
	fresh := w.put("seeds", "new", "")
	w.restart()
	close(gate)
	w.completed(old, "fire:inv-2=k")
	w.completed(fresh, "other:inv-2=k")
	if a, b := w.session(old).AppVersion, w.session(fresh).AppVersion; a != 1 || b != 2 {
		t.Errorf("the sessions ran on versions %d and %d", a, b)
	}
}

func TestALeaderThatKnowsLessThanTheOneBeforeDropsNothing(t *testing.T) {
	for name, again := range map[string]bool{"of a new app": false, "of an app that was deployed again": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2, oneTrigger("{name: x, primitive: immediate, target: fire}"), map[string]function{"fire": fired, "other": fired})
			if again {
				w.apps.delete()
				w.deploy(oneTrigger("{name: x, primitive: immediate, target: other}"))
			}
			for i := range 8 {
				w.put("in", fmt.Sprint("k", i), "v")
			}
			w.close()
			w.apps.behind = true
			w.start()
			for i := range 8 {
				if _, err := w.get("in", fmt.Sprint("k", i)); err != nil {
					t.Errorf("after a start on a node that lags: %v", err)
				}
			}
		})
	}
}

func TestANewWindowIsArmedWithoutAnObject(t *testing.T) {
	overShards(t, func(t *testing.T, shards int) {
		var got collector
		w := newWorld(t, shards, oneTrigger("{name: x, primitive: immediate, target: fire}"), map[string]function{"fire": got.take, "other": got.take})
		w.deploy(oneTrigger("{name: y, primitive: by_time, every: 10m, allow_empty: true, target: other}"))
		for n := range 2 {
			w.forward(10 * time.Minute)
			eventually(t, fmt.Sprint("window ", n, " fires"), func() bool { return len(got.sorted()) == n+1 })
		}
		w.deploy(oneTrigger("{name: x, primitive: immediate, target: fire}"))
		w.quiet()
		n := w.run.count("other")
		w.restart()
		w.forward(30 * time.Minute)
		w.result(w.put("in", "k", ""))
		if again := w.run.count("other"); again != n {
			t.Errorf("a trigger that is gone has fired %d times", again-n)
		}
		if left := w.leftOf("\"y"); len(left) > 0 {
			t.Errorf("left of the trigger: %q", left)
		}
	})
}

func TestWhatARemovedTriggerHeldIsGone(t *testing.T) {
	overShards(t, func(t *testing.T, shards int) {
		var got collector
		w := newWorld(t, shards, "retention: 0\n"+oneTrigger("{name: gather, primitive: by_batch_size, count: 4, max_wait: 720h, target: fire}"), map[string]function{"fire": got.take})
		for i, size := range []int{10, 10 << 10, 100 << 10} {
			w.into("run", "in", fmt.Sprint("k", i), noise(size, uint64(i)))
		}
		eventually(t, "all three are held", func() bool { return len(w.leftOf("gather")) >= 3*2+1 })
		w.deploy("retention: 0\n" + oneTrigger("{name: x, primitive: immediate, scope: bucket, target: fire}"))
		w.quiet()
		w.forward(time.Minute)
		w.nothingLeft()
	})
}

// A trigger that becomes another primitive under its old name starts anew: what it
// held belongs to no rule any more.
func TestATriggerThatBecomesAnotherPrimitiveStartsAnew(t *testing.T) {
	overShards(t, func(t *testing.T, shards int) {
		var got collector
		w := newWorld(t, shards, oneTrigger("{name: x, primitive: by_batch_size, count: 3, max_wait: 720h, target: fire}"), map[string]function{"fire": got.take})
		w.result(w.put("in", "before-1", noise(100<<10, 1)))
		w.result(w.put("in", "before-2", "v"))
		w.deploy(oneTrigger("{name: x, primitive: by_set, scope: bucket, keys: [a, b], target: fire}"))
		w.result(w.put("in", "a", "v"))
		w.restart()
		w.result(w.put("in", "b", "v"))
		eventually(t, "the set fires", func() bool { return len(got.sorted()) == 1 })
		wantLines(t, got.sorted(), "a+b")
	})
}

func TestAChangedOptionAppliesToWhatIsHeld(t *testing.T) {
	var got collector
	w := newWorld(t, 1, oneTrigger("{name: x, primitive: by_batch_size, count: 10, target: fire}"), map[string]function{"fire": got.take})
	for _, key := range []string{"a", "b", "c"} {
		w.result(w.put("in", key, "v"))
	}
	w.deploy(oneTrigger("{name: x, primitive: by_batch_size, count: 2, target: fire}"))
	w.result(w.put("in", "d", "v"))
	eventually(t, "two batches", func() bool { return len(got.sorted()) == 2 })
	wantLines(t, got.sorted(), "a+b", "c+d")
}

func TestADeletedAppLeavesNothingButTimersThatEndByThemselves(t *testing.T) {
	overShards(t, func(t *testing.T, shards int) {
		w := newWorld(t, shards, oneTrigger("{name: x, primitive: by_batch_size, count: 50, max_wait: 720h, target: fire}, {name: y, primitive: immediate, target: other}"), map[string]function{
			"fire":  fired,
			"other": func(c *call) error { c.put("work", "k", ""); _ = c.flush(); return c.waitFor(nil) },
			"each":  func(*call) error { return fmt.Errorf("again") },
		})
		var waiting []spec.SessionID
		for i := range 12 {
			res, err := w.tryPut(leader.Put{Bucket: "in", Key: spec.Key(fmt.Sprint(i)), Body: strings.NewReader(noise(i*10_000, 1)), TTL: time.Hour, Request: fmt.Sprint("r", i)})
			if err != nil {
				t.Fatal(err)
			}
			waiting = append(waiting, res.Session)
		}
		told := make(chan error, 1)
		l := w.home(waiting[0])
		go func() {
			_, err := l.Result(context.Background(), "demo", waiting[0], patience, false)
			told <- err
		}()
		eventually(t, "every mail is delivered", func() bool {
			return !slices.ContainsFunc(w.left(), func(k string) bool { return strings.HasPrefix(k, "60 ") })
		})
		w.apps.delete()
		w.tellOfApps()
		wantCode(t, <-told, spec.CodeNotFound)
		w.run.running.Wait() // the attempts were told to stop
		_, err := w.tryPut(leader.Put{Bucket: "in", Key: "k", Body: strings.NewReader("")})
		wantCode(t, err, spec.CodeNotFound, "demo")
		w.restart()
		for _, k := range w.left() {
			if !strings.HasPrefix(k, "50 ") {
				t.Errorf("left in the store: %s", k)
			}
		}
		if n := len(w.sessions(wire.SessionRunning)); n != 0 {
			t.Errorf("%d sessions run", n)
		}
		w.deploy(oneTrigger("{name: x, primitive: immediate, target: fire}"))
		w.completed(w.put("in", "k", ""), "fire:inv-1=k")
	})
}

// A leader that sees an app only before it was deleted and after it was deployed
// again must not take what is left for the new one's.
func TestAnAppThatIsReplacedUnseenLeavesNothing(t *testing.T) {
	for name, look := range map[string]func(*world){"told": (*world).tellOfApps, "after a restart": (*world).restart} {
		t.Run(name, func(t *testing.T) {
			overShards(t, func(t *testing.T, shards int) {
				manifest := oneTrigger("{name: x, primitive: by_batch_size, count: 3, max_wait: 720h, target: fire}")
				var got collector
				w := newWorld(t, shards, manifest, map[string]function{"fire": got.take})
				var old []spec.SessionID
				for _, key := range []string{"a", "b"} {
					res, err := w.tryPut(leader.Put{Bucket: "in", Key: spec.Key(key), Body: strings.NewReader("old"), Request: key})
					if err != nil {
						t.Fatal(err)
					}
					old = append(old, res.Session)
				}
				eventually(t, "both are held", func() bool { return len(w.leftOf("x")) >= 3 })
				w.apps.delete()
				w.apps.apply(t, manifest)
				_, err := w.tryPut(leader.Put{Bucket: "in", Key: "early", Body: strings.NewReader("new")})
				wantCode(t, err, spec.CodeUnavailable, "demo")
				look(w)
				for _, id := range old {
					if _, err := w.home(id).Session(t.Context(), "demo", id); spec.CodeOf(err) != spec.CodeNotFound {
						t.Errorf("session %s of the app that is gone: %v", id, err)
					}
				}
				w.restart()
				for i, key := range []string{"a", "c", "d"} {
					res, err := w.tryPut(leader.Put{Bucket: "in", Key: spec.Key(key), Body: strings.NewReader("new"), Request: key})
					if err != nil || res.Existed {
						t.Errorf("put %d: %+v, %v", i, res, err)
					}
				}
				eventually(t, "the batch fires", func() bool { return len(got.sorted()) == 1 })
				keys := strings.Split(got.sorted()[0], "+")
				slices.Sort(keys) // they come from several shards
				wantLines(t, keys, "a", "c", "d")
				w.apps.delete()
				w.tellOfApps()
				for _, k := range w.left() {
					if !strings.HasPrefix(k, "50 ") && !strings.HasPrefix(k, "80 ") {
						t.Errorf("left in the store: %s", k)
					}
				}
			})
		})
	}
}
