package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/pheromone-run/pheromone/client/fn"
	"github.com/pheromone-run/pheromone/exec/inproc"
	"github.com/pheromone-run/pheromone/spec"
)

// manifest is the benchmark's app: a chain, a fan-out with its join, and two
// functions that pass large objects.
func manifest(runtime string) string {
	how := map[string]string{
		"go":     "runtime: process, command: [./functions]",
		"python": "runtime: process, command: [python3, app.py]",
		"inproc": "runtime: inproc",
	}[runtime]
	var b strings.Builder
	b.WriteString("apiVersion: pheromone/v1\napp: bench\nretention: 10s\nlimits: {max_object_size: 256MiB}\nfunctions:\n")
	for i := range 10 {
		fmt.Fprintf(&b, "  f%d: {%s}\n", i, how)
	}
	for _, f := range []string{"fan", "noop", "gather", "make", "take"} {
		fmt.Fprintf(&b, "  %s: {%s}\n", f, how)
	}
	b.WriteString("buckets:\n  plain: {}\n")
	for i := range 9 {
		fmt.Fprintf(&b, "  b%d: {triggers: [{name: next, primitive: immediate, target: f%d}]}\n", i+1, i+1)
	}
	b.WriteString("  wide: {triggers: [{name: each, primitive: immediate, target: noop}]}\n")
	keys := make([]string, 16)
	for i := range keys {
		keys[i] = fmt.Sprint("w", i)
	}
	fmt.Fprintf(&b, "  joined: {triggers: [{name: all, primitive: by_set, keys: [%s], target: gather}]}\n", strings.Join(keys, ", "))
	b.WriteString("  large: {triggers: [{name: next, primitive: immediate, target: take}]}\n")
	return b.String()
}

// folder makes a folder with the app's manifest and what its functions need.
func folder(ctx context.Context, o options, runtime string) (string, error) {
	dir := filepath.Join(o.dir, "app-"+runtime)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(dir, "app.yaml"), []byte(manifest(runtime)), 0o644); err != nil {
		return "", err
	}
	switch runtime {
	case "go":
		return dir, build(ctx, filepath.Join(dir, "functions"), "./bench/functions")
	case "python":
		source, err := os.ReadFile("bench/functions/app.py")
		if err != nil {
			return "", fmt.Errorf("run it in the checkout's top folder: %w", err)
		}
		return dir, os.WriteFile(filepath.Join(dir, "app.py"), source, 0o644)
	}
	return dir, nil
}

func build(ctx context.Context, binary, pkg string) error {
	out, err := exec.CommandContext(ctx, "go", "build", "-o", binary, pkg).CombinedOutput()
	if err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, out)
	}
	return nil
}

// inprocFunctions are the app's functions for a node in this process.
func inprocFunctions() *inproc.Runtime {
	rt := inproc.New(inproc.Settings{})
	for i := range 10 {
		rt.Register("bench", spec.FunctionName(fmt.Sprint("f", i)), func(ctx *fn.Context, in []fn.Object) error {
			if i == 9 {
				return ctx.Output(in[0].Bytes())
			}
			return ctx.Put(fmt.Sprint("b", i+1), "x", in[0].Bytes())
		})
	}
	rt.Register("bench", "fan", func(ctx *fn.Context, in []fn.Object) error {
		for i := range 16 {
			if err := ctx.Put("wide", fmt.Sprint("w", i), in[0].Bytes()); err != nil {
				return err
			}
		}
		return nil
	})
	rt.Register("bench", "noop", func(ctx *fn.Context, in []fn.Object) error { return ctx.Put("joined", in[0].Key, in[0].Bytes()) })
	rt.Register("bench", "gather", func(ctx *fn.Context, in []fn.Object) error { return ctx.Output([]byte(strconv.Itoa(len(in)))) })
	rt.Register("bench", "make", func(ctx *fn.Context, in []fn.Object) error {
		size, err := strconv.Atoi(string(in[0].Bytes()))
		if err != nil {
			return fn.Permanent(err)
		}
		data := make([]byte, size)
		for i := range data {
			data[i] = byte(uint32(i) * 2654435761 >> 13)
		}
		return ctx.Put("large", "x", data)
	})
	rt.Register("bench", "take", func(ctx *fn.Context, in []fn.Object) error {
		return ctx.Output([]byte(strconv.Itoa(len(in[0].Bytes()))))
	})
	return rt
}
