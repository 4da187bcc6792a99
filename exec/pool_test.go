package exec_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client/fn"
	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/exec/inproc"
	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/spec"
)

const wait = 20 * time.Second

// run is a sink that records.
type run struct {
	t        *testing.T
	mu       sync.Mutex
	started  int
	emitted  []exec.Emission
	emits    int
	failure  *exec.Failure
	finished int
	objects  map[spec.Key]exec.Input
	refuse   error
	done     chan struct{}
}

func newRun(t *testing.T) *run { return &run{t: t, done: make(chan struct{})} }

func (r *run) Started(*exec.Task, string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.started++
}

func (r *run) Emit(_ *exec.Task, e []exec.Emission) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.emits++
	r.emitted = append(r.emitted, e...)
	return r.refuse
}

func (r *run) Get(_ context.Context, _ *exec.Task, b spec.BucketName, k spec.Key) (exec.Input, error) {
	if o, ok := r.objects[k]; ok {
		return o, nil
	}
	return exec.Input{}, spec.Errorf(spec.CodeNotFound, "no %s in %s", k, b)
}

func (r *run) Done(_ *exec.Task, e []exec.Emission, f *exec.Failure) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.emitted, r.failure = append(r.emitted, e...), f
	if r.finished++; r.finished > 1 {
		r.t.Error("Done twice")
		return
	}
	close(r.done)
}

func (r *run) end(kind string) *exec.Failure {
	r.t.Helper()
	select {
	case <-r.done:
	case <-time.After(wait):
		r.t.Fatal("the task did not end")
	}
	got := ""
	if r.failure != nil {
		got = r.failure.Kind
	}
	if got != kind {
		r.t.Fatalf("ended with %+v, want kind %q", r.failure, kind)
	}
	return r.failure
}

type bench struct {
	*exec.Pool
	inproc *inproc.Runtime
	number uint64
}

func newBench(t *testing.T, s ...exec.Settings) *bench {
	return newBenchOver(t, inproc.New(inproc.Settings{}), append(s, exec.Settings{})[0])
}

func newBenchOver(t *testing.T, rt *inproc.Runtime, s exec.Settings) *bench {
	b := &bench{Pool: exec.New(map[spec.Runtime]exec.Runtime{spec.RuntimeInproc: rt}, s), inproc: rt}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
		nodetest.NoGoroutinesLeft(t)
	})
	return b
}

func (b *bench) task(f *spec.Function, sink exec.Sink, in ...exec.Input) *exec.Task {
	b.number++
	return &exec.Task{
		App: "app", Function: f, Invocation: spec.InvocationID{Session: "s", Number: b.number}, Attempt: 1, Bucket: "in", Trigger: "t",
		Timeout: wait, Sink: sink, Source: given{in: in},
	}
}

// given are inputs at hand; load and size, if set, come before.
type given struct {
	in   []exec.Input
	load func() []exec.Input
	size func() int64
}

func (g given) Load(context.Context) ([]exec.Input, error) {
	if g.load != nil {
		return g.load(), nil
	}
	return g.in, nil
}

func (g given) Size(context.Context) (int64, error) {
	if g.size != nil {
		return g.size(), nil
	}
	return 0, nil
}

func inprocFunction(name string, concurrency int) *spec.Function {
	return &spec.Function{Name: spec.FunctionName(name), Runtime: spec.RuntimeInproc, Concurrency: concurrency}
}

func TestNoMoreAttemptsRunThanTheFunctionsConcurrencyAndTheRestFollowInOrder(t *testing.T) {
	b := newBench(t)
	var mu sync.Mutex
	var order []string
	atOnce, most := 0, 0
	hold := make(chan struct{})
	b.inproc.Register("app", "f", func(ctx *fn.Context, in []fn.Object) error {
		mu.Lock()
		order = append(order, ctx.Invocation())
		atOnce++
		most = max(most, atOnce)
		mu.Unlock()
		<-hold
		mu.Lock()
		atOnce--
		mu.Unlock()
		return nil
	})
	f := inprocFunction("f", 1)
	var all []*run
	var want []string
	for range 20 {
		r := newRun(t)
		all = append(all, r)
		task := b.task(f, r)
		want = append(want, task.Invocation.String())
		b.Submit(task)
	}
	if s := b.Stats().Functions; len(s) != 1 || s[0].Queued+s[0].Running != 20 || s[0].Running > 1 {
		t.Fatalf("stats %+v", s)
	}
	cancelled := newRun(t)
	late := b.task(f, cancelled)
	b.Submit(late)
	b.Cancel(late.Ref())
	cancelled.end(exec.Cancelled)
	close(hold)
	for _, r := range all {
		r.end("")
	}
	if most != 1 || !slices.Equal(order, want) || cancelled.started != 0 {
		t.Fatalf("%d ran at once, in the order %v", most, order)
	}
	if s := b.Stats().Functions; len(s) != 0 {
		t.Fatalf("stats afterwards %+v", s)
	}
}

func TestAFunctionAtItsLimitDoesNotHoldUpAnother(t *testing.T) {
	b := newBench(t)
	hold := make(chan struct{})
	b.inproc.Register("app", "slow", func(*fn.Context, []fn.Object) error { <-hold; return nil })
	b.inproc.Register("app", "quick", func(*fn.Context, []fn.Object) error { return nil })
	slow := []*run{newRun(t), newRun(t)}
	for _, r := range slow {
		b.Submit(b.task(inprocFunction("slow", 1), r))
	}
	quick := newRun(t)
	b.Submit(b.task(inprocFunction("quick", 1), quick))
	quick.end("")
	close(hold)
	for _, r := range slow {
		r.end("")
	}
}

