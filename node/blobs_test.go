package node_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/client/fn"
	"github.com/pheromone-run/pheromone/exec/inproc"
	"github.com/pheromone-run/pheromone/spec"
)

const largeApp = `
apiVersion: pheromone/v1
app: large
functions: {gather: {runtime: inproc}}
buckets:
  kept: {}
  both: {triggers: [{name: some, primitive: by_batch_size, target: gather, count: 4, scope: bucket}]}
`

func largeBytes(seed, n int) []byte {
	out := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed)}).Read(out)
	return out
}

func (m *member) client() *client.Client {
	m.t.Helper()
	c, err := client.New(m.node.URL())
	if err != nil {
		m.t.Fatal(err)
	}
	return c
}

func (m *member) putLarge(bucket spec.BucketName, key int, data []byte) {
	m.t.Helper()
	c := m.client()
	m.do("put", func(ctx context.Context) error {
		_, err := c.Put(ctx, "large", bucket, spec.Key(fmt.Sprint(key)), bytes.NewReader(data), client.PutOptions{IdempotencyKey: fmt.Sprint(bucket, key)})
		return err
	})
}

func (m *member) hasLarge(key int, data []byte, stale bool) {
	m.t.Helper()
	c := m.client()
	m.do(fmt.Sprintf("get %d from %s", key, m.cfg.Name), func(ctx context.Context) error {
		o, err := c.Get(ctx, "large", "kept", spec.Key(fmt.Sprint(key)), client.GetOptions{Stale: stale})
		if err == nil && !bytes.Equal(o.Data, data) {
			err = fmt.Errorf("it came with %d bytes of %d, or others", len(o.Data), len(data))
		}
		return err
	})
}

// gathered is what a function of all nodes was given.
type gathered struct {
	mu     sync.Mutex
	values map[string][]byte
}

func (g *gathered) on(m *member) {
	functions := inproc.New(inproc.Settings{})
	functions.Register("large", "gather", func(_ *fn.Context, in []fn.Object) error {
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, o := range in {
			g.values[string(o.Key)] = slices.Clone(o.Bytes())
		}
		return nil
	})
	m.cfg.Inproc = functions
}

func threeWithLargeApp(t *testing.T) ([]*member, *gathered) {
	t.Helper()
	all, g := members(t, 3), &gathered{values: map[string][]byte{}}
	for _, m := range all {
		m.cfg.Shards = 6
		g.on(m)
		m.start()
	}
	for _, m := range all {
		m.ready()
	}
	c := all[0].client()
	all[0].do("deploy", func(ctx context.Context) error {
		_, err := c.Apply(ctx, "large", []byte(largeApp), client.ApplyOptions{})
		return err
	})
	return all, g
}

func TestLargeObjectsOutliveTheNodesThatWereThere(t *testing.T) {
	all, _ := threeWithLargeApp(t)
	data := func(key int) []byte { return largeBytes(key, 200<<10+key*300<<10) }
	const some = 12 // in several shards
	for key := range some {
		all[key%3].putLarge("kept", key, data(key))
	}
	all[2].stop()
	for key := range some { // also where the third one led
		all[key%2].hasLarge(key, data(key), false)
	}
	for key := some; key < 2*some; key++ { // which the third one misses
		all[key%2].putLarge("kept", key, data(key))
	}
	all[2].start()
	all[2].ready()
	for key := range 2 * some {
		all[2].hasLarge(key, data(key), false)
	}
	all[0].stop()
	for key := range 2 * some {
		all[1+key%2].hasLarge(key, data(key), false)
	}
	all[1].stop()
	for key := range 2 * some {
		all[2].hasLarge(key, data(key), true) // there is nobody left to get them from
	}
	numbers := all[2].metrics("pheromone_large_objects_")
	if _, ok := numbers["pheromone_large_objects_repairs_failed_total"]; !ok || numbers["pheromone_large_objects_repaired_total"] == 0 {
		t.Errorf("metrics of what it lacked: %v", numbers)
	}
}

func TestLargeObjectsReachTriggersOnOtherNodes(t *testing.T) {
	all, g := threeWithLargeApp(t)
	const some = 12 // in several shards, whose leaders are on several nodes
	for key := range some {
		all[key%3].putLarge("both", key, largeBytes(key, 100<<10+key))
	}
	missing := func() error {
		g.mu.Lock()
		defer g.mu.Unlock()
		for key := range some {
			if got := g.values[fmt.Sprint(key)]; !bytes.Equal(got, largeBytes(key, 100<<10+key)) {
				return fmt.Errorf("object %d came with %d bytes, of %d objects", key, len(got), len(g.values))
			}
		}
		return nil
	}
	all[0].do("gather", func(ctx context.Context) error {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for err := missing(); ; err = missing() {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return err
			}
			if err == nil {
				return nil
			}
		}
	})
}
