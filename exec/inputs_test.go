package exec_test

import (
	"context"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client/fn"
	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/exec/inproc"
	"github.com/pheromone-run/pheromone/spec"
)

// memory counts the bytes of inputs that tasks hold.
type memory struct {
	sync.Mutex
	held, most int64
	asked      int // how often a size was asked for
}

func (m *memory) add(n int64) {
	m.Lock()
	defer m.Unlock()
	m.held += n
	m.most = max(m.most, m.held)
}

func (m *memory) sizesAsked() int {
	m.Lock()
	defer m.Unlock()
	return m.asked
}

// sized is a task with so many bytes of input. What its Load adds to m its
// function takes away again.
func (b *bench) sized(f *spec.Function, sink exec.Sink, m *memory, bytes int64) *exec.Task {
	t := b.task(f, sink)
	t.Source = given{
		size: func() int64 {
			m.Lock()
			defer m.Unlock()
			m.asked++
			return bytes
		},
		load: func() []exec.Input {
			m.add(bytes)
			return []exec.Input{{Data: make([]byte, bytes)}}
		},
	}
	return t
}

func untilClosed(m *memory, hold <-chan struct{}) fn.Handler {
	return func(_ *fn.Context, in []fn.Object) error {
		<-hold
		m.add(-int64(len(in[0].Bytes())))
		return nil
	}
}

const budget = 1 << 20

func TestInputsOfAllAttemptsTogetherStayWithinTheBudget(t *testing.T) {
	b := newBench(t, exec.Settings{InputBytes: budget})
	var m memory
	hold := make(chan struct{})
	b.inproc.Register("app", "f", untilClosed(&m, hold))
	f := inprocFunction("f", 0)
	runs := make([]*run, 40)
	for i := range runs {
		runs[i] = newRun(t)
		b.Submit(b.sized(f, runs[i], &m, 300<<10))
	}
	eventually(t, "all have an executor", func() bool { return m.sizesAsked() == len(runs) })
	close(hold)
	for _, r := range runs {
		r.end("")
	}
	if m.most > budget || m.held != 0 {
		t.Fatalf("%d bytes were held at once of a budget of %d, and %d are left", m.most, budget, m.held)
	}
}

func TestSmallInputsNeedNotWaitForLargeOnes(t *testing.T) {
	b := newBench(t, exec.Settings{InputBytes: budget})
	var m memory
	hold := make(chan struct{})
	b.inproc.Register("app", "held", untilClosed(&m, hold))
	b.inproc.Register("app", "f", func(*fn.Context, []fn.Object) error { return nil })
	large, next, small := newRun(t), newRun(t), newRun(t)
	b.Submit(b.sized(inprocFunction("held", 0), large, &m, budget))
	eventually(t, "the budget is used up", func() bool { m.Lock(); defer m.Unlock(); return m.held > 0 })
	b.Submit(b.sized(inprocFunction("held", 0), next, &m, budget))
	eventually(t, "another one waits for it", func() bool { return m.sizesAsked() == 2 })
	b.Submit(b.sized(inprocFunction("f", 0), small, &m, 1<<10))
	small.end("")
	close(hold)
	large.end("")
	next.end("")
}

