package leader

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
	"github.com/pheromone-run/pheromone/store"
)

// A session that ends may have to tell its parent, or to cancel children. Both
// read what its last entry wrote, so they follow when that is applied: a timer
// that is due at once sees to it, also after a restart.

const (
	// followAgain is when a follow-up is tried again if nothing came of it.
	followAgain = 10 * time.Second
	// followSoon is when one is looked at again whose entry is not applied yet.
	followSoon = time.Millisecond
	// cancelPage bounds the children that are cancelled in one entry.
	cancelPage = 1000
)

// follows tells whether something remains to be done for other sessions.
func (s *session) follows() bool {
	return s.rec.Awaited > 0 || s.rec.Parent != nil && s.rec.Parent.Awaited
}

func followTimer(s *session) store.Timer {
	return store.Timer{Kind: store.TimerFollow, App: s.name.app, Session: s.name.session}
}

// followDue does for other sessions what the end of this one asks for.
func (t *tx) followDue(subject store.Timer) {
	s := t.session(sessionName{subject.App, subject.Session})
	if s == nil || s.rec.State == store.SessionRunning || !s.follows() {
		return
	}
	if s.dirty || s.lastSeq > t.appliedSeq.Load() {
		t.arm(t.at+store.Micros(followSoon.Microseconds()), followTimer(s))
		return
	}
	if s.rec.Awaited > 0 {
		t.cancelChildren(s)
		t.arm(t.at+store.Micros(followSoon.Microseconds()), followTimer(s))
		return
	}
	again := t.at + store.Micros(followAgain.Microseconds())
	t.arm(again, followTimer(s))
	name := s.name
	t.onApplied(func() { t.loading.Go(func() { t.reign.report(name, again) }) })
}

// cancelChildren cancels a page of the children that a session still waits for.
func (t *tx) cancelChildren(s *session) {
	n := 0
	lower, upper := store.Bounds(store.AppendChildrenPrefix(nil, t.shard(), s.name.app, s.name.session))
	var page []spec.SessionID
	t.scan(lower, upper, func(k, v []byte) error {
		_, _, id, err := store.DecodeChildKey(k)
		if err != nil {
			return err
		}
		child, err := store.DecodeChild(v)
		if err == nil && child.Awaited && child.State == store.SessionRunning {
			if n++; n > cancelPage {
				return errEnough
			}
			page = append(page, id)
		}
		return err
	})
	for _, id := range page {
		child, ok := t.child(s, id)
		if !ok {
			return
		}
		t.endOfChild(s, id, child, store.SessionCancelled)
		t.tellSession(s, &store.Mail{
			Kind: store.MailCancel, Slot: spec.SessionSlot(s.name.app, id), App: s.name.app, Session: s.name.session, To: id,
		})
	}
}

// report reads the result of an ended child session, beside the loop, and has it
// told to the session that waits for it.
func (r *reign) report(name sessionName, again store.Micros) {
	l := r.leader
	c := &reported{name: name, again: again}
	err := l.readResult(r.ctx, c)
	if err == nil {
		err = l.do(r.ctx, c, len(c.object.Inline))
	}
	l.letGo(name.app, c.payload, undecided(err))
	if err != nil && r.ctx.Err() == nil {
		l.cfg.Log.Warn("the result of a child session was not told yet", "app", name.app, "session", name.session, "error", err)
	}
}

// resultBytes bounds the outputs that a child's result has in one object; a single
// output is bounded as every object is.
const resultBytes = 64 << 20

