package leader_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

var deletions = manifest(`
functions: {come: {runtime: inproc}, gone: {runtime: inproc}}
buckets:
  plain: {triggers: [{name: come, primitive: immediate, target: come}]}
  both:
    triggers:
      - {name: come, primitive: immediate, target: come}
      - {name: gone, primitive: immediate, on: delete, target: gone}
  only: {triggers: [{name: gone, primitive: immediate, on: delete, target: gone}]}
`)

// toldOf puts out what an invocation was told of its inputs.
func toldOf(c *call) error {
	for _, in := range c.in {
		c.output(string(in.Key), fmt.Sprintf("%s deleted=%v %s %s %.8s/%d", c.Function.Name, in.Deleted, in.ContentType, in.Meta["m"], in.Data, len(in.Data)))
	}
	return nil
}

var deletionFunctions = map[string]function{"come": toldOf, "gone": toldOf}

func (w *world) del(bucket, key string) (leader.PutResult, error) {
	return w.homeOf(bucket, key).Delete(context.Background(), leader.Delete{App: "demo", Bucket: spec.BucketName(bucket), Key: spec.Key(key)})
}

// startedBy lists the sessions with an origin of a kind.
func (w *world) startedBy(kind string) []wire.Session {
	w.t.Helper()
	return slices.DeleteFunc(w.sessions(""), func(s wire.Session) bool { return s.Origin.Kind != kind })
}

func TestADeletionDrivesWhatCountsDeletionsAndNothingElse(t *testing.T) {
	for _, size := range []int{0, 3, leader.InlineBytes, leader.InlineBytes + 1, 3 << 20} {
		t.Run(fmt.Sprint(size, " bytes"), func(t *testing.T) {
			w := newWorld(t, 1, deletions, deletionFunctions)
			value := noise(size, 1)
			put := func(bucket string) leader.PutResult {
				t.Helper()
				res, err := w.tryPut(leader.Put{Bucket: spec.BucketName(bucket), Key: "k", Body: strings.NewReader(value), ContentType: "text/x", Meta: map[string]string{"m": "v"}})
				if err != nil {
					t.Fatal(err)
				}
				return res
			}
			says := func(function string, deleted bool) string {
				return fmt.Sprintf("k=%s deleted=%v text/x v %.8s/%d", function, deleted, value, size)
			}
			if res := put("only"); res.Session != "" {
				t.Errorf("a put that nothing counts drives %s", res.Session)
			}
			put("only") // an overwrite is no deletion
			w.completed(put("both").Session, says("come", false))
			w.completed(put("both").Session, says("come", false))
			put("plain")
			if n := len(w.startedBy("delete")); n != 0 {
				t.Fatalf("%d sessions for deletions before there was one", n)
			}
			for _, bucket := range []string{"only", "both"} {
				res, err := w.del(bucket, "k")
				if err != nil || res.Session == "" {
					t.Fatalf("delete: %+v, %v", res, err)
				}
				s := w.session(res.Session)
				if s.Origin.Kind != "delete" || s.Origin.Bucket != spec.BucketName(bucket) || s.Origin.Key != "k" {
					t.Errorf("the session's origin is %+v", s.Origin)
				}
				o, err := w.home(res.Session).GetSession(t.Context(), "demo", res.Session, spec.BucketName(bucket), "k")
				if got := readAll(t, o, err); got != value || !o.Deleted || o.Revision != res.Revision {
					t.Errorf("the copy has %d bytes, revision %d, deleted %v", len(got), o.Revision, o.Deleted)
				}
				w.completed(res.Session, says("gone", true))
				_, err = w.get(bucket, "k")
				wantCode(t, err, spec.CodeNotFound)
				_, err = w.del(bucket, "k")
				wantCode(t, err, spec.CodeNotFound)
			}
			if res, err := w.del("plain", "k"); err != nil || res.Session != "" {
				t.Errorf("a deletion that nothing counts: %+v, %v", res, err)
			}
			w.forward(2 * time.Hour)
			w.nothingLeft()
		})
	}
}

func TestARepeatedDeleteGetsTheSameAnswerAndDrivesNothingMore(t *testing.T) {
	w := newWorld(t, 1, deletions, deletionFunctions)
	w.put("both", "k", "v")
	d := leader.Delete{App: "demo", Bucket: "both", Key: "k", Request: "r"}
	first, err := w.homeOf("both", "k").Delete(t.Context(), d)
	if err != nil || first.Session == "" {
		t.Fatalf("delete: %+v, %v", first, err)
	}
	w.completed(first.Session, "k=gone deleted=true   v/1")
	w.restart()
	again, err := w.homeOf("both", "k").Delete(t.Context(), d)
	if err != nil || again.Session != first.Session || again.Revision != first.Revision || !again.Existed {
		t.Errorf("repeated: %+v, %v, want %+v", again, err, first)
	}
	if n := w.run.count("gone"); n != 1 {
		t.Errorf("the function ran %d times", n)
	}
}

