package spread_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client/fn"
	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/exec/inproc"
	"github.com/pheromone-run/pheromone/exec/spread"
	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/node/peer"
	"github.com/pheromone-run/pheromone/spec"
)

const wait = time.Minute

// cluster is nodes with executors, connected by networks on loopback.
type cluster struct {
	t        testing.TB
	nodes    map[string]*testNode
	replicas []string
	last     uint64
	dial     func(from, to string) func(ctx context.Context, address string) (net.Conn, error)
}

type testNode struct {
	name    string
	network *peer.Network
	caller  *peer.Caller
	inproc  *inproc.Runtime
	pool    *exec.Pool
	rt      *spread.Runtime
	inputs  *memory
	apps    *deployed
	served  sync.WaitGroup
	// streamed counts the inputs that were asked for by other nodes.
	streamed atomic.Int64
	// asked counts how often other nodes asked for its room.
	asked atomic.Int64
}

// newCluster starts nodes with so many places for attempts each; the replicas are
// on n1 and n2.
func newCluster(t testing.TB, places map[string]int, change ...func(*cluster, *spread.Config)) *cluster {
	t.Helper()
	c := &cluster{t: t, nodes: map[string]*testNode{}, replicas: []string{"n1", "n2"}}
	for name := range places {
		c.nodes[name] = &testNode{name: name, inputs: &memory{}, apps: newDeployed()}
	}
	for name, n := range c.nodes {
		network, err := peer.Listen(peer.Config{
			Address: "127.0.0.1:0", Node: name, Cluster: func() string { return "c1" },
			Dialer: func(ctx context.Context, address string) (net.Conn, error) {
				return c.dialer(name, address)(ctx, address)
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		n.network, n.caller = network, peer.NewCaller(network)
		n.inproc = inproc.New(inproc.Settings{Concurrency: places[name]})
		n.pool = exec.New(map[spec.Runtime]exec.Runtime{spec.RuntimeInproc: n.inproc}, exec.Settings{InputBytes: 64 << 20})
		cfg := spread.Config{
			Node: name, Local: n.pool, ErrNotSent: peer.ErrNotSent, Nodes: c.placed, Inputs: n.inputs, Apps: n.apps,
			Call: func(ctx context.Context, node, method string, args any, body io.Reader, result any) (io.ReadCloser, error) {
				return n.caller.Call(ctx, c.nodes[node].network.Address(), method, args, body, result)
			},
			Silence: 10 * time.Second, Poll: 5 * time.Millisecond,
		}
		for _, ch := range change {
			ch(c, &cfg)
		}
		n.rt = spread.New(cfg)
		handlers := n.rt.Handlers()
		n.served.Go(func() { _ = peer.Serve(network, n.handle(handlers)) })
	}
	t.Cleanup(c.close)
	return c
}

func (n *testNode) handle(handlers map[string]spread.Handler) peer.Handler {
	return func(ctx context.Context, call *peer.Call) (peer.Answer, error) {
		h := handlers[call.Method]
		if h == nil {
			return peer.Answer{}, spec.Errorf(spec.CodeNotFound, "no method %s", call.Method)
		}
		switch call.Method {
		case spread.MethodInputs:
			n.streamed.Add(1)
		case spread.MethodLoad:
			n.asked.Add(1)
		}
		result, body, err := h(ctx, call.Args, call.Body)
		return peer.Answer{Result: result, Body: body}, err
	}
}

func (c *cluster) dialer(from, address string) func(ctx context.Context, address string) (net.Conn, error) {
	if c.dial != nil {
		for name, n := range c.nodes {
			if n.network.Address() == address {
				return c.dial(from, name)
			}
		}
	}
	return func(ctx context.Context, address string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", address)
	}
}

func (c *cluster) placed(spec.ShardID) (replicas, others []string) {
	for name := range c.nodes {
		if name == "n1" || name == "n2" {
			replicas = append(replicas, name)
		} else {
			others = append(others, name)
		}
	}
	return replicas, others
}

func (c *cluster) close() {
	for _, n := range c.nodes {
		if err := n.rt.Close(); err != nil {
			c.t.Error(err)
		}
	}
	for _, n := range c.nodes {
		if err := n.network.Close(); err != nil {
			c.t.Error(err)
		}
		n.served.Wait()
	}
	if _, ok := c.t.(*testing.T); ok { // a benchmark has goroutines of its own
		nodetest.NoGoroutinesLeft(c.t)
	}
}

// register makes a function of all nodes; h is told on which node it runs.
func (c *cluster) register(name string, h func(node string, ctx *fn.Context, in []fn.Object) error, on ...string) {
	for node, n := range c.nodes {
		n.apps.declare(name)
		if len(on) == 0 || slices.Contains(on, node) {
			n.inproc.Register("app", spec.FunctionName(name), func(ctx *fn.Context, in []fn.Object) error { return h(node, ctx, in) })
		}
	}
}

// task makes an attempt that n1 leads, with inputs that n1 and n2 have.
func (c *cluster) task(function string, sink exec.Sink, in ...exec.Input) *exec.Task {
	c.last++
	n1 := c.nodes["n1"]
	reference := fmt.Appendf(nil, "inputs %d", c.last)
	for _, name := range c.replicas {
		if n := c.nodes[name]; n != nil {
			n.inputs.put(string(reference), in)
		}
	}
	var bytes int64
	for i := range in {
		bytes += int64(len(in[i].Data))
	}
	return &exec.Task{
		App: "app", Version: 1, Function: n1.apps.function(function), Shard: 1, Epoch: 7, Bucket: "in", Trigger: "t", Timeout: wait,
		Invocation: spec.InvocationID{Session: "s", Number: c.last}, Attempt: 1, Sink: sink,
		Source: portable{fixed{n1.inputs, reference, bytes}}, SizeAtMost: max(bytes, 1),
	}
}

// fixed are inputs that only their node can read, portable those that others can too.
type fixed struct {
	from      *memory
	reference []byte
	bytes     int64
}

func (f fixed) Load(ctx context.Context) ([]exec.Input, error) { return f.from.Load(ctx, f.reference) }
func (f fixed) Size(context.Context) (int64, error)            { return f.bytes, nil }

type portable struct{ fixed }

func (p portable) Reference() ([]byte, error) { return p.reference, nil }

func (c *cluster) submit(function string, in ...exec.Input) *run {
	r := newRun(c.t)
	r.task = c.task(function, r, in...)
	c.nodes["n1"].rt.Submit(r.task)
	return r
}

func (c *cluster) stats() spread.Stats { return c.nodes["n1"].rt.Stats() }

// memory is the inputs that a node has a copy of.
type memory struct{ all sync.Map }

func (m *memory) put(reference string, in []exec.Input) { m.all.Store(reference, in) }

func (m *memory) Load(_ context.Context, reference []byte) ([]exec.Input, error) {
	in, ok := m.all.Load(string(reference))
	if !ok {
		return nil, errors.New("not here")
	}
	return in.([]exec.Input), nil
}

func (m *memory) Each(ctx context.Context, reference []byte, f func(in exec.Input, size int64, data io.Reader) error) error {
	list, err := m.Load(ctx, reference)
	for _, in := range list {
		err = errors.Join(err, f(in, int64(len(in.Data)), bytes.NewReader(in.Data)))
	}
	return err
}

// deployed is what a node knows of the app.
type deployed struct {
	mu        sync.Mutex
	functions map[spec.FunctionName]*spec.Function
	version   uint64
	changed   chan struct{}
}

func newDeployed() *deployed {
	return &deployed{functions: map[spec.FunctionName]*spec.Function{}, version: 1, changed: make(chan struct{})}
}

func (d *deployed) declare(name string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.functions[spec.FunctionName(name)] == nil {
		d.functions[spec.FunctionName(name)] = &spec.Function{Name: spec.FunctionName(name), Runtime: spec.RuntimeInproc}
	}
}

func (d *deployed) function(name string) *spec.Function {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.functions[spec.FunctionName(name)]
}

func (d *deployed) set(version uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.version = version
	close(d.changed)
	d.changed = make(chan struct{})
}

func (d *deployed) App(name spec.AppName, version uint64) (*spec.App, uint64, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return &spec.App{Name: name, Functions: maps.Clone(d.functions)}, d.version, version <= d.version
}

func (d *deployed) Changed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.changed
}

// run is a sink that records and complains about calls that must not come.
type run struct {
	t    testing.TB
	task *exec.Task

	mu       sync.Mutex
	executor string
	emitted  []exec.Emission
	emits    int
	failure  *exec.Failure
	finished int
	objects  map[spec.Key]exec.Input
	refuse   error
	hold     chan struct{} // Emit waits for it
	done     chan struct{}
}

func newRun(t testing.TB) *run { return &run{t: t, done: make(chan struct{})} }

func (r *run) called(what string) {
	if r.finished > 0 {
		r.t.Errorf("%s after Done", what)
	}
}

func (r *run) Started(_ *exec.Task, executor string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.called("Started")
	r.executor = executor
}

func (r *run) Emit(_ *exec.Task, e []exec.Emission) error {
	if r.hold != nil {
		<-r.hold
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.called("Emit")
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
	r.called("Done")
	r.emitted, r.failure = append(r.emitted, e...), f
	if r.finished++; r.finished == 1 {
		close(r.done)
	}
}

// end waits for the end and returns where the attempt ran.
func (r *run) end(kind string) string {
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
	return r.executor
}

// remarshal passes arguments as the network does.
func remarshal(args, into any) error {
	raw, err := json.Marshal(args)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(wait)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		<-time.After(2 * time.Millisecond)
	}
}
