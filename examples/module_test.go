package examples_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestTheFunctionsOfAModuleAnswerAsTheReadmeSaysAndAgainAfterTheNodeIsKilled(t *testing.T) {
	app := t.TempDir() // outside the tree, where nothing else may be building it
	build := exec.Command("go", "build", "-o", filepath.Join(app, "readings.wasm"), "./wasm")
	build.Env = append(os.Environ(), "GOOS=wasip1", "GOARCH=wasm")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the module: %v\n%s", err, out)
	}
	manifest, err := os.ReadFile("wasm/app.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(app, "app.yaml"), manifest, 0o600); err != nil {
		t.Fatal(err)
	}
	dev := startNode(t)
	dev.run(t, "apply", "-f", app)
	answers := func(key string) {
		t.Helper()
		want := key + ": 3 readings, mean 20.50\n"
		if got := dev.run(t, "put", "wasm", "readings/"+key, "20.5\n21\noops\n20\n", "--wait", "60s"); got != want {
			t.Errorf("pheromone put printed %q, want %q", got, want)
		}
	}
	// The first attempt waits for the compiler, on a busy machine for long.
	dev.run(t, "put", "wasm", "readings/first", "1")
	for deadline := time.After(2 * time.Minute); !strings.Contains(dev.run(t, "logs", "wasm"), "compiled readings.wasm"); {
		select {
		case <-time.After(100 * time.Millisecond):
		case <-deadline:
			t.Fatal("the module is not compiled")
		}
	}
	answers("attic")

	if err := dev.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = dev.cmd.Wait() // it was killed
	dev = startNodeIn(t, dev.home)
	answers("cellar")
	log := dev.run(t, "logs", "wasm")
	for text, times := range map[string]int{"attic: 1 lines are no numbers": 1, "cellar: 1 lines are no numbers": 1, "compiled readings.wasm in": 1} {
		if n := strings.Count(log, text); n != times {
			t.Errorf("the log says %q %d times, want %d:\n%s", text, n, times, log)
		}
	}
}
