package leader

import (
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/internal/failpoint"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
	"github.com/pheromone-run/pheromone/triggers"
)

const (
	attemptsKept = 20 // attempts of an invocation that its record keeps: the newest
	// lostMax bounds the attempts that end with their node: a function that takes
	// its node down with it is given up in the end.
	lostMax = 16
)

// invocation is a pending invocation's working state.
type invocation struct {
	session    *session
	number     uint64
	rec        store.Invocation
	attempt    uint32 // the one that counts; 0 before the first
	dispatched bool   // the attempt is with the executors
	parked     bool   // it waits in its function's lane
	dirty      bool
	bytes      int           // of its record, as it was last written
	refusal    *exec.Failure // why an emission was refused: the attempt fails with it
	firm       uint64        // the entry that has to be applied before an attempt may go out early

	buffered      []emission // of emit: atomic, until the attempt succeeds
	bufferedBytes int64

	// Most invocations have an input and an attempt: these are in here.
	input [1]store.InputRef
	tried [1]store.Attempt
	first handout
}

func (inv *invocation) id() spec.InvocationID {
	return spec.InvocationID{Session: inv.session.name.session, Number: inv.number}
}

// refOf names an invocation's present attempt to the executors.
func (r *reign) refOf(inv *invocation) exec.TaskRef {
	return exec.TaskRef{App: inv.session.name.app, Invocation: inv.id(), Attempt: int(inv.attempt), Epoch: r.term.Epoch()}
}

// fire makes an invocation of a function and dispatches it, early only if the entry
// firm is applied.
func (t *tx) fire(s *session, target spec.FunctionName, bucket spec.BucketName, trigger spec.TriggerName, f *triggers.Firing, inputs []store.InputRef, firm uint64) {
	inv := t.invoke(s, target, bucket, trigger, f, inputs)
	inv.firm = firm
	t.expect(inv)
	t.dispatch(inv)
}

// invoke makes an invocation of a function with the inputs of a firing. A single input
// is copied, several are kept.
func (t *tx) invoke(s *session, target spec.FunctionName, bucket spec.BucketName, trigger spec.TriggerName, f *triggers.Firing, inputs []store.InputRef) *invocation {
	t.steps.Pass(failpoint.Fired, s.name.app)
	s.rec.Invocations++
	inv := &invocation{session: s, number: s.rec.Invocations}
	inv.rec = store.Invocation{
		Function:    target,
		State:       store.InvocationQueued,
		Bucket:      bucket,
		Trigger:     trigger,
		Group:       f.Group,
		Attempts:    inv.tried[:0],
		Queued:      t.at,
		Traceparent: t.trace,
	}
	if !f.Window.IsZero() {
		inv.rec.Window = micros(f.Window)
	}
	if inv.rec.Inputs = inputs; len(inputs) == len(inv.input) {
		copy(inv.input[:], inputs)
		inv.rec.Inputs = inv.input[:]
	}
	if s.pending == nil {
		s.pending = make(map[uint64]*invocation)
	}
	s.pending[inv.number] = inv
	s.rec.Pending++
	t.countPending(inv.functionName(), 1)
	s.countStart(target, t.cause)
	for i := range inputs {
		inv.bytes += refBytes(inputs[i].Bucket) + len(inputs[i].Key)
	}
	t.touch(s)
	t.mark(inv)
	return inv
}

// mark has an invocation written with the entry.
func (t *tx) mark(inv *invocation) {
	if !inv.dirty {
		inv.dirty = true
		t.firing += max(inv.bytes, len(inv.rec.Group)) + invocationExtra
		t.dirty.invocations = append(t.dirty.invocations, inv)
	}
}

// writeInvocation puts a record where it belongs: with the pending ones, or in
// the history.
func (t *tx) writeInvocation(inv *invocation) {
	inv.dirty = false
	t.rested(inv.session)
	if inv.session.purged {
		return
	}
	name := inv.session.name
	value := store.AppendInvocation(t.scratch.record(), &inv.rec)
	inv.bytes = len(value)
	if inv.rec.State == store.InvocationQueued || inv.rec.State == store.InvocationRetrying {
		t.write(store.AppendPendingKey(t.scratch.key(), t.shard(), name.app, name.session, inv.number), value)
		return
	}
	t.erase(store.AppendPendingKey(t.scratch.key(), t.shard(), name.app, name.session, inv.number))
	history := store.AppendHistoryKey(t.scratch.key(), t.shard(), name.app, name.session, inv.number)
	if inv.session.plan.readsHistory() { // cancelRest reads it back
		t.put(history, slices.Clone(value))
		return
	}
	t.write(history, value)
}

