package leader_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// crash stops everything as a power cut would the store: it loses what it has not
// synced, up to a part that happened to reach the disk. The raft log, which is
// synced before anything is acknowledged, stays as it is, on the real disk. The
// leaders stop before: a blob that is staged after the cut would be in the log and
// not in the store.
func (w *world) crash(unsyncedPercent int) {
	w.t.Helper()
	mem, ok := w.fs.(*vfs.MemFS)
	if !ok {
		w.t.Fatal("only a world on a crashable file system can crash")
	}
	w.stop()
	w.done.Wait()
	clone := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: unsyncedPercent, RNG: rand.New(rand.NewPCG(1, 2))})
	w.close()
	w.fs = clone
	w.start()
}

// tight has nearly all that waits leave memory.
var tight = leader.MemoryBounds{Dispatched: 2, Sessions: 1, Timers: 2}

func newCrashableWorld(t testing.TB, shards int, manifest string, functions map[string]function) *world {
	w := &world{t: t, dir: t.TempDir(), shards: shards, apps: &deployed{}, run: newRunner(functions), fs: vfs.NewCrashableMem(), memory: tight}
	w.clock.set(midday())
	w.apps.apply(t, manifest)
	w.start()
	t.Cleanup(w.close)
	t.Cleanup(w.run.stop)
	return w
}

