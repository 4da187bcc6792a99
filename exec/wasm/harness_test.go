package wasm_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	pheromone "github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/exec/process"
	"github.com/pheromone-run/pheromone/exec/wasm"
	"github.com/pheromone-run/pheromone/internal/wasmtest"
	"github.com/pheromone-run/pheromone/spec"
)

// wait bounds every wait of the tests: it is only reached when something is
// broken.
const wait = time.Minute

// TestMain runs the tests, or, started by a runtime under test, a host.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == wasm.HostArg {
		os.Exit(wasm.Host(os.Args[2:]))
	}
	dir, err := os.MkdirTemp("", "pheromone-wasm-")
	if err != nil {
		panic(err)
	}
	shared = dir
	code := m.Run()
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// shared is a folder of all tests: what is compiled is compiled once.
var shared string

// functions builds testdata/functions and returns the folder that it is in, as
// functions.wasm, with a program that hosts it, as host.
var functions = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(shared, "functions")
	for _, build := range []struct {
		program, name string
		env           []string
	}{{"functions", "functions.wasm", []string{"GOOS=wasip1", "GOARCH=wasm"}}, {"host", "host", nil}} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(dir, build.name), "./testdata/"+build.program)
		cmd.Env = append(os.Environ(), build.env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: %w\n%s", build.name, err, out)
		}
	}
	return dir, nil
})

// self starts this program as a host.
var self = []string{"/proc/self/exe", wasm.HostArg}

// folder is an Artifacts with one folder for everything.
type folder string

func (f folder) Dir(context.Context, string) (string, error) { return string(f), nil }

// bench is a runtime under test with what it logged.
type bench struct {
	*wasm.Runtime
	t    testing.TB
	mu   sync.Mutex
	logs []pheromone.LogRecord
	next uint64
}

// newBench starts a runtime for the modules in dir. Settings of processes are
// taken from s.
func newBench(t testing.TB, program []string, dir, cache string, s process.Settings) *bench {
	t.Helper()
	b := &bench{t: t}
	s.Artifacts = folder(dir)
	s.Scratch = filepath.Join(t.TempDir(), "scratch")
	s.Logger = slog.New(slog.DiscardHandler)
	s.Log = func(r pheromone.LogRecord) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.logs = append(b.logs, r)
	}
	rt, err := wasm.New(wasm.Settings{Host: program, Cache: cache, Process: s})
	if err != nil {
		t.Fatal(err)
	}
	b.Runtime = rt
	t.Cleanup(func() {
		if err := rt.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if races := b.logged("DATA RACE"); len(races) > 0 {
			t.Errorf("a host has races: %+v", races)
		}
	})
	return b
}

// benchOf is newBench for a guest with functions, as guest.wasm.
func benchOf(t testing.TB, s process.Settings, functions ...wasmtest.Function) *bench {
	t.Helper()
	return newBench(t, self, guestIn(t, functions...), filepath.Join(shared, "cache"), s)
}

func guestIn(t testing.TB, functions ...wasmtest.Function) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "guest.wasm"), wasmtest.Guest(functions...), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (b *bench) logged(says string) (lines []pheromone.LogRecord) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, r := range b.logs {
		if strings.Contains(r.Text, says) {
			lines = append(lines, r)
		}
	}
	return lines
}

func await(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(wait)
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited %s in vain for %s", wait, what)
		}
	}
}

// run is a task and what its sink heard.
type run struct {
	t       testing.TB
	task    *pheromone.Task
	objects map[spec.Key][]byte // what Get finds

	mu      sync.Mutex
	started string
	emitted []pheromone.Emission
	failure *pheromone.Failure
	done    chan struct{}
}

// task makes a task of function in the module file.
func (b *bench) task(file, function string, in ...pheromone.Input) *run {
	b.mu.Lock()
	b.next++
	n := b.next
	b.mu.Unlock()
	r := &run{t: b.t, done: make(chan struct{}), objects: map[spec.Key][]byte{}}
	r.task = &pheromone.Task{
		App: "app", Version: 1, Artifact: "sum",
		Function:   &spec.Function{Name: spec.FunctionName(function), Runtime: spec.RuntimeWasm, File: file, Memory: 64 << 20},
		Invocation: spec.InvocationID{Session: "s1", Number: n}, Attempt: 1, Epoch: 1, Bucket: "in", Trigger: "tr", Timeout: wait,
		Source: given(in), Sink: r,
	}
	return r
}

func (b *bench) submit(r *run) *run {
	b.Submit(r.task)
	return r
}

// guest submits a task of the guest.
func (b *bench) guest(function string) *run { return b.submit(b.task("guest.wasm", function)) }

// given are inputs at hand.
type given []pheromone.Input

func (g given) Load(context.Context) ([]pheromone.Input, error) { return g, nil }
func (g given) Size(context.Context) (int64, error)             { return 0, nil }

func object(key string, data []byte) pheromone.Input {
	return pheromone.Input{Bucket: "in", Key: spec.Key(key), Session: "s1", Data: data}
}

func (r *run) Started(_ *pheromone.Task, executor string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.started = executor
}

func (r *run) Emit(_ *pheromone.Task, e []pheromone.Emission) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.emitted = append(r.emitted, e...)
	return nil
}

func (r *run) Get(_ context.Context, _ *pheromone.Task, bucket spec.BucketName, key spec.Key) (pheromone.Input, error) {
	data, ok := r.objects[key]
	if !ok {
		return pheromone.Input{}, spec.Errorf(spec.CodeNotFound, "no object %q in bucket %q", key, bucket)
	}
	return object(string(key), data), nil
}

func (r *run) Done(_ *pheromone.Task, e []pheromone.Emission, f *pheromone.Failure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.emitted, r.failure = append(r.emitted, e...), f
	close(r.done)
}

func (r *run) executor() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.started
}

func (r *run) end() *pheromone.Failure {
	r.t.Helper()
	select {
	case <-r.done:
	case <-time.After(wait):
		r.t.Fatalf("%s did not end", r.task.Function.Name)
	}
	return r.failure
}

// succeed waits for the end without a failure and returns what was emitted.
func (r *run) succeed() []pheromone.Emission {
	r.t.Helper()
	if f := r.end(); f != nil {
		r.t.Fatalf("%s failed: %s: %s\n%s", r.task.Function.Name, f.Kind, f.Message, f.Detail)
	}
	return r.emitted
}

// fail waits for a failure of kind that says something.
func (r *run) fail(kind, says string) *pheromone.Failure {
	r.t.Helper()
	f := r.end()
	if f == nil || f.Kind != kind || !strings.Contains(f.Message, says) {
		r.t.Fatalf("%s ended with %+v, want a failure of kind %s that says %q", r.task.Function.Name, f, kind, says)
	}
	return f
}
