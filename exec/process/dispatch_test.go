package process_test

import (
	"fmt"
	"testing"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/exec/process"
	"github.com/pheromone-run/pheromone/spec"
)

// BenchmarkDispatch measures the way of an attempt through the pool of a node with
// many executors: 64 attempts of 8 functions in flight, submitted by 4 goroutines, as
// by the loops of 4 shards.
func BenchmarkDispatch(b *testing.B) {
	const flight, submitters = 64, 4
	rt := newBench(b, process.Settings{GroupProcesses: 1})
	pool := exec.New(map[spec.Runtime]exec.Runtime{spec.RuntimeProcess: rt.Runtime}, exec.Settings{InputBytes: 64 << 20})
	var functions []*spec.Function
	for n := range 8 {
		r := rt.task(goProgram(b, "functions"), "echo")
		r.task.Function.Env = map[string]string{"PROCESS": fmt.Sprint(n)} // one of its own
		rt.submit(r).succeed()
		functions = append(functions, r.task.Function)
	}
	in := rt.task(nil, "echo", object("k", make([]byte, 100))).task.Source
	sink := &ticket{b: b, done: make(chan *exec.Task, flight)}
	free := make(chan struct{}, flight)
	for range flight {
		free <- struct{}{}
	}
	b.ReportAllocs()
	b.ResetTimer()
	for s := range submitters {
		go func() {
			for n := s; n < b.N; n += submitters {
				<-free
				pool.Submit(&exec.Task{
					App: "app", Artifact: "sum", Function: functions[n%len(functions)], Invocation: spec.InvocationID{Session: "s1", Number: uint64(n) + 100},
					Attempt: 1, Bucket: "in", Trigger: "tr", Timeout: wait, Sink: sink, Source: in, SizeAtMost: 64 << 10,
				})
			}
		}()
	}
	for range b.N {
		<-sink.done
		free <- struct{}{}
	}
}
