package wasm_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/exec/process"
	"github.com/pheromone-run/pheromone/exec/wasm/host"
	"github.com/pheromone-run/pheromone/internal/wasmtest"
)

// all is a guest with every function.
var all = []wasmtest.Function{
	{Name: "nothing", Body: wasmtest.Nothing}, {Name: "spin", Body: wasmtest.Spin}, {Name: "trap", Body: wasmtest.Trap},
	{Name: "exit", Body: wasmtest.Exit3}, {Name: "stray", Body: wasmtest.Stray}, {Name: "again", Body: wasmtest.Recurse},
	{Name: "eat", Body: wasmtest.Eat},
}

// hurried ends a process soon after an attempt has ignored that it is over.
var hurried = process.Settings{GroupProcesses: 1, CancelGrace: 10 * time.Millisecond, SuspectLimit: 10 * time.Millisecond}

// spin submits an attempt that ends only if it is ended: however long what runs beside
// it takes, it has more time.
func (b *bench) spin() *run {
	r := b.task("guest.wasm", "spin")
	r.task.Timeout = time.Hour
	return b.submit(r)
}

func TestAModuleRunsManyAttempts(t *testing.T) {
	b := benchOf(t, process.Settings{}, all...)
	var runs []*run
	for range 200 {
		runs = append(runs, b.guest("nothing"))
	}
	for _, r := range runs {
		r.succeed()
	}
	b.submit(b.task("guest.wasm", "missing")).fail(exec.Refused, `the program "guest.wasm" does not register the function "missing"`)
}

func TestWhatEndsAnInstanceFailsItsAttemptAloneAndTheNextGetsAnother(t *testing.T) {
	b := benchOf(t, process.Settings{GroupProcesses: 1}, all...)
	before := b.guest("nothing")
	before.succeed()
	for _, c := range []struct{ function, kind, says string }{
		{"trap", exec.Failed, "the module trapped: wasm error: unreachable"},
		{"exit", exec.Failed, "the module ended with exit code 3"},
		{"stray", exec.Refused, "the module broke its interface: it sent RESULT for attempt 7, which it does not have"},
		{"again", exec.Refused, "the module broke its interface: it sent HELLO, which a module does not send"},
	} {
		t.Run(c.function, func(t *testing.T) {
			beside := b.spin() // an attempt that runs beside it
			b.guest(c.function).fail(c.kind, c.says)
			after := b.guest("nothing")
			after.succeed()
			if after.executor() != before.executor() {
				t.Errorf("it ran in %s, the first one in %s: the process has ended", after.executor(), before.executor())
			}
			select {
			case <-beside.done:
				t.Errorf("the attempt beside it ended: %+v", beside.failure)
			default:
			}
		})
	}
}

// There are more that spin than cores, and more garbage than would be collected
// unasked: either would stop a host that is not made for it.
func TestAttemptsThatSpinHoldUpNoOtherOfTheirProcess(t *testing.T) {
	b := benchOf(t, hurried, all...)
	var spinning []*run
	for range host.Instances - 1 {
		spinning = append(spinning, b.spin())
	}
	for range 100 {
		r := b.submit(b.task("guest.wasm", "nothing", object("k", make([]byte, 57_000))))
		r.succeed()
		if r.executor() != spinning[0].executor() {
			t.Fatalf("it ran in %s, not beside those that spin in %s", r.executor(), spinning[0].executor())
		}
	}
	for _, r := range spinning {
		b.Cancel(r.task.Ref())
		r.fail(exec.Cancelled, "")
	}
	awaitGone(b, spinning[0].executor())
	b.guest("nothing").succeed()
}

func TestAnAttemptThatSpinsPastItsDeadlineHasItsProcessKilled(t *testing.T) {
	b := benchOf(t, hurried, all...)
	b.guest("nothing").succeed()
	r := b.task("guest.wasm", "spin")
	r.task.Timeout = 20 * time.Millisecond
	b.submit(r).fail(exec.TimedOut, "no result after 20ms")
	awaitGone(b, r.executor())
	after := b.guest("nothing")
	after.succeed()
	if after.executor() == r.executor() {
		t.Errorf("%s runs on", r.executor())
	}
}

func TestAnAttemptBesideOneThatIsKilledIsLostAndNotAtFault(t *testing.T) {
	b := benchOf(t, hurried, all...)
	ignores, beside := b.spin(), b.spin()
	await(t, "both attempts", func() bool { return beside.executor() != "" })
	b.Cancel(ignores.task.Ref())
	ignores.fail(exec.Cancelled, "")
	beside.fail(exec.Lost, "the process was killed")
}

