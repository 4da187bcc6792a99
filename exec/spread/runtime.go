package spread

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/spec"
)

// Local is the executors of a node: its exec.Pool.
type Local interface {
	exec.Runtime
	exec.Lender
}

// Inputs reads the inputs of attempts, by the reference that their task has, from
// the node's own copy of the shard.
type Inputs interface {
	// Load fails if they are not all there.
	Load(ctx context.Context, reference []byte) ([]exec.Input, error)
	// Each calls f with each of them, in order: what is said of it, and its bytes.
	Each(ctx context.Context, reference []byte, f func(in exec.Input, size int64, data io.Reader) error) error
}

// Apps answers what is deployed, as far as the node knows.
type Apps interface {
	// App returns a version of an app, or the oldest that is kept if that is newer.
	App(name spec.AppName, version uint64) (*spec.App, uint64, bool)
	// Changed is closed when the answer may be another one.
	Changed() <-chan struct{}
}

// Call asks another node, as node/peer does: it returns the body of the answer, nil
// if there is none. Errors that match ErrNotSent mean that nothing was done.
type Call func(ctx context.Context, node, method string, args any, body io.Reader, result any) (io.ReadCloser, error)

// Config says what a Runtime works with. All fields up to Apps are required.
type Config struct {
	Node  string // this one's name
	Local Local
	Call  Call
	// ErrNotSent is what errors of Call match if nothing was done.
	ErrNotSent error
	// Nodes names the nodes that have a replica of a shard, and all others that may
	// run attempts. It may name this one.
	Nodes  func(shard spec.ShardID) (replicas, others []string)
	Inputs Inputs
	Apps   Apps
	// Artifact sees to it that the folder of an app is on this node. nil: it always is.
	Artifact func(ctx context.Context, sum string) error
	Log      *slog.Logger // default: nowhere

	// Silence is how long the other side of a forwarded attempt may say nothing before
	// it is taken for lost; default 2 s, at most 1 min.
	Silence time.Duration
	// Fresh is how long what a node said about its room counts; default 1 s.
	Fresh time.Duration
	// Poll is how often nodes are asked for their room while an attempt waits for
	// some; default 100 ms.
	Poll time.Duration
	// GuestWait is how long an attempt of another node waits for an executor here
	// before it is given back; default 1 s.
	GuestWait time.Duration
	// VersionWait is how long it waits for this node to hear of its app's version;
	// default 10 s.
	VersionWait time.Duration
}

func (c Config) withDefaults() Config {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	for _, d := range []struct {
		v *time.Duration
		d time.Duration
	}{{&c.Silence, 2 * time.Second}, {&c.Fresh, time.Second}, {&c.Poll, 100 * time.Millisecond}, {&c.GuestWait, time.Second}, {&c.VersionWait, 10 * time.Second}} {
		if *d.v <= 0 {
			*d.v = d.d
		}
	}
	c.Silence = min(c.Silence, maxSilence)
	return c
}

const (
	maxSilence = time.Minute
	// beatsPerSilence is how often a side speaks in the time that the other one
	// bears without a word.
	beatsPerSilence = 4
)

// Runtime is an exec.Runtime over a node's executors and those of other nodes. It
// is safe for concurrent use.
type Runtime struct {
	cfg    Config
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	wake   chan struct{} // capacity 1: something waits that did not, or there is news
	peers  peers
	stats  counters

	admitting sync.Mutex // held while an attempt of another node takes a place

	mu struct {
		sync.Mutex
		closed  bool
		entries map[exec.TaskRef]*entry // that have not ended
		lanes   map[functionRef]*lane
		guests  map[exec.TaskRef]*guest
	}
}

type functionRef struct {
	app      spec.AppName
	function spec.FunctionName
}

func functionOf(t *exec.Task) functionRef { return functionRef{t.App, t.Function.Name} }

// New makes a Runtime. It closes Local with itself.
func New(cfg Config) *Runtime {
	rt := &Runtime{cfg: cfg.withDefaults(), wake: make(chan struct{}, 1)}
	rt.ctx, rt.cancel = context.WithCancel(context.Background())
	rt.mu.entries = make(map[exec.TaskRef]*entry)
	rt.mu.lanes = make(map[functionRef]*lane)
	rt.mu.guests = make(map[exec.TaskRef]*guest)
	rt.peers.init(rt.cfg)
	rt.wg.Go(rt.run)
	return rt
}

// where says where an entry is.
type where byte

const (
	home   where = iota // with the local executors, none of which has taken it
	begun               // a local executor has taken it
	adrift              // nowhere: its function is not on this node
	away                // another node was asked to run it
	ended
)

// entry is a task on its way: it stands between the local executors and the task's
// sink. Fields below the line are guarded by the runtime's mutex.
type entry struct {
	rt    *Runtime
	task  *exec.Task
	inner exec.Task // as the local executors see it: its Sink is the entry
	bytes atomic.Int64

	// ---

	where     where
	since     time.Time // when it began to wait
	cancelled bool
	stays     bool  // it is not offered to other nodes
	trip      *trip // while it is away
}

