package fn

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestADeadlineHasATimerOnlyForWhoWaits(t *testing.T) {
	ctx, stop := withDeadline(context.Background(), time.Hour)
	defer stop()
	if err := ctx.Err(); err != nil {
		t.Fatalf("it ended at once: %v", err)
	}
	if at, ok := ctx.Deadline(); !ok || time.Until(at) < time.Minute {
		t.Errorf("its deadline is %v", at)
	}
	if ctx.(*deadlineContext).mu.armed != nil {
		t.Error("it has a timer that nobody needs")
	}
	ctx.Done()
	if ctx.(*deadlineContext).mu.armed == nil {
		t.Error("it has no timer for who waits")
	}
	stop()
	if ctx.Err() == nil {
		t.Error("it goes on, without a timer")
	}
}

func TestADeadlineEndsWhoWaitsAndWhoLooks(t *testing.T) {
	for name, ended := range map[string]func(t *testing.T, ctx context.Context){
		"looks":   func(t *testing.T, ctx context.Context) { await(t, func() bool { return ctx.Err() != nil }) },
		"waits":   func(_ *testing.T, ctx context.Context) { <-ctx.Done() },
		"derives": awaitDerived,
	} {
		t.Run(name, func(t *testing.T) {
			ctx, stop := withDeadline(context.WithValue(context.Background(), key{}, "value"), time.Millisecond)
			defer stop()
			ended(t, ctx)
			if !errors.Is(ctx.Err(), context.DeadlineExceeded) || context.Cause(ctx) != errDeadline {
				t.Errorf("it ended with %v, because of %v", ctx.Err(), context.Cause(ctx))
			}
			if ctx.Value(key{}) != "value" {
				t.Error("it has lost a value")
			}
		})
	}
}

type key struct{}

// await polls until cond holds.
func await(t *testing.T, cond func() bool) {
	t.Helper()
	deadline := time.After(time.Minute)
	for !cond() {
		select {
		case <-time.After(time.Millisecond):
		case <-deadline:
			t.Fatal("waited a minute in vain")
		}
	}
}

// awaitDerived waits for the end of a context that derives from ctx.
func awaitDerived(t *testing.T, ctx context.Context) {
	t.Helper()
	derived, cancel := context.WithCancel(ctx)
	defer cancel()
	<-derived.Done()
	if context.Cause(derived) != errDeadline {
		t.Errorf("what derives from it ended because of %v", context.Cause(derived))
	}
}

func TestWhatCancelsAnAttemptIsToldAlsoBeforeItsDeadline(t *testing.T) {
	for name, use := range map[string]func(context.Context){
		"without a timer": func(context.Context) {},
		"with a timer":    func(ctx context.Context) { ctx.Done() },
	} {
		t.Run(name, func(t *testing.T) {
			parent, cancel := context.WithCancelCause(context.Background())
			ctx, stop := withDeadline(parent, time.Hour)
			defer stop()
			use(ctx)
			cancel(errCancelled)
			<-ctx.Done()
			if ctx.Err() != context.Canceled || context.Cause(ctx) != errCancelled {
				t.Errorf("it ended with %v, because of %v", ctx.Err(), context.Cause(ctx))
			}
		})
	}
}
