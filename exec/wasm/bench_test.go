package wasm_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/exec/process"
	"github.com/pheromone-run/pheromone/internal/wasmtest"
	"github.com/pheromone-run/pheromone/spec"
)

// ticket is a sink that only counts: it gives its slot back when it is done.
type ticket struct {
	b    *testing.B
	done chan struct{}
}

func (s *ticket) Started(*exec.Task, string)             {}
func (s *ticket) Emit(*exec.Task, []exec.Emission) error { return nil }
func (s *ticket) Get(context.Context, *exec.Task, spec.BucketName, spec.Key) (exec.Input, error) {
	return exec.Input{}, spec.Errorf(spec.CodeNotFound, "nothing here")
}
func (s *ticket) Done(_ *exec.Task, _ []exec.Emission, f *exec.Failure) {
	if f != nil {
		s.b.Errorf("failed: %+v", f)
	}
	s.done <- struct{}{}
}

// each is what the benchmarks run: a module that does nothing, and one of Go that
// puts its input of 100 bytes.
func each(b *testing.B, do func(b *testing.B, dir, file, function string)) {
	built, err := functions()
	if err != nil {
		b.Fatal(err)
	}
	guest := guestIn(b, wasmtest.Function{Name: "nothing"})
	b.Run("guest", func(b *testing.B) { do(b, guest, "guest.wasm", "nothing") })
	b.Run("go", func(b *testing.B) { do(b, built, "functions.wasm", "echo") })
}

// native is a program that hosts modules, without the race detector.
func native(b *testing.B) []string {
	dir, err := functions()
	if err != nil {
		b.Fatal(err)
	}
	return []string{filepath.Join(dir, "host")}
}

// BenchmarkRoundTrip measures Submit to Done with 1 and 64 attempts in flight.
func BenchmarkRoundTrip(b *testing.B) {
	each(b, func(b *testing.B, dir, file, name string) {
		for _, flight := range []int{1, 64} {
			b.Run(fmt.Sprint(flight), func(b *testing.B) {
				rt := newBench(b, native(b), dir, filepath.Join(shared, "cache"), process.Settings{GroupProcesses: 1})
				in := []exec.Input{object("k", make([]byte, 100))}
				first := rt.task(file, name, in...)
				rt.submit(first).succeed()
				sink := &ticket{b: b, done: make(chan struct{}, flight)}
				submit := func(n int) {
					task := *first.task
					task.Invocation.Number, task.Sink = uint64(n)+100, sink
					rt.Submit(&task)
				}
				b.ReportAllocs()
				b.ResetTimer()
				sent := 0
				for ; sent < min(flight, b.N); sent++ {
					submit(sent)
				}
				for range b.N {
					<-sink.done
					if sent < b.N {
						submit(sent)
						sent++
					}
				}
			})
		}
	})
}

// BenchmarkColdStart measures from Submit to the end of the first attempt of a
// process, whose module is compiled already.
func BenchmarkColdStart(b *testing.B) {
	each(b, func(b *testing.B, dir, file, name string) {
		rt := newBench(b, native(b), dir, filepath.Join(shared, "cache"), process.Settings{GroupProcesses: 1})
		n := int64(0)
		start := func() {
			r := rt.task(file, name, object("k", nil))
			n++
			r.task.Function.Memory += n << 16 // a group and a process of its own
			rt.submit(r).succeed()
		}
		start()
		for b.Loop() {
			start()
		}
	})
}

// BenchmarkColdCompile is BenchmarkColdStart for a module that no node has compiled
// yet.
func BenchmarkColdCompile(b *testing.B) {
	each(b, func(b *testing.B, dir, file, name string) {
		for b.Loop() {
			rt := newBench(b, native(b), dir, b.TempDir(), process.Settings{GroupProcesses: 1})
			rt.submit(rt.task(file, name, object("k", nil))).succeed()
		}
	})
}

// BenchmarkFreshInstance measures an attempt in an instance of its own, after one
// that has ended the last.
func BenchmarkFreshInstance(b *testing.B) {
	for name, c := range map[string]struct {
		dir            func() (string, error)
		file, function string
	}{
		"guest": {func() (string, error) { return guestIn(b, wasmtest.Function{Name: "trap", Body: wasmtest.Trap}), nil }, "guest.wasm", "trap"},
		"go":    {functions, "functions.wasm", "panic"},
	} {
		b.Run(name, func(b *testing.B) {
			dir, err := c.dir()
			if err != nil {
				b.Fatal(err)
			}
			rt := newBench(b, native(b), dir, filepath.Join(shared, "cache"), process.Settings{GroupProcesses: 1})
			for b.Loop() {
				rt.submit(rt.task(c.file, c.function)).fail(exec.Failed, "")
			}
		})
	}
}