// Submit implements exec.Runtime. If a local executor has room, Sink.Started and
// Source.Load are called before Submit returns, as exec.Pool does.
func (rt *Runtime) Submit(t *exec.Task) {
	e := &entry{rt: rt, task: t, inner: *t, since: time.Now()}
	e.inner.Sink = e
	e.bytes.Store(bytesUnknown)
	if 0 < t.SizeAtMost && t.SizeAtMost <= bytesGuessed {
		e.bytes.Store(t.SizeAtMost)
	}
	if rt.foreign(t) {
		e.where = adrift
	}
	rt.mu.Lock()
	if rt.mu.closed {
		rt.mu.Unlock()
		go t.Sink.Done(t, nil, stopping())
		return
	}
	rt.mu.entries[t.Ref()] = e
	rt.mu.Unlock()
	if e.where == home {
		rt.cfg.Local.Submit(&e.inner)
	}
	rt.enqueue(e)
}

// foreign tells whether the function of a task is only on other nodes: one that the
// program of this node does not register.
func (rt *Runtime) foreign(t *exec.Task) bool {
	if t.Function.Runtime != spec.RuntimeInproc || !portable(t) || !rt.cfg.Local.Room(t).Absent {
		return false
	}
	replicas, others := rt.nodes(t.Shard, true)
	return len(replicas)+len(others) > 0
}

// portable tells whether another node could read the inputs of a task.
func portable(t *exec.Task) bool {
	_, ok := t.Source.(exec.Portable)
	return ok
}

func stopping() *exec.Failure {
	return &exec.Failure{Kind: exec.Lost, Message: "the node is stopping"}
}

func cancelledFailure() *exec.Failure {
	return &exec.Failure{Kind: exec.Cancelled, Message: "the attempt was cancelled"}
}

// Cancel implements exec.Runtime.
func (rt *Runtime) Cancel(ref exec.TaskRef) {
	rt.mu.Lock()
	e := rt.mu.entries[ref]
	if e == nil {
		rt.mu.Unlock()
		return
	}
	e.cancelled = true // seen by who moves it just now
	switch e.where {
	case adrift:
		rt.forget(e)
		rt.mu.Unlock()
		// Not on this goroutine: it may be the one that serves the sink.
		go e.task.Sink.Done(e.task, nil, cancelledFailure())
	case away:
		t := e.trip
		rt.mu.Unlock()
		go t.cancelled()
	default:
		rt.mu.Unlock()
		rt.cfg.Local.Cancel(ref)
	}
}

// forget ends an entry. rt.mu is held.
func (rt *Runtime) forget(e *entry) {
	e.where, e.trip = ended, nil
	if ref := e.task.Ref(); rt.mu.entries[ref] == e {
		delete(rt.mu.entries, ref)
	}
}

// submitHome gives an entry to the local executors that was with them before.
func (rt *Runtime) submitHome(e *entry) {
	rt.cfg.Local.Submit(&e.inner)
	rt.mu.Lock()
	cancelled := e.cancelled
	rt.mu.Unlock()
	if cancelled { // while nobody had it
		rt.cfg.Local.Cancel(e.task.Ref())
	}
	rt.enqueue(e)
}

// Close implements exec.Runtime. Every task ends as lost, those of other nodes too.
func (rt *Runtime) Close() error {
	rt.mu.Lock()
	if rt.mu.closed {
		rt.mu.Unlock()
		return nil
	}
	rt.mu.closed = true
	var left []*entry
	var trips []*trip
	var guests []*guest
	for _, e := range rt.mu.entries {
		switch e.where {
		case adrift:
			rt.forget(e)
			left = append(left, e)
		case away:
			trips = append(trips, e.trip)
		}
	}
	for _, g := range rt.mu.guests {
		guests = append(guests, g)
	}
	rt.mu.Unlock()
	for _, e := range left {
		e.task.Sink.Done(e.task, nil, stopping())
	}
	for _, t := range trips {
		t.finish(nil, stopping())
	}
	rt.cancel()
	for _, g := range guests {
		g.abandon(errors.New("the node is stopping"))
	}
	rt.wg.Wait()
	return rt.cfg.Local.Close()
}

// Started implements exec.Sink.
func (e *entry) Started(_ *exec.Task, executor string) {
	e.rt.mu.Lock()
	e.where = begun
	e.rt.mu.Unlock()
	e.rt.stats.leader.Add(1)
	e.rt.stats.inputsLocal.Add(1)
	e.task.Sink.Started(e.task, executor)
}

// Emit implements exec.Sink.
func (e *entry) Emit(_ *exec.Task, list []exec.Emission) error {
	return e.task.Sink.Emit(e.task, list)
}

// Get implements exec.Sink.
func (e *entry) Get(ctx context.Context, _ *exec.Task, bucket spec.BucketName, key spec.Key) (exec.Input, error) {
	return e.task.Sink.Get(ctx, e.task, bucket, key)
}

// Done implements exec.Sink.
func (e *entry) Done(_ *exec.Task, list []exec.Emission, f *exec.Failure) {
	e.rt.mu.Lock()
	e.rt.forget(e)
	e.rt.mu.Unlock()
	e.task.Sink.Done(e.task, list, f)
}