// finish ends an invocation and takes it out of what is pending.
func (t *tx) finish(inv *invocation, state store.InvocationState) {
	s := inv.session
	t.steps.Pass(failpoint.Ended, s.name.app)
	if inv.rec.Next != 0 {
		t.disarm(inv.rec.Next, retryTimer(inv))
		inv.rec.Next = 0
	}
	inv.rec.State = state
	inv.rec.Ended = t.at
	t.letGoBuffered(inv)
	t.parking.giveBack(inv)
	t.parking.unwanted(inv)
	delete(s.pending, inv.number)
	s.rec.Pending--
	t.countPending(inv.functionName(), -1)
	s.countEnd(inv.rec.Function)
	t.touch(s)
	t.mark(inv)
}

// retryOrGiveUp decides what follows a failed attempt.
func (t *tx) retryOrGiveUp(inv *invocation, f *exec.Failure) {
	fn := inv.session.plan.app.Functions[inv.rec.Function]
	switch {
	case f.Kind == exec.Lost && inv.rec.Lost < lostMax:
		inv.rec.Lost++
		if inv.rec.Lost > 2 {
			t.retryAt(inv, backoff(spec.Retry{Backoff: 100 * time.Millisecond, MaxBackoff: 10 * time.Second}, inv.rec.Lost-2))
			return
		}
		t.mark(inv)
		t.dispatch(inv)
	case f.Kind != exec.Lost && fn != nil && retryable(f.Kind) && int(inv.rec.Tries)+1 < fn.Retry.MaxAttempts:
		inv.rec.Tries++
		t.retryAt(inv, backoff(fn.Retry, inv.rec.Tries))
	default:
		inv.rec.Tries++
		t.giveUp(inv, f)
	}
}

func retryable(kind string) bool {
	switch kind {
	case exec.Permanent, exec.Conflict, exec.Refused, exec.Cancelled:
		return false
	}
	return true
}

// backoff is the wait before the attempt after the n-th: exponential, with jitter
// over its upper half, so that what failed together does not come back together.
func backoff(r spec.Retry, n uint32) time.Duration {
	d := r.MaxBackoff
	if shift := n - 1; shift < 32 && r.Backoff<<shift>>shift == r.Backoff {
		d = min(d, r.Backoff<<shift)
	}
	return d/2 + time.Duration(rand.Int64N(int64(d/2)+1))
}

func retryTimer(inv *invocation) store.Timer {
	return store.Timer{Kind: store.TimerRetry, App: inv.session.name.app, Session: inv.session.name.session, Number: inv.number}
}

func (t *tx) retryAt(inv *invocation, wait time.Duration) {
	t.steps.Pass(failpoint.Retried, inv.session.name.app)
	t.parking.giveBack(inv)
	inv.rec.State = store.InvocationRetrying
	inv.rec.Next = t.at + store.Micros(wait.Microseconds())
	t.arm(inv.rec.Next, retryTimer(inv))
	t.mark(inv)
}

// retryDue dispatches the next attempt of an invocation whose wait is over.
func (t *tx) retryDue(subject store.Timer, due store.Micros) {
	s := t.session(sessionName{subject.App, subject.Session})
	if s == nil {
		return
	}
	inv := s.pending[subject.Number]
	if inv == nil || inv.rec.Next != due {
		return
	}
	inv.rec.Next = 0
	inv.rec.State = store.InvocationQueued
	t.mark(inv)
	t.dispatch(inv)
}

// giveUp ends an invocation that will not succeed by itself: a rule runs it again,
// or its failure goes to the function's dead-letter bucket, or fails the session.
func (t *tx) giveUp(inv *invocation, f *exec.Failure) {
	if inv.runsAgain() && retryable(f.Kind) {
		t.finish(inv, store.InvocationFailed)
		return
	}
	t.unexpect(inv)
	s := inv.session
	failure := t.failure(inv, f)
	fn := s.plan.app.Functions[inv.rec.Function]
	if fn != nil && fn.DeadLetter != "" {
		inv.rec.Handled = true
		t.finish(inv, store.InvocationFailed)
		t.putDeadLetter(inv, fn.DeadLetter, failure)
		return
	}
	t.abort(inv, failure)
}

// abort ends an invocation with a failure that nothing handles.
func (t *tx) abort(inv *invocation, failure *store.Failure) {
	if inv.session.rec.Failure == nil {
		inv.session.rec.Failure = failure
	}
	t.finish(inv, store.InvocationFailed)
}

func (t *tx) failure(inv *invocation, f *exec.Failure) *store.Failure {
	t.firing += len(f.Message) + len(f.Detail)
	return &store.Failure{
		Kind:       f.Kind,
		Message:    clip(f.Message, failureMessage),
		Detail:     clip(f.Detail, failureDetail),
		Function:   inv.rec.Function,
		Invocation: inv.number,
		Attempts:   inv.attempt,
	}
}

