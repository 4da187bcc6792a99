package leader

import (
	"context"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
	"github.com/pheromone-run/pheromone/triggers"
)

// Refire runs a session again that a firing of scope bucket started: a new one, on
// the app's newest version, with copies of the objects that the firing passed on.
// It returns the new session.
func (l *Leader) Refire(ctx context.Context, app spec.AppName, id spec.SessionID) (spec.SessionID, error) {
	c := &refire{name: sessionName{app, id}}
	if err := l.do(ctx, c, 0); err != nil {
		return "", err
	}
	return c.session, nil
}

// refire is the command of Refire. It finds what it copies by looking into the
// store, so it is exclusive.
type refire struct {
	name    sessionName
	session spec.SessionID // the new one
}

func (*refire) exclusive() {}

func (c *refire) evaluate(t *tx) error {
	old := t.session(c.name)
	if old == nil {
		return errNoSession(c.name)
	}
	p, err := t.deployed(c.name.app)
	if err != nil {
		return err
	}
	fired, err := t.firedWith(old)
	if err != nil {
		return err
	}
	now, later := 0, 0
	for i := range fired {
		f := &fired[i]
		if p.app.Functions[f.rec.Function] == nil {
			return spec.Errorf(spec.CodeConflict, "session %s ran function %q, which the newest version of app %q does not have", c.name.session, f.rec.Function, c.name.app)
		}
		now, later = now+f.copies, later+f.refs
		if !t.fits(now, later) {
			return spec.Errorf(spec.CodeTooLarge, "session %s was fired with more objects than one entry of the log holds", c.name.session)
		}
	}
	slot := spec.SessionSlot(c.name.app, c.name.session)
	c.session = spec.NewSessionID(slot, timeOf(t.at))
	s := t.newSession(sessionName{c.name.app, c.session}, p, store.Origin{
		Kind: store.OriginRerun, Bucket: old.rec.Origin.Bucket, Trigger: old.rec.Origin.Trigger, Session: c.name.session,
	})
	for i := range fired {
		if err := t.fireAgain(s, c.name, &fired[i]); err != nil {
			return err
		}
	}
	return nil
}

// fired is an invocation that a firing of scope bucket asked for.
type fired struct {
	number uint64
	rec    store.Invocation
	copies int // bytes that copies of its inputs take
	refs   int // bytes that the references to them take
}

// firedWith returns the invocations of the firing that started a session: they
// have the first numbers, and inputs that are held for them.
func (t *tx) firedWith(s *session) ([]fired, error) {
	if s.rec.Held == 0 {
		return nil, spec.Errorf(spec.CodeConflict, "session %s keeps no objects that it was fired with", s.name.session)
	}
	var list []fired
	for number := uint64(1); number <= s.rec.Invocations; number++ {
		inv := t.pendingOrEnded(s, number)
		if inv == nil || len(inv.rec.Inputs) == 0 || !inv.rec.Inputs[0].Held {
			break
		}
		f := fired{number: number, rec: inv.rec}
		if err := t.measure(s.name, &f); err != nil {
			return nil, err
		}
		list = append(list, f)
	}
	return list, nil
}

// measure adds up what copies of an invocation's inputs take.
func (t *tx) measure(name sessionName, f *fired) error {
	for i := range f.rec.Inputs {
		in := &f.rec.Inputs[i]
		key := store.AppendHeldInputKey(nil, t.shard(), name.app, name.session, f.number, uint64(in.Revision))
		value, err := t.leader.cfg.DB.Get(key)
		if err != nil {
			t.broken(err)
			return err
		}
		f.copies += len(key) + len(value) + keyExtra + blobRefBytes
		f.refs += refBytes(in.Bucket) + len(in.Key) + len(in.Source)
	}
	return nil
}

// fireAgain fires one of the functions again, with copies of what it was given.
func (t *tx) fireAgain(s *session, from sessionName, f *fired) error {
	number := s.rec.Invocations + 1
	for _, in := range f.rec.Inputs {
		value, err := t.leader.cfg.DB.Get(store.AppendHeldInputKey(nil, t.shard(), from.app, from.session, f.number, uint64(in.Revision)))
		if err != nil {
			t.broken(err)
			return err
		}
		rec, err := store.DecodeObject(value)
		if err != nil {
			t.broken(err)
			return err
		}
		if rec.Blob != nil {
			t.share(from.app, rec.Blob)
			s.rec.Blobs++
		}
		t.writeInput(s.plan, in.Bucket, store.AppendHeldInputKey(nil, t.shard(), from.app, s.name.session, number, uint64(in.Revision)), value)
		s.rec.Held++
	}
	firing := &triggers.Firing{Group: f.rec.Group}
	if f.rec.Window != 0 {
		firing.Window = time.UnixMicro(int64(f.rec.Window))
	}
	t.fire(s, f.rec.Function, f.rec.Bucket, f.rec.Trigger, firing, f.rec.Inputs, 0)
	return nil
}