func TestADeleteThatDrivesIsRefusedWhileTooMuchIsPending(t *testing.T) {
	gate := make(chan struct{})
	w := newWorld(t, 1, deletions+"limits: {max_pending: 1}\n", map[string]function{
		"come": func(c *call) error { return c.waitFor(gate) }, "gone": toldOf,
	})
	w.put("only", "k", "v")
	w.into("run", "plain", "quiet", "") // pending
	_, err := w.del("only", "k")
	wantCode(t, err, spec.CodeOverloaded, "max_pending")
	o, err := w.get("only", "k")
	if got := readAll(t, o, err); got != "v" {
		t.Errorf("the object whose delete was refused is %q", got)
	}
	close(gate)
	w.result("run")
	res, err := w.del("only", "k")
	if err != nil {
		t.Fatalf("delete with nothing pending: %v", err)
	}
	w.completed(res.Session, "k=gone deleted=true   v/1")
}

// Of so many objects whose time is over at once the timers take several rounds:
// puts and deletes come in between.
func TestAnExpiryDrivesExactlyOnceThoughAPutComesBeforeItsTimer(t *testing.T) {
	const objects = 700
	w := newWorld(t, 1, deletions, deletionFunctions)
	all := func(f func(key spec.Key) error) {
		t.Helper()
		var clients sync.WaitGroup
		for i := range objects {
			clients.Go(func() {
				if err := f(spec.Key(fmt.Sprintf("k%03d", i))); err != nil {
					t.Errorf("object %d: %v", i, err)
				}
			})
		}
		clients.Wait()
	}
	all(func(key spec.Key) error {
		_, err := w.tryPut(leader.Put{Bucket: "only", Key: key, Body: strings.NewReader("old"), TTL: time.Hour})
		return err
	})
	w.clock.set(midday() + 2*time.Hour)
	all(func(key spec.Key) error {
		if key[3]%2 == 0 {
			if _, err := w.del("only", string(key)); spec.CodeOf(err) != spec.CodeNotFound {
				return fmt.Errorf("a delete of what is over: %w", err)
			}
			return nil
		}
		_, err := w.tryPut(leader.Put{Bucket: "only", Key: key, Body: strings.NewReader("new"), IfRevision: new(spec.Revision)})
		return err
	})
	eventually(t, "every expiry has its session", func() bool { return len(w.startedBy("delete")) >= objects })
	w.quiet()
	w.restart()
	seen := map[spec.Key]int{}
	for _, s := range w.startedBy("delete") {
		seen[s.Origin.Key]++
		w.completed(s.Session, string(s.Origin.Key)+"=gone deleted=true   old/3")
	}
	if len(seen) != objects || len(w.startedBy("delete")) != objects {
		t.Errorf("%d sessions for %d of %d objects", len(w.startedBy("delete")), len(seen), objects)
	}
}

func TestAnExpiryThatComesWhileTheNodeIsAwayDrivesOnce(t *testing.T) {
	for name, interrupt := range map[string]func(*world){
		"restart": func(w *world) { w.restart() }, "crash": func(w *world) { w.crash(50) },
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{t: t, dir: t.TempDir(), shards: 1, apps: &deployed{}, run: newRunner(deletionFunctions), fs: vfs.NewCrashableMem()}
			w.apps.apply(t, deletions)
			w.start()
			t.Cleanup(w.close)
			t.Cleanup(w.run.stop)
			for i, size := range []int{3, 100 << 10} {
				w.putOnce(leader.Put{Bucket: "only", Key: spec.Key(fmt.Sprint("k", i)), Body: strings.NewReader(noise(size, 1)), TTL: time.Hour})
			}
			w.clock.set(time.Hour + time.Minute) // their timers are beyond what is in memory
			interrupt(w)
			eventually(t, "both have expired", func() bool { return len(w.startedBy("delete")) == 2 })
			interrupt(w)
			w.quiet()
			var kinds []string
			for _, s := range w.sessions("") {
				kinds = append(kinds, fmt.Sprintf("%s %s %s", s.Origin.Kind, s.Origin.Key, s.Status))
			}
			slices.Sort(kinds)
			wantLines(t, kinds, "delete k0 completed", "delete k1 completed")
		})
	}
}

