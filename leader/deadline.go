package leader

import (
	"fmt"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// A session may have a deadline, from the app or from the request that started
// it. One that has not ended by then fails, whatever is pending of it.

func deadlineTimer(s *session) store.Timer {
	return store.Timer{Kind: store.TimerDeadline, App: s.name.app, Session: s.name.session}
}

// setDeadline gives a session another deadline.
func (t *tx) setDeadline(s *session, at store.Micros) {
	t.disarmDeadline(s)
	s.rec.Deadline = at
	if at != 0 {
		t.arm(at, deadlineTimer(s))
	}
	t.touch(s)
}

func (t *tx) disarmDeadline(s *session) {
	if s.rec.Deadline != 0 {
		t.disarm(s.rec.Deadline, deadlineTimer(s))
	}
}

// deadlineDue fails a session whose time is over.
func (t *tx) deadlineDue(subject store.Timer, due store.Micros) {
	s := t.session(sessionName{subject.App, subject.Session})
	if s == nil || s.rec.State != store.SessionRunning || s.rec.Deadline != due {
		return
	}
	if s.rec.Failure == nil {
		s.rec.Failure = &store.Failure{Kind: exec.TimedOut, Message: fmt.Sprintf(
			"the session did not end within %s, its deadline", spec.FormatDuration(timeOf(due).Sub(timeOf(s.rec.Created))))}
	}
	t.stop(s, store.SessionFailed, "the session's deadline is over")
}

// stop ends a session with all that is pending of it.
func (t *tx) stop(s *session, state store.SessionState, why string) {
	for _, number := range sortedNumbers(s.pending) {
		t.cancelInvocation(s, s.pending[number], why)
	}
	t.disarmMachines(s)
	t.end(s, state)
}

// cancelSession ends a running session as cancelled.
func (t *tx) cancelSession(s *session, why string) { t.stop(s, store.SessionCancelled, why) }
