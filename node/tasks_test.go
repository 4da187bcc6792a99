package node

import (
	"sync"
	"sync/atomic"
	"testing"
)

// A request may be answered while the node waits for its tasks.
func TestNoTaskBeginsOnceTheNodeHasWaitedForThem(t *testing.T) {
	for range 50 {
		var all tasks
		var begun atomic.Int64
		var ended atomic.Bool
		begin := make(chan struct{})
		var requests sync.WaitGroup
		for range 4 {
			requests.Go(func() {
				<-begin
				for !ended.Load() {
					done := make(chan struct{})
					if !all.Go(func() { begun.Add(1); close(done) }) {
						return
					}
					<-done
				}
				if all.Go(func() {}) {
					t.Error("tasks begin for ever")
				}
			})
		}
		close(begin)
		all.end()
		before := begun.Load()
		ended.Store(true)
		requests.Wait() // each was told that there are no more
		if n := begun.Load(); n != before {
			t.Fatalf("%d tasks have begun since", n-before)
		}
	}
}