func TestADeleteSurvivesWhatComesRightAfterIt(t *testing.T) {
	for name, interrupt := range map[string]func(*world){
		"restart":  func(w *world) { w.restart() },
		"new term": func(w *world) { w.unseat(1) },
		"crash":    func(w *world) { w.crash(0) },
		"crash with a part of what was not synced": func(w *world) { w.crash(50) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var got collector
			w := newCrashableWorld(t, 1, oneTrigger("{name: x, primitive: by_batch_size, on: delete, count: 2, target: fire}"), map[string]function{"fire": got.take})
			keys := []string{"a", "b", "c", "d"}
			for i, key := range keys {
				w.putOnce(leader.Put{Bucket: "in", Key: spec.Key(key), Body: strings.NewReader(noise(100+i*50_000, 1))})
			}
			for _, key := range keys {
				var first leader.PutResult
				eventually(t, "the delete is taken", func() bool {
					res, err := w.homeOf("in", key).Delete(context.Background(), leader.Delete{App: "demo", Bucket: "in", Key: spec.Key(key), Request: "delete " + key})
					if err != nil && spec.CodeOf(err) != spec.CodeUnavailable {
						t.Fatal(err)
					}
					if first = res; err == nil && first.Session == "" {
						t.Fatal("the delete drives nothing")
					}
					return err == nil
				})
				interrupt(w)
			}
			eventually(t, "two batches", func() bool { return len(got.sorted()) == 2 })
			w.quiet()
			wantLines(t, got.sorted(), "a+b", "c+d")
		})
	}
}

func TestDeletionsAreCountedAcrossABucketAndPutsAreNot(t *testing.T) {
	overShards(t, func(t *testing.T, shards int) {
		var got collector
		w := newWorld(t, shards, "retention: 0\n"+oneTrigger("{name: x, primitive: by_batch_size, on: delete, scope: bucket, count: 5, target: fire}"), map[string]function{
			"fire": func(c *call) error {
				for _, in := range c.in {
					if !in.Deleted || !strings.HasPrefix(string(in.Data), string(in.Key)) {
						t.Errorf("input %s is %.10q, deleted %v", in.Key, in.Data, in.Deleted)
					}
				}
				return got.take(c)
			},
		})
		keys := numbered(20)
		w.putAll("in", append(slices.Clone(keys), "stays-1", "stays-2"), func(key string) string { return key + strings.Repeat(".", 20_000*int(key[3]-'0')) })
		for _, key := range keys {
			if _, err := w.del("in", key); err != nil {
				t.Fatal(err)
			}
		}
		eventually(t, "all deletions are in batches", func() bool { return len(got.keys()) >= len(keys) })
		w.quiet()
		wantLines(t, got.keys(), keys...)
		for _, key := range []string{"stays-1", "stays-2"} {
			if _, err := w.del("in", key); err != nil {
				t.Fatal(err)
			}
		}
		w.deploy("retention: 0\n" + oneTrigger("{name: other, primitive: immediate, target: fire}")) // the trigger goes with what it holds
		w.quiet()
		w.forward(time.Minute)
		w.nothingLeft()
	})
}

func TestATriggerThatCountsDeletionsNowForgetsThePutsItHeld(t *testing.T) {
	overShards(t, func(t *testing.T, shards int) {
		var got collector
		trigger := "{name: x, primitive: by_batch_size, scope: bucket, count: 2, target: fire%s}"
		w := newWorld(t, shards, oneTrigger(fmt.Sprintf(trigger, "")), map[string]function{"fire": got.take})
		w.result(w.put("in", "before", "v"))
		w.deploy(oneTrigger(fmt.Sprintf(trigger, ", on: delete")))
		for _, key := range []string{"a", "b"} {
			w.put("in", key, "v")
			res, err := w.del("in", key)
			if err != nil {
				t.Fatal(err)
			}
			w.result(res.Session)
		}
		eventually(t, "a batch", func() bool { return len(got.sorted()) > 0 })
		wantLines(t, got.sorted(), "a+b")
		res, err := w.del("in", "before")
		if err != nil {
			t.Fatal(err)
		}
		w.result(res.Session)
		w.deploy(oneTrigger(fmt.Sprintf(trigger, "")))
		w.result(w.put("in", "c", "v"))
		w.result(w.put("in", "d", "v"))
		eventually(t, "another batch", func() bool { return len(got.sorted()) > 1 })
		wantLines(t, got.sorted(), "a+b", "c+d")
	})
}

func TestADeletionIsRunAgainAsADeletion(t *testing.T) {
	w := newWorld(t, 1, deletions, deletionFunctions)
	res, err := w.tryPut(leader.Put{Session: "again", New: true, Bucket: "both", Key: "k", Body: strings.NewReader("v"), Deleted: true})
	if err != nil {
		t.Fatal(err)
	}
	w.completed(res.Session, "k=gone deleted=true   v/1")
}