// Bounds of what is kept of a failure, which every attempt's record has.
const (
	failureMessage = 4 << 10
	failureDetail  = 16 << 10
)

func clip(s string, most int) string {
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "")
}

// cancelInvocation ends a pending invocation without a result.
func (t *tx) cancelInvocation(s *session, inv *invocation, why string) {
	t.steps.Pass(failpoint.Cancelled, s.name.app)
	if inv.dispatched {
		t.noteAttempt(inv, store.Attempt{Number: inv.attempt, Ended: t.at, Failure: &store.Failure{Kind: exec.Cancelled, Message: why}})
		t.halt(inv)
	}
	t.unexpect(inv)
	t.finish(inv, store.InvocationCancelled)
}

// cancelRest cancels what would make objects that a redundant trigger has no use
// for: the pending invocations of the functions that made the ones it took, but
// for those that made them.
func (t *tx) cancelRest(s *session, bucket spec.BucketName, out *triggers.Outcome) {
	var functions []spec.FunctionName
	makers := map[uint64]bool{}
	for _, f := range out.Firings {
		for _, o := range f.Inputs {
			producer := t.producer(s, bucket, o.Key)
			makers[producer] = true
			if name, ok := t.functionOf(s, producer); ok && !slices.Contains(functions, name) {
				functions = append(functions, name)
			}
		}
	}
	for _, number := range sortedNumbers(s.pending) {
		inv := s.pending[number]
		if !makers[number] && slices.Contains(functions, inv.rec.Function) {
			t.cancelInvocation(s, inv, "enough of the others have come")
		}
	}
}

func (t *tx) producer(s *session, bucket spec.BucketName, key spec.Key) uint64 {
	value, ok := t.get(store.AppendSessionObjectKey(nil, t.shard(), s.name.app, bucket, s.name.session, key))
	if !ok {
		return 0
	}
	rec, err := store.DecodeObject(value)
	if err != nil {
		t.broken(err)
	}
	return rec.Producer
}

// functionOf names the function of an invocation of the session, pending or not.
func (t *tx) functionOf(s *session, number uint64) (spec.FunctionName, bool) {
	if inv, ok := s.pending[number]; ok {
		return inv.rec.Function, true
	}
	for _, inv := range t.dirty.invocations { // ended in this round
		if inv.session == s && inv.number == number {
			return inv.rec.Function, true
		}
	}
	value, ok := t.get(store.AppendHistoryKey(nil, t.shard(), s.name.app, s.name.session, number))
	if !ok {
		return "", false
	}
	rec, err := store.DecodeInvocation(value)
	if err != nil {
		t.broken(err)
	}
	return rec.Function, err == nil
}

// countStart and countEnd count invocations by function, for stages.
func (s *session) countStart(function, cause spec.FunctionName) {
	if len(s.plan.stages) == 0 {
		return
	}
	c := s.functionCount(function)
	c.Pending++
	c.Total++
	if cause != "" && !slices.Contains(c.Parents, cause) {
		c.Parents = append(c.Parents, cause)
	}
}

func (s *session) countEnd(function spec.FunctionName) {
	if len(s.plan.stages) > 0 {
		s.functionCount(function).Pending--
	}
}

func (s *session) functionCount(function spec.FunctionName) *store.FunctionCount {
	for i := range s.rec.Functions {
		if s.rec.Functions[i].Function == function {
			return &s.rec.Functions[i]
		}
	}
	s.rec.Functions = append(s.rec.Functions, store.FunctionCount{Function: function})
	return &s.rec.Functions[len(s.rec.Functions)-1]
}

// stageDone tells whether functions have run in the session and nothing is pending
// that may cause more of them. That is not known of a function that has put
// nothing yet, so all count but those that were only seen to come after the stage.
func (s *session) stageDone(functions []spec.FunctionName) bool {
	var ran uint64
	for _, f := range functions {
		ran += s.functionCount(f).Total
	}
	if ran == 0 {
		return false
	}
	before := s.withAncestors(functions)
	for i := range s.rec.Functions {
		c := &s.rec.Functions[i]
		if c.Pending == 0 {
			continue
		}
		if slices.Contains(before, c.Function) || !slices.ContainsFunc(s.withAncestors([]spec.FunctionName{c.Function}), func(f spec.FunctionName) bool {
			return slices.Contains(functions, f)
		}) {
			return false
		}
	}
	return true
}

// withAncestors returns functions and all that were seen to cause them, over any
// number of steps.
func (s *session) withAncestors(functions []spec.FunctionName) []spec.FunctionName {
	seen := slices.Clone(functions)
	for i := 0; i < len(seen); i++ {
		for _, p := range s.functionCount(seen[i]).Parents {
			if !slices.Contains(seen, p) {
				seen = append(seen, p)
			}
		}
	}
	return seen
}
