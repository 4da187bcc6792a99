package process_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client/fn"
)

// TestMain runs the tests, or, started by a test as an executor, one of the
// programs below.
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "executor" {
		programs[os.Args[2]]()
		return
	}
	os.Exit(m.Run())
}

var programs = map[string]func(){
	"functions": functions,
	"parent":    parent,

	"forking-parent": forkingParent,
	"forks-badly":    forksBadly,
}

func init() {
	for name, program := range badPrograms {
		programs[name] = program
	}
}

// functions are the conformance functions in Go; testdata/functions.py has the
// same in Python.
func functions() {
	childFunctions()
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
	var kept fn.Object
	fn.Handle("keeps", func(ctx *fn.Context, in []fn.Object) error {
		kept = in[0]
		kept.Bytes()
		return nil
	})
	fn.Handle("recalls", func(ctx *fn.Context, _ []fn.Object) error { return ctx.Output(kept.Bytes()) })
	fn.Handle("options", func(ctx *fn.Context, in []fn.Object) error {
		err := errors.Join(
			ctx.Put("out", "all", []byte("1"), fn.ContentType("text/plain"), fn.Meta("region", "eu"), fn.Meta("empty", ""), fn.AsOutput(), fn.DeliverAfter(1500*time.Millisecond)),
			ctx.PutNew("out", []byte("2")),
			ctx.Send("other", []byte("3")),
			ctx.Output([]byte("4")),
			ctx.Join("sets", "ready", "a", "b"),
		)
		buffer, createErr := ctx.Create("out", "made", 5)
		if createErr != nil {
			return createErr
		}
		copy(buffer.Bytes(), "hello")
		return errors.Join(err, buffer.Commit())
	})
	fn.Handle("puts", func(ctx *fn.Context, in []fn.Object) error {
		n, err := strconv.Atoi(string(in[0].Bytes()))
		for i := range n {
			err = errors.Join(err, ctx.Put("out", fmt.Sprintf("k%d", i), []byte(strconv.Itoa(i))))
		}
		return err
	})
	fn.Handle("read", func(ctx *fn.Context, in []fn.Object) error {
		if err := ctx.Put("out", "before", []byte("x")); err != nil {
			return err
		}
		o, err := ctx.Get("in", string(in[0].Bytes()))
		if errors.Is(err, fn.ErrNotFound) {
			return ctx.Put("out", "missing", nil)
		}
		if err != nil {
			return err
		}
		return ctx.Put("out", "found", o.Bytes(), fn.ContentType(o.ContentType), fn.Meta("m", o.Meta["m"]))
	})
	fn.Handle("info", func(ctx *fn.Context, in []fn.Object) error {
		o, inv := in[0], ctx.Info()
		left := time.Until(ctx.Deadline())
		text, err := json.Marshal(map[string]any{
			"invocation": ctx.Invocation(), "session": ctx.Session(), "attempt": ctx.Attempt(), "bucket": inv.Bucket, "trigger": inv.Trigger,
			"group": inv.Group, "window": inv.Window, "traceparent": inv.Traceparent, "function": inv.Function, "deadline": 0 < left && left < time.Minute,
			"in": []string{o.Bucket, o.Key, o.Session, o.ContentType, o.Meta["m"], strconv.FormatInt(o.Size(), 10)},
		})
		return errors.Join(err, ctx.Output(text))
	})
	fn.Handle("fails", func(ctx *fn.Context, in []fn.Object) error {
		return errors.Join(ctx.Put("out", "kept", []byte("x")), errors.New("no luck"))
	})
	fn.Handle("permanent", func(ctx *fn.Context, in []fn.Object) error {
		return fn.Permanent(errors.New("never again"))
	})
	fn.Handle("crashes", func(ctx *fn.Context, in []fn.Object) error {
		panic("nothing here")
	})
	fn.Handle("waits", func(ctx *fn.Context, in []fn.Object) error {
		if err := ctx.Put("out", "waiting", []byte("x")); err != nil {
			return err
		}
		<-ctx.Context().Done()
		return errors.New("told to stop")
	})
	fn.Handle("meets", func(ctx *fn.Context, in []fn.Object) error {
		err := ctx.Put("out", "here", []byte("x"))
		for err == nil {
			if _, err = ctx.Get("in", "go"); err == nil {
				return nil
			} else if errors.Is(err, fn.ErrNotFound) {
				<-time.After(5 * time.Millisecond)
				err = nil
			}
		}
		return err
	})
	fn.Handle("logs", func(ctx *fn.Context, in []fn.Object) error {
		ctx.Log("a line")
		fmt.Println("printed")
		return nil
	})
	fn.Handle("oversize", func(ctx *fn.Context, in []fn.Object) error {
		n, err := strconv.Atoi(string(in[0].Bytes()))
		return errors.Join(err, ctx.Put("out", "big", make([]byte, n)))
	})
	fn.HandleTyped("typed", func(ctx *fn.Context, in []int) (map[string]int, error) {
		sum := 0
		for _, n := range in {
			sum += n
		}
		return map[string]int{"sum": sum}, nil
	})
	fn.Main()
}
