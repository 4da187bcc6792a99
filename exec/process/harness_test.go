package process_test

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/exec/process"
	"github.com/pheromone-run/pheromone/spec"
)

// wait bounds every wait of the tests: it is only reached when something is
// broken.
const wait = 30 * time.Second

// folder is an Artifacts with one folder for everything.
type folder string

func (f folder) Dir(context.Context, string) (string, error) { return string(f), nil }

// bench is a runtime under test with what it logged.
type bench struct {
	*process.Runtime
	t    testing.TB
	mu   sync.Mutex
	logs []exec.LogRecord
	next uint64
}

func newBench(t testing.TB, s process.Settings) *bench {
	t.Helper()
	b := &bench{t: t}
	testdata, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	if s.Artifacts == nil {
		s.Artifacts = folder(testdata)
	}
	s.Scratch = filepath.Join(t.TempDir(), "scratch")
	s.Logger = slog.New(slog.DiscardHandler)
	s.Log = func(r exec.LogRecord) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.logs = append(b.logs, r)
	}
	if b.Runtime, err = process.New(s); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if _, err := os.Stat(s.Scratch); !os.IsNotExist(err) {
			t.Errorf("the scratch folder is still there: %v", err)
		}
	})
	return b
}

// awaitLog waits for a record that match accepts.
func (b *bench) awaitLog(match func(exec.LogRecord) bool) exec.LogRecord {
	b.t.Helper()
	var found exec.LogRecord
	b.await("a log record", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, r := range b.logs {
			if match(r) {
				found = r
				return true
			}
		}
		return false
	})
	return found
}

// await polls until cond holds.
func (b *bench) await(what string, cond func() bool) {
	b.t.Helper()
	await(b.t, what, cond)
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

// goProgram is the command of one of the programs of this test binary.
func goProgram(t testing.TB, name string) []string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return []string{self, "executor", name}
}

// run is a task and what its sink heard.
type run struct {
	task *exec.Task
	t    testing.TB
	// objects are what Get finds.
	objects map[spec.Key]exec.Input
	// refuse, if set, is what Emit returns.
	refuse error

	mu      sync.Mutex
	started string
	emitted []exec.Emission
	emits   int // calls of Emit
	failure *exec.Failure
	dones   int
	done    chan struct{}
	some    chan struct{} // closed with the first emission that came by Emit
}

// task makes a task of function in the command's program; options change it.
func (b *bench) task(command []string, function string, in ...exec.Input) *run {
	b.mu.Lock()
	b.next++
	n := b.next
	b.mu.Unlock()
	r := &run{t: b.t, done: make(chan struct{}), some: make(chan struct{}), objects: map[spec.Key]exec.Input{}}
	r.task = &exec.Task{
		App: "app", Version: 1, Artifact: "sum",
		Function:   &spec.Function{Name: spec.FunctionName(function), Runtime: spec.RuntimeProcess, Command: command},
		Invocation: spec.InvocationID{Session: "s1", Number: n}, Attempt: 1, Epoch: 1, Bucket: "in", Trigger: "tr",
		Timeout: wait,
		Source:  source(func(context.Context) ([]exec.Input, error) { return in, nil }),
		Sink:    r,
	}
	return r
}

// source reads inputs of a task.
type source func(context.Context) ([]exec.Input, error)

func (s source) Load(ctx context.Context) ([]exec.Input, error) { return s(ctx) }
func (s source) Size(context.Context) (int64, error)            { return 0, nil }

func object(key string, data []byte) exec.Input {
	return exec.Input{Bucket: "in", Key: spec.Key(key), Session: "s1", Data: data}
}

func (b *bench) submit(r *run) *run {
	b.Submit(r.task)
	return r
}

// occupy has a task take the one process of a program until hold is closed.
func (b *bench) occupy(command []string) (blocked *run, hold chan struct{}) {
	b.t.Helper()
	blocked, hold = b.task(command, "f"), make(chan struct{})
	blocked.task.Source = source(func(context.Context) ([]exec.Input, error) { <-hold; return nil, nil })
	go b.submit(blocked)
	b.await("the process to be busy", func() bool { return b.running() == 1 })
	return blocked, hold
}

func (r *run) Started(_ *exec.Task, executor string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.started != "" || r.dones > 0 {
		r.t.Errorf("Started after %q or after Done", r.started)
	}
	r.started = executor
}

func (r *run) Emit(_ *exec.Task, e []exec.Emission) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.take(e)
	if r.emits++; r.emits == 1 {
		close(r.some)
	}
	return r.refuse
}

func (r *run) take(e []exec.Emission) {
	if r.dones > 0 {
		r.t.Error("emissions after Done")
	}
	for _, one := range e {
		if want := uint64(len(r.emitted) + 1); one.Seq != want {
			r.t.Errorf("emission %d has Seq %d", want, one.Seq)
		}
		if one.Lent {
			one.Data = bytes.Clone(one.Data)
		}
		r.emitted = append(r.emitted, one)
	}
}

func (r *run) Get(_ context.Context, _ *exec.Task, bucket spec.BucketName, key spec.Key) (exec.Input, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	o, ok := r.objects[key]
	if !ok {
		return o, spec.Errorf(spec.CodeNotFound, "no object %q in bucket %q", key, bucket)
	}
	return o, nil
}

func (r *run) Done(_ *exec.Task, e []exec.Emission, f *exec.Failure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.take(e)
	r.failure = f
	if r.dones++; r.dones > 1 {
		r.t.Error("Done twice")
		return
	}
	close(r.done)
}

// end waits for Done and returns the failure.
func (r *run) end() *exec.Failure {
	r.t.Helper()
	select {
	case <-r.done:
	case <-time.After(wait):
		r.t.Fatalf("%s did not end", r.task.Function.Name)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failure
}

// succeed waits for Done without a failure and returns what was emitted.
func (r *run) succeed() []exec.Emission {
	r.t.Helper()
	if f := r.end(); f != nil {
		r.t.Fatalf("%s failed: %s: %s\n%s", r.task.Function.Name, f.Kind, f.Message, f.Detail)
	}
	return r.emitted
}

// fail waits for Done with a failure of kind.
func (r *run) fail(kind string) *exec.Failure {
	r.t.Helper()
	f := r.end()
	if f == nil || f.Kind != kind {
		r.t.Fatalf("%s ended with %+v, want a failure of kind %s", r.task.Function.Name, f, kind)
	}
	return f
}

// emission waits for the first emission that comes before Done.
func (r *run) emission() {
	r.t.Helper()
	select {
	case <-r.some:
	case <-r.done:
		r.t.Fatalf("%s ended: %+v", r.task.Function.Name, r.failure)
	case <-time.After(wait):
		r.t.Fatalf("%s emitted nothing", r.task.Function.Name)
	}
}
