// Command functions is a module of functions that the tests run.
package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"github.com/pheromone-run/pheromone/client/fn"
)

func main() {
	fn.Handle("echo", func(ctx *fn.Context, in []fn.Object) error {
		for _, o := range in {
			opts := []fn.Option{fn.ContentType(o.ContentType)}
			for name, value := range o.Meta {
				opts = append(opts, fn.Meta(name, value))
			}
			if err := ctx.Put("out", o.Key, o.Bytes(), opts...); err != nil {
				return err
			}
		}
		return nil
	})
	fn.Handle("every", every)
	fn.Handle("panic", func(*fn.Context, []fn.Object) error { panic("on purpose") })
	fn.Handle("exit", func(*fn.Context, []fn.Object) error {
		fmt.Fprintln(os.Stderr, "I leave")
		os.Exit(7)
		return nil
	})
	calls := 0
	fn.Handle("count", func(ctx *fn.Context, _ []fn.Object) error {
		calls++
		return ctx.Output([]byte(strconv.Itoa(calls)))
	})
	fn.Handle("permanent", func(*fn.Context, []fn.Object) error { return fn.Permanent(errors.New("never")) })
	fn.Handle("eat", func(*fn.Context, []fn.Object) error {
		var all [][]byte
		for {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = byte(len(all))
			}
			all = append(all, b)
		}
	})
	fn.Handle("until cancelled", func(ctx *fn.Context, _ []fn.Object) error {
		if err := ctx.Put("out", "begun", nil); err != nil {
			return err
		}
		for !ctx.Cancelled() {
		}
		return ctx.Context().Err()
	})
	fn.Handle("outside", outside)
	handlers := make(map[string]fn.Handler)
	for n := range 8 {
		name := fmt.Sprintf("unordered-%d", n)
		handlers[name] = func(ctx *fn.Context, _ []fn.Object) error {
			return ctx.Output([]byte(name + " as " + ctx.Info().Function))
		}
	}
	for name, handler := range handlers {
		fn.Handle(name, handler)
	}
	fn.Main()
}

// every makes each of the calls that a function can make.
func every(ctx *fn.Context, in []fn.Object) error {
	fmt.Print("no end of line")
	ctx.Logf("attempt %d of %s", ctx.Attempt(), ctx.Session())
	if ctx.Deadline().Before(time.Now()) {
		return errors.New("the deadline has passed")
	}
	if err := ctx.Put("out", "before", []byte("x")); err != nil {
		return err
	}
	o, err := ctx.Get("in", "there")
	if err != nil {
		return err
	}
	if _, err := ctx.Get("in", "nowhere"); !errors.Is(err, fn.ErrNotFound) {
		return fmt.Errorf("an object that is not there: %v", err)
	}
	time.Sleep(5 * time.Millisecond)
	buffer, err := ctx.Create("out", "made", 100_000)
	if err != nil {
		return err
	}
	copy(buffer.Bytes(), o.Bytes())
	return errors.Join(
		ctx.Put("out", "options", o.Bytes(), fn.ContentType("text/plain"), fn.Meta("region", "eu"), fn.AsOutput(), fn.DeliverAfter(1500*time.Millisecond)),
		ctx.PutNew("out", []byte("new")), ctx.Send("other", []byte("sent")), ctx.Output([]byte("output")),
		ctx.Join("sets", "ready", "a", "b"), ctx.Start("child", []byte("in"), fn.Into("out", "child"), fn.StartTimeout(time.Minute)), buffer.Commit(),
	)
}

// outside tells what of the machine can be seen.
func outside(ctx *fn.Context, _ []fn.Object) error {
	if env := os.Environ(); len(env) > 0 {
		return fmt.Errorf("environment %q", env)
	}
	if entries, err := os.ReadDir("/"); err == nil {
		return fmt.Errorf("files %v", entries)
	}
	if err := os.WriteFile("/tmp/x", nil, 0o600); err == nil {
		return errors.New("it wrote a file")
	}
	if _, err := net.DialTimeout("tcp", "127.0.0.1:22", time.Second); err == nil {
		return errors.New("it reached the network")
	}
	if len(os.Args) > 1 {
		return fmt.Errorf("arguments %q", os.Args)
	}
	return ctx.Output([]byte("nothing"))
}
