package leader

import (
	"errors"
	"fmt"
	"time"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
	"github.com/pheromone-run/pheromone/store"
)

// A function may start sessions of its own. A child session has a name that
// derives from (invocation, sequence number), so that a later attempt starts the
// same one, and a placement of its own: what parent and child tell each other goes
// by mail. The parent of an awaited child runs until the child has ended and told
// its result, which becomes an object of the parent; if the parent ends first, by
// force, it cancels the children that it waits for.

// childInput is the key under which a child session finds its input.
const childInput spec.Key = "input"

// childDepth bounds how deep children may start children.
const childDepth = 32

// Metadata of an object that is the result of a child session.
const (
	metaSession = "pheromone-session"
	metaStatus  = "pheromone-status"
)

// childOf names the child session that an emission starts.
func childOf(inv *invocation, e *emission) spec.SessionID {
	return spec.ChildSessionID(inv.id(), e.Seq, timeOf(inv.rec.Queued))
}

func (t *tx) childKey(s *session, child spec.SessionID) []byte {
	return store.AppendChildKey(nil, t.shard(), s.name.app, s.name.session, child)
}

// checkChild tells why a child session can't be started, or whether it was started
// by an earlier attempt.
func (t *tx) checkChild(inv *invocation, e *emission) (existing bool, f *exec.Failure) {
	s := inv.session
	refuse := func(format string, args ...any) (bool, *exec.Failure) {
		return false, &exec.Failure{Kind: exec.Refused, Message: "start a child session: " + fmt.Sprintf(format, args...)}
	}
	if _, there := t.get(t.childKey(s, childOf(inv, e))); there {
		return true, nil
	}
	if err := e.described(); err != nil {
		return refuse("its input: %s", err)
	}
	p := t.newest[s.name.app]
	if p == nil || p.app.Functions[e.Child.Function] == nil {
		return refuse("there is no function %q in app %q", e.Child.Function, s.name.app)
	}
	if _, ok := s.plan.app.Bucket(e.Bucket); e.Bucket != "" && !ok {
		return refuse("there is no bucket %q in app %q for its result", e.Bucket, s.name.app)
	}
	if e.Key != "" {
		if err := spec.ValidKey(string(e.Key)); err != nil {
			return refuse("its result in bucket %q: %s", e.Bucket, err)
		}
	}
	if d := s.depth(); d >= childDepth {
		return refuse("this one is the child of a child, %d deep, which is the limit", d)
	}
	if limit := s.plan.app.Limits.MaxSessionObjects; limit > 0 && s.rec.Children >= uint64(limit) {
		return refuse("session %s has started %d, as many as the app allows (limits.max_session_objects)", s.name.session, limit)
	}
	if err := t.staged(s.name.app, e.payload); err != nil {
		return false, notPut(err)
	}
	return false, nil
}

func (s *session) depth() uint32 {
	if s.rec.Parent == nil {
		return 0
	}
	return s.rec.Parent.Depth
}

// startChild records a child session and sends it on its way.
func (t *tx) startChild(inv *invocation, e *emission) {
	s := inv.session
	id := childOf(inv, e)
	child := store.Child{
		Function: e.Child.Function, Started: t.at, State: store.SessionRunning,
		Awaited: e.Bucket != "", Bucket: e.Bucket, Key: e.Key, Producer: inv.number,
	}
	if child.Awaited && child.Key == "" {
		child.Key = spec.Key(id)
	}
	t.urgent = true
	t.put(t.childKey(s, id), store.AppendChild(nil, &child))
	s.rec.Children++
	if child.Awaited {
		s.rec.Awaited++
	}
	t.touch(s)
	m := &store.Mail{
		Kind: store.MailStart, Slot: spec.SessionSlot(s.name.app, id), App: s.name.app, Session: s.name.session, To: id,
		Bucket: spec.Inbox(e.Child.Function),
		Object: store.Object{
			Key: childInput, Created: t.at, Size: e.payload.size, ContentType: e.ContentType, Meta: e.Meta,
			Inline: e.payload.inline, Blob: e.payload.blob,
		},
		Parent: &store.Parent{Session: s.name.session, Awaited: child.Awaited, Depth: s.depth() + 1},
	}
	if e.Child.Timeout > 0 {
		m.Deadline = t.at + store.Micros(e.Child.Timeout.Microseconds())
	}
	if e.payload.blob != nil {
		t.adopt(s.name.app, e.payload)
	}
	t.tellSession(s, m)
}

// tellSession passes a message on to the session it is for, by mail if that lives
// on another shard. The message's reference to a blob goes with it.
func (t *tx) tellSession(s *session, m *store.Mail) {
	if home := t.leader.cfg.Router.ShardOf(m.Slot); home != t.shard() {
		t.send(s, home, m)
		return
	}
	t.takeForSession(m)
}

// takeForSession does what a message about a child session asks for.
func (t *tx) takeForSession(m *store.Mail) {
	cause := t.cause
	t.cause = "" // what follows is of another session than the function that is heard now
	defer func() { t.cause = cause }()
	switch m.Kind {
	case store.MailStart:
		t.beginChild(m)
	case store.MailEnd:
		t.childEnded(m)
	case store.MailCancel:
		t.cancelChild(m)
	}
}

