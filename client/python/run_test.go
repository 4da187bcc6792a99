package python_test

import (
	"bufio"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// start runs a Python program and yields the lines that it prints.
func start(t *testing.T, program string, args ...string) (*exec.Cmd, func(func(string) bool)) {
	t.Helper()
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "python3", append([]string{"-c", program}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "PYTHONPATH=" + here, "PYTHONDONTWRITEBYTECODE=1"}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, func(yield func(string) bool) {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if !yield(lines.Text()) {
				return
			}
		}
	}
}
