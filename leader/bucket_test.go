package leader_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// collector notes the firings of a function: the keys of each.
type collector struct {
	mu      sync.Mutex
	firings map[string][]string // by invocation, so that a second attempt is the same firing
}

func (k *collector) take(c *call) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.firings == nil {
		k.firings = map[string][]string{}
	}
	k.firings[c.Invocation.String()] = keysOf(c.in)
	return nil
}

// sorted returns the firings as "a+b", sorted.
func (k *collector) sorted() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []string
	for _, keys := range k.firings {
		out = append(out, strings.Join(keys, "+"))
	}
	slices.Sort(out)
	return out
}

// keys returns all keys of all firings, sorted.
func (k *collector) keys() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []string
	for _, keys := range k.firings {
		out = append(out, keys...)
	}
	slices.Sort(out)
	return out
}

// overShards runs a test with triggers that live beside their sessions, and with
// mail between three shards.
func overShards(t *testing.T, test func(t *testing.T, shards int)) {
	for _, shards := range []int{1, 3} {
		t.Run(fmt.Sprint(shards, " shards"), func(t *testing.T) { t.Parallel(); test(t, shards) })
	}
}

func numbered(n int) []string {
	var keys []string
	for i := range n {
		keys = append(keys, fmt.Sprintf("k%03d", i))
	}
	return keys
}

// putAll puts objects from several clients at once, each into a session of its own.
func (w *world) putAll(bucket string, keys []string, value func(key string) string) {
	w.t.Helper()
	var clients sync.WaitGroup
	for part := range slices.Chunk(keys, (len(keys)+7)/8) {
		clients.Go(func() {
			for _, key := range part {
				_, err := w.tryPut(leader.Put{Bucket: spec.BucketName(bucket), Key: spec.Key(key), Body: strings.NewReader(value(key))})
				if err != nil {
					w.t.Errorf("put %s: %v", key, err)
				}
			}
		})
	}
	clients.Wait()
}

func TestEveryObjectOfABucketIsInExactlyOneBatch(t *testing.T) {
	overShards(t, func(t *testing.T, shards int) {
		var got collector
		w := newWorld(t, shards, oneTrigger("{name: x, primitive: by_batch_size, count: 7, max_wait: 200ms, target: fire}"), map[string]function{
			"fire": func(c *call) error {
				for _, in := range c.in {
					if want := "value of " + string(in.Key); !strings.HasPrefix(string(in.Data), want) || in.Session == "" {
						t.Errorf("input %s of session %q is %.20q", in.Key, in.Session, in.Data)
					}
				}
				return got.take(c)
			},
		})
		keys := numbered(100)
		w.putAll("in", keys, func(key string) string {
			return "value of " + key + strings.Repeat(".", len(w.t.Name())*1000*int(key[3]-'0')) // up to some 300 KiB
		})
		eventually(t, "all are in batches", func() bool { return len(got.keys()) >= 100 })
		w.quiet()
		if !slices.Equal(got.keys(), keys) {
			t.Errorf("the batches hold %q, want each key once", got.keys())
		}
		for _, batch := range got.sorted() {
			if n := strings.Count(batch, "+") + 1; n > 7 {
				t.Errorf("a batch has %d objects", n)
			}
		}
		for _, s := range w.sessions("") {
			if s.Status != wire.SessionCompleted {
				t.Errorf("session %s is %s", s.Session, s.Status)
			}
		}
	})
}

func TestBatchesAreExactWithoutMaxWait(t *testing.T) {
	overShards(t, func(t *testing.T, shards int) {
		var got collector
		w := newWorld(t, shards, oneTrigger("{name: x, primitive: by_batch_size, count: 10, target: fire}"), map[string]function{"fire": got.take})
		w.putAll("in", numbered(95), func(string) string { return "v" })
		eventually(t, "nine batches", func() bool { return len(got.sorted()) >= 9 })
		w.quiet()
		for _, batch := range got.sorted() {
			if strings.Count(batch, "+") != 9 {
				t.Errorf("a batch is %q", batch)
			}
		}
		if n := len(slices.Compact(got.keys())); n != 90 {
			t.Errorf("%d different objects are in batches, want 90", n)
		}
	})
}

func TestTimeWindowsOfABucketHoldEveryObjectOnce(t *testing.T) {
	overShards(t, func(t *testing.T, shards int) {
		var got collector
		w := newWorld(t, shards, oneTrigger("{name: x, primitive: by_time, every: 50ms, target: fire}"), map[string]function{"fire": got.take})
		keys := numbered(60)
		w.putAll("in", keys, func(string) string { return "v" })
		eventually(t, "all windows are closed", func() bool { return len(got.keys()) >= 60 })
		w.quiet()
		if !slices.Equal(got.keys(), keys) {
			t.Errorf("the windows hold %q", got.keys())
		}
	})
}

