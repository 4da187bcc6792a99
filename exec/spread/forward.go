package spread

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/spec"
)

// trip is an attempt with another node, as the leader's node sees it. Its mutex is
// held while the sink is called, so that calls come one at a time and Done is the
// last.
type trip struct {
	rt      *Runtime
	e       *entry
	node    string
	replica bool
	out     *outgoing
	cut     context.CancelFunc // ends the call
	ctx     context.Context
	gets    chan struct{} // one token for each object that is being read
	begun   bool          // an executor there has it; of run's goroutine, as is there
	there   bool          // it is not on its way there any more

	mu struct {
		sync.Mutex
		ended bool // Done was called, or another has the entry
	}
}

// getsMost bounds the objects that an attempt reads at once.
const getsMost = 64

func newTrip(e *entry, c *choice) *trip {
	rt := e.rt
	t := &trip{rt: rt, e: e, node: c.node, replica: c.replica, out: newOutgoing(rt.cfg.Silence / beatsPerSilence), gets: make(chan struct{}, getsMost)}
	t.ctx, t.cut = context.WithCancel(rt.ctx)
	return t
}

// run asks the node to run the attempt and serves it until it has ended.
func (t *trip) run() {
	defer t.cut()
	defer t.out.end(io.ErrClosedPipe)
	t.rt.stats.away.Add(1)
	defer t.rt.stats.away.Add(-1)
	defer t.arrived()
	args, err := t.args()
	if err != nil {
		t.back(err.Error(), true)
		return
	}
	body, err := t.ask(args)
	if body == nil {
		t.notTaken(err)
		return
	}
	stop := context.AfterFunc(t.ctx, func() { t.out.end(io.ErrClosedPipe) })
	defer stop()
	in := incoming{r: bufio.NewReader(watch(body, t.rt.cfg.Silence, t.cut))}
	over := false
	for err == nil && !over {
		var f frame
		if f, err = in.next(); err == nil {
			over, err = t.take(f)
		}
	}
	if err != nil {
		t.lost(err)
	}
	t.out.end(io.EOF)
	if err == nil { // leave the connection clean for the next
		end := time.AfterFunc(t.rt.cfg.Silence, t.cut)
		_, _ = io.Copy(io.Discard, in.r)
		end.Stop()
	}
	_ = body.Close()
}

// referenceMost bounds what names the inputs: it is part of the arguments of a call.
const referenceMost = 16 << 20

// args describes the attempt.
func (t *trip) args() (*runArgs, error) {
	task := t.e.task
	reference, err := task.Source.(exec.Portable).Reference()
	if err != nil {
		return nil, err
	}
	if len(reference) > referenceMost {
		return nil, fmt.Errorf("its inputs take %d bytes to be named, at most %d are sent", len(reference), referenceMost)
	}
	bytes, err := task.Source.Size(t.ctx)
	if err != nil {
		return nil, err
	}
	return newRunArgs(t.rt.cfg.Node, task, reference, bytes, t.replica, t.rt.cfg.Silence), nil
}

// ask sends the attempt. It returns the stream of what comes of it.
func (t *trip) ask(args *runArgs) (io.ReadCloser, error) {
	silence := time.AfterFunc(t.rt.cfg.Silence, t.cut)
	defer silence.Stop()
	sent := time.Now()
	body, err := t.rt.cfg.Call(t.ctx, t.node, MethodRun, args, t.out, nil)
	if err == nil && body == nil {
		err = errors.New("no stream came back")
	}
	if err == nil {
		t.rt.peers.measured(t.node, time.Since(sent))
	}
	return body, err
}

// notTaken decides what becomes of an attempt that the node gave no stream for.
func (t *trip) notTaken(err error) {
	t.rt.peers.lost(t.node, time.Now())
	switch spec.CodeOf(err) {
	case spec.CodeUnavailable, spec.CodeTimeout:
		if !errors.Is(err, t.rt.cfg.ErrNotSent) {
			t.lost(err)
			return
		}
	}
	t.back(err.Error(), false)
}

// back gives the attempt to the local executors again: nothing has been done. If
// it stays with them it is not offered to other nodes any more.
func (t *trip) back(why string, stays bool) {
	t.rt.cfg.Log.Debug("an attempt came back", "node", t.node, "invocation", t.e.task.Invocation.String(), "why", why)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.ended {
		return
	}
	t.mu.ended = true
	t.rt.stats.returned.Add(1)
	e, foreign := t.e, !stays && t.rt.foreign(t.e.task)
	var f *exec.Failure
	t.rt.mu.Lock()
	switch {
	case e.cancelled:
		f = cancelledFailure()
	case t.rt.mu.closed:
		f = stopping()
	}
	if f != nil {
		t.rt.forget(e)
	} else {
		e.where, e.trip, e.since, e.stays = home, nil, time.Now(), stays
		if foreign {
			e.where = adrift
		}
	}
	t.rt.mu.Unlock()
	switch {
	case f != nil:
		e.task.Sink.Done(e.task, nil, f)
	case foreign:
		t.rt.enqueue(e)
	default:
		t.rt.submitHome(e)
	}
}

