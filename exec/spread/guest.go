package spread

import (
	"bufio"
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/spec"
)

// guestsMost bounds the attempts of other nodes that are here.
const guestsMost = 1024

// guest is an attempt of another node that runs here: the source and the sink of its
// task. Local executors call the sink as that of any other one; what it hears goes to
// the leader's node, in order.
type guest struct {
	rt       *Runtime
	args     *runArgs
	ref      exec.TaskRef
	function functionRef
	out      *outgoing
	ctx      context.Context // ends with the attempt, or when the leader's node is gone
	cancel   context.CancelFunc
	took     chan struct{} // closed once an executor has the attempt, or it has ended
	tookOnce sync.Once
	room     chan struct{} // capacity 1: an emission has been taken
	local    atomic.Bool   // all inputs were read from this node's copy
	coming   bool          // it is on its way to the local executors; guarded by the runtime's mutex

	mu struct {
		sync.Mutex
		submitted bool
		stopped   bool  // the leader's node has cancelled it
		over      bool  // the last frame has been sent
		sent      []int // bytes of the emissions that are not taken yet, oldest first
		bytes     int   // of them together
		gets      map[uint64]chan answer
		lastGet   uint64
	}
}

type answer struct {
	in  exec.Input
	err error
}

var (
	errLeaderSilent = errors.New("the leader's node has said nothing for too long")
	errLeaderGone   = spec.Errorf(spec.CodeUnavailable, "the leader's node is gone: the result of the attempt counts no more")
)

// host takes an attempt of another node. It returns the stream of what comes of it;
// body is that of the leader's node.
func (rt *Runtime) host(args *runArgs, body io.Reader) (io.ReadCloser, error) {
	if args.From == "" || args.Attempt < 1 || body == nil {
		return nil, spec.Errorf(spec.CodeInvalid, "an attempt of nobody")
	}
	if args.Silence <= 0 || args.Silence > maxSilence {
		args.Silence = rt.cfg.Silence
	}
	g := &guest{
		rt: rt, args: args, function: functionRef{args.App, args.Function}, out: newOutgoing(args.Silence / beatsPerSilence),
		ref:  exec.TaskRef{App: args.App, Invocation: args.Invocation, Attempt: args.Attempt, Epoch: args.Epoch},
		took: make(chan struct{}), room: make(chan struct{}, 1),
	}
	g.ctx, g.cancel = context.WithCancel(rt.ctx)
	g.mu.gets = make(map[uint64]chan answer)
	rt.mu.Lock()
	defer rt.mu.Unlock()
	switch {
	case rt.mu.closed:
		g.cancel()
		return nil, spec.Errorf(spec.CodeOverloaded, "the node is stopping")
	case rt.mu.guests[g.ref] != nil:
		g.cancel()
		return nil, spec.Errorf(spec.CodeConflict, "attempt %d of %s is here already", args.Attempt, args.Invocation)
	}
	rt.mu.guests[g.ref] = g
	rt.wg.Go(g.run)
	go g.read(body) // ends with the connection
	return g.out, nil
}

// run has the attempt run by the local executors, or gives it back.
func (g *guest) run() {
	task, room, err := g.prepare()
	if err != nil {
		g.giveBack(err, room)
		return
	}
	g.mu.Lock()
	g.mu.submitted = true
	g.mu.Unlock()
	g.rt.cfg.Local.Submit(task)
	g.rt.mu.Lock()
	g.coming = false
	g.rt.mu.Unlock()
	g.mu.Lock()
	stopped := g.mu.stopped
	g.mu.Unlock()
	if stopped || g.ctx.Err() != nil { // on its way to the executors
		g.rt.cfg.Local.Cancel(g.ref)
	}
	wait := time.NewTimer(g.rt.cfg.GuestWait)
	defer wait.Stop()
	select {
	case <-g.took:
	case <-wait.C:
		if g.rt.cfg.Local.Withdraw(g.ref) != nil {
			g.giveBack(errors.New("no executor became free"), exec.Room{})
		}
	case <-g.ctx.Done():
	}
}

