package process_test

import (
	"fmt"
	"testing"

	"github.com/pheromone-run/pheromone/exec/process"
)

// BenchmarkCold measures from Submit to the end of the first attempt of a process.
func BenchmarkCold(b *testing.B) {
	for _, c := range []struct {
		name    string
		command []string
		loads   string
		fresh   bool // a group of its own, which nothing was started for
	}{
		{"go", goProgram(b, "functions"), "", true},
		{"python/started", forked, "told", true},
		{"python/first of those that are forked", forked, "", true},
		{"python/forked", forked, "", false},
	} {
		b.Run(c.name, func(b *testing.B) {
			rt := newBench(b, process.Settings{GroupProcesses: 1})
			n := 0
			attempt := func(function string) *run {
				r := rt.task(c.command, function, object("k", nil))
				r.task.Function.Env = map[string]string{"LOADS": c.loads}
				if c.fresh {
					r.task.Function.Env["GROUP"] = fmt.Sprint(n)
				}
				return rt.submit(r)
			}
			for b.Loop() {
				n++
				if c.fresh {
					attempt("echo").succeed()
					continue
				}
				b.StopTimer()
				attempt("exit").end()
				b.StartTimer()
				attempt("echo").succeed()
			}
		})
	}
}
