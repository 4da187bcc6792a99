package leader_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client/fn"
	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/exec/inproc"
	"github.com/pheromone-run/pheromone/exec/spread"
	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

const spreadManifest = `
apiVersion: pheromone/v1
app: demo
functions:
  filler: {runtime: inproc}
  work: {runtime: inproc}
buckets:
  fill: {triggers: [{name: f, primitive: immediate, target: filler}]}
  in: {triggers: [{name: w, primitive: immediate, target: work}]}
`

// executors is a world whose executors are those of two nodes: one place on the
// leader's, one on another. What passes between them can be held up.
type executors struct {
	*world
	t     *testing.T
	nodes map[string]*spread.Runtime
	funcs map[string]*inproc.Runtime
	mu    sync.Mutex
	held  chan struct{} // while it is open nothing passes
}

func newExecutors(t *testing.T) *executors {
	x := &executors{t: t, nodes: map[string]*spread.Runtime{}, funcs: map[string]*inproc.Runtime{}, held: make(chan struct{})}
	close(x.held)
	x.world = &world{t: t, dir: t.TempDir(), shards: 1, apps: &deployed{}, run: newRunner(nil)}
	x.apps.apply(t, spreadManifest)
	for _, node := range []string{"n1", "n2"} {
		x.funcs[node] = inproc.New(inproc.Settings{Concurrency: 1})
		x.nodes[node] = spread.New(spread.Config{
			Node: node, Local: exec.New(map[spec.Runtime]exec.Runtime{spec.RuntimeInproc: x.funcs[node]}, exec.Settings{}),
			Call: x.call, ErrNotSent: errors.New("not sent"), Inputs: lateReader{x.world}, Apps: never{x.apps},
			Nodes:   func(spec.ShardID) (replicas, others []string) { return []string{"n1", "n2"}, nil },
			Silence: 3 * time.Second, Poll: 5 * time.Millisecond,
		})
	}
	x.execs = x.nodes["n1"]
	x.start()
	t.Cleanup(func() {
		x.close()
		for _, rt := range x.nodes {
			if err := rt.Close(); err != nil {
				t.Error(err)
			}
		}
	})
	return x
}

// lateReader reads from the store that the world has by then.
type lateReader struct{ w *world }

func (r lateReader) Load(ctx context.Context, reference []byte) ([]exec.Input, error) {
	return leader.Reader{DB: r.w.db}.Load(ctx, reference)
}

func (r lateReader) Each(ctx context.Context, reference []byte, f func(exec.Input, int64, io.Reader) error) error {
	return leader.Reader{DB: r.w.db}.Each(ctx, reference, f)
}

// never is apps that do not change.
type never struct{ *deployed }

func (never) Changed() <-chan struct{} { return nil }

// call asks the other node without a network.
func (x *executors) call(ctx context.Context, node, method string, args any, body io.Reader, result any) (io.ReadCloser, error) {
	raw, err := json.Marshal(args)
	if err != nil {
		return nil, err
	}
	if body != nil {
		body = x.stream(context.Background(), body)
	}
	res, answer, err := x.nodes[node].Handlers()[method](ctx, func(into any) error { return json.Unmarshal(raw, into) }, body)
	if err == nil && result != nil {
		if raw, err = json.Marshal(res); err == nil {
			err = json.Unmarshal(raw, result)
		}
	}
	if answer == nil {
		return nil, err
	}
	return x.stream(ctx, answer), err
}

// stream passes what comes from a reader, unless it is held up.
func (x *executors) stream(ctx context.Context, from io.Reader) io.ReadCloser {
	r, w := io.Pipe()
	context.AfterFunc(ctx, func() { _ = r.CloseWithError(ctx.Err()) })
	go func() {
		buf := make([]byte, 32<<10)
		for {
			n, err := from.Read(buf)
			x.mu.Lock()
			held := x.held
			x.mu.Unlock()
			<-held
			if _, failed := w.Write(buf[:n]); failed != nil || err != nil {
				_ = w.CloseWithError(err)
				return
			}
		}
	}()
	return r
}

func (x *executors) hold() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.held = make(chan struct{})
}

func (x *executors) release() {
	x.mu.Lock()
	defer x.mu.Unlock()
	close(x.held)
}

func (x *executors) register(name spec.FunctionName, h func(node string, ctx *fn.Context) error) {
	for node, rt := range x.funcs {
		rt.Register("demo", name, func(ctx *fn.Context, _ []fn.Object) error { return h(node, ctx) })
	}
}

// fill takes the place on the leader's node until the returned function is called.
func (x *executors) fill() (let func()) {
	begun, hold := make(chan struct{}), make(chan struct{})
	var once sync.Once
	x.funcs["n1"].Register("demo", "filler", func(*fn.Context, []fn.Object) error {
		once.Do(func() { close(begun) })
		<-hold
		return nil
	})
	x.put("fill", "k", "v")
	await(x.t, begun)
	return func() { close(hold) }
}

// await waits for a channel to be closed.
func await(t *testing.T, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("it did not come to that")
	}
}

func TestAPartitionedExecutorThatAnswersLateWritesNothing(t *testing.T) {
	x := newExecutors(t)
	let := x.fill()
	begun, goOn, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var once sync.Once
	x.register("work", func(node string, ctx *fn.Context) error {
		if node == "n1" {
			return ctx.Output([]byte("right"))
		}
		once.Do(func() { close(begun) })
		<-goOn
		defer close(ended)
		return ctx.Output([]byte("late"))
	})
	session := x.put("in", "k", "v")
	await(t, begun)
	eventually(t, "the start is written", func() bool {
		a := x.history(session).Invocations[0].Attempts
		return len(a) == 1 && a[0].Executor == "n2/inproc"
	})
	x.hold()
	let()
	result := x.result(session) // the leader has it run again, on its own node
	close(goOn)
	await(t, ended)
	x.release()
	eventually(t, "the other node is rid of it", func() bool { return x.nodes["n2"].Stats().Guests == 0 })
	again := x.result(session)
	for _, r := range []wire.Result{result, again} {
		if len(r.Outputs) != 1 || string(r.Outputs[0].Data) != "right" {
			t.Fatalf("outputs %v", outputs(r))
		}
	}
	attempts := x.history(session).Invocations[0].Attempts
	if len(attempts) != 2 || attempts[0].Error == nil || attempts[0].Error.Kind != exec.Lost || attempts[1].Error != nil {
		t.Fatalf("attempts %+v", attempts)
	}
	if attempts[1].Executor != "inproc" {
		t.Fatalf("the second one ran on %q", attempts[1].Executor)
	}
}

func TestANewLeaderRunsForwardedAttemptsAgainAndTheOldOnesAreStopped(t *testing.T) {
	x := newExecutors(t)
	let := x.fill()
	begun, stopped, second := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var once, later sync.Once
	x.register("work", func(_ string, ctx *fn.Context) error {
		first := false
		once.Do(func() { first = true })
		if !first {
			later.Do(func() { close(second) })
			return ctx.Output([]byte("again"))
		}
		close(begun)
		<-ctx.Context().Done()
		close(stopped)
		return ctx.Output([]byte("old"))
	})
	session := x.put("in", "k", "v")
	await(t, begun)
	x.unseat(1)
	await(t, stopped)
	await(t, second)
	if got := outputs(x.result(session)); len(got) != 1 || got[0][len(got[0])-len("again"):] != "again" {
		t.Fatalf("outputs %v", got)
	}
	let()
}
