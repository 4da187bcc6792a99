package inproc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pheromone-run/pheromone/client/fn"
	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/spec"
)

const (
	// flushAfter is how long an emission waits for company.
	flushAfter = time.Millisecond
	// flushBytes and flushCount bound what is held back.
	flushBytes = 8 << 20
	flushCount = 4096
	maxLog     = 8 << 10
)

var (
	errCancelled = errors.New("the attempt was cancelled: its result counts no more")
	errDeadline  = errors.New("the attempt has passed its deadline")
	errEmission  = errors.New("something that the attempt put was refused")
)

// attempt is a task on its goroutine: the fn.Transport of its Context. Its mutex
// is held while the sink is called, so that calls come one at a time and Done is
// the last.
type attempt struct {
	rt     *Runtime
	task   *exec.Task
	ctx    context.Context
	cancel context.CancelCauseFunc
	waits  bool // for a place; guarded by the runtime's mutex

	ended atomic.Bool // written under mu
	mu    struct {
		sync.Mutex
		deadline *time.Timer
		flush    *time.Timer
		armed    bool
		seq      uint64
		pending  []exec.Emission
		bytes    int
	}
}

func (a *attempt) ref() exec.TaskRef { return a.task.Ref() }

func (a *attempt) run(h fn.Handler) {
	defer a.cancel(fn.ErrEnded)
	t := a.task
	a.mu.Lock()
	if a.ended.Load() {
		a.mu.Unlock()
		return
	}
	t.Sink.Started(t, "inproc")
	a.mu.Unlock()
	if h == nil {
		a.leave(unknownFunction(t))
		return
	}
	if !a.rt.reading() {
		a.leave(closedFailure())
		return
	}
	in, err := t.Source.Load(a.ctx)
	a.rt.reads.Done()
	if err != nil {
		a.leave(exec.LoadFailure(err))
		return
	}
	ctx := a.ctx
	if t.Timeout > 0 {
		ctx = deadlineContext{a.ctx, time.Now().Add(t.Timeout)}
		a.mu.Lock()
		if !a.ended.Load() {
			a.mu.deadline = time.AfterFunc(t.Timeout, a.timedOut)
		}
		a.mu.Unlock()
	}
	a.leave(failure(fn.Run(fn.NewContext(ctx, a.invocation(), a), h, objects(in))))
}

// deadlineContext knows when timedOut will end it. A timer of its own could let
// the function see the deadline, and return, before the task has timed out.
type deadlineContext struct {
	context.Context
	deadline time.Time
}

func (c deadlineContext) Deadline() (time.Time, bool) { return c.deadline, true }

func (a *attempt) invocation() fn.Invocation {
	t := a.task
	limit := a.rt.s.MaxObjectBytes
	if t.MaxObjectBytes > 0 {
		limit = min(limit, t.MaxObjectBytes)
	}
	return fn.Invocation{
		ID: t.Invocation.String(), Function: string(t.Function.Name), Session: string(t.Invocation.Session), Attempt: t.Attempt,
		Bucket: string(t.Bucket), Trigger: string(t.Trigger), Group: t.Group, Window: t.Window, Traceparent: t.Traceparent, MaxObjectBytes: limit,
	}
}

func objects(in []exec.Input) []fn.Object {
	out := make([]fn.Object, len(in))
	for i := range in {
		out[i] = object(in[i])
	}
	return out
}

func object(in exec.Input) fn.Object {
	o := fn.NewObject(string(in.Bucket), string(in.Key), string(in.Session), in.Data)
	o.ContentType, o.Meta, o.Deleted = in.ContentType, in.Meta, in.Deleted
	return o
}

func failure(err error) *exec.Failure {
	if err == nil {
		return nil
	}
	kind, message, detail := fn.Failure(err)
	return &exec.Failure{Kind: kind, Message: message, Detail: detail}
}

// leave ends the task as its function did: its place is as good as free when the
// sink hears of it.
func (a *attempt) leave(f *exec.Failure) {
	a.rt.leaving(1)
	a.finish(f)
	a.rt.leaving(-1)
}

// finish ends the task, once.
func (a *attempt) finish(f *exec.Failure) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.ended.Swap(true) {
		return
	}
	for _, timer := range []*time.Timer{a.mu.deadline, a.mu.flush} {
		if timer != nil {
			timer.Stop()
		}
	}
	a.rt.forget(a)
	e := a.mu.pending
	a.mu.pending = nil
	a.task.Sink.Done(a.task, e, f)
}