func TestWhatWaitsForAnExecutorHoldsNoMemory(t *testing.T) {
	busy, idle := inproc.New(inproc.Settings{Concurrency: 1}), inproc.New(inproc.Settings{})
	b := &bench{Pool: exec.New(map[spec.Runtime]exec.Runtime{spec.RuntimeInproc: busy, spec.RuntimeProcess: idle}, exec.Settings{InputBytes: budget})}
	var m memory
	hold := make(chan struct{})
	busy.Register("app", "f", untilClosed(&m, hold))
	idle.Register("app", "g", func(*fn.Context, []fn.Object) error { return nil })
	runs := make([]*run, 10)
	for i := range runs {
		runs[i] = newRun(t)
		task := b.sized(inprocFunction("f", 0), runs[i], &m, 100)
		task.SizeAtMost = budget / 4
		b.Submit(task)
	}
	g := &spec.Function{Name: "g", Runtime: spec.RuntimeProcess}
	whole := newRun(t)
	b.Submit(b.sized(g, whole, &m, budget/2))
	whole.end("")
	close(hold)
	for _, r := range runs {
		r.end("")
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

// inline is a runtime that reads the inputs where tasks are submitted, as that of
// processes does, and then leaves a task alone until it is cancelled.
type inline struct{ tasks sync.Map }

func (r *inline) Submit(t *exec.Task) {
	r.tasks.Store(t.Ref(), t)
	if _, err := t.Source.Load(context.Background()); err != nil {
		r.end(t.Ref(), exec.LoadFailure(err))
	}
}

func (r *inline) end(ref exec.TaskRef, f *exec.Failure) {
	if t, ok := r.tasks.LoadAndDelete(ref); ok {
		t.(*exec.Task).Sink.Done(t.(*exec.Task), nil, f)
	}
}

func (r *inline) Cancel(ref exec.TaskRef) { r.end(ref, &exec.Failure{Kind: exec.Cancelled}) }
func (r *inline) Close() error            { return nil }

// twoWhole is a pool with two tasks that need the whole budget: the first has it,
// the second waits.
func twoWhole(t *testing.T, m *memory) (b *bench, tasks [2]*exec.Task, runs [2]*run) {
	b = &bench{Pool: exec.New(map[spec.Runtime]exec.Runtime{spec.RuntimeInproc: &inline{}}, exec.Settings{InputBytes: budget})}
	for i := range runs {
		runs[i] = newRun(t)
		tasks[i] = b.sized(inprocFunction("f", 0), runs[i], m, budget)
		b.Submit(tasks[i])
		eventually(t, "its size is known", func() bool { return m.sizesAsked() == i+1 })
		eventually(t, "the first has it", func() bool { m.Lock(); defer m.Unlock(); return m.held == budget })
	}
	return b, tasks, runs
}

func TestAnAttemptLargerThanTheBudgetIsNotOvertaken(t *testing.T) {
	var m memory
	b := &bench{Pool: exec.New(map[spec.Runtime]exec.Runtime{spec.RuntimeInproc: &inline{}}, exec.Settings{InputBytes: budget})}
	const part = 300 << 10 // of which two fit
	held := func() int64 { m.Lock(); defer m.Unlock(); return m.held }
	submit := func(bytes, atMost int64) *exec.Task {
		task := b.sized(inprocFunction("f", 0), newRun(t), &m, bytes)
		task.SizeAtMost = atMost
		b.Submit(task)
		return task
	}
	first := submit(part, part)
	large := submit(5*budget, 0)
	var late *exec.Task
	var read int64
	eventually(t, "one that would fit waits behind the large one", func() bool {
		read = held()
		if late = submit(part, part); held() == read {
			return true
		}
		b.Cancel(late.Ref())
		return false
	})
	b.Cancel(first.Ref())
	eventually(t, "the large one is read", func() bool { return held() > read })
	if held() != read+5*budget {
		t.Fatalf("%d bytes were read, want those of the large one alone", held()-read)
	}
	b.Cancel(large.Ref())
	eventually(t, "the late one is read", func() bool { return held() == read+5*budget+part })
	b.Cancel(late.Ref())
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAnAttemptThatEndsWhileItWaitsForMemoryReadsNothing(t *testing.T) {
	var m memory
	b, tasks, runs := twoWhole(t, &m)
	b.Cancel(tasks[1].Ref())
	runs[1].end(exec.Cancelled)
	b.Cancel(tasks[0].Ref())
	runs[0].end(exec.Cancelled)
	last := newRun(t)
	task := b.sized(inprocFunction("f", 0), last, &m, budget)
	b.Submit(task)
	eventually(t, "the next one has the budget", func() bool { m.Lock(); defer m.Unlock(); return m.held >= 2*budget })
	b.Cancel(task.Ref())
	last.end(exec.Cancelled)
	if err := b.Close(); err != nil || m.held != 2*budget {
		t.Fatalf("closed with %v; %d bytes were read, want those of two", err, m.held)
	}
}

func TestClosingEndsWhatWaitsForMemory(t *testing.T) {
	var m memory
	b, _, runs := twoWhole(t, &m)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	runs[1].end(exec.Lost)
}

func TestInputsLargerThanAnAttemptTakesAreRefusedUnread(t *testing.T) {
	b := newBench(t, exec.Settings{InputBytes: budget})
	b.inproc.Register("app", "f", func(*fn.Context, []fn.Object) error { t.Error("it ran"); return nil })
	r := newRun(t)
	task := b.task(inprocFunction("f", 0), r)
	task.Source = given{
		size: func() int64 { return exec.MaxInputBytes + 1 },
		load: func() []exec.Input { t.Error("they were read"); return nil },
	}
	b.Submit(task)
	r.end(exec.Refused)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(wait); !ok(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}
