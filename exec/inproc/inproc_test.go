package inproc_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client/fn"
	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/exec/inproc"
	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/spec"
)

// wait bounds every wait of the tests: it is only reached when something is
// broken.
const wait = 30 * time.Second

// sink is what the sink of one task heard.
type sink struct {
	t       *testing.T
	objects map[spec.Key]exec.Input // what Get finds
	refuse  error                   // what Emit returns

	mu      sync.Mutex
	started string
	emitted []exec.Emission
	dones   int
	failure *exec.Failure
	some    chan struct{} // closed with the first emission that came by Emit
	done    chan struct{}
}

func (s *sink) Started(_ *exec.Task, executor string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started != "" || s.dones > 0 {
		s.t.Errorf("Started after %q or after Done", s.started)
	}
	s.started = executor
}

func (s *sink) Emit(_ *exec.Task, e []exec.Emission) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.take(e)
	select {
	case <-s.some:
	default:
		close(s.some)
	}
	return s.refuse
}

func (s *sink) take(e []exec.Emission) {
	if s.dones > 0 {
		s.t.Error("emissions after Done")
	}
	for _, one := range e {
		if want := uint64(len(s.emitted) + 1); one.Seq != want {
			s.t.Errorf("emission %d has Seq %d", want, one.Seq)
		}
		s.emitted = append(s.emitted, one)
	}
}

func (s *sink) Get(_ context.Context, _ *exec.Task, bucket spec.BucketName, key spec.Key) (exec.Input, error) {
	o, ok := s.objects[key]
	if !ok {
		return o, spec.Errorf(spec.CodeNotFound, "no object %q in bucket %q", key, bucket)
	}
	return o, nil
}

func (s *sink) Done(_ *exec.Task, e []exec.Emission, f *exec.Failure) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.take(e)
	s.failure = f
	if s.dones++; s.dones > 1 {
		s.t.Error("Done twice")
		return
	}
	close(s.done)
}

// end waits for Done and wants a failure of kind; none if kind is empty.
func (s *sink) end(kind string) *exec.Failure {
	s.t.Helper()
	within(s.t, s.done)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case kind == "" && s.failure != nil, kind != "" && (s.failure == nil || s.failure.Kind != kind):
		s.t.Fatalf("it ended with %+v, want kind %q", s.failure, kind)
	}
	return s.failure
}

func within(t *testing.T, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(wait):
		t.Fatal("waited in vain")
	}
}

// bench is a runtime whose app "app" has the functions of a test.
type bench struct {
	*inproc.Runtime
	t    *testing.T
	next uint64
	mu   sync.Mutex
	logs []exec.LogRecord
}

func newBench(t *testing.T, s inproc.Settings) *bench {
	t.Helper()
	b := &bench{t: t}
	s.Log = func(r exec.LogRecord) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.logs = append(b.logs, r)
	}
	b.Runtime = inproc.New(s)
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		nodetest.NoGoroutinesLeft(t)
	})
	return b
}

// task makes a task of function over one object, "k" with the data "x".
func (b *bench) task(function string) (*exec.Task, *sink) {
	b.next++
	s := &sink{t: b.t, some: make(chan struct{}), done: make(chan struct{}), objects: map[spec.Key]exec.Input{}}
	return &exec.Task{
		App: "app", Function: &spec.Function{Name: spec.FunctionName(function)},
		Invocation: spec.InvocationID{Session: "s1", Number: b.next}, Attempt: 2, Bucket: "in", Trigger: "tr", Timeout: wait,
		Source: source(func(context.Context) ([]exec.Input, error) {
			return []exec.Input{{Bucket: "in", Key: "k", Session: "s1", ContentType: "text/x", Data: []byte("x")}}, nil
		}),
		Sink: s,
	}, s
}

// source reads inputs of a task.
type source func(context.Context) ([]exec.Input, error)

