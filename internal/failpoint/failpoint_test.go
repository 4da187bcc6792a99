package failpoint_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/pheromone-run/pheromone/internal/failpoint"
)

// lifeVariable has the test's binary live through two entries and end.
const lifeVariable = "FAILPOINT_TEST_LIFE"

func TestMain(m *testing.M) {
	if os.Getenv(lifeVariable) == "" {
		os.Exit(m.Run())
	}
	if err := failpoint.Arm(os.Getenv(failpoint.Variable)); err != nil {
		fmt.Println(err)
		os.Exit(2)
	}
	for range 2 {
		var e failpoint.Entry
		e.Pass(failpoint.Accepted, "shop")
		e.Pass(failpoint.Fired, "shop")
		e.Pass(failpoint.Fired, "shop")
		e.Pass(failpoint.Fired, "other")
		e.Propose([]byte("body"))
		failpoint.Entries(failpoint.Logged, [][]byte{[]byte("another's"), []byte("body")})
		failpoint.Entries(failpoint.Applied, [][]byte{[]byte("body")})
		e.At(failpoint.Reported)
		failpoint.At(failpoint.Submitting, "shop")
		e.At(failpoint.Effected)
	}
	fmt.Println("lived")
}

// live runs a life with a failpoint and tells how it ended and what was said.
func live(t *testing.T, value string) (killed bool, stdout, stderr string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), lifeVariable+"=1", failpoint.Variable+"="+value)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	return status.Signaled() && status.Signal() == syscall.SIGKILL, out.String(), errs.String()
}

func TestTheProcessDiesWhereItIsToldTo(t *testing.T) {
	for _, test := range []struct{ name, value, said string }{
		{"at a moment of a step, with all steps of the entry that are the app's", "fired/logged@shop",
			"killed at accepted/logged:1@shop, killed at fired/logged:1@shop"},
		{"of another app", "fired/logged@other", "killed at fired/logged:1@other"},
		{"at the second time", "accepted/applied:2@shop", "killed at accepted/applied:2@shop, killed at fired/applied:2@shop"},
		{"of any app", "accepted/evaluated", "killed at accepted/evaluated:1@shop, killed at fired/evaluated:1@shop"},
		{"at a place", "submitting:2", "killed at submitting:2@shop"},
		{"with the effects", "accepted/effected", "killed at accepted/effected:1@shop, killed at fired/effected:1@shop"},
	} {
		t.Run(test.name, func(t *testing.T) {
			killed, _, stderr := live(t, test.value)
			said := strings.ReplaceAll(strings.TrimSpace(stderr), "\n", ", ")
			if said = strings.ReplaceAll(said, "failpoint ", ""); !killed || said != test.said {
				t.Errorf("killed %t, said %q, want %q", killed, said, test.said)
			}
		})
	}
}

func TestTheProcessLivesWhereNothingIsPassed(t *testing.T) {
	for _, value := range []string{"", "purged/applied", "fired/logged@stranger", "fired/logged:3@shop", "started/logged"} {
		if killed, stdout, stderr := live(t, value); killed || stdout != "lived\n" || stderr != "" {
			t.Errorf("%q: killed %t, printed %q, said %q", value, killed, stdout, stderr)
		}
	}
}

func TestRecordNamesWhatIsPassed(t *testing.T) {
	killed, _, stderr := live(t, "record")
	times := map[string]int{}
	for line := range strings.Lines(stderr) {
		l, ok := failpoint.ParseLine(strings.TrimSpace(line))
		if !ok || l.Killed {
			t.Fatalf("line %q: %+v, %t", line, l, ok)
		}
		times[l.Point+"@"+string(l.App)] = l.Times
	}
	// Two steps of the one app and one of the other at each moment, and a place.
	if killed || len(times) != 5*3+1 || times["accepted/evaluated@shop"] != 2 || times["fired/effected@other"] != 2 || times["submitting@shop"] != 2 {
		t.Errorf("killed %t, passed %v", killed, times)
	}
}

func TestWhatIsNoPointIsRefusedWithTheList(t *testing.T) {
	for _, value := range []string{"nowhere", "fired", "fired/logged:0", "fired/logged:x", ":1", "@shop", "fired/"} {
		err := failpoint.Arm(value)
		if err == nil || !strings.Contains(err.Error(), failpoint.Variable) {
			t.Fatalf("%q: %v", value, err)
		}
	}
	err := failpoint.Arm("nowhere")
	for _, point := range failpoint.Points() {
		if !strings.Contains(err.Error(), point) {
			t.Errorf("the refusal does not name %s: %v", point, err)
		}
	}
	if failpoint.On() {
		t.Error("something is armed")
	}
}

func TestPointsAreNamedOnce(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range failpoint.Points() {
		if seen[p] || p == "" || strings.HasPrefix(p, "/") || strings.HasSuffix(p, "/") {
			t.Errorf("point %q", p)
		}
		seen[p] = true
	}
	if want := len(failpoint.Steps())*len(failpoint.Moments()) + len(failpoint.Places()); len(seen) != want {
		t.Errorf("%d points, want %d", len(seen), want)
	}
}