// beginChild starts a child session, unless it has been cancelled before.
func (t *tx) beginChild(m *store.Mail) {
	p := t.newest[m.App]
	name := sessionName{m.App, m.To}
	if p == nil || t.session(name) != nil {
		t.releaseMail(m)
		return
	}
	s := t.newSession(name, p, store.Origin{Kind: store.OriginChild, Bucket: m.Bucket, Key: childInput, Session: m.Session})
	s.rec.Parent = m.Parent
	if m.Deadline != 0 {
		t.setDeadline(s, m.Deadline)
	}
	if _, ok := p.app.Bucket(m.Bucket); !ok {
		function, _ := spec.FunctionOfInbox(m.Bucket)
		s.rec.Failure = &store.Failure{Kind: exec.Refused, Function: function, Message: fmt.Sprintf("function %q was removed from the app before the child session began", function)}
		t.releaseMail(m)
		return
	}
	rec := m.Object
	rec.Key, rec.Revision, rec.Created = "", t.revision(), t.at
	t.insert(s, m.Bucket, childInput, &rec)
}

// releaseMail lets go of the blob that a message refers to.
func (t *tx) releaseMail(m *store.Mail) {
	if m.Object.Blob != nil {
		t.release(m.App, m.Object.Blob)
	}
}

// cancelKept is how long it is remembered at least that a child was cancelled
// before it began: the message that starts it may come later.
const cancelKept = time.Hour

func (t *tx) cancelChild(m *store.Mail) {
	name := sessionName{m.App, m.To}
	if s := t.session(name); s != nil {
		if s.rec.State == store.SessionRunning {
			t.cancelSession(s, "the session that started it has ended")
		}
		return
	}
	p := t.newest[m.App]
	if p == nil {
		return
	}
	s := t.newSession(name, p, store.Origin{Kind: store.OriginChild, Session: m.Session})
	t.end(s, store.SessionCancelled)
	if keep := wholeSecond(t.at + store.Micros(cancelKept.Microseconds())); s.rec.Purge < keep {
		t.disarmPurge(s)
		s.rec.Purge = keep
		t.arm(keep, purgeTimer(s))
	}
}

// childEnded puts the result of a child session into the session that waits for it.
func (t *tx) childEnded(m *store.Mail) {
	s := t.session(sessionName{m.App, m.To})
	if s == nil || s.rec.State != store.SessionRunning {
		t.releaseMail(m)
		return
	}
	child, ok := t.child(s, m.Session)
	if !ok || !child.Awaited || child.State != store.SessionRunning {
		t.releaseMail(m)
		return
	}
	t.endOfChild(s, m.Session, child, m.State)
	o := &incoming{
		bucket: child.Bucket, key: child.Key, producer: child.Producer,
		payload:     &payload{inline: m.Object.Inline, blob: m.Object.Blob, size: m.Object.Size, stored: true},
		contentType: m.Object.ContentType, meta: m.Object.Meta,
	}
	existing, err := t.place(s, o)
	if err != nil && s.rec.Failure == nil {
		s.rec.Failure = &store.Failure{
			Kind: exec.Conflict, Function: child.Function,
			Message: clip(fmt.Sprintf("the result of child session %s: %s", m.Session, err), failureMessage),
		}
	}
	if err != nil || existing != nil {
		t.releaseMail(m)
		return
	}
	t.store(s, o)
}

func (t *tx) child(s *session, id spec.SessionID) (*store.Child, bool) {
	value, ok := t.get(t.childKey(s, id))
	if !ok {
		return nil, false
	}
	child, err := store.DecodeChild(value)
	if err != nil {
		t.broken(err)
		return nil, false
	}
	return &child, true
}

// endOfChild notes that a session waits no longer for a child.
func (t *tx) endOfChild(s *session, id spec.SessionID, child *store.Child, state store.SessionState) {
	child.State, child.Ended = state, t.at
	t.put(t.childKey(s, id), store.AppendChild(nil, child))
	s.rec.Awaited--
	t.touch(s)
}

// childrenShown bounds the child sessions that a history lists.
const childrenShown = 100

// children lists the first of a session's child sessions, in the order of their
// names, which begin with their time.
func (l *Leader) children(app spec.AppName, id spec.SessionID) ([]wire.Child, error) {
	var list []wire.Child
	var damaged error
	lower, upper := store.Bounds(store.AppendChildrenPrefix(nil, l.cfg.Shard, app, id))
	err := l.cfg.DB.Scan(lower, upper, func(k, v []byte) bool {
		_, _, name, err := store.DecodeChildKey(k)
		if err != nil {
			damaged = err
			return false
		}
		c, err := store.DecodeChild(v)
		if err != nil {
			damaged = err
			return false
		}
		child := wire.Child{
			Session: name, Function: c.Function, Status: wireStatus(c.State), Awaited: c.Awaited, Bucket: c.Bucket, Key: c.Key,
			Invocation: spec.InvocationID{Session: id, Number: c.Producer}.String(), StartedAt: timeOf(c.Started),
		}
		if c.Ended != 0 {
			child.EndedAt = timeOf(c.Ended)
		}
		list = append(list, child)
		return len(list) < childrenShown
	})
	return list, errors.Join(err, damaged)
}
