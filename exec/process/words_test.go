package process_test

import (
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/exec/process"
)

// count tells how many records match accepts.
func (b *bench) count(match func(exec.LogRecord) bool) (n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.logs {
		if match(r) {
			n++
		}
	}
	return n
}

// TestTheLastWordsOfAProcessAreLoggedBeforeItsAttemptFails looks at the log once
// the attempt has failed, without waiting.
func TestTheLastWordsOfAProcessAreLoggedBeforeItsAttemptFails(t *testing.T) {
	python := []string{"python3", "dies.py"}
	for _, c := range []struct {
		name, function, stream, status string
		command                        []string
	}{
		{"printed before a fault", "segfault", exec.StreamStdout, "signal: segmentation fault", python},
		{"printed before an exit", "stdout", exec.StreamStdout, "exit status 7", python},
		{"printed to stderr, which the detail prefers", "stderr", exec.StreamStderr, "exit status 7", python},
		{"logged in Python", "log", exec.StreamLog, "exit status 7", python},
		{"flushed without the end of the line", "unfinished", exec.StreamStdout, "exit status 7", python},
		{"written past the SDK", "pipe", exec.StreamStdout, "exit status 7", python},
		{"printed while a child holds the pipes open", "survived", exec.StreamStdout, "exit status 7", python},
		{"logged in Go", "log", exec.StreamLog, "exit status 7", goProgram(t, "logs-and-exits")},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, process.Settings{GroupProcesses: 1})
			r := b.submit(b.task(c.command, c.function))
			f := r.fail(exec.Crashed)
			if !strings.Contains(f.Message, c.status) || f.Detail != "last words\n" && f.Detail != "last words" {
				t.Errorf("failure %+v", f)
			}
			n := b.count(func(l exec.LogRecord) bool {
				return l.Text == "last words" && l.Stream == c.stream && string(l.Function) == c.function &&
					l.Invocation == r.task.Invocation.String() && l.Attempt == 1
			})
			if n != 1 {
				t.Errorf("%d records of the last words in %+v", n, b.logs)
			}
		})
	}
}

func TestWhatAProgramSaysBeforeItFailsToStartIsLoggedForTheFunctionsThatWait(t *testing.T) {
	b := newBench(t, process.Settings{})
	command := []string{"python3", "does_not_start.py"}
	waiting := []*run{b.submit(b.task(command, "f")), b.submit(b.task(command, "g"))}
	for _, r := range waiting {
		f := r.fail(exec.Start)
		if !strings.Contains(f.Detail, "Traceback") || !strings.Contains(f.Detail, "no_such_module") || strings.Contains(f.Detail, "loading") {
			t.Errorf("%s: failure %+v", r.task.Function.Name, f)
		}
		for stream, text := range map[string]string{exec.StreamStdout: "loading", exec.StreamStderr: "ModuleNotFoundError: No module named 'no_such_module'"} {
			if b.count(func(l exec.LogRecord) bool {
				return l.Function == r.task.Function.Name && l.Stream == stream && l.Text == text
			}) == 0 {
				t.Errorf("%s: %q is not in the log %+v", r.task.Function.Name, text, b.logs)
			}
		}
	}
	if n := b.count(func(l exec.LogRecord) bool { return l.Function == "" }); n > 0 {
		t.Errorf("%d lines are of no function", n)
	}
}

func TestAPythonFunctionThatReturnsAValueIsTold(t *testing.T) {
	b := newBench(t, process.Settings{GroupProcesses: 1})
	for _, c := range []struct {
		function, kind string
		warnings       int
	}{{"number", "int", 1}, {"later", "generator", 1}, {"nothing", "", 0}} {
		for range 2 {
			b.submit(b.task([]string{"python3", "returns.py"}, c.function)).succeed()
		}
		n := b.count(func(l exec.LogRecord) bool {
			return string(l.Function) == c.function && strings.Contains(l.Text, "of type "+c.kind) && strings.Contains(l.Text, "use ctx.output")
		})
		if n != c.warnings {
			t.Errorf("%s: %d warnings, want %d for its process", c.function, n, c.warnings)
		}
	}
}
