package leader_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/raft/shard"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
	"github.com/pheromone-run/pheromone/store"
)

// world is the shards of a node, led for real, with functions in Go for executors.
type world struct {
	t       testing.TB
	dir     string
	fs      vfs.FS // of the store; nil is the disk
	shards  int
	apps    *deployed
	run     *runner
	execs   exec.Runtime // instead of run, if it is set
	told    told
	log     *slog.Logger // nowhere if nil
	firing  int          // bound of the firings of an entry; 0: the default
	kept    int          // changes that the change log reaches back; 0: the default
	bytes   int64        // bytes that those have at most; 0: the default
	clock   skewed       // of the leaders
	mail    leader.MailBounds
	memory  leader.MemoryBounds
	network leader.Router // nil: mail is delivered at once
	copies  leader.Copies
	own     func(*shard.Term) leader.Term // nil: as they are
	db      *store.DB
	host    *shard.Host
	leaders map[spec.ShardID]*leader.Leader
	raft    map[spec.ShardID]*shard.Shard
	stop    context.CancelFunc
	done    sync.WaitGroup
}

func newWorld(t testing.TB, shards int, manifest string, functions map[string]function) *world {
	w := &world{t: t, dir: t.TempDir(), shards: shards, apps: &deployed{}, run: newRunner(functions)}
	w.clock.set(midday())
	w.apps.apply(t, manifest)
	w.start()
	t.Cleanup(w.close)
	t.Cleanup(w.run.stop) // first: functions that wait for something end
	return w
}

