package leader_test

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
	"github.com/pheromone-run/pheromone/store"
)

// tally notes the firings of a function by the sessions and keys of their inputs.
type tally struct {
	mu      sync.Mutex
	firings map[spec.InvocationID][]string // so that a second attempt is the same firing
}

func (k *tally) take(c *call) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.firings == nil {
		k.firings = map[spec.InvocationID][]string{}
	}
	var names []string
	for _, in := range c.in {
		names = append(names, fmt.Sprintf("%s/%s/%s", in.Bucket, in.Session, in.Key))
	}
	k.firings[c.Invocation] = names
	return nil
}

// counts tells how often each object was fired.
func (k *tally) counts() map[string]int {
	k.mu.Lock()
	defer k.mu.Unlock()
	counts := map[string]int{}
	for _, names := range k.firings {
		for _, name := range names {
			counts[name]++
		}
	}
	return counts
}

// joined tells how often each set was fired, by its keys.
func (k *tally) joined() map[string]int {
	k.mu.Lock()
	defer k.mu.Unlock()
	counts := map[string]int{}
	for _, names := range k.firings {
		var keys []string
		for _, name := range names {
			keys = append(keys, name[strings.LastIndexByte(name, '/')+1:])
		}
		counts[strings.Join(keys, "+")]++
	}
	return counts
}

// troubled is a run of random puts and troubles of network and leaders, with what
// must come of it.
type troubled struct {
	*world
	net                  *network
	every, batches, sets tally
	objects              map[string]bool // bucket/session/key
	named                []string        // sets, by their keys
	ends                 int             // of terms
}

// step is a step of the run. Its numbers choose among what there is.
type step struct {
	Do    string
	Shard spec.ShardID
	Of    spec.ShardID // whose bucket
	N     int
}

// name names a set, or puts many objects: its input says bucket and keys.
func (r *troubled) name(c *call) error {
	words := strings.Fields(string(c.in[0].Data))
	if words[0] == "burst" {
		for _, key := range words[2:] {
			c.put(words[1], key, noise(1000, 1))
		}
		return nil
	}
	var keys []spec.Key
	for _, key := range words[1:] {
		keys = append(keys, spec.Key(key))
	}
	c.join(words[0], "all", keys...)
	return nil
}

func (r *troubled) manifest() string {
	var b strings.Builder
	b.WriteString("functions: {every: {runtime: inproc}, batch: {runtime: inproc}, set: {runtime: inproc}, name: {runtime: inproc}}\nbuckets:\n")
	b.WriteString("  seeds: {triggers: [{name: t, primitive: immediate, target: name}]}\n")
	for i := range r.shards {
		fmt.Fprintf(&b, `  %s:
    triggers:
      - {name: every, primitive: immediate, scope: bucket, target: every}
      - {name: batch, primitive: by_batch_size, count: 3, max_wait: 100ms, target: batch}
      - {name: all, primitive: dynamic_join, scope: bucket, target: set}
`, r.bucketOf(spec.ShardID(i+1)))
	}
	return manifest(b.String())
}

func newTroubled(t *testing.T, seed uint64) *troubled {
	r := &troubled{objects: map[string]bool{}}
	r.world = &world{t: t, dir: t.TempDir(), shards: 3, apps: &deployed{}, mail: leader.MailBounds{Messages: marksMost * 2, Bytes: 256 << 10}}
	r.run = newRunner(map[string]function{"every": r.every.take, "batch": r.batches.take, "set": r.sets.take, "name": r.name})
	r.net = newNetwork(r.world, seed)
	r.network = r.net
	r.apps.apply(t, r.manifest())
	r.start()
	t.Cleanup(r.close)
	t.Cleanup(r.run.stop)
	return r
}

func (r *troubled) object(from spec.ShardID, n int, bucket, key string, size int) {
	id := r.sessionOn(from, n)
	r.putOnce(leader.Put{Session: id, Bucket: spec.BucketName(bucket), Key: spec.Key(key), Body: strings.NewReader(noise(size, 1))})
	r.objects[fmt.Sprintf("%s/%s/%s", bucket, id, key)] = true
}

func (r *troubled) seed(from spec.ShardID, n int, words ...string) spec.SessionID {
	id := r.sessionOn(from, n)
	r.putOnce(leader.Put{Session: id, Bucket: "seeds", Key: "seed", Body: strings.NewReader(strings.Join(words, " "))})
	return id
}

func (r *troubled) step(n int, s step) {
	bucket := r.bucketOf(s.Of)
	switch s.Do {
	case "put":
		r.object(s.Shard, n, bucket, fmt.Sprint("k", n), 100)
	case "put a blob":
		r.object(s.Shard, n, bucket, fmt.Sprint("k", n), 70<<10)
	case "burst":
		words := []string{"burst", bucket}
		id := r.sessionOn(s.Shard, n)
		for i := range 10 {
			key := fmt.Sprintf("k%d-%d", n, i)
			words = append(words, key)
			r.objects[fmt.Sprintf("%s/%s/%s", bucket, id, key)] = true
		}
		r.seed(s.Shard, n, words...)
	case "set":
		a, b := fmt.Sprintf("k%d-a", n), fmt.Sprintf("k%d-b", n)
		r.object(s.Shard, n, bucket, a, 100)
		r.seed(s.Of%3+1, 1000+n, bucket, a, b)
		r.object(spec.ShardID(s.N%3+1), 2000+n, bucket, b, 100)
		r.named = append(r.named, bucket+" "+a+"+"+b)
	case "unseat":
		r.ends++
		r.unseat(s.Shard)
	case "restart":
		r.ends++
		r.restart()
	case "cut":
		r.net.cut(s.Shard)
	case "mend":
		r.net.mend()
	case "overtaken":
		r.net.overtaken()
	case "repeat":
		r.net.repeat(s.N)
	}
	for pair, marks := range r.marks() {
		// The messages before the first that is not acknowledged are forgotten with a
		// term, and their marks are not.
		if marks > marksMost*(r.ends+1) {
			r.t.Fatalf("step %d: %d marks of messages %s", n, marks, pair)
		}
	}
}