func TestEmptyWindowsFireWithoutAnyObject(t *testing.T) {
	overShards(t, func(t *testing.T, shards int) {
		var got collector
		w := newWorld(t, shards, oneTrigger("{name: x, primitive: by_time, every: 10m, allow_empty: true, target: fire}"), map[string]function{"fire": got.take})
		for n := range 6 {
			if n == 3 {
				w.restart() // they go on after it
			}
			w.forward(10 * time.Minute)
			eventually(t, fmt.Sprint("window ", n, " fires"), func() bool { return len(got.sorted()) == n+1 })
		}
		if keys := got.keys(); len(keys) != 0 {
			t.Errorf("the windows hold %q", keys)
		}
	})
}

func TestSlidingWindowsOverlap(t *testing.T) {
	var got collector
	w := newWorld(t, 1, oneTrigger("{name: x, primitive: by_time, every: 200ms, slide: 50ms, target: fire}"), map[string]function{"fire": got.take})
	w.put("in", "large", noise(100<<10, 1))
	eventually(t, "the object was in four windows", func() bool { return len(got.keys()) >= 4 })
	w.put("in", "other", "v")
	eventually(t, "the other was in four windows", func() bool { return len(got.keys()) >= 8 })
	w.quiet()
	if keys := got.keys(); len(keys) != 8 {
		t.Errorf("the windows hold %q", keys)
	}
}

func TestOtherPrimitivesAcrossABucket(t *testing.T) {
	for name, test := range map[string]struct {
		trigger string
		keys    []string // put one after the other
		want    []string
	}{
		"immediate":     {"{name: x, primitive: immediate, scope: bucket, target: fire}", []string{"a", "b", "a"}, []string{"a", "a", "b"}},
		"by_name":       {"{name: x, primitive: by_name, scope: bucket, match: 'a*', target: fire}", []string{"a1", "b", "a2"}, []string{"a1", "a2"}},
		"by_set":        {"{name: x, primitive: by_set, scope: bucket, keys: [a, b], target: fire}", []string{"b", "c", "b", "a", "a", "a"}, []string{"a+b", "a+b"}},
		"redundant":     {"{name: x, primitive: redundant, scope: bucket, k: 2, n: 3, target: fire}", []string{"a", "b", "c", "d", "e", "f", "g"}, []string{"a+b", "d+e"}},
		"dynamic_join":  {"{name: x, primitive: dynamic_join, scope: bucket, target: fire}", []string{"a", "join", "b", "a", "b"}, []string{"a+b"}},
		"dynamic_group": {"{name: x, primitive: dynamic_group, scope: bucket, group_by: {prefix: '/'}, until: {keys: [end]}, target: [fire, other]}", []string{"p/1", "q/1", "p/2", "end", "p/3"}, []string{"p/1+p/2", "p/1+p/2", "q/1", "q/1"}},
	} {
		t.Run(name, func(t *testing.T) {
			overShards(t, func(t *testing.T, shards int) {
				var got collector
				w := newWorld(t, shards, oneTrigger(test.trigger), map[string]function{"fire": got.take, "other": got.take, "seed": func(c *call) error {
					c.join("in", "x", "a", "b")
					return nil
				}})
				for _, key := range test.keys {
					if key == "join" {
						w.result(w.put("seeds", "s", ""))
						continue
					}
					w.result(w.put("in", key, noise(70<<10, 1))) // its session ends once its mail is taken
				}
				eventually(t, fmt.Sprint(len(test.want), " firings"), func() bool { return len(got.sorted()) >= len(test.want) })
				w.quiet()
				wantLines(t, got.sorted(), test.want...)
			})
		})
	}
}

func TestObjectsOfABucketLeaveNothingBehind(t *testing.T) {
	overShards(t, func(t *testing.T, shards int) {
		var got collector
		w := newWorld(t, shards, "retention: 0\n"+oneTrigger("{name: x, primitive: by_batch_size, count: 4, target: [fire, other]}, {name: y, primitive: immediate, scope: bucket, target: fire}"),
			map[string]function{"fire": got.take, "other": got.take})
		for i, size := range []int{10, 2 << 10, 70 << 10, 2 << 20} {
			w.put("in", fmt.Sprint("k", i), noise(size, uint64(i)))
		}
		eventually(t, "all have fired", func() bool { return len(got.sorted()) == 6 })
		for i := range 4 {
			key := spec.Key(fmt.Sprint("k", i))
			if _, err := w.of(spec.KeySlot("demo", "in", key)).Delete(t.Context(), leader.Delete{App: "demo", Bucket: "in", Key: key}); err != nil {
				t.Fatalf("delete: %v", err)
			}
		}
		w.quiet()
		w.forward(time.Minute)
		eventually(t, "only the triggers' own state is left", func() bool {
			for _, k := range w.left() {
				if !strings.HasPrefix(k, "30 ") {
					return false
				}
			}
			return true
		})
	})
}