func awaitGone(b *bench, executor string) {
	b.t.Helper()
	await(b.t, "the end of "+executor, func() bool {
		return !slices.ContainsFunc(b.Processes(), func(p exec.ProcessStats) bool { return p.Name == executor })
	})
}

func TestAHostThatIsKilledFailsItsAttemptsAndAnotherTakesTheNext(t *testing.T) {
	b := benchOf(t, process.Settings{GroupProcesses: 1}, all...)
	spin := b.spin()
	await(t, "the attempt", func() bool { return spin.executor() != "" })
	if err := syscall.Kill(b.Processes()[0].PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	spin.fail(exec.Crashed, "signal: killed")
	b.guest("nothing").succeed()
}

func TestAnInstanceGetsNoMoreMemoryThanItsFunctionMayHave(t *testing.T) {
	b := benchOf(t, process.Settings{}, all...)
	for _, memory := range []int64{1 << 20, 3 << 20} {
		r := b.task("guest.wasm", "eat")
		r.task.Function.Memory = memory
		want := map[int64]string{1 << 20: "it had 1 MiB of memory, and its limit is 1 MiB", 3 << 20: "it had 3 MiB of memory, and its limit is 3 MiB"}[memory]
		b.submit(r).fail(exec.Failed, want)
	}
	r := b.task("guest.wasm", "nothing", object("large", make([]byte, 2<<20)))
	r.task.Function.Memory = 1 << 20
	b.submit(r).fail(exec.Refused, "at most 1048576 fit")
}

func TestAModuleThatIsNoneIsToldWhenItStarts(t *testing.T) {
	for name, c := range map[string]struct {
		data []byte
		says string
	}{
		"no module":            {[]byte("hello"), "not a WebAssembly module"},
		"code that is damaged": {wasmtest.Guest(wasmtest.Function{Name: "f", Body: []byte{0xff}}), "compile the module"},
		"no HELLO": {wasmtest.Module{
			Imports: wasmtest.GuestImports(), Memory: []byte{0, 1}, Exports: wasmtest.GuestExports(), Code: []byte{0x01},
		}.Assemble(), "returned from its main"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "guest.wasm"), c.data, 0o600); err != nil {
				t.Fatal(err)
			}
			b := newBench(t, self, dir, filepath.Join(shared, "cache"), process.Settings{})
			f := b.guest("f").fail(exec.Start, `"guest.wasm" ended before it said HELLO`)
			if !strings.Contains(f.Detail, c.says) {
				t.Errorf("the detail %q does not say %q", f.Detail, c.says)
			}
		})
	}
}

// compiled are the files of compiled modules in cache.
func compiled(t *testing.T, cache string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(cache, "*", "*", "*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestAModuleIsCompiledOnceForAllHostsAndStarts(t *testing.T) {
	dir, cache := guestIn(t, all...), t.TempDir()
	start := func() (compilations int) {
		b := newBench(t, self, dir, cache, process.Settings{})
		var runs []*run
		for _, memory := range []int64{8 << 20, 9 << 20, 10 << 20} { // each a process of its own
			r := b.task("guest.wasm", "nothing")
			r.task.Function.Memory = memory
			runs = append(runs, b.submit(r))
		}
		for _, r := range runs {
			r.succeed()
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		return len(b.logged("compiled guest.wasm in "))
	}
	if n := start(); n != 1 {
		t.Fatalf("three hosts have compiled the module %d times", n)
	}
	files := compiled(t, cache)
	if len(files) != 1 {
		t.Fatalf("kept are %q", files)
	}
	before, err := os.Stat(files[0])
	if err != nil {
		t.Fatal(err)
	}
	if n := start(); n != 0 {
		t.Errorf("compiled %d times at the second start", n)
	}
	if after, err := os.Stat(files[0]); err != nil || !os.SameFile(before, after) || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("what was kept is another file now: %v, %v", after, err)
	}

	// What a power cut has left is compiled anew.
	if err := os.Truncate(files[0], before.Size()/2); err != nil {
		t.Fatal(err)
	}
	if n := start(); n != 1 {
		t.Errorf("compiled %d times after the file was damaged", n)
	}
	if n := start(); n != 0 {
		t.Errorf("compiled %d times at the start after that", n)
	}
}
