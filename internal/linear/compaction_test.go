package linear

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// TestAWatchFromBeforeTheChangeLogsCutIsToldWhereToGoOn: the answer says that the
// position is gone, with one that a watcher can go on from without a gap if it
// lists the bucket in between.
func TestAWatchFromBeforeTheChangeLogsCutIsToldWhereToGoOn(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	shards := 2
	if *changes > 0 {
		shards = 1 // which gets all of them
	}
	node := start(t, shards, "--data", data)
	c := patient(t, node)
	ctx := bounded(t, 5*time.Minute+time.Duration(*changes)*5*time.Millisecond)
	old := positionNow(t, c, objects)
	put(ctx, t, c, objects, "first", "", client.PutOptions{})
	if *changes > 0 {
		putMany(t, c, *changes)
	} else {
		age(t, node, c, data)
	}
	const keys = 24 // so that each shard gets some
	for n := range keys {
		put(ctx, t, c, objects, spec.Key(fmt.Sprintf("then-%d", n)), "", client.PutOptions{})
	}

	var refusal error
	for e, err := range c.Watch(ctx, app, objects, client.WatchOptions{From: old}) {
		if err == nil {
			t.Fatalf("a watch from %q shows %s of %s though the log was cut", old, e.Type, e.Object.Key)
		}
		refusal = err
	}
	if spec.CodeOf(refusal) != spec.CodeGone {
		t.Fatalf("a watch from %q ends with %v, want gone", old, refusal)
	}
	said, ok := errors.AsType[*client.Error](refusal)
	if !ok || said.Status != 410 || said.Err.Hint == "" {
		t.Fatalf("the refusal is %#v, want status 410 and a hint with a position", refusal)
	}
	put(ctx, t, c, objects, "later", "", client.PutOptions{})
	node.Kill()
	node.Restart()
	for e, err := range c.Watch(ctx, app, objects, client.WatchOptions{From: said.Err.Hint}) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Object.Key != "later" {
			t.Errorf("the watch from the hint begins with %s of %s", e.Type, e.Object.Key)
		}
		break
	}
}

// age makes the stopped node's shards as if many objects of another bucket had
// been put: putting so many takes minutes.
func age(t *testing.T, node *nodetest.Node, c *client.Client, data string) {
	t.Helper()
	cluster, err := c.Cluster(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	node.Stop()
	db, err := store.Open(filepath.Join(data, "store"), store.Options{Node: "n1", ReserveBytes: -1})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range cluster.Shards {
		key := store.AppendCountersKey(nil, s.Shard)
		value, err := db.Get(key)
		if err != nil {
			t.Fatalf("counters of shard %d: %v", s.Shard, err)
		}
		counters, err := store.DecodeCounters(value)
		if err != nil {
			t.Fatal(err)
		}
		batch := db.NewBatch()
		for range 260_000 {
			counters.Revision++
			e := store.Event{Kind: store.EventPut, App: app, Bucket: "others", Key: "old", Object: store.Object{Revision: counters.Revision}}
			batch.Set(store.AppendEventKey(nil, s.Shard, counters.Revision), store.AppendEvent(nil, &e))
		}
		batch.Set(key, store.AppendCounters(nil, &counters))
		if err := db.Commit(batch, true); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	node.Restart()
}

func putMany(t *testing.T, c *client.Client, count int) {
	t.Helper()
	var putters sync.WaitGroup
	defer putters.Wait()
	for w := range 64 {
		putters.Go(func() {
			for n := range count / 64 {
				key := spec.Key(fmt.Sprintf("many-%d-%d", w, n%10))
				if _, err := c.Put(t.Context(), app, objects, key, strings.NewReader(""), client.PutOptions{}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
}
