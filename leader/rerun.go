package leader

import (
	"fmt"
	"strings"
	"time"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/internal/failpoint"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// Re-execution rules: a trigger may name the functions that its objects come
// from. An invocation of such a function that has put no object into the
// trigger's bucket in time gets another attempt, whatever became of the ones
// before: it runs still, failed, or succeeded without the object. The invocation
// stays the same one, so what it puts has the same names, and a late answer of an
// earlier attempt is refused or changes nothing.

// expectation is a rule with the bucket and trigger that it belongs to.
type expectation struct {
	bucket  spec.BucketName
	trigger *spec.Trigger
	rule    spec.Rerun
}

func (p *plan) expectation(inv *invocation, e *store.Expect) *expectation {
	for i := range p.reruns[inv.rec.Function] {
		x := &p.reruns[inv.rec.Function][i]
		if x.bucket == e.Bucket && x.trigger.Name == e.Trigger {
			return x
		}
	}
	return nil
}

func rerunTimer(inv *invocation, e *store.Expect) store.Timer {
	return store.Timer{
		Kind: store.TimerRerun, App: inv.session.name.app, Session: inv.session.name.session,
		Number: inv.number, Bucket: e.Bucket, Trigger: e.Trigger,
	}
}

// expect arms the rules that an invocation is under.
func (t *tx) expect(inv *invocation) {
	for _, x := range inv.session.plan.reruns[inv.rec.Function] {
		inv.rec.Expects = append(inv.rec.Expects, store.Expect{Bucket: x.bucket, Trigger: x.trigger.Name})
		t.await(inv, &inv.rec.Expects[len(inv.rec.Expects)-1], x.rule.Timeout)
	}
}

// await waits for an object until the rule's timeout has passed.
func (t *tx) await(inv *invocation, e *store.Expect, timeout time.Duration) {
	e.Due = t.at + store.Micros(timeout.Microseconds())
	t.arm(e.Due, rerunTimer(inv, e))
	inv.session.rec.Timers++
	t.touch(inv.session)
	t.mark(inv)
}

// met notes that a pending invocation has put an object into a bucket.
func (t *tx) met(s *session, bucket spec.BucketName, producer uint64) {
	if inv := s.pending[producer]; inv != nil {
		t.unawait(inv, func(e *store.Expect) bool { return e.Bucket == bucket })
	}
}

// unexpect takes back all that is waited for of an invocation.
func (t *tx) unexpect(inv *invocation) {
	t.unawait(inv, func(*store.Expect) bool { return true })
}

func (t *tx) unawait(inv *invocation, which func(*store.Expect) bool) {
	for i := range inv.rec.Expects {
		e := &inv.rec.Expects[i]
		if e.Due == 0 || !which(e) {
			continue
		}
		t.disarm(e.Due, rerunTimer(inv, e))
		e.Due = 0
		inv.session.rec.Timers--
		t.touch(inv.session)
		t.mark(inv)
	}
}

// runsAgain tells whether a rule will run a failed invocation again.
func (inv *invocation) runsAgain() bool {
	for i := range inv.rec.Expects {
		if inv.rec.Expects[i].Due != 0 {
			return true
		}
	}
	return false
}

// rerunDue runs an invocation again whose object has not come in time.
func (t *tx) rerunDue(subject store.Timer, due store.Micros) {
	s := t.session(sessionName{subject.App, subject.Session})
	if s == nil || s.rec.State != store.SessionRunning {
		return
	}
	inv := t.pendingOrEnded(s, subject.Number)
	if inv == nil {
		return
	}
	var e *store.Expect
	for i := range inv.rec.Expects {
		if x := &inv.rec.Expects[i]; x.Bucket == subject.Bucket && x.Trigger == subject.Trigger && x.Due == due {
			e = x
		}
	}
	if e == nil {
		return
	}
	e.Due = 0
	s.rec.Timers--
	t.touch(s)
	t.mark(inv)
	x := s.plan.expectation(inv, e)
	switch {
	case x == nil || t.satisfied(s, x): // the rule is gone, or nobody waits any more
	case int(e.Runs) >= x.rule.Max:
		t.giveUpOn(inv, e, x)
	default:
		e.Runs++
		t.await(inv, e, x.rule.Timeout)
		t.runAgain(inv, fmt.Sprintf("no object in bucket %q within %s: run again by the rule of trigger %q, %d of %d",
			x.bucket, spec.FormatDuration(x.rule.Timeout), x.trigger.Name, e.Runs, x.rule.Max))
	}
}

// pendingOrEnded returns an invocation of the session, also one of the history.
func (t *tx) pendingOrEnded(s *session, number uint64) *invocation {
	if inv := s.pending[number]; inv != nil {
		return inv
	}
	for _, inv := range t.dirty.invocations { // it has ended in this round, or was looked at
		if inv.session == s && inv.number == number {
			return inv
		}
	}
	value, ok := t.get(store.AppendHistoryKey(nil, t.shard(), s.name.app, s.name.session, number))
	if !ok {
		return nil
	}
	rec, err := store.DecodeInvocation(value)
	if err != nil {
		t.broken(err)
		return nil
	}
	inv := &invocation{session: s, number: number, rec: rec, bytes: len(value)}
	if n := len(rec.Attempts); n > 0 {
		inv.attempt = rec.Attempts[n-1].Number
	}
	return inv
}

// satisfied tells whether a trigger will not fire any more in the session.
func (t *tx) satisfied(s *session, x *expectation) bool {
	if x.trigger.Scope != spec.ScopeSession {
		return false
	}
	m := t.machine(s, machineName{s.name.app, s.name.session, x.bucket, x.trigger.Name}, x.trigger)
	return m != nil && m.waiting().Done
}

// runAgain begins another attempt. One that runs is superseded; an invocation
// that has ended becomes pending again, under its number.
func (t *tx) runAgain(inv *invocation, why string) {
	s := inv.session
	t.steps.Pass(failpoint.Rerun, s.name.app)
	switch {
	case s.pending[inv.number] == nil:
		t.remove(store.AppendHistoryKey(nil, t.shard(), s.name.app, s.name.session, inv.number))
		t.revive(inv)
	case inv.dispatched:
		t.noteAttempt(inv, store.Attempt{Number: inv.attempt, Ended: t.at, Failure: t.failure(inv, &exec.Failure{Kind: exec.TimedOut, Message: why})})
		t.halt(inv)
		t.parking.giveBack(inv)
		t.letGoBuffered(inv)
		inv.refusal = nil
	case inv.rec.Next != 0:
		t.disarm(inv.rec.Next, retryTimer(inv))
		inv.rec.Next = 0
	}
	inv.rec.State, inv.rec.Tries = store.InvocationQueued, 0
	t.mark(inv)
	t.dispatch(inv)
}

// revive makes an invocation pending that had ended.
func (t *tx) revive(inv *invocation) {
	s := inv.session
	inv.rec.Ended = 0
	if s.pending == nil {
		s.pending = make(map[uint64]*invocation)
	}
	s.pending[inv.number] = inv
	s.rec.Pending++
	t.countPending(inv.functionName(), 1)
	if len(s.plan.stages) > 0 {
		s.functionCount(inv.rec.Function).Pending++
	}
}

// giveUpOn fails the session because a rule's runs are used up.
func (t *tx) giveUpOn(inv *invocation, e *store.Expect, x *expectation) {
	s := inv.session
	message := fmt.Sprintf("no object of function %q came into bucket %q within %s, though it was run again %d times",
		inv.rec.Function, x.bucket, spec.FormatDuration(x.rule.Timeout), e.Runs)
	if missing := t.missing(s, x); missing != "" {
		message += "; trigger " + string(x.trigger.Name) + " still waits for " + missing
	}
	late := &exec.Failure{Kind: exec.TimedOut, Message: message}
	failure := t.failure(inv, late)
	t.tell(inv, late)
	if s.rec.Failure == nil {
		s.rec.Failure = failure
	}
	if s.pending[inv.number] == nil {
		return
	}
	if inv.dispatched {
		t.noteAttempt(inv, store.Attempt{Number: inv.attempt, Ended: t.at, Failure: failure})
		t.halt(inv)
		t.letGoBuffered(inv)
	}
	t.unexpect(inv)
	t.finish(inv, store.InvocationFailed)
}

// missingShown bounds the keys that a failure names.
const missingShown = 10

// missing names the keys that a trigger of the session still waits for.
func (t *tx) missing(s *session, x *expectation) string {
	if x.trigger.Scope != spec.ScopeSession {
		return ""
	}
	m := t.machine(s, machineName{s.name.app, s.name.session, x.bucket, x.trigger.Name}, x.trigger)
	if m == nil {
		return ""
	}
	var keys []string
	for _, k := range m.waiting().Missing {
		if len(keys) == missingShown {
			keys = append(keys, "…")
			break
		}
		keys = append(keys, fmt.Sprintf("%q", k))
	}
	return strings.Join(keys, ", ")
}
