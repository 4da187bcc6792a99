// Command wasm holds the functions of an app that runs in a WebAssembly module:
// what a sensor has sent is cleaned of what can't be read, and summed up.
package main

import (
	"bytes"
	"fmt"
	"math"
	"strconv"

	"github.com/pheromone-run/pheromone/client/fn"
)

func main() {
	fn.Handle("clean", clean)
	fn.Handle("summarize", summarize)
	fn.Main()
}

// clean keeps the lines that are numbers.
func clean(ctx *fn.Context, in []fn.Object) error {
	var kept []byte
	dropped := 0
	for line := range bytes.Lines(in[0].Bytes()) {
		line = bytes.TrimSpace(line)
		if v, err := strconv.ParseFloat(string(line), 64); err != nil || math.IsNaN(v) {
			dropped++
			continue
		}
		kept = append(append(kept, line...), '\n')
	}
	if dropped > 0 {
		fmt.Printf("%s: %d lines are no numbers\n", in[0].Key, dropped)
	}
	return ctx.Put("clean", in[0].Key, kept)
}

// summarize tells how many readings there are, and their mean.
func summarize(ctx *fn.Context, in []fn.Object) error {
	sum, count := 0.0, 0
	for line := range bytes.Lines(in[0].Bytes()) {
		v, err := strconv.ParseFloat(string(bytes.TrimSpace(line)), 64)
		if err != nil {
			return fn.Permanent(err)
		}
		sum += v
		count++
	}
	if count == 0 {
		return fn.Permanent(fmt.Errorf("%s has no readings", in[0].Key))
	}
	return ctx.Output(fmt.Appendf(nil, "%s: %d readings, mean %.2f\n", in[0].Key, count, sum/float64(count)))
}