// prepare makes the task. An error says why it can't be run here now, and goes
// with the room that there is.
func (g *guest) prepare() (*exec.Task, exec.Room, error) {
	app, err := g.version()
	if err != nil {
		return nil, exec.Room{}, err
	}
	f := app.Functions[g.args.Function]
	if f == nil {
		return nil, exec.Room{Absent: true}, spec.Errorf(spec.CodeNotFound, "the app has no function %q", g.args.Function)
	}
	task := g.args.task(f, app.Artifact)
	task.Sink, task.Source = g, g
	task.SizeAtMost = max(g.args.InputBytes, 1)
	errNoRoom := spec.Errorf(spec.CodeOverloaded, "no executor is free")
	if room := g.rt.room(task); room.Free <= 0 {
		return nil, room, errNoRoom
	}
	if g.rt.cfg.Artifact != nil && app.Artifact != "" {
		if err := g.rt.cfg.Artifact(g.ctx, app.Artifact); err != nil {
			return nil, exec.Room{}, err
		}
	}
	if room, ok := g.admit(task); !ok {
		return nil, room, errNoRoom
	}
	return task, exec.Room{}, g.ctx.Err()
}

// version waits until this node knows the version of the app that the attempt is of.
func (g *guest) version() (*spec.App, error) {
	wait := time.NewTimer(g.rt.cfg.VersionWait)
	defer wait.Stop()
	for {
		changed := g.rt.cfg.Apps.Changed()
		app, version, ok := g.rt.cfg.Apps.App(g.args.App, g.args.Version)
		switch {
		case ok && version == g.args.Version:
			return app, nil
		case ok && version > g.args.Version:
			return nil, spec.Errorf(spec.CodeGone, "version %d of app %q is not kept any more", g.args.Version, g.args.App)
		}
		select {
		case <-changed:
		case <-wait.C:
			return nil, spec.Errorf(spec.CodeNotFound, "version %d of app %q is not known here", g.args.Version, g.args.App)
		case <-g.ctx.Done():
			return nil, g.ctx.Err()
		}
	}
}

// admit takes a place of the local executors, as far as one can be taken before
// they have the attempt.
func (g *guest) admit(t *exec.Task) (exec.Room, bool) {
	g.rt.admitting.Lock()
	defer g.rt.admitting.Unlock()
	room := g.rt.room(t)
	g.rt.mu.Lock()
	defer g.rt.mu.Unlock()
	g.coming = room.Free > 0
	return room, g.coming
}

// Size implements exec.Source: the leader's node has said it.
func (g *guest) Size(context.Context) (int64, error) { return g.args.InputBytes, nil }

// Load implements exec.Source: it reads the inputs from this node's copy of the shard,
// or else from the leader's node.
func (g *guest) Load(ctx context.Context) ([]exec.Input, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(g.ctx, cancel)()
	tries := 1
	if g.args.Replica {
		tries = lagTries
	}
	for {
		in, err := g.rt.cfg.Inputs.Load(ctx, g.args.Inputs)
		if err == nil {
			g.local.Store(true)
			return in, nil
		}
		if tries--; tries == 0 || ctx.Err() != nil {
			return g.rt.fetch(ctx, g.args)
		}
		select {
		case <-time.After(lagStep):
		case <-ctx.Done():
		}
	}
}

// A replica applies an entry a moment after the leader has: lagTries times, lagStep
// apart, it is looked for inputs before they are asked for.
const (
	lagTries = 8
	lagStep  = time.Millisecond
)

// giveBack ends the attempt here as if it had not been sent.
func (g *guest) giveBack(why error, room exec.Room) {
	g.forget()
	g.last(returned, &returnedHead{why.Error(), room})
}

// last sends the frame that ends the attempt.
func (g *guest) last(k kind, head any, data ...[]byte) {
	g.mu.Lock()
	g.mu.over = true
	g.mu.Unlock()
	if err := g.out.send(k, head, data...); err != nil {
		g.abandon(err)
	}
	g.tookOnce.Do(func() { close(g.took) })
}

func (g *guest) forget() {
	g.rt.mu.Lock()
	defer g.rt.mu.Unlock()
	g.coming = false
	if g.rt.mu.guests[g.ref] == g {
		delete(g.rt.mu.guests, g.ref)
	}
}

// abandon stops the attempt: nobody hears of it any more.
func (g *guest) abandon(why error) {
	g.out.end(why)
	g.cancel()
	g.mu.Lock()
	stop := g.mu.submitted && !g.mu.over
	g.mu.Unlock()
	if stop {
		g.rt.cfg.Local.Cancel(g.ref)
	}
}

