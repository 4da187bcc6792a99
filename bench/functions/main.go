// Command functions is the executor of the benchmark's app, on the Go SDK. The
// same functions in Python are in app.py beside it.
package main

import (
	"fmt"
	"strconv"

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
	fn.Main()
}
