package process_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/exec/process"
	"github.com/pheromone-run/pheromone/spec"
)

// ticket is a sink that only counts: it gives its slot back when it is done.
type ticket struct {
	b    *testing.B
	done chan *exec.Task
}

func (s *ticket) Started(*exec.Task, string)             {}
func (s *ticket) Emit(*exec.Task, []exec.Emission) error { return nil }
func (s *ticket) Get(context.Context, *exec.Task, spec.BucketName, spec.Key) (exec.Input, error) {
	return exec.Input{}, spec.Errorf(spec.CodeNotFound, "nothing here")
}
func (s *ticket) Done(t *exec.Task, _ []exec.Emission, f *exec.Failure) {
	if f != nil {
		s.b.Errorf("failed: %+v", f)
	}
	s.done <- t
}

// BenchmarkRoundTrip measures Submit to Done of a function that puts its input of
// 100 bytes, with 1 and 64 attempts in flight.
func BenchmarkRoundTrip(b *testing.B) {
	for sdk, command := range map[string][]string{"go": goProgram(b, "functions"), "python": {"python3", "functions.py"}} {
		for _, flight := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/%d", sdk, flight), func(b *testing.B) {
				rt := newBench(b, process.Settings{GroupProcesses: 1})
				rt.submit(rt.task(command, "echo")).succeed()
				in := rt.task(command, "echo", object("k", make([]byte, 100))).task.Source
				sink := &ticket{b: b, done: make(chan *exec.Task, flight)}
				function := rt.task(command, "echo").task.Function
				submit := func(n int) {
					rt.Submit(&exec.Task{
						App: "app", Artifact: "sum", Function: function, Invocation: spec.InvocationID{Session: "s1", Number: uint64(n) + 100},
						Attempt: 1, Bucket: "in", Trigger: "tr", Timeout: wait, Sink: sink, Source: in,
					})
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
	}
}