// lost ends an attempt whose node does not answer any more.
func (t *trip) lost(err error) {
	t.rt.peers.lost(t.node, time.Now())
	why := err.Error()
	if t.ctx.Err() != nil {
		why = fmt.Sprintf("it has said nothing for %s", t.rt.cfg.Silence)
	}
	if t.finish(nil, &exec.Failure{Kind: exec.Lost, Message: fmt.Sprintf("node %s, which was to run the attempt, was lost: %s", t.node, why)}) {
		t.rt.stats.lost.Add(1)
	}
}

// finish ends the task, once.
func (t *trip) finish(list []exec.Emission, f *exec.Failure) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.ended {
		return false
	}
	t.mu.ended = true
	t.rt.mu.Lock()
	t.rt.forget(t.e)
	t.rt.mu.Unlock()
	t.e.task.Sink.Done(t.e.task, list, f)
	return true
}

// cancelled ends the task at once and asks the node to stop the attempt.
func (t *trip) cancelled() {
	if t.finish(nil, cancelledFailure()) {
		_ = t.out.send(cancelled, nil)
	}
}

// take acts on a frame. It tells whether it was the last one that counts.
func (t *trip) take(f frame) (over bool, err error) {
	switch f.kind {
	case beat:
	case started:
		return false, t.takeStarted(f)
	case emitted:
		return false, t.takeEmitted(f)
	case wanted:
		return false, t.takeWanted(f)
	case done:
		return true, t.takeDone(f)
	case returned:
		var head returnedHead
		if err := f.parse(&head); err != nil {
			return true, err
		}
		t.told(head.Room)
		t.back(head.Why, false)
		return true, nil
	default:
		return true, fmt.Errorf("it sent frame %d, which is not known here", f.kind)
	}
	return false, nil
}

// arrived counts the attempt off those that are on their way to an executor.
func (t *trip) arrived() {
	if !t.there {
		t.there = true
		t.rt.peers.arrived(t.node, functionOf(t.e.task))
	}
}

func (t *trip) told(room exec.Room) {
	t.rt.peers.told(t.node, functionOf(t.e.task), room, time.Now())
	t.rt.signal()
}

func (t *trip) takeStarted(f frame) error {
	var head startedHead
	if err := f.parse(&head); err != nil {
		return err
	}
	t.arrived()
	t.told(head.Room)
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.mu.ended && !t.begun {
		t.begun = true
		t.count()
		t.e.task.Sink.Started(t.e.task, t.node+"/"+head.Executor)
	}
	return nil
}

// count counts an attempt that an executor has taken.
func (t *trip) count() {
	if t.replica {
		t.rt.stats.replica.Add(1)
	} else {
		t.rt.stats.other.Add(1)
	}
}

func (t *trip) takeEmitted(f frame) error {
	var head emittedHead
	if err := f.parse(&head); err != nil {
		return err
	}
	list, err := unpack(head.Emissions, f.data)
	if err != nil {
		return err
	}
	if refused := t.emit(list); refused != nil {
		kind := exec.Refused
		if spec.CodeOf(refused) == spec.CodeConflict {
			kind = exec.Conflict
		}
		t.finish(nil, &exec.Failure{Kind: kind, Message: refused.Error()})
		if err := t.out.send(cancelled, nil); err != nil {
			return err
		}
	}
	// In any case, so that an attempt that is to stop does not wait for room.
	return t.out.send(taken, nil)
}

// emit hands emissions over, unless the task is over.
func (t *trip) emit(list []exec.Emission) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.ended {
		return nil
	}
	return t.e.task.Sink.Emit(t.e.task, list)
}

// takeWanted answers without holding up the stream, unless too many are open.
func (t *trip) takeWanted(f frame) error {
	var head wantedHead
	if err := f.parse(&head); err != nil {
		return err
	}
	select {
	case t.gets <- struct{}{}:
	case <-t.ctx.Done():
		return t.ctx.Err()
	}
	t.rt.wg.Go(func() {
		defer func() { <-t.gets }()
		in, err := t.e.task.Sink.Get(t.ctx, t.e.task, head.Bucket, head.Key)
		answer := objectHead{ID: head.ID, Error: faultOf(err)}
		if err == nil {
			answer.Input = headOf(&in)
		}
		if err := t.out.send(object, &answer, in.Data); err != nil {
			t.cut()
		}
	})
	return nil
}

func (t *trip) takeDone(f frame) error {
	var head doneHead
	if err := f.parse(&head); err != nil {
		return err
	}
	list, err := unpack(head.Emissions, f.data)
	if err != nil {
		return err
	}
	t.told(head.Room)
	if head.Local {
		t.rt.stats.inputsLocal.Add(1)
	}
	t.finish(list, head.Failure)
	return nil
}
