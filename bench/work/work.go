// Package work is the Go functions of the benchmark's app: of the chain (f0 to f9),
// the fan-out with its join (fan, noop, gather), the large objects (make, take), the
// long chain (hop) and the wide fan-out of functions that sleep (spread, nap, rise).
// They run in the processes and modules that bench/functions becomes, and in the
// node that bench embeds. The same functions in Python are bench/functions/app.py.
//
// Imports client/fn.
package work

import (
	"context"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/pheromone-run/pheromone/client/fn"
)

const (
	chain = 10          // functions of the chain
	wide  = 16          // width of the fan-out
	nap   = time.Second // that each function of the wide fan-out sleeps
)

// Function is a function of the app.
type Function = func(ctx *fn.Context, in []fn.Object) error

// Functions are the app's functions by name.
func Functions() map[string]Function {
	all := map[string]Function{
		"fan": fan, "gather": count,
		"noop": func(ctx *fn.Context, in []fn.Object) error { return ctx.Put("joined", in[0].Key, in[0].Bytes()) },
		"make": makeLarge, "take": take,
		"hop": hop, "spread": spread, "rise": count,
		"nap": func(ctx *fn.Context, in []fn.Object) error {
			if err := Pause(ctx.Context(), nap); err != nil {
				return err
			}
			return ctx.Put("rested", in[0].Key, nil)
		},
	}
	for i := range chain {
		all[fmt.Sprint("f", i)] = func(ctx *fn.Context, in []fn.Object) error {
			if i == chain-1 {
				return ctx.Output(in[0].Bytes())
			}
			return ctx.Put(fmt.Sprint("b", i+1), "x", in[0].Bytes())
		}
	}
	return all
}

func fan(ctx *fn.Context, in []fn.Object) error {
	for i := range wide {
		if err := ctx.Put("wide", fmt.Sprint("w", i), in[0].Bytes()); err != nil {
			return err
		}
	}
	return nil
}

func count(ctx *fn.Context, in []fn.Object) error { return ctx.Output([]byte(strconv.Itoa(len(in)))) }

// noise does not compress: nothing of it repeats within a chunk of the store.
var noise = func() []byte {
	b := make([]byte, 1<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}()

func makeLarge(ctx *fn.Context, in []fn.Object) error {
	size, err := number(in)
	if err != nil {
		return err
	}
	b, err := ctx.Create("large", "x", size)
	if err != nil {
		return err
	}
	for data := b.Bytes(); len(data) > 0; {
		data = data[copy(data, noise):]
	}
	return b.Commit()
}

func take(ctx *fn.Context, in []fn.Object) error {
	return ctx.Output(strconv.AppendUint(nil, uint64(crc32.ChecksumIEEE(in[0].View())), 10))
}

// hop goes through one bucket as often as its input says.
func hop(ctx *fn.Context, in []fn.Object) error {
	left, err := number(in)
	if err != nil {
		return err
	}
	if left <= 1 {
		return ctx.Output([]byte("there"))
	}
	next := strconv.Itoa(left - 1)
	return ctx.Put("loop", next, []byte(next))
}

// spread has as many functions sleep as its input says, and a join of them.
func spread(ctx *fn.Context, in []fn.Object) error {
	n, err := number(in)
	if err != nil {
		return err
	}
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprint("s", i)
		if err := ctx.Put("naps", keys[i], nil); err != nil {
			return err
		}
	}
	return ctx.Join("rested", "all", keys...)
}

func number(in []fn.Object) (int, error) {
	n, err := strconv.Atoi(string(in[0].Bytes()))
	if err != nil {
		return 0, fn.Permanent(err)
	}
	return n, nil
}

// Pause waits for a time or until the attempt is over.
func Pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
