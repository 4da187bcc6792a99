package node

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// A request may be answered while the node waits for its tasks.
func TestNoTaskBeginsOnceTheNodeHasWaitedForThem(t *testing.T) {
	for range 300 {
		var all tasks
		var begun atomic.Int64
		var ended atomic.Bool
		const callers = 4
		busy := make(chan struct{}, callers) // gets one of each
		var requests sync.WaitGroup
		for range callers {
			requests.Go(func() {
				for n := 0; !ended.Load(); n++ {
					done := make(chan struct{})
					if !all.Go(func() { begun.Add(1); close(done) }) {
						return
					}
					if <-done; n == 0 {
						busy <- struct{}{}
					}
					runtime.Gosched() // a caller and its task could keep one processor to themselves
				}
				if all.Go(func() {}) {
					t.Error("tasks begin for ever")
				}
			})
		}
		for range callers {
			<-busy
		}
		all.end()
		before := begun.Load()
		ended.Store(true)
		requests.Wait() // each was told that there are no more
		if n := begun.Load(); n != before {
			t.Fatalf("%d tasks have begun since", n-before)
		}
		if t.Failed() {
			return
		}
	}
}