func (s source) Load(ctx context.Context) ([]exec.Input, error) { return s(ctx) }
func (s source) Size(context.Context) (int64, error)            { return 0, nil }

// run submits a task of h, registered for it alone.
func (b *bench) run(h fn.Handler) (*exec.Task, *sink) {
	b.Register("app", "f", h)
	t, s := b.task("f")
	b.Submit(t)
	return t, s
}

func TestASuccessCarriesWhatWasEmittedInOrder(t *testing.T) {
	b := newBench(t, inproc.Settings{})
	task, s := b.run(func(ctx *fn.Context, in []fn.Object) error {
		info := ctx.Info()
		if info.ID != "s1.1" || info.Attempt != 2 || info.Bucket != "in" || info.Trigger != "tr" || info.Function != "f" || ctx.Deadline().IsZero() {
			t.Errorf("invocation %+v until %s", info, ctx.Deadline())
		}
		ctx.Log("a line")
		data := []byte("one")
		err := ctx.Put("out", in[0].Key, data, fn.ContentType(in[0].ContentType), fn.Meta("m", "v"))
		copy(data, "two") // the caller's own again
		return errors.Join(err, ctx.PutNew("out", nil), ctx.Send("g", []byte("sent")), ctx.Output([]byte("out")), ctx.Join("sets", "ready", "a", "b"))
	})
	s.end("")
	if s.started != "inproc" || len(s.emitted) != 5 {
		t.Fatalf("started by %q, emitted %+v", s.started, s.emitted)
	}
	first, made, sent, out, join := s.emitted[0], s.emitted[1], s.emitted[2], s.emitted[3], s.emitted[4]
	if first.Bucket != "out" || first.Key != "k" || string(first.Data) != "one" || first.ContentType != "text/x" || first.Meta["m"] != "v" {
		t.Errorf("put %+v", first)
	}
	if made.Key != "" || made.Data == nil || sent.Bucket != "@g" || out.Bucket != spec.OutputBucket || !out.Output {
		t.Errorf("emitted %+v, %+v, %+v", made, sent, out)
	}
	if join.JoinTrigger != "ready" || len(join.JoinKeys) != 2 || join.Bucket != "sets" {
		t.Errorf("join %+v", join)
	}
	if len(b.logs) != 1 || b.logs[0].Text != "a line" || b.logs[0].Function != "f" || b.logs[0].Invocation != task.Invocation.String() {
		t.Errorf("logs %+v", b.logs)
	}
}

func TestAStartOfAChildSessionIsAnEmission(t *testing.T) {
	b := newBench(t, inproc.Settings{})
	_, s := b.run(func(ctx *fn.Context, in []fn.Object) error {
		data := []byte("one")
		err := ctx.Start("child", data, fn.Into("results", "first"), fn.StartTimeout(time.Minute), fn.ContentType("text/x"), fn.Meta("m", "v"))
		copy(data, "two") // the caller's own again
		return errors.Join(err, ctx.Start("child", nil))
	})
	s.end("")
	if len(s.emitted) != 2 {
		t.Fatalf("emitted %+v", s.emitted)
	}
	first, second := s.emitted[0], s.emitted[1]
	if first.Bucket != "results" || first.Key != "first" || string(first.Data) != "one" || first.ContentType != "text/x" || first.Meta["m"] != "v" ||
		first.Child == nil || *first.Child != (exec.ChildStart{Function: "child", Timeout: time.Minute}) {
		t.Errorf("started %+v, %+v", first, first.Child)
	}
	if second.Bucket != "" || second.Key != "" || second.Data == nil || second.Child == nil || *second.Child != (exec.ChildStart{Function: "child"}) {
		t.Errorf("started %+v, %+v", second, second.Child)
	}
}