// readResult reads what a child session came to: its output if there is one, else
// the result as the API tells it.
func (l *Leader) readResult(ctx context.Context, c *reported) error {
	app, id := c.name.app, c.name.session
	rec, err := l.sessionRecord(app, id)
	if err != nil {
		return err
	}
	if rec.State == store.SessionRunning {
		return nil // it runs again, for an object that came late
	}
	c.object = store.Object{Meta: map[string]string{metaSession: string(id), metaStatus: stateName(rec.State)}}
	if rec.State == store.SessionCompleted && rec.Outputs == 1 {
		c.bucket, c.key, err = l.soleOutput(app, id, &rec)
		return err
	}
	if rec.State != store.SessionCompleted {
		rec.Outputs = 0 // as far as it came nobody relies on it
	}
	res, err := l.resultUpTo(l.cfg.DB, app, id, &rec, resultBytes)
	if spec.CodeOf(err) == spec.CodeTooLarge {
		res, err = wire.Result{
			Session: id, Status: wireStatus(rec.State), Outputs: []wire.Output{},
			Error: &wire.FunctionError{Kind: exec.Refused, Message: err.Error()},
		}, nil
	}
	if err != nil {
		return err
	}
	body, err := json.Marshal(res)
	if err != nil {
		return fmt.Errorf("encode the result of session %s: %w", id, err)
	}
	c.object.ContentType = "application/json"
	c.payload, err = l.stageBytes(ctx, app, body)
	if err == nil {
		c.object.Inline, c.object.Blob, c.object.Size = c.payload.inline, c.payload.blob, c.payload.size
	}
	return err
}

// soleOutput finds the output of a session that has one.
func (l *Leader) soleOutput(app spec.AppName, id spec.SessionID, rec *store.Session) (spec.BucketName, spec.Key, error) {
	for _, bucket := range rec.OutputBuckets {
		var key spec.Key
		var damaged error
		lower, upper := store.Bounds(store.AppendSessionObjectsPrefix(nil, l.cfg.Shard, app, bucket, id, ""))
		err := l.cfg.DB.Scan(lower, upper, func(k, v []byte) bool {
			o, err := store.DecodeObject(v)
			if err != nil || !o.Output {
				damaged = err
				return err == nil
			}
			var name store.ObjectKey
			name, damaged = store.DecodeObjectKey(k)
			key = name.Key
			return false
		})
		if err = errors.Join(err, damaged); err != nil || key != "" {
			return bucket, key, err
		}
	}
	return "", "", fmt.Errorf("session %s has lost its output: %w", id, io.ErrUnexpectedEOF)
}

// reported is the command that tells a parent what its child came to.
type reported struct {
	name    sessionName
	again   store.Micros // the timer that would try once more
	payload *payload     // of a result that is told as JSON
	object  store.Object
	bucket  spec.BucketName // else the output to tell, by bucket and key
	key     spec.Key
}

func (c *reported) evaluate(t *tx) error {
	s := t.session(c.name)
	if s == nil || s.rec.State == store.SessionRunning || s.rec.Parent == nil || !s.rec.Parent.Awaited {
		return nil // told already, or it runs again
	}
	rec := c.object
	switch {
	case c.key != "":
		value, ok := t.get(store.AppendSessionObjectKey(nil, t.shard(), c.name.app, c.bucket, c.name.session, c.key))
		if !ok {
			return nil
		}
		output, err := store.DecodeObject(value)
		if err != nil {
			t.broken(err)
			return err
		}
		rec.ContentType, rec.Size, rec.Inline, rec.Blob = output.ContentType, output.Size, output.Inline, output.Blob
		if rec.Blob != nil {
			t.share(c.name.app, rec.Blob)
		}
	case c.payload == nil:
		return nil // it had run again when it was looked at
	case c.payload.blob != nil:
		if err := t.staged(c.name.app, c.payload); err != nil {
			return err
		}
		t.adopt(c.name.app, c.payload)
	}
	t.disarm(c.again, followTimer(s))
	parent := *s.rec.Parent
	parent.Awaited = false // it has been told
	s.rec.Parent = &parent
	t.touch(s)
	rec.Created = t.at
	t.tellSession(s, &store.Mail{
		Kind: store.MailEnd, Slot: spec.SessionSlot(c.name.app, parent.Session), App: c.name.app,
		Session: c.name.session, To: parent.Session, Object: rec, State: s.rec.State,
	})
	return nil
}
