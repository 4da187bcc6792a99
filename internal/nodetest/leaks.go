package nodetest

import (
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// leakWait bounds how long goroutines that were told to end may take, on a busy
// machine: goleak by itself gives them half a second.
const leakWait = time.Minute

// NoGoroutinesLeft fails the test if goroutines are left that do not end.
func NoGoroutinesLeft(t testing.TB, ignore ...goleak.Option) {
	t.Helper()
	if err := goroutinesLeft(leakWait, ignore); err != nil {
		t.Error(err)
	}
}

// MainWithoutLeaks is the TestMain of a package whose tests leave no goroutines.
func MainWithoutLeaks(m *testing.M, ignore ...goleak.Option) {
	code := m.Run()
	if code == 0 {
		if err := goroutinesLeft(leakWait, ignore); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func goroutinesLeft(wait time.Duration, ignore []goleak.Option) error {
	for deadline := time.Now().Add(wait); ; {
		err := goleak.Find(ignore...)
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}
