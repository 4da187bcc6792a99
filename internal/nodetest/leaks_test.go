package nodetest

import (
	"testing"
	"time"
)

func TestAGoroutineIsLeftUntilItHasEnded(t *testing.T) {
	end := make(chan struct{})
	go func() { <-end }()
	if goroutinesLeft(0, nil) == nil {
		t.Error("one that waits is not seen")
	}
	close(end)
	if err := goroutinesLeft(time.Minute, nil); err != nil {
		t.Errorf("it has ended: %v", err)
	}
}