func (a *attempt) timedOut() {
	a.stop(&exec.Failure{Kind: exec.TimedOut, Message: fmt.Sprintf("no result after %s, the function's timeout", a.task.Timeout)}, errDeadline)
}

// stop ends the task at once and asks the function to stop. In this order: what
// the function returns on being asked must not be taken for the task's end.
func (a *attempt) stop(f *exec.Failure, cause error) {
	a.finish(f)
	a.cancel(cause)
}

// Emit implements fn.Transport.
func (a *attempt) Emit(e fn.Emission) error {
	e.Data = bytes.Clone(e.Data)
	return a.EmitOwned(e)
}

// EmitOwned implements fn.Transport.
func (a *attempt) EmitOwned(e fn.Emission) error {
	if a.ctx.Err() != nil {
		return context.Cause(a.ctx)
	}
	out := exec.Emission{
		Bucket: spec.BucketName(e.Bucket), Key: spec.Key(e.Key), Data: e.Data, ContentType: e.ContentType, Meta: e.Meta,
		Output: e.Output, DeliverAfter: e.DeliverAfter, JoinTrigger: spec.TriggerName(e.JoinTrigger),
	}
	if out.Data == nil && e.JoinTrigger == "" {
		out.Data = []byte{}
	}
	for _, key := range e.JoinKeys {
		out.JoinKeys = append(out.JoinKeys, spec.Key(key))
	}
	if e.StartFunction != "" {
		out.Child = &exec.ChildStart{Function: spec.FunctionName(e.StartFunction), Timeout: e.StartTimeout}
	}
	a.mu.Lock()
	if a.ended.Load() {
		a.mu.Unlock()
		return fn.ErrEnded
	}
	a.mu.seq++
	out.Seq = a.mu.seq
	a.mu.pending = append(a.mu.pending, out)
	a.mu.bytes += len(out.Data)
	full := a.mu.bytes >= flushBytes || len(a.mu.pending) >= flushCount
	if !full && !a.mu.armed {
		a.mu.armed = true
		if a.mu.flush == nil {
			a.mu.flush = time.AfterFunc(flushAfter, func() { _ = a.emit() }) // a refusal ends the attempt
		} else {
			a.mu.flush.Reset(flushAfter)
		}
	}
	a.mu.Unlock()
	if full {
		return a.emit()
	}
	return nil
}

// emit hands over what is pending. An error has ended the attempt.
func (a *attempt) emit() error {
	a.mu.Lock()
	a.mu.armed = false
	if a.ended.Load() || len(a.mu.pending) == 0 {
		a.mu.Unlock()
		return nil
	}
	e := a.mu.pending
	a.mu.pending, a.mu.bytes = nil, 0
	err := a.task.Sink.Emit(a.task, e)
	a.mu.Unlock()
	if err != nil {
		kind := exec.Refused
		if spec.CodeOf(err) == spec.CodeConflict {
			kind = exec.Conflict
		}
		a.stop(&exec.Failure{Kind: kind, Message: err.Error()}, errEmission)
	}
	return err
}

// Get implements fn.Transport.
func (a *attempt) Get(ctx context.Context, bucket, key string) (fn.Object, error) {
	if err := a.emit(); err != nil {
		return fn.Object{}, err
	}
	if a.ended.Load() {
		return fn.Object{}, context.Cause(a.ctx)
	}
	if !a.rt.reading() {
		return fn.Object{}, errCancelled
	}
	defer a.rt.reads.Done()
	o, err := a.task.Sink.Get(ctx, a.task, spec.BucketName(bucket), spec.Key(key))
	if spec.CodeOf(err) == spec.CodeNotFound {
		return fn.Object{}, fmt.Errorf("%s: %w", err.Error(), fn.ErrNotFound)
	}
	if err != nil {
		return fn.Object{}, err
	}
	o.Bucket, o.Key = spec.BucketName(bucket), spec.Key(key)
	return object(o), nil
}

// Log implements fn.Transport.
func (a *attempt) Log(text string) {
	a.rt.s.Log(exec.LogRecord{
		Time: time.Now(), App: a.task.App, Function: a.task.Function.Name, Invocation: a.task.Invocation.String(),
		Attempt: a.task.Attempt, Stream: exec.StreamLog, Text: text[:min(len(text), maxLog)],
	})
}
