package node

import (
	"context"
	"testing"
	"time"
)

// Whoever shares a look goes by what it found. One that was given up found nothing.
func TestALookThatWasGivenUpIsNotTakenForItsOutcome(t *testing.T) {
	var all lookouts
	ctx, cancel := context.WithCancel(t.Context())
	all.look(ctx, 1, time.Hour, func() string {
		cancel()
		return ""
	})
	looks := 0
	find := func() string { looks++; return "n2" }
	if got := all.look(ctx, 1, time.Hour, find); got != "" || looks != 0 {
		t.Errorf("who does not wait any more looks %d times and finds %q", looks, got)
	}
	for range 2 {
		if got := all.look(t.Context(), 1, time.Hour, find); got != "n2" || looks != 1 {
			t.Errorf("the next one finds %q after %d looks", got, looks)
		}
	}
}
