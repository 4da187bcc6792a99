package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/pheromone-run/pheromone/bench/work"
	"github.com/pheromone-run/pheromone/exec/inproc"
	"github.com/pheromone-run/pheromone/spec"
)

// manifest is the benchmark's app: a chain, a fan-out with its join, two functions
// that pass large objects, a chain through one bucket that is as long as its input
// says, and a fan-out as wide as its input says.
func manifest(runtime, durability string) string {
	how := map[string]string{
		"go":     "runtime: process, command: [./functions]",
		"python": "runtime: process, command: [python3, app.py]",
		"wasm":   "runtime: wasm, file: functions.wasm",
		"inproc": "runtime: inproc",
	}[runtime]
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: pheromone/v1\napp: bench\ndurability: %s\nretention: 10s\nlimits: {max_object_size: 256MiB}\nfunctions:\n", durability)
	for i := range 10 {
		fmt.Fprintf(&b, "  f%d: {%s}\n", i, how)
	}
	for _, f := range []string{"fan", "noop", "gather", "make", "take", "hop", "spread", "nap", "rise"} {
		fmt.Fprintf(&b, "  %s: {%s}\n", f, how)
	}
	b.WriteString("buckets:\n")
	bucket := func(name, triggers string) {
		fmt.Fprintf(&b, "  %s: {triggers: [%s]}\n", name, triggers)
	}
	bucket("plain", "")
	for i := range 9 {
		bucket(fmt.Sprint("b", i+1), fmt.Sprintf("{name: next, primitive: immediate, target: f%d}", i+1))
	}
	bucket("wide", "{name: each, primitive: immediate, target: noop}")
	keys := make([]string, 16)
	for i := range keys {
		keys[i] = fmt.Sprint("w", i)
	}
	bucket("joined", "{name: all, primitive: by_set, keys: ["+strings.Join(keys, ", ")+"], target: gather}")
	bucket("large", "{name: next, primitive: immediate, target: take}")
	bucket("loop", "{name: next, primitive: immediate, target: hop}")
	bucket("naps", "{name: each, primitive: immediate, target: nap}")
	bucket("rested", "{name: all, primitive: dynamic_join, target: rise}")
	return b.String()
}

// folder makes a folder with the app's manifest and what its functions need.
func folder(ctx context.Context, o options, runtime, durability string) (string, error) {
	dir := filepath.Join(o.dir, "app-"+runtime)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "app.yaml"), []byte(manifest(runtime, durability)), 0o644); err != nil {
		return "", err
	}
	switch runtime {
	case "go":
		return dir, build(ctx, filepath.Join(dir, "functions"), "./bench/functions")
	case "wasm":
		return dir, build(ctx, filepath.Join(dir, "functions.wasm"), "./bench/functions", "GOOS=wasip1", "GOARCH=wasm")
	case "python":
		source, err := os.ReadFile("bench/functions/app.py")
		if err != nil {
			return "", fmt.Errorf("run it in the checkout's top folder: %w", err)
		}
		return dir, os.WriteFile(filepath.Join(dir, "app.py"), source, 0o644)
	}
	return dir, nil
}

// refusal is why this version takes no app with such functions or buckets; empty
// if it does.
func refusal(runtime, durability string) string {
	_, faults, _ := spec.Parse("app.yaml", []byte(manifest(runtime, durability)), spec.FormatYAML)
	for _, f := range faults {
		if strings.HasSuffix(f.Path, ".runtime") || f.Path == "durability" {
			return f.Message
		}
	}
	return ""
}

func build(ctx context.Context, binary, pkg string, env ...string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-o", binary, pkg)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return nil
}

// inprocFunctions are the app's functions for a node in this process.
func inprocFunctions() *inproc.Runtime {
	rt := inproc.New(inproc.Settings{Concurrency: roomInproc})
	for name, f := range work.Functions() {
		rt.Register("bench", spec.FunctionName(name), f)
	}
	return rt
}
