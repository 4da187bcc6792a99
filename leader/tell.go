package leader

import (
	"fmt"
	"strings"

	"github.com/pheromone-run/pheromone/exec"
)

// toldLines bounds the lines of a failure's detail that go into the app's log:
// the last ones, where a stack names its cause.
const toldLines = 40

// tell writes the failure of an attempt into the app's log, once it is recorded.
func (t *tx) tell(inv *invocation, f *exec.Failure) {
	record := exec.LogRecord{
		Time: timeOf(t.at), App: inv.session.name.app, Function: inv.rec.Function,
		Invocation: inv.id().String(), Attempt: int(inv.attempt), Stream: exec.StreamNode,
	}
	lines := []string{fmt.Sprintf("attempt %d: %s: %s", inv.attempt, f.Kind, f.Message)}
	// What a process said before it ended stands in the log already.
	if f.Detail != "" && f.Kind != exec.Crashed && f.Kind != exec.Start {
		detail := strings.Split(strings.TrimRight(f.Detail, "\n"), "\n")
		lines = append(lines, detail[max(0, len(detail)-toldLines):]...)
	}
	t.onApplied(func() {
		for _, line := range lines {
			record.Text = line
			t.leader.cfg.Tell(record)
		}
	})
}