func TestAnInputSaysThatItStandsForADeletion(t *testing.T) {
	b := newBench(t, inproc.Settings{})
	b.Register("app", "f", func(_ *fn.Context, in []fn.Object) error {
		if len(in) != 2 || in[0].Deleted || !in[1].Deleted || string(in[1].Bytes()) != "its bytes" {
			t.Errorf("inputs %+v", in)
		}
		return nil
	})
	task, s := b.task("f")
	task.Source = source(func(context.Context) ([]exec.Input, error) {
		return []exec.Input{{Bucket: "in", Key: "here"}, {Bucket: "in", Key: "gone", Data: []byte("its bytes"), Deleted: true}}, nil
	})
	b.Submit(task)
	s.end("")
}

func TestHowAnAttemptFails(t *testing.T) {
	for _, c := range []struct {
		name, kind, message, detail string
		handler                     fn.Handler
	}{
		{"an error", exec.Failed, "no luck", "", func(*fn.Context, []fn.Object) error { return errors.New("no luck") }},
		{"a permanent error", exec.Permanent, "never", "", func(*fn.Context, []fn.Object) error { return fn.Permanent(errors.New("never")) }},
		{"a panic", exec.Failed, "panic: oh", "inproc_test.go", func(*fn.Context, []fn.Object) error { panic("oh") }},
		{"an object over the bound", exec.Refused, "at most 10", "", func(ctx *fn.Context, _ []fn.Object) error { return ctx.Put("out", "k", make([]byte, 11)) }},
		{"a function that is not there", exec.Refused, `function "f"`, "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, inproc.Settings{MaxObjectBytes: 10})
			_, s := b.run(c.handler)
			if f := s.end(c.kind); !strings.Contains(f.Message, c.message) || !strings.Contains(f.Detail, c.detail) {
				t.Fatalf("failure %+v", f)
			}
		})
	}
}

func TestInputsThatCannotBeLoadedLoseTheAttempt(t *testing.T) {
	b := newBench(t, inproc.Settings{})
	b.Register("app", "f", func(*fn.Context, []fn.Object) error { t.Error("it ran"); return nil })
	task, s := b.task("f")
	task.Source = source(func(context.Context) ([]exec.Input, error) { return nil, errors.New("gone") })
	b.Submit(task)
	if f := s.end(exec.Lost); !strings.Contains(f.Message, "gone") {
		t.Fatalf("failure %+v", f)
	}
}

func TestGetFindsObjectsAndSendsThePutsBeforeIt(t *testing.T) {
	b := newBench(t, inproc.Settings{})
	b.Register("app", "f", func(ctx *fn.Context, _ []fn.Object) error {
		if _, err := ctx.Get("in", "nowhere"); !errors.Is(err, fn.ErrNotFound) {
			t.Errorf("get of what is not there: %v", err)
		}
		if err := ctx.Put("out", "before", nil); err != nil {
			return err
		}
		o, err := ctx.Get("in", "there")
		if string(o.Bytes()) != "found" || o.Bucket != "in" || o.Key != "there" {
			t.Errorf("got %+v", o)
		}
		return err
	})
	task, s := b.task("f")
	s.objects["there"] = exec.Input{Data: []byte("found")}
	b.Submit(task)
	s.end("")
	select {
	case <-s.some:
	default:
		t.Fatal("the put before the get was held back")
	}
}

// untilCancelled emits, waits for the end of its context and tries to go on.
func untilCancelled(t *testing.T, ended chan<- struct{}) fn.Handler {
	return func(ctx *fn.Context, _ []fn.Object) error {
		defer close(ended)
		if err := ctx.Put("out", "waiting", nil); err != nil {
			return err
		}
		<-ctx.Context().Done()
		if err := ctx.Put("out", "late", nil); err == nil || !ctx.Cancelled() {
			t.Error("a put after the attempt was ended was taken")
		}
		return errors.New("told to stop")
	}
}

