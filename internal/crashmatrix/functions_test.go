package crashmatrix

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/pheromone-run/pheromone/client/fn"
)

// largeBytes is the size of an object that does not travel through the log.
const largeBytes = 100 << 10

// manyObjects is more than a session has that is deleted key by key.
const manyObjects = 1100

// serveFunctions runs the functions of the scenarios: the test's own binary is the
// command that nodes start for them.
func serveFunctions() {
	fn.Handle("report", report)
	fn.Handle("each", each)
	fn.Handle("fan", func(ctx *fn.Context, in []fn.Object) error { return putEach(ctx, "jobs", in) })
	fn.Handle("work", work)
	fn.Handle("split", func(ctx *fn.Context, in []fn.Object) error {
		if err := putEach(ctx, "parts", in); err != nil {
			return err
		}
		if _, err := ctx.Get(in[0].Bucket, in[0].Key); err != nil { // with the answer, all that was put has arrived
			return err
		}
		return ctx.Join("counts", "all", words(in)...)
	})
	fn.Handle("herald", herald)
	fn.Handle("answer", func(ctx *fn.Context, in []fn.Object) error { return ctx.Put("late", in[0].Key, in[0].Bytes()) })
	fn.Handle("count", func(ctx *fn.Context, in []fn.Object) error {
		return ctx.Put("counts", in[0].Key, in[0].Bytes())
	})
	fn.Handle("map", func(ctx *fn.Context, in []fn.Object) error { return putEach(ctx, "groups", in) })
	fn.Handle("shaky", func(ctx *fn.Context, in []fn.Object) error {
		if ctx.Attempt() == 1 {
			return errors.New("the first attempt always fails")
		}
		return report(ctx, in)
	})
	fn.Handle("forgetful", func(ctx *fn.Context, in []fn.Object) error {
		if ctx.Attempt() == 1 {
			return nil // without the object that others wait for
		}
		return ctx.Put("made", in[0].Key, in[0].Bytes())
	})
	fn.Handle("broken", func(*fn.Context, []fn.Object) error { return fn.Permanent(errors.New("broken for good")) })
	fn.Handle("letter", letter)
	fn.Handle("stuck", func(ctx *fn.Context, _ []fn.Object) error {
		<-ctx.Context().Done()
		return ctx.Context().Err()
	})
	fn.Handle("patient", func(ctx *fn.Context, in []fn.Object) error {
		if ctx.Attempt() == 1 { // runs until its node dies
			<-ctx.Context().Done()
			return ctx.Context().Err()
		}
		return report(ctx, in)
	})
	fn.Handle("scatter", func(ctx *fn.Context, in []fn.Object) error {
		for i := range manyObjects {
			if err := ctx.Put("many", fmt.Sprintf("%04d", i), in[0].Bytes()); err != nil {
				return err
			}
		}
		if _, err := ctx.Get(in[0].Bucket, in[0].Key); err != nil { // with the answer, all that was put has arrived
			return err
		}
		return ctx.Output(fmt.Appendf(nil, "%d objects", manyObjects))
	})
	fn.Handle("double", func(ctx *fn.Context, in []fn.Object) error {
		return ctx.Put("large", in[0].Key, append(in[0].Bytes(), in[0].Bytes()...))
	})
	fn.Handle("measure", func(ctx *fn.Context, in []fn.Object) error {
		whole := bytes.Repeat([]byte("x"), 2*largeBytes)
		return ctx.Output([]byte(fmt.Sprintf("%d bytes as sent: %t", in[0].Size(), bytes.Equal(in[0].Bytes(), whole))))
	})
	fn.Main()
}

// report makes all that it got one output.
func report(ctx *fn.Context, in []fn.Object) error {
	var all []string
	for _, o := range in {
		all = append(all, o.Key+"="+string(o.Bytes()))
	}
	return ctx.Output([]byte(strings.Join(all, " ")))
}

// each makes each object an output of its own.
func each(ctx *fn.Context, in []fn.Object) error {
	for _, o := range in {
		if err := ctx.Output([]byte(o.Key + "=" + string(o.Bytes()))); err != nil {
			return err
		}
	}
	return nil
}

func words(in []fn.Object) []string { return strings.Fields(string(in[0].Bytes())) }

// putEach puts an object for each word of its input.
func putEach(ctx *fn.Context, bucket string, in []fn.Object) error {
	for _, word := range words(in) {
		if err := ctx.Put(bucket, word, []byte("of "+in[0].Key)); err != nil {
			return err
		}
	}
	return nil
}

// herald puts something early, and ends once it has been answered.
func herald(ctx *fn.Context, in []fn.Object) error {
	if err := ctx.Put("early", in[0].Key, in[0].Bytes()); err != nil {
		return err
	}
	for {
		answer, err := ctx.Get("late", in[0].Key)
		if err == nil {
			return ctx.Output(answer.Bytes())
		}
		if !errors.Is(err, fn.ErrNotFound) {
			return err
		}
		if !pause(ctx.Context()) {
			return ctx.Context().Err()
		}
	}
}

// work puts what it got, or, for the job named slow, waits until nobody wants it.
func work(ctx *fn.Context, in []fn.Object) error {
	if in[0].Key == "slow" {
		<-ctx.Context().Done()
		return ctx.Context().Err()
	}
	return ctx.Put("done", in[0].Key, in[0].Bytes())
}

// letter tells what stays the same of a dead letter, whenever it is written.
func letter(ctx *fn.Context, in []fn.Object) error {
	var l struct {
		Function, Kind, Message string
		Inputs                  []struct{ Bucket, Key string }
	}
	if err := json.Unmarshal(in[0].Bytes(), &l); err != nil {
		return fn.Permanent(err)
	}
	inputs := []string{}
	for _, i := range l.Inputs {
		inputs = append(inputs, i.Bucket+"/"+i.Key)
	}
	slices.Sort(inputs)
	return ctx.Output([]byte(fmt.Sprintf("%s: %s: %s of %s", l.Function, l.Kind, l.Message, strings.Join(inputs, " "))))
}