func TestCloseEndsWhatRunsAndWhatWaits(t *testing.T) {
	b := newBench(t)
	b.inproc.Register("app", "f", func(ctx *fn.Context, _ []fn.Object) error { <-ctx.Context().Done(); return nil })
	running, waiting, late := newRun(t), newRun(t), newRun(t)
	f := inprocFunction("f", 1)
	b.Submit(b.task(f, running))
	b.Submit(b.task(f, waiting))
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b.Submit(b.task(f, late))
	for _, r := range []*run{running, waiting, late} {
		r.end(exec.Lost)
	}
}

func TestATaskWithoutARuntimeIsRefused(t *testing.T) {
	b := newBench(t)
	r := newRun(t)
	b.Submit(b.task(&spec.Function{Name: "f", Runtime: spec.RuntimeWasm}, r))
	r.end(exec.Refused)
}

func TestInprocFunctionsBehaveAsInAProcess(t *testing.T) {
	in := exec.Input{Bucket: "in", Key: "k", Session: "s", Data: []byte("data"), Meta: map[string]string{"m": "v"}}
	refused := spec.Errorf(spec.CodeConflict, "taken")
	for _, c := range []struct {
		name    string
		handler fn.Handler
		change  func(*exec.Task, *run)
		kind    string
		emits   string
	}{
		{"what is put comes with the result", func(ctx *fn.Context, in []fn.Object) error {
			return errors.Join(ctx.Put("out", in[0].Key, in[0].Bytes(), fn.Meta("m", in[0].Meta["m"])), ctx.Join("b", "t", "x"), ctx.PutNew("out", nil))
		}, nil, "", "1 out/k data map[m:v]; 2 b/ t[x]; 3 out/ "},
		{"an error fails", func(ctx *fn.Context, in []fn.Object) error { return errors.New("no") }, nil, exec.Failed, ""},
		{"a permanent error says so", func(ctx *fn.Context, in []fn.Object) error { return fn.Permanent(errors.New("no")) }, nil, exec.Permanent, ""},
		{"a panic fails", func(ctx *fn.Context, in []fn.Object) error { panic("no") }, nil, exec.Failed, ""},
		{"a put that is too large is refused", func(ctx *fn.Context, in []fn.Object) error { return ctx.Put("out", "k", make([]byte, 11)) },
			func(t *exec.Task, _ *run) { t.MaxObjectBytes = 10 }, exec.Refused, ""},
		{"get finds what is there, after the puts before it", func(ctx *fn.Context, in []fn.Object) error {
			if err := ctx.Put("out", "first", nil); err != nil {
				return err
			}
			o, err := ctx.Get("in", "there")
			if _, missing := ctx.Get("in", "nowhere"); !errors.Is(missing, fn.ErrNotFound) {
				return fmt.Errorf("get of nothing: %w", missing)
			}
			return errors.Join(err, ctx.Put("out", "found", o.Bytes()))
		}, func(_ *exec.Task, r *run) { r.objects = map[spec.Key]exec.Input{"there": {Data: []byte("here")}} }, "", "1 out/first ; 2 out/found here"},
		{"an emission that is refused ends the attempt", func(ctx *fn.Context, in []fn.Object) error {
			err := ctx.Put("out", "k", nil)
			<-ctx.Context().Done()
			return err
		}, func(_ *exec.Task, r *run) { r.refuse = refused }, exec.Conflict, "1 out/k "},
		{"an attempt past its timeout ends", func(ctx *fn.Context, in []fn.Object) error { <-ctx.Context().Done(); return nil },
			func(t *exec.Task, _ *run) { t.Timeout = time.Millisecond }, exec.TimedOut, ""},
		{"a function that nobody registered is refused", nil, nil, exec.Refused, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			if c.handler != nil {
				b.inproc.Register("app", "f", c.handler)
			}
			r := newRun(t)
			task := b.task(inprocFunction("f", 0), r, in)
			if c.change != nil {
				c.change(task, r)
			}
			b.Submit(task)
			r.end(c.kind)
			got := ""
			for i, e := range r.emitted {
				if i > 0 {
					got += "; "
				}
				got += fmt.Sprintf("%d %s/%s %s", e.Seq, e.Bucket, e.Key, e.Data)
				if e.Meta != nil {
					got += fmt.Sprint(" ", e.Meta)
				}
				if e.JoinTrigger != "" {
					got += fmt.Sprint(e.JoinTrigger, e.JoinKeys)
				}
			}
			if got != c.emits {
				t.Fatalf("emitted %q, want %q", got, c.emits)
			}
		})
	}
}

func TestACancelledInprocAttemptEndsAtOnceAndItsFunctionIsTold(t *testing.T) {
	b := newBench(t)
	told := make(chan struct{})
	started := make(chan struct{})
	b.inproc.Register("app", "f", func(ctx *fn.Context, _ []fn.Object) error {
		close(started)
		<-ctx.Context().Done()
		close(told)
		return ctx.Put("out", "late", nil)
	})
	r := newRun(t)
	task := b.task(inprocFunction("f", 0), r)
	b.Submit(task)
	<-started
	b.Cancel(task.Ref())
	r.end(exec.Cancelled)
	<-told
	if len(r.emitted) != 0 {
		t.Fatalf("emitted %v", r.emitted)
	}
}