// marksMost is how many messages of a lane are in memory at most.
const marksMost = 6

// marks counts the marks of taken messages by sender and receiver.
func (r *troubled) marks() map[string]int {
	marks := map[string]int{}
	for to := range r.shards {
		for from := range r.shards {
			to, from := spec.ShardID(to+1), spec.ShardID(from+1)
			floor := store.AppendInboxKey(nil, to, from)
			lower, upper := store.Bounds(floor)
			err := r.db.Scan(lower, upper, func(k, _ []byte) bool {
				if len(k) > len(floor) {
					marks[fmt.Sprintf("from %d to %d", from, to)]++
				}
				return true
			})
			if err != nil {
				r.t.Fatalf("scan: %v", err)
			}
		}
	}
	return marks
}

// delivered waits until no shard has mail for another one.
func (w *world) delivered() {
	w.t.Helper()
	eventually(w.t, "the outboxes are empty", func() bool {
		n := 0
		for _, l := range w.leaders {
			n += l.Outbox()
		}
		return n == 0
	})
}

func (r *troubled) wait() {
	r.t.Helper()
	r.delivered()
	r.quiet()
	eventually(r.t, "all are in batches", func() bool { return len(r.batches.counts()) >= len(r.objects) })
	r.quiet()
}

func (r *troubled) check() {
	r.t.Helper()
	for _, k := range []struct {
		name string
		got  map[string]int
	}{{"immediate", r.every.counts()}, {"by_batch_size", r.batches.counts()}} {
		for object := range r.objects {
			if n := k.got[object]; n != 1 {
				r.t.Errorf("%s: %s was counted %d times", k.name, object, n)
			}
		}
		if len(k.got) != len(r.objects) {
			r.t.Errorf("%s: %d objects were counted, %d were put", k.name, len(k.got), len(r.objects))
		}
	}
	joined := r.sets.joined()
	for _, set := range r.named {
		if _, keys, _ := strings.Cut(set, " "); joined[keys] != 1 {
			r.t.Errorf("set %s was fired %d times", keys, joined[keys])
		}
	}
	if len(joined) != len(r.named) {
		r.t.Errorf("%d sets were fired, %d were named: %v", len(joined), len(r.named), joined)
	}
	for _, s := range r.sessions("") {
		if s.Status != wire.SessionCompleted {
			r.t.Errorf("session %s is %s: %+v", s.Session, s.Status, s.Error)
		}
	}
	for i := range r.shards {
		lower, upper := store.Bounds(store.AppendOutboxPrefix(nil, spec.ShardID(i+1)))
		_ = r.db.Scan(lower, upper, func(k, _ []byte) bool { r.t.Errorf("left in the outbox: %x", k); return true })
	}
}

// again puts the objects of all sets once more: a set that was named twice would
// fire with them.
func (r *troubled) again() {
	for i, set := range r.named {
		bucket, keys, _ := strings.Cut(set, " ")
		for j, key := range strings.Split(keys, "+") {
			r.object(spec.ShardID(j+1), 3000+i, bucket, key, 10)
		}
	}
	// One message from each shard to each other tells the receiver that all before
	// it are acknowledged.
	for from := range r.shards {
		for to := range r.shards {
			if from != to {
				r.wait()
				r.object(spec.ShardID(from+1), 4000+to, r.bucketOf(spec.ShardID(to+1)), "last", 10)
			}
		}
	}
}

var steps = rapid.Custom(func(t *rapid.T) step {
	return step{
		Do: rapid.SampledFrom([]string{
			"put", "put", "put", "put", "put a blob", "burst", "burst", "set", "set",
			"unseat", "unseat", "restart", "cut", "mend", "overtaken", "overtaken", "repeat", "repeat", "repeat", "repeat",
		}).Draw(t, "do"),
		Shard: spec.ShardID(rapid.IntRange(1, 3).Draw(t, "shard")),
		Of:    spec.ShardID(rapid.IntRange(1, 3).Draw(t, "of")),
		N:     rapid.IntRange(0, 1<<20).Draw(t, "n"),
	}
})

func TestMailIsCountedExactlyOnceWhateverTheNetworkAndTheLeadersDo(t *testing.T) {
	first := *seed
	if first == 0 {
		first = uint64(time.Now().UnixNano())
	}
	for i := range 3 {
		t.Run(fmt.Sprint("run ", i), func(t *testing.T) {
			t.Parallel()
			t.Logf("-leader.seed=%d", first)
			script := rapid.SliceOfN(steps, 60, 60).Example(int((first + uint64(i)) % math.MaxInt))
			r := newTroubled(t, first+uint64(i))
			for n, s := range script {
				r.step(n, s)
			}
			r.net.calmDown()
			r.wait()
			for which := range r.net.late {
				r.net.repeat(which)
			}
			r.wait()
			r.check()
			r.again()
			r.wait()
			r.check()
			for pair, marks := range r.marks() {
				if marks > 3 { // of the last object, for each of the bucket's triggers
					t.Errorf("%d marks of messages %s are left", marks, pair)
				}
			}
			if t.Failed() {
				t.Logf("the steps were %+v", script)
			}
		})
	}
}
