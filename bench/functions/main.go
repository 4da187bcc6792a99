// Command functions is the executor of the benchmark's app, on the Go SDK. The
// same functions in Python are in app.py beside it.
package main

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/pheromone-run/pheromone/bench/work"
	"github.com/pheromone-run/pheromone/client/fn"
)

func main() {
	for name, f := range work.Functions() {
		fn.Handle(name, f)
	}
	fn.Handle("nothing", func(*fn.Context, []fn.Object) error { return nil })
	fn.Handle("slow", func(ctx *fn.Context, _ []fn.Object) error { return work.Pause(ctx.Context(), slow) })
	fn.Handle("held", func(ctx *fn.Context, _ []fn.Object) error { <-ctx.Context().Done(); return ctx.Context().Err() })
	for i := range steps {
		fn.Handle(fmt.Sprint("step", i), func(ctx *fn.Context, in []fn.Object) error {
			if rand.Float64() < failing {
				<-ctx.Context().Done() // it never answers and puts nothing
				return ctx.Context().Err()
			}
			if err := work.Pause(ctx.Context(), step); err != nil {
				return err
			}
			return ctx.Put(fmt.Sprint("after", i), "x", in[0].Bytes())
		})
	}
	fn.Handle("finish", func(ctx *fn.Context, in []fn.Object) error { return ctx.Output(in[0].Bytes()) })
	fn.Main()
}

// The chain of workload G: how many functions, how long each works, and how
// often an attempt fails.
const (
	steps   = 4
	step    = 100 * time.Millisecond
	failing = 0.01
)

// slow is how long the function that cannot keep up works.
const slow = 50 * time.Millisecond
