package linear

import (
	"fmt"
	"math"
	"testing"
	"time"
)

// TestKeyValueObjectsAreLinearizableAndWatchedOverRestarts: clients get, put and
// delete a few keys while watches follow them and the node is killed and started
// again. Every answer fits one order of the operations, and every watch shows the
// changes, each once, in that order.
func TestKeyValueObjectsAreLinearizableAndWatchedOverRestarts(t *testing.T) {
	for part, shards := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d shards", shards), func(t *testing.T) {
			node := start(t, shards)
			lasts := time.Duration(*seconds) * time.Second
			l := NewLoad(Config{Servers: []string{node.URL()}, App: app, Bucket: objects, Clients: *clients, Lasts: lasts, Seed: *seed})
			ctx := bounded(t, lasts+3*time.Minute)
			w, err := l.Watch(ctx)
			if err != nil {
				t.Fatal(err)
			}
			stop := make(chan struct{})
			began := time.AfterFunc(lasts, func() { close(stop) })
			defer began.Stop()
			finished := make(chan struct{})
			go func() {
				defer close(finished)
				l.Run(stop)
			}()
			kills := bounce(node, random(uint64(1000+part)), 800*time.Millisecond, math.MaxInt, stop)
			<-finished
			summary, faults := l.Verify(ctx, w)
			t.Logf("%d kills, %v", kills, summary)
			for _, err := range faults {
				t.Error(err)
			}
			if t.Failed() {
				t.Logf("seed %d", *seed)
			}
		})
	}
}
