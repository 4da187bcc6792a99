package exec_test

import (
	"testing"

	"github.com/pheromone-run/pheromone/client/fn"
	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/exec/inproc"
	"github.com/pheromone-run/pheromone/spec"
)

// busy has so many attempts of f run until the returned function is called.
func (b *bench) busy(t *testing.T, f *spec.Function, n int) (end func()) {
	t.Helper()
	hold, begun := make(chan struct{}), make(chan struct{}, 100)
	b.inproc.Register("app", f.Name, func(*fn.Context, []fn.Object) error { begun <- struct{}{}; <-hold; return nil })
	var all []*run
	var refs []exec.TaskRef
	for range n {
		r := newRun(t)
		task := b.task(f, r)
		all, refs = append(all, r), append(refs, task.Ref())
		b.Submit(task)
	}
	for range n {
		<-begun
	}
	for _, ref := range refs {
		if b.Withdraw(ref) != nil {
			t.Fatal("what an executor has was taken back")
		}
	}
	return func() {
		close(hold)
		for _, r := range all {
			r.end("")
		}
	}
}

func TestRoomIsWhatWouldBeginAtOnce(t *testing.T) {
	b := newBench(t)
	room := func(f *spec.Function) exec.Room { return b.Room(b.task(f, nil)) }
	if got := room(inprocFunction("f", 3)); !got.Absent {
		t.Fatalf("of a function that is not here: %+v", got)
	}
	if got := room(&spec.Function{Name: "f", Runtime: spec.RuntimeWasm}); !got.Absent {
		t.Fatalf("of a runtime that is not here: %+v", got)
	}
	end := b.busy(t, inprocFunction("f", 3), 2)
	if got := room(inprocFunction("f", 3)); got != (exec.Room{Free: 1}) {
		t.Fatalf("with two of three: %+v", got)
	}
	if got := room(inprocFunction("f", 2)); got != (exec.Room{}) {
		t.Fatalf("with two of two: %+v", got)
	}
	if got := room(inprocFunction("f", 0)); got.Free != 1022 {
		t.Fatalf("with two of all that the runtime has: %+v", got)
	}
	end()
}

func TestWhatWaitsForItsFunctionsConcurrencyCanBeTakenBack(t *testing.T) {
	b := newBench(t)
	f := inprocFunction("f", 1)
	end := b.busy(t, f, 1)
	testTakingBack(t, b, f, end)
}

func TestWhatWaitsForItsRuntimeCanBeTakenBack(t *testing.T) {
	b := newBenchOver(t, inproc.New(inproc.Settings{Concurrency: 1}), exec.Settings{InputBytes: 1000})
	f := inprocFunction("f", 0)
	end := b.busy(t, f, 1)
	testTakingBack(t, b, f, end)
}

func testTakingBack(t *testing.T, b *bench, f *spec.Function, end func()) {
	t.Helper()
	first, second, cancelled := newRun(t), newRun(t), newRun(t)
	tasks := make([]*exec.Task, 3)
	for i, r := range []*run{first, second, cancelled} {
		tasks[i] = b.task(f, r)
		tasks[i].SizeAtMost = 10
		b.Submit(tasks[i])
	}
	b.Cancel(tasks[2].Ref())
	cancelled.end(exec.Cancelled)
	if b.Withdraw(tasks[2].Ref()) != nil {
		t.Fatal("what was cancelled was taken back")
	}
	if got := b.Withdraw(tasks[0].Ref()); got != tasks[0] {
		t.Fatalf("taken back %v", got)
	}
	if b.Withdraw(tasks[0].Ref()) != nil {
		t.Fatal("taken back twice")
	}
	b.Cancel(tasks[0].Ref()) // it is nobody's here
	if s := b.Stats().Functions; len(s) != 1 || s[0].Queued != 1 || s[0].Running != 1 {
		t.Fatalf("stats %+v", s)
	}
	end()
	second.end("")
	if first.started != 0 || first.finished != 0 {
		t.Fatal("what was taken back was heard of")
	}
	b.Submit(tasks[0])
	first.end("")
	if b.Withdraw(tasks[0].Ref()) != nil {
		t.Fatal("what has ended was taken back")
	}
	if got := b.Room(tasks[0]); got.Free < 1 {
		t.Fatalf("room afterwards %+v", got)
	}
}
