package wasm

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/pheromone-run/pheromone/exec/process"
	"github.com/pheromone-run/pheromone/exec/wasm/host"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/module"
)

// HostArg is the first argument of a program that is to be the host of a module.
// Its main hands the others to Host.
const HostArg = "host-module"

// Host hosts a module for the node that started the process, and returns the exit
// code.
func Host(args []string) int { return host.Main(args) }

// Settings of a Runtime.
type Settings struct {
	// Host is the command that starts a host: a program and its first arguments.
	Host []string
	// Cache is a folder for compiled modules.
	Cache string
	// Process has the settings that all runtimes with processes share. Scratch must be
	// another folder than that of other runtimes.
	Process process.Settings
}

// helloTimeout is how long a host may take until it is ready: the first one
// compiles the module.
const helloTimeout = 2 * time.Minute

// Runtime runs the tasks of functions of runtime wasm. It implements exec.Runtime.
type Runtime struct{ *process.Runtime }

// New starts a Runtime.
func New(s Settings) (*Runtime, error) {
	if len(s.Host) == 0 || s.Cache == "" {
		return nil, fmt.Errorf("wasm runtime: Host and Cache must be set")
	}
	cache, err := filepath.Abs(s.Cache)
	if err != nil {
		return nil, fmt.Errorf("wasm runtime: %w", err)
	}
	if s.Process.HelloTimeout == 0 {
		s.Process.HelloTimeout = helloTimeout
	}
	s.Process.SharedBytes = -1 // a host copies objects to its instances
	s.Process.Program = func(f *spec.Function) process.Program {
		return process.Program{
			Command: slices.Concat(s.Host, host.Args(f.File, f.Memory, cache)),
			Name:    f.File,
			// What does not fit into an instance is not worth the way.
			MaxInputBytes: min(f.Memory, 1<<30),
		}
	}
	processes, err := process.New(s.Process)
	if err != nil {
		return nil, err
	}
	return &Runtime{processes}, nil
}

// Check says what is wrong with the module of a function; dir is the folder that
// the function's file is in.
func Check(dir string, f *spec.Function) error {
	data, err := read(dir, f.File)
	if err != nil {
		return err
	}
	return module.Check(data, f.Memory)
}

func read(dir, path string) ([]byte, error) {
	file, err := os.OpenInRoot(dir, path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("it is not a regular file")
	}
	return io.ReadAll(io.LimitReader(file, module.MaxBytes+1)) // Check refuses what is too long
}