// read takes what the leader's node sends, until that ends.
func (g *guest) read(body io.Reader) {
	in := incoming{r: bufio.NewReader(watch(body, g.args.Silence, func() { g.abandon(errLeaderSilent) }))}
	for {
		f, err := in.next()
		if err == nil {
			err = g.take(f)
		}
		if err == nil {
			continue
		}
		g.mu.Lock()
		over := g.mu.over
		g.mu.Unlock()
		if err == io.EOF && over {
			g.out.end(io.EOF)
			g.cancel()
			return
		}
		g.abandon(err)
		return
	}
}

func (g *guest) take(f frame) error {
	switch f.kind {
	case beat:
	case taken:
		g.mu.Lock()
		defer g.mu.Unlock()
		if len(g.mu.sent) == 0 {
			return errors.New("an answer to nothing")
		}
		g.mu.bytes -= g.mu.sent[0]
		g.mu.sent = g.mu.sent[1:]
		select {
		case g.room <- struct{}{}:
		default:
		}
	case object:
		var head objectHead
		if err := f.parse(&head); err != nil {
			return err
		}
		g.mu.Lock()
		defer g.mu.Unlock()
		ch := g.mu.gets[head.ID]
		if delete(g.mu.gets, head.ID); ch == nil {
			return nil // who asked does not wait any more
		}
		a := answer{err: head.Error.error()}
		if head.Input != nil {
			a.in = head.Input.input(f.data)
		}
		ch <- a
	case cancelled:
		g.mu.Lock()
		submitted := g.mu.submitted
		g.mu.stopped = true
		g.mu.Unlock()
		if !submitted { // it does not begin
			return errLeaderGone
		}
		g.rt.cfg.Local.Cancel(g.ref)
	default:
		return errors.New("a frame that is not known here")
	}
	return nil
}

// Started implements exec.Sink.
func (g *guest) Started(t *exec.Task, executor string) {
	g.tookOnce.Do(func() { close(g.took) })
	if err := g.out.send(started, &startedHead{executor, g.rt.room(t)}); err != nil {
		g.abandon(err)
	}
}

// Bounds of what was emitted and is not taken by the leader's node. A single
// emission may be larger.
const (
	windowFrames = 16
	windowBytes  = 1 << 20
)

// Emit implements exec.Sink. It waits for room in the window, and not for what the
// leader says: one whose emission is refused is cancelled, as its leader's node
// knows.
func (g *guest) Emit(_ *exec.Task, list []exec.Emission) error {
	if err := sendable(list); err != nil {
		return err
	}
	heads, data := pack(list)
	bytes := 0
	for _, d := range data {
		bytes += len(d)
	}
	for !g.reserve(bytes) {
		select {
		case <-g.room:
		case <-g.ctx.Done():
			return errLeaderGone
		}
	}
	return g.out.send(emitted, &emittedHead{heads}, data...)
}

// reserve takes a part of the window, if there is room.
func (g *guest) reserve(bytes int) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if n := len(g.mu.sent); n >= windowFrames || n > 0 && g.mu.bytes+bytes > windowBytes {
		return false
	}
	g.mu.sent = append(g.mu.sent, bytes)
	g.mu.bytes += bytes
	return true
}

// Get implements exec.Sink.
func (g *guest) Get(ctx context.Context, _ *exec.Task, bucket spec.BucketName, key spec.Key) (exec.Input, error) {
	ch := make(chan answer, 1)
	g.mu.Lock()
	g.mu.lastGet++
	id := g.mu.lastGet
	g.mu.gets[id] = ch
	g.mu.Unlock()
	if err := g.out.send(wanted, &wantedHead{id, bucket, key}); err != nil {
		return exec.Input{}, err
	}
	var err error
	select {
	case a := <-ch:
		return a.in, a.err
	case <-ctx.Done():
		err = ctx.Err()
	case <-g.ctx.Done():
		err = errLeaderGone
	}
	g.mu.Lock()
	delete(g.mu.gets, id)
	g.mu.Unlock()
	return exec.Input{}, err
}

// Done implements exec.Sink.
func (g *guest) Done(t *exec.Task, list []exec.Emission, f *exec.Failure) {
	if err := sendable(list); err != nil {
		list, f = nil, &exec.Failure{Kind: exec.Refused, Message: err.Error()}
	}
	g.forget()
	heads, data := pack(list)
	g.last(done, &doneHead{Emissions: heads, Failure: f, Local: g.local.Load(), Room: g.rt.room(t)}, data...)
}
