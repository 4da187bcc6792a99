package wasm_test

import (
	"bytes"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/exec/process"
)

// newFunctions starts a runtime for testdata/functions.
func newFunctions(t *testing.T) *bench {
	t.Helper()
	dir, err := functions()
	if err != nil {
		t.Fatal(err)
	}
	return newBench(t, []string{filepath.Join(dir, "host")}, dir, filepath.Join(shared, "cache"), process.Settings{GroupProcesses: 1, CancelGrace: wait})
}

// function submits a task of testdata/functions.
func (b *bench) function(name string, in ...exec.Input) *run {
	return b.submit(b.task("functions.wasm", name, in...))
}

func TestAFunctionInGoMakesTheSameCallsAsInAProcess(t *testing.T) {
	b := newFunctions(t)
	r := b.task("functions.wasm", "every", object("k", []byte("input")))
	r.objects["there"] = bytes.Repeat([]byte("there "), 30_000)
	var got []string
	for _, e := range b.submit(r).succeed() {
		what := fmt.Sprintf("%d %s/%s %d %s %v %v %s", e.Seq, e.Bucket, e.Key, len(e.Data), e.ContentType, e.Meta, e.Output, e.DeliverAfter)
		if e.Child != nil {
			what += fmt.Sprintf(" starts %s for %s", e.Child.Function, e.Child.Timeout)
		}
		if e.JoinTrigger != "" {
			what += fmt.Sprintf(" joins %s of %q", e.JoinTrigger, e.JoinKeys)
		}
		got = append(got, what)
	}
	want := []string{
		"1 out/before 1  map[] false 0s",
		"2 out/options 180000 text/plain map[region:eu] true 1.5s",
		"3 out/ 3  map[] false 0s",
		"4 @other/ 4  map[] false 0s",
		"5 @/ 6  map[] true 0s",
		`6 sets/ 0  map[] false 0s joins ready of ["a" "b"]`,
		"7 out/child 2  map[] false 0s starts child for 1m0s",
		"8 out/made 100000  map[] false 0s",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("it emitted\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	await(t, "its log", func() bool { return len(b.logged("attempt 1 of s1")) == 1 && len(b.logged("no end of line")) == 1 })
	if line := b.logged("no end of line")[0]; line.Stream != exec.StreamStdout || line.Function != "every" || line.Attempt != 1 {
		t.Errorf("what it printed was logged as %+v", line)
	}
}

func TestObjectsOfAnySizePassThroughAModule(t *testing.T) {
	b := newFunctions(t)
	var in []exec.Input
	for i, size := range []int{0, 1, 16 << 10, 70_000, 8 << 20} {
		o := object(fmt.Sprint(i), bytes.Repeat([]byte{byte(i)}, size))
		o.ContentType, o.Meta = "text/plain", map[string]string{"size": fmt.Sprint(size)}
		in = append(in, o)
	}
	got := b.function("echo", in...).succeed()
	if len(got) != len(in) {
		t.Fatalf("%d objects of %d came back", len(got), len(in))
	}
	for i, e := range got {
		if e.Key != in[i].Key || !bytes.Equal(e.Data, in[i].Data) || e.ContentType != in[i].ContentType || !maps.Equal(e.Meta, in[i].Meta) {
			t.Errorf("object %d came back as %s with %d bytes, %q and %v", i, e.Key, len(e.Data), e.ContentType, e.Meta)
		}
	}
}

func TestAnInstanceIsKeptUntilAFunctionPanicsOrExits(t *testing.T) {
	b := newFunctions(t)
	count := func() string { return string(b.function("count").succeed()[0].Data) }
	if first, second := count(), count(); first != "1" || second != "2" {
		t.Errorf("the first attempts counted %s and %s", first, second)
	}
	f := b.function("panic").fail(exec.Failed, "panic: on purpose")
	if !strings.Contains(f.Detail, "main.main") {
		t.Errorf("the detail has no stack: %q", f.Detail)
	}
	if n := count(); n != "1" {
		t.Errorf("after the panic an attempt counted %s", n)
	}
	if f := b.function("exit").fail(exec.Failed, "the module ended with exit code 7"); !strings.Contains(f.Detail, "I leave") {
		t.Errorf("the detail has not what it printed: %q", f.Detail)
	}
	if n := count(); n != "1" {
		t.Errorf("after the exit an attempt counted %s", n)
	}
	b.function("permanent").fail(exec.Permanent, "never")
	if n := count(); n != "2" {
		t.Errorf("after an error an attempt counted %s", n)
	}
}

// The next attempt may be on its way to an instance that has just ended.
func TestAnAttemptIsNotAtFaultForTheEndOfAnInstanceThatItHasNotReached(t *testing.T) {
	b := newFunctions(t)
	var panics, counts []*run
	for range 50 {
		panics, counts = append(panics, b.function("panic")), append(counts, b.function("count"))
	}
	for i := range panics {
		panics[i].fail(exec.Failed, "panic: on purpose")
		counts[i].succeed()
	}
}

func TestAFunctionThatTakesTooMuchMemoryIsToldItsLimit(t *testing.T) {
	b := newFunctions(t)
	f := b.function("eat").fail(exec.Failed, "its limit is 64 MiB")
	if !strings.Contains(f.Detail, "out of memory") {
		t.Errorf("the detail is %q", f.Detail)
	}
	b.function("count").succeed()
}

func TestAFunctionThatListensIsCancelledWithoutItsProcess(t *testing.T) {
	b := newFunctions(t)
	ended := func() bool { return b.Processes()[0].Running == 0 }
	r := b.task("functions.wasm", "until cancelled")
	r.task.Timeout = time.Hour
	b.submit(r)
	await(t, "what it puts while it goes on", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.emitted) == 1
	})
	b.Cancel(r.task.Ref())
	r.fail(exec.Cancelled, "")
	await(t, "the function's own end", ended)

	r = b.task("functions.wasm", "until cancelled")
	r.task.Timeout = 100 * time.Millisecond
	b.submit(r).fail(exec.TimedOut, "")
	await(t, "the function's own end at its deadline", ended)
	after := b.function("count")
	after.succeed()
	if after.executor() != r.executor() {
		t.Errorf("the next attempt ran in %s, not in %s", after.executor(), r.executor())
	}
}

func TestAModuleSeesNothingOfTheMachine(t *testing.T) {
	t.Setenv("PHEROMONE_TEST_SECRET", "hidden")
	if out := newFunctions(t).function("outside").succeed(); string(out[0].Data) != "nothing" {
		t.Errorf("it saw %s", out[0].Data)
	}
}

// A program that goes over a map registers in another order in each instance.
func TestFunctionsMayBeRegisteredInAnyOrder(t *testing.T) {
	b := newFunctions(t)
	for range 10 {
		for n := range 8 {
			name := fmt.Sprintf("unordered-%d", n)
			if got, want := string(b.function(name).succeed()[0].Data), name+" as "+name; got != want {
				t.Fatalf("%s was run for %s", got, want)
			}
		}
		b.function("panic").fail(exec.Failed, "panic: on purpose") // the next attempt gets another instance
	}
}
