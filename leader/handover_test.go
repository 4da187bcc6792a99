package leader_test

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/spec"
)

func TestWhatAnAttemptPutsAtOnceIsSpreadSomeAtATime(t *testing.T) {
	const blobs, most = 40, 8
	value := func(i int) string { return noise(70<<10, uint64(i)) }
	c := newCopied(t, 1, copiedApp, map[string]function{
		"double": func(c *call) error {
			for i := range blobs {
				c.output(fmt.Sprintf("k%02d", i), value(i))
			}
			return nil
		},
	})
	var now, mostNow, all, failed atomic.Int64
	together := make(chan struct{})
	under := func() error {
		defer now.Add(-1)
		n := now.Add(1)
		for seen := mostNow.Load(); n > seen && !mostNow.CompareAndSwap(seen, n); seen = mostNow.Load() {
		}
		if all.Add(1) == most {
			close(together)
		}
		select {
		case <-together:
		case <-time.After(patience):
			return spec.Errorf(spec.CodeUnavailable, "no more came")
		}
		if all.Load() > 2*most && failed.CompareAndSwap(0, 1) {
			return spec.Errorf(spec.CodeUnavailable, "the others are away")
		}
		return nil
	}
	c.under.Store(&under)
	session := c.put("in", "k", "small")
	out := outputs(c.result(session))
	if len(out) != blobs {
		t.Fatalf("%d outputs", len(out))
	}
	slices.Sort(out)
	for i, got := range out {
		if got != fmt.Sprintf("k%02d=%s", i, value(i)) {
			t.Errorf("output %d has other bytes", i)
		}
	}
	if mostNow.Load() != most {
		t.Errorf("%d were spread at once", mostNow.Load())
	}
	attempts := c.history(session).Invocations[0].Attempts
	if len(attempts) != 2 || !strings.Contains(attempts[0].Error.Message, "the others are away") {
		t.Errorf("attempts %+v", attempts)
	}
	c.nothingStaged()
}