func (w *world) start() {
	w.t.Helper()
	var err error
	dir := w.dir + "/store"
	if w.fs != nil {
		dir = "store" // a folder whose parents are not synced is lost with the power
	}
	if w.db, err = store.Open(dir, store.Options{Node: "n1", FS: w.fs}); err != nil {
		w.t.Fatalf("open the store: %v", err)
	}
	if w.host, err = shard.Open(shard.HostConfig{Dir: w.dir + "/raft"}, w.db); err != nil {
		w.t.Fatalf("open the raft logs: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.stop = cancel
	var network leader.Router = w
	if w.network != nil {
		network = w.network
	}
	var execs exec.Runtime = w.run
	if w.execs != nil {
		execs = w.execs
	}
	w.leaders, w.raft = map[spec.ShardID]*leader.Leader{}, map[spec.ShardID]*shard.Shard{}
	for i := range w.shards {
		id := spec.ShardID(i + 1)
		s, err := w.host.Start(id, 1, map[uint64]string{1: ""})
		if err != nil {
			w.t.Fatalf("start shard %d: %v", id, err)
		}
		w.raft[id] = s
		w.leaders[id] = leader.New(leader.Config{
			Shard: id, DB: w.db, Replica: s, Apps: w.apps, Router: network, Copies: w.copies, Runtime: execs, Tell: w.told.add, FiringBytes: w.firing,
			ChangesKept: w.kept, ChangeBytesKept: w.bytes, Mail: w.mail, Memory: w.memory, Now: w.clock.now, Log: w.log,
		})
		if w.own != nil {
			w.leaders[id].Wrap(w.own)
		}
	}
	for _, l := range w.leaders {
		w.done.Go(func() {
			if err := l.Run(ctx); err != nil && ctx.Err() == nil {
				w.t.Errorf("a leader ended: %v", err)
			}
		})
	}
	wait, cancelWait := context.WithTimeout(ctx, patience)
	defer cancelWait()
	for id, l := range w.leaders {
		if err := l.WaitLeading(wait); err != nil {
			w.t.Fatalf("shard %d is not led: %v", id, err)
		}
	}
}

func (w *world) close() {
	if w.stop == nil {
		return
	}
	w.stop()
	w.done.Wait()
	w.run.loads.Wait() // what reads the store
	w.stop = nil
	most := leader.MaxEntryBytes
	if w.firing > 0 {
		most = w.firing + w.firing/3 + 2<<20 // and what a round takes besides its firings
	}
	for id, l := range w.leaders {
		if n := l.LargestEntry(); n > most {
			w.t.Errorf("shard %d proposed an entry of %d bytes, more than %d", id, n, most)
		}
	}
	if err := w.host.Close(); err != nil {
		w.t.Errorf("close the host: %v", err)
	}
	if err := w.db.Close(); err != nil {
		w.t.Errorf("close the store: %v", err)
	}
}

// restart stops everything and starts it again on the same data.
func (w *world) restart() {
	w.close()
	w.start()
}

// unseat ends the term of a shard's leader, as the election of another one would.
// The leader claims a new one.
func (w *world) unseat(id spec.ShardID) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := w.raft[id].Lead(ctx); err != nil {
		w.t.Fatalf("take the lead of shard %d: %v", id, err)
	}
}

func (w *world) ShardOf(slot spec.Slot) spec.ShardID {
	return spec.ShardID(int(slot)*w.shards/spec.Slots + 1)
}

func (w *world) Deliver(ctx context.Context, to spec.ShardID, m leader.Mail) error {
	if m.Object.Blob == nil {
		return w.leaders[to].TakeMail(ctx, m, nil)
	}
	r := w.db.OpenBlob(m.From, m.App, *m.Object.Blob)
	defer r.Close()
	return w.leaders[to].TakeMail(ctx, m, r)
}

func (w *world) of(slot spec.Slot) *leader.Leader { return w.leaders[w.ShardOf(slot)] }

// put puts a key-value object and returns the session it drives.
func (w *world) put(bucket, key, value string) spec.SessionID {
	w.t.Helper()
	res, err := w.tryPut(leader.Put{Bucket: spec.BucketName(bucket), Key: spec.Key(key), Body: bytes.NewReader([]byte(value))})
	if err != nil {
		w.t.Fatalf("put %s/%s: %v", bucket, key, err)
	}
	return res.Session
}

func (w *world) tryPut(p leader.Put) (leader.PutResult, error) {
	p.App = "demo"
	slot := spec.KeySlot(p.App, p.Bucket, p.Key)
	if p.Session != "" {
		slot = spec.SessionSlot(p.App, p.Session)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return w.of(slot).Put(ctx, p)
}

// result waits for the end of a session.
func (w *world) result(id spec.SessionID) wire.Result {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	res, err := w.of(spec.SessionSlot("demo", id)).Result(ctx, "demo", id, patience, false)
	if err != nil {
		w.t.Fatalf("result of %s: %v", id, err)
	}
	if res.Status == wire.SessionRunning {
		s, _ := w.of(spec.SessionSlot("demo", id)).History(ctx, "demo", id, "", 100)
		w.t.Fatalf("session %s does not end: %+v", id, s)
	}
	return res
}

func (w *world) history(id spec.SessionID) wire.History {
	w.t.Helper()
	h, err := w.of(spec.SessionSlot("demo", id)).History(context.Background(), "demo", id, "", 10000)
	if err != nil {
		w.t.Fatalf("history of %s: %v", id, err)
	}
	return h
}

// outputs returns a finished session's outputs as "key=value", in order.
func outputs(r wire.Result) []string {
	var out []string
	for _, o := range r.Outputs {
		out = append(out, fmt.Sprintf("%s=%s", o.Key, o.Data))
	}
	return out
}

// function is user code: it gets its inputs and emits.
type function func(c *call) error

// call is one attempt.
type call struct {
	*exec.Task
	in  []exec.Input
	ctx context.Context
	seq uint64
	out []exec.Emission
}

func (c *call) put(bucket, key, value string) {
	c.emit(exec.Emission{Bucket: spec.BucketName(bucket), Key: spec.Key(key), Data: []byte(value)})
}
func (c *call) output(key, value string) {
	c.emit(exec.Emission{Bucket: spec.OutputBucket, Key: spec.Key(key), Data: []byte(value), Output: true})
}
func (c *call) join(bucket, trigger string, keys ...spec.Key) {
	c.emit(exec.Emission{Bucket: spec.BucketName(bucket), JoinTrigger: spec.TriggerName(trigger), JoinKeys: keys})
}
func (c *call) emit(e exec.Emission) {
	c.seq++
	e.Seq = c.seq
	c.out = append(c.out, e)
}

// flush hands over what was emitted before the attempt ends.
func (c *call) flush() error {
	out := c.out
	c.out = nil
	return c.Sink.Emit(c.Task, out)
}

// permanent is an error that is not to be retried.
type permanent string

func (p permanent) Error() string { return string(p) }

// runner is an exec.Runtime with a goroutine for each attempt.
type runner struct {
	functions map[string]function
	running   sync.WaitGroup
	loads     sync.WaitGroup
	mu        sync.Mutex
	cancels   map[string]context.CancelFunc
	counts    map[string]int // attempts begun, by function
	cancelled map[string]int // attempts that were asked to stop, by invocation and attempt
	stopped   bool
}

func newRunner(functions map[string]function) *runner {
	return &runner{functions: functions, cancels: map[string]context.CancelFunc{}, counts: map[string]int{}, cancelled: map[string]int{}}
}

func (r *runner) Submit(t *exec.Task) {
	ctx, cancel := context.WithTimeout(context.Background(), t.Timeout)
	name := fmt.Sprintf("%s/%d", t.Invocation, t.Attempt)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.stopped {
		cancel()
		return
	}
	r.cancels[name] = cancel
	r.counts[string(t.Function.Name)]++
	r.loads.Add(1)
	r.running.Go(func() {
		defer cancel()
		c := &call{Task: t, ctx: ctx}
		var failure *exec.Failure
		in, err := t.Source.Load(ctx)
		if size, failed := t.Source.Size(ctx); err == nil && failed == nil && (size != bytesOf(in) || t.SizeAtMost != 0 && t.SizeAtMost < size) {
			err = permanent(fmt.Sprintf("the inputs have %d bytes, said to be %d and at most %d", bytesOf(in), size, t.SizeAtMost))
		}
		r.loads.Done()
		if err == nil {
			t.Sink.Started(t, "go")
			c.in = in
			err = r.functions[string(t.Function.Name)](c)
		}
		if p, ok := err.(permanent); ok {
			failure = &exec.Failure{Kind: exec.Permanent, Message: string(p)}
		} else if err != nil {
			failure = &exec.Failure{Kind: exec.Failed, Message: err.Error()}
		}
		if failure != nil && errors.Is(err, context.DeadlineExceeded) {
			failure.Kind = exec.TimedOut
		}
		t.Sink.Done(t, c.out, failure)
	})
}

func bytesOf(in []exec.Input) (n int64) {
	for i := range in {
		n += int64(len(in[i].Data))
	}
	return n
}

// stop ends all attempts and waits for them.
func (r *runner) stop() {
	r.mu.Lock()
	r.stopped = true
	for _, cancel := range r.cancels {
		cancel()
	}
	r.mu.Unlock()
	r.running.Wait()
}

func (r *runner) Cancel(ref exec.TaskRef) {
	r.mu.Lock()
	defer r.mu.Unlock()
	name := fmt.Sprintf("%s/%d", ref.Invocation, ref.Attempt)
	if cancel := r.cancels[name]; cancel != nil {
		r.cancelled[name]++
		cancel()
	}
}

func (r *runner) Close() error { return nil }

func (r *runner) count(function string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts[function]
}

func readAll(t testing.TB, o leader.Object, err error) string {
	t.Helper()
	if err != nil {
		t.Fatalf("get: %v", err)
	}
	defer func() { _ = o.Body.Close() }()
	data, err := io.ReadAll(o.Body)
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	return string(data)
}

func keysOf(in []exec.Input) []string {
	var keys []string
	for _, i := range in {
		keys = append(keys, string(i.Key))
	}
	return keys
}

// told collects what the leader writes into the apps' logs.
type told struct {
	mu    sync.Mutex
	lines []string
}

func (t *told) add(r exec.LogRecord) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = append(t.lines, fmt.Sprintf("%s %s: %s", r.Stream, r.Function, r.Text))
}

func (t *told) all() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.lines)
}