// putOnce puts under an idempotency key, again and again until it is told that it
// has.
func (w *world) putOnce(p leader.Put) leader.PutResult {
	w.t.Helper()
	body, err := io.ReadAll(p.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	p.Request = fmt.Sprintf("%s/%s/%s", p.Session, p.Bucket, p.Key)
	var res leader.PutResult
	eventually(w.t, "the put is taken", func() bool {
		p.Body = bytes.NewReader(body)
		if res, err = w.tryPut(p); err != nil && spec.CodeOf(err) != spec.CodeUnavailable {
			w.t.Fatalf("put %s: %v", p.Request, err)
		}
		return err == nil
	})
	return res
}

func TestARestartAtAnyPointChangesNothing(t *testing.T) {
	interruptions := map[string]func(w *world){
		"restart": func(w *world) { w.restart() },
		"new term": func(w *world) {
			for id := range w.raft {
				w.unseat(id)
			}
		},
		"crash": func(w *world) { w.crash(0) },
		"crash with a part of what was not synced": func(w *world) { w.crash(50) },
	}
	for name, test := range map[string]struct {
		trigger string
		steps   []string // keys put one after the other, with an interruption after each
		into    bool     // one session
		delay   time.Duration
		want    []string
	}{
		"a pending invocation":    {"{name: x, primitive: immediate, target: fire}", []string{"a", "b"}, false, 0, []string{"a", "b"}},
		"a half-counted set":      {"{name: x, primitive: by_set, keys: [a, b, c], target: fire}", []string{"c", "a", "b"}, true, 0, []string{"a+b+c"}},
		"a half-counted batch":    {"{name: x, primitive: by_batch_size, count: 2, target: fire}", []string{"a", "b", "c", "d"}, false, 0, []string{"a+b", "c+d"}},
		"a batch that waits":      {"{name: x, primitive: by_batch_size, count: 5, max_wait: 20m, target: fire}", []string{"a", "b"}, false, 0, []string{"a+b"}},
		"an open window":          {"{name: x, primitive: by_time, every: 20m, target: fire}", []string{"a"}, false, 0, []string{"a"}},
		"an open session window":  {"{name: x, primitive: by_time, scope: session, every: 20m, target: fire}", []string{"a"}, true, 0, []string{"a"}},
		"k of n":                  {"{name: x, primitive: redundant, k: 2, n: 4, target: fire}", []string{"a", "b", "c"}, true, 0, []string{"a+b"}},
		"a group without its end": {"{name: x, primitive: dynamic_group, group_by: {prefix: '/'}, until: {keys: [end]}, target: fire}", []string{"p/1", "q/1", "p/2", "end"}, true, 0, []string{"p/1+p/2", "q/1"}},
		"a delayed object":        {"{name: x, primitive: immediate, target: fire}", []string{"a", "b"}, false, 20 * time.Minute, []string{"a", "b"}},
	} {
		for how, interrupt := range interruptions {
			for _, shards := range []int{1, 3} {
				if shards == 3 && (test.into || (how == "restart" || how == "new term")) {
					continue // a session is on one shard; the mail of the others is what is new
				}
				t.Run(fmt.Sprintf("%s, %s, %d shards", name, how, shards), func(t *testing.T) {
					t.Parallel()
					var got collector
					w := newCrashableWorld(t, shards, oneTrigger(test.trigger), map[string]function{"fire": got.take})
					for i, key := range test.steps {
						size := 100
						if i == 0 {
							size = 70 << 10 // a blob; staging one syncs the store, so that there be less to lose
						}
						p := leader.Put{Bucket: "in", Key: spec.Key(key), Body: strings.NewReader(noise(size, 1)), DeliverAfter: test.delay}
						if test.into {
							p.Session = "run"
						}
						w.putOnce(p)
						interrupt(w)
					}
					w.delivered()
					w.forward(30 * time.Minute)
					eventually(t, fmt.Sprint(len(test.want), " firings"), func() bool { return len(got.sorted()) >= len(test.want) })
					if w.quiet(); shards == 1 {
						wantLines(t, got.sorted(), test.want...)
					} else { // mail of several shards comes in any order
						eventually(t, "all keys are in firings", func() bool { return len(got.keys()) >= len(test.steps) })
						wantLines(t, got.keys(), test.steps...)
					}
					for _, s := range w.sessions("") {
						if s.Status != wire.SessionCompleted {
							t.Errorf("session %s is %s: %+v", s.Session, s.Status, s.Error)
						}
					}
				})
			}
		}
	}
}

var seed = flag.Uint64("leader.seed", 0, "seed of the random workflows; 0 takes one by the clock")

var randomWorkflows = strings.ReplaceAll(`
apiVersion: pheromone/v1
app: demo
functions:
  split: {runtime: inproc, retry: RETRY}
  count: {runtime: inproc, retry: RETRY}
  merge: {runtime: inproc, retry: RETRY, emit: atomic}
  pair: {runtime: inproc, retry: RETRY}
  letter: {runtime: inproc, retry: RETRY}
  batch: {runtime: inproc, retry: RETRY}
buckets:
  documents: {triggers: [{name: t, primitive: immediate, target: split}]}
  parts: {triggers: [{name: t, primitive: immediate, target: count}]}
  counts:
    triggers:
      - {name: all, primitive: dynamic_join, target: merge}
      - {name: groups, primitive: dynamic_group, group_by: {meta: length}, until: {functions: [count]}, target: letter}
  halves: {triggers: [{name: t, primitive: by_set, keys: [left, right], target: pair}]}
  totals: {triggers: [{name: t, primitive: by_batch_size, count: 5, max_wait: 300ms, target: batch}]}
`, "RETRY", "{max_attempts: 100, backoff: 10ms, max_backoff: 50ms}")

// randomRun is a run of random workflows with what must come of it.
type randomRun struct {
	*world
	seed    uint64
	rng     *rand.Rand
	batches collector
	docs    map[spec.SessionID][]string // the words of each document
	halves  map[string]map[string]bool  // what was put of each pair
}

// unsteady makes a function fail at random, before and after what it puts.
func (r *randomRun) unsteady(f function) function {
	return func(c *call) error {
		h := fnv.New64a()
		fmt.Fprint(h, r.seed, c.Invocation, c.Attempt)
		dice := h.Sum64() % 10
		if dice < 2 {
			return errors.New("unlucky at the start")
		}
		if err := f(c); err != nil {
			return err
		}
		if dice < 5 {
			if err := c.flush(); err != nil {
				return err
			}
		}
		if dice < 4 {
			return errors.New("unlucky at the end")
		}
		return nil
	}
}

func (r *randomRun) functions() map[string]function {
	return map[string]function{
		"split": r.unsteady(wordcountSplit),
		"count": r.unsteady(func(c *call) error {
			n := fmt.Sprint(len(c.in[0].Data))
			c.emit(exec.Emission{Bucket: "counts", Key: c.in[0].Key, Data: []byte(n), Meta: map[string]string{"length": n}})
			return nil
		}),
		"merge": r.unsteady(func(c *call) error {
			c.output("total", strings.Join(dataOf(c.in), "+"))
			c.put("totals", string(c.Invocation.Session), noise(5000, 1))
			return nil
		}),
		"pair":   r.unsteady(func(c *call) error { c.output("pair", strings.Join(dataOf(c.in), "+")); return nil }),
		"letter": r.unsteady(func(c *call) error { c.output("of-"+c.Group, fmt.Sprint(len(c.in))); return nil }),
		"batch":  r.unsteady(r.batches.take),
	}
}

func wordcountSplit(c *call) error {
	var keys []spec.Key
	for i, word := range strings.Fields(string(c.in[0].Data)) {
		keys = append(keys, spec.Key(fmt.Sprint("part-", i)))
		c.put("parts", string(keys[i]), word)
	}
	c.join("counts", "all", keys...)
	return nil
}

func (r *randomRun) step(n int) {
	switch dice := r.rng.IntN(10); {
	case dice < 5:
		var words []string
		for range 1 + r.rng.IntN(6) {
			words = append(words, strings.Repeat("x", 1+r.rng.IntN(3)))
		}
		res := r.putOnce(leader.Put{Bucket: "documents", Key: spec.Key(fmt.Sprint("doc-", n)), Body: strings.NewReader(strings.Join(words, " "))})
		r.docs[res.Session] = words
	case dice < 9:
		id, side := fmt.Sprint("pair-", r.rng.IntN(8)), []string{"left", "right"}[r.rng.IntN(2)]
		if r.halves[id] == nil {
			r.halves[id] = map[string]bool{}
		}
		r.halves[id][side] = true
		r.putOnce(leader.Put{Session: spec.SessionID(id), Bucket: "halves", Key: spec.Key(side), Body: strings.NewReader(side + " of " + id)})
	case r.rng.IntN(2) == 0:
		r.unseat(spec.ShardID(1 + r.rng.IntN(r.shards)))
	case r.rng.IntN(2) == 0:
		r.restart()
	default:
		r.crash(r.rng.IntN(100))
	}
}

func (r *randomRun) check() {
	r.quiet()
	for id, words := range r.docs {
		var counts []string
		groups := map[int]int{}
		for _, word := range words {
			counts = append(counts, fmt.Sprint(len(word)))
			groups[len(word)]++
		}
		want := []string{"total=" + strings.Join(counts, "+")}
		for length, n := range groups {
			want = append(want, fmt.Sprintf("of-%d=%d", length, n))
		}
		r.completed(id, want...)
	}
	for id, sides := range r.halves {
		if len(sides) == 2 {
			r.completed(spec.SessionID(id), fmt.Sprintf("pair=left of %s+right of %s", id, id))
		} else {
			r.completed(spec.SessionID(id))
		}
	}
	var want []string
	for id := range r.docs {
		want = append(want, string(id))
	}
	slices.Sort(want)
	eventually(r.t, "all totals are in batches", func() bool { return len(r.batches.keys()) >= len(want) })
	r.quiet()
	wantLines(r.t, r.batches.keys(), want...)
}

func TestRandomWorkflowsComeOutRightWhateverFails(t *testing.T) {
	first := *seed
	if first == 0 {
		first = uint64(time.Now().UnixNano())
	}
	for i := range 4 {
		shards := []int{1, 3}[i%2]
		t.Run(fmt.Sprint(shards, " shards, run ", i/2), func(t *testing.T) {
			t.Parallel()
			r := &randomRun{seed: first + uint64(i), docs: map[spec.SessionID][]string{}, halves: map[string]map[string]bool{}}
			t.Logf("-leader.seed=%d", first)
			r.rng = rand.New(rand.NewPCG(r.seed, 1))
			r.world = newCrashableWorld(t, shards, randomWorkflows, r.functions())
			for n := range 60 {
				r.step(n)
			}
			r.check()
		})
	}
}
