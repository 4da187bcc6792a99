package python_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// programs writes the Python programs of the how-to, each a block that begins
// with its name, into a folder.
func programs(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/howto/python-functions.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	blocks := regexp.MustCompile("(?s)```python\n# (\\S+\\.py)\n(.*?)```").FindAllSubmatch(text, -1)
	if len(blocks) != 2 {
		t.Fatalf("the how-to has %d programs, want app.py and test_app.py", len(blocks))
	}
	for _, block := range blocks {
		if err := os.WriteFile(filepath.Join(dir, string(block[1])), block[2], 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// python runs Python in dir with this folder on its path, as outside of a node.
func python(t *testing.T, dir string, args ...string) (string, *os.ProcessState) {
	t.Helper()
	here, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "python3", args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "PYTHONPATH=" + here, "PYTHONDONTWRITEBYTECODE=1"}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState
}

// passes runs so many tests in Python from testdata.
func passes(t *testing.T, name string, tests int) {
	t.Helper()
	dir := t.TempDir()
	text, err := os.ReadFile(filepath.Join("testdata", name+".py"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".py"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	out, state := python(t, dir, "-m", "unittest", "-v")
	if !state.Success() || !strings.Contains(out, fmt.Sprintf("Ran %d tests", tests)) {
		t.Fatalf("%s\n%s", state, out)
	}
}

func TestThreadsThatOutliveTheirHandlerHarmNobody(t *testing.T) { passes(t, "test_threads", 11) }

func TestTheTestsOfTheHowToPass(t *testing.T) {
	out, state := python(t, programs(t), "-m", "unittest", "-v")
	if !state.Success() || !strings.Contains(out, "Ran 2 tests") {
		t.Fatalf("%s\n%s", state, out)
	}
}

func TestAProgramStartedByHandSaysWhatItIsFor(t *testing.T) {
	out, state := python(t, programs(t), "app.py")
	if state.ExitCode() != 2 {
		t.Errorf("%s", state)
	}
	for _, want := range []string{"(count)", "pheromone dev MANIFEST", "pheromone apply -f MANIFEST", `if __name__ == "__main__":`} {
		if !strings.Contains(out, want) {
			t.Errorf("it does not say %q:\n%s", want, out)
		}
	}
}
