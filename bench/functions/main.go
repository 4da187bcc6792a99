// Command functions is the executor of the benchmark's app, on the Go SDK. The
// same functions in Python are in app.py beside it.
package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/pheromone-run/pheromone/client/fn"
)

// chain is the number of functions f0, f1, … of the chain.
const chain = 10

// wide is the width of the fan-out.
const wide = 16

func main() {
	for i := range chain {
		fn.Handle(fmt.Sprint("f", i), func(ctx *fn.Context, in []fn.Object) error {
			if i == chain-1 {
				return ctx.Output(in[0].Bytes())
			}
			return ctx.Put(fmt.Sprint("b", i+1), "x", in[0].Bytes())
		})
	}
	fn.Handle("fan", func(ctx *fn.Context, in []fn.Object) error {
		for i := range wide {
			if err := ctx.Put("wide", fmt.Sprint("w", i), in[0].Bytes()); err != nil {
				return err
			}
		}
		return nil
	})
	fn.Handle("noop", func(ctx *fn.Context, in []fn.Object) error {
		return ctx.Put("joined", in[0].Key, in[0].Bytes())
	})
	fn.Handle("gather", func(ctx *fn.Context, in []fn.Object) error {
		return ctx.Output([]byte(strconv.Itoa(len(in))))
	})
	fn.Handle("make", func(ctx *fn.Context, in []fn.Object) error {
		size, err := strconv.Atoi(string(in[0].Bytes()))
		if err != nil {
			return fn.Permanent(err)
		}
		data := make([]byte, size)
		for i := range data { // bytes that don't compress
			data[i] = byte(uint32(i) * 2654435761 >> 13)
		}
		return ctx.Put("large", "x", data)
	})
	fn.Handle("take", func(ctx *fn.Context, in []fn.Object) error {
		var sum byte
		for _, b := range in[0].Bytes() {
			sum += b
		}
		return ctx.Output([]byte(fmt.Sprint(len(in[0].Bytes()), " ", sum)))
	})
	fn.Handle("nothing", func(*fn.Context, []fn.Object) error { return nil })
	fn.Handle("slow", func(ctx *fn.Context, _ []fn.Object) error { return pause(ctx.Context(), slow) })
	for i := range steps {
		fn.Handle(fmt.Sprint("step", i), func(ctx *fn.Context, in []fn.Object) error {
			if rand.Float64() < failing {
				<-ctx.Context().Done() // it never answers and puts nothing
				return ctx.Context().Err()
			}
			if err := pause(ctx.Context(), step); err != nil {
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

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