func TestATimeoutEndsTheTaskAndTellsTheFunction(t *testing.T) {
	b := newBench(t, inproc.Settings{})
	ended := make(chan struct{})
	b.Register("app", "f", untilCancelled(t, ended))
	task, s := b.task("f")
	task.Timeout = 20 * time.Millisecond
	b.Submit(task)
	if f := s.end(exec.TimedOut); !strings.Contains(f.Message, "20ms") {
		t.Fatalf("failure %+v", f)
	}
	within(t, ended)
}

func TestACancellationEndsTheTaskAndTellsTheFunction(t *testing.T) {
	b := newBench(t, inproc.Settings{})
	ended := make(chan struct{})
	task, s := b.run(untilCancelled(t, ended))
	within(t, s.some)
	b.Cancel(exec.TaskRef{App: "app", Invocation: task.Invocation, Attempt: 99}) // nobody's
	b.Cancel(task.Ref())
	s.end(exec.Cancelled)
	within(t, ended)
}

func TestARefusedEmissionEndsTheTaskAndTellsTheFunction(t *testing.T) {
	b := newBench(t, inproc.Settings{})
	ended := make(chan struct{})
	b.Register("app", "f", untilCancelled(t, ended))
	task, s := b.task("f")
	s.refuse = spec.Errorf(spec.CodeConflict, "key %q is taken", "waiting")
	b.Submit(task)
	if f := s.end(exec.Conflict); f.Message != `key "waiting" is taken` {
		t.Fatalf("failure %+v", f)
	}
	within(t, ended)
}

func TestNoMoreAttemptsThanTheBoundRunAtOnceAndTheRestWaitInOrder(t *testing.T) {
	b := newBench(t, inproc.Settings{Concurrency: 2})
	var running, most atomic.Int64
	entered, leave := make(chan struct{}, 10), make(chan struct{})
	b.Register("app", "f", func(*fn.Context, []fn.Object) error {
		now := running.Add(1)
		for old := most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
		}
		entered <- struct{}{}
		<-leave
		running.Add(-1)
		return nil
	})
	tasks, sinks := make([]*exec.Task, 10), make([]*sink, 10)
	for i := range tasks {
		tasks[i], sinks[i] = b.task("f")
		b.Submit(tasks[i])
	}
	for range 2 {
		within(t, entered)
	}
	b.Cancel(tasks[5].Ref())
	sinks[5].end(exec.Cancelled)
	if sinks[5].started != "" {
		t.Error("what was cancelled while it waited was started")
	}
	close(leave)
	for i, s := range sinks {
		if i != 5 {
			s.end("")
		}
	}
	if n := most.Load(); n != 2 {
		t.Fatalf("%d attempts ran at once, want 2", n)
	}
}

func TestCloseLosesWhatRunsAndWhatWaits(t *testing.T) {
	b := newBench(t, inproc.Settings{Concurrency: 1})
	ended := make(chan struct{})
	_, running := b.run(untilCancelled(t, ended))
	within(t, running.some)
	task, waiting := b.task("f")
	b.Submit(task)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	running.end(exec.Lost)
	waiting.end(exec.Lost)
	within(t, ended)
	late, s := b.task("f")
	b.Submit(late)
	s.end(exec.Lost)
}

func TestCloseWaitsForWhatReadsFromTheNode(t *testing.T) {
	b := newBench(t, inproc.Settings{Concurrency: 1})
	b.Register("app", "f", func(*fn.Context, []fn.Object) error { return nil })
	task, s := b.task("f")
	entered := make(chan struct{})
	var left atomic.Bool
	task.Source = source(func(ctx context.Context) ([]exec.Input, error) {
		close(entered)
		<-ctx.Done()
		for range 10_000 { // a read that does not stop at once
			runtime.Gosched()
		}
		left.Store(true)
		return nil, ctx.Err()
	})
	b.Submit(task)
	within(t, entered)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if !left.Load() {
		t.Error("the runtime is closed while a task still reads its inputs")
	}
	s.end(exec.Lost)
}
