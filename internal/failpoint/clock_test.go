package failpoint_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/internal/failpoint"
)

func TestTheClockIsAsWrongAsItsFileSays(t *testing.T) {
	file := filepath.Join(t.TempDir(), "clock")
	set := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	set("1h\n")
	now, err := failpoint.Clock(file)
	if err != nil {
		t.Fatal(err)
	}
	wrong := func(by time.Duration) bool {
		d := time.Until(now()) - by
		return d > -10*time.Minute && d < 10*time.Minute
	}
	if !wrong(time.Hour) {
		t.Errorf("the clock is wrong by %v", time.Until(now()))
	}
	set("-2h")
	deadline := time.Now().Add(time.Minute)
	for !wrong(-2*time.Hour) && time.Now().Before(deadline) {
		<-time.After(time.Millisecond)
	}
	set("half a word")
	if !wrong(-2 * time.Hour) {
		t.Errorf("the clock is wrong by %v", time.Until(now()))
	}
}

func TestAClockThatCannotBeSetIsRefused(t *testing.T) {
	if now, err := failpoint.Clock(""); now != nil || err != nil {
		t.Errorf("nothing armed: %v", err)
	}
	file := filepath.Join(t.TempDir(), "clock")
	if _, err := failpoint.Clock(file); err == nil || !strings.Contains(err.Error(), failpoint.ClockVariable) {
		t.Errorf("without a file: %v", err)
	}
	if err := os.WriteFile(file, []byte("soon"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := failpoint.Clock(file); err == nil {
		t.Error("a file without a duration is taken")
	}
}
