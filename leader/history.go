package leader

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"strconv"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
	"github.com/pheromone-run/pheromone/store"
)

func sortBy[T any, K cmp.Ordered](list []T, key func(T) K) {
	slices.SortStableFunc(list, func(a, b T) int { return cmp.Compare(key(a), key(b)) })
}

func wireStatus(s store.SessionState) wire.SessionStatus { return wire.SessionStatus(stateName(s)) }

func wireFailure(session spec.SessionID, f *store.Failure) *wire.FunctionError {
	if f == nil {
		return nil
	}
	e := &wire.FunctionError{Kind: f.Kind, Message: f.Message, Detail: f.Detail, Function: f.Function, Attempts: int(f.Attempts)}
	if f.Invocation != 0 {
		e.Invocation = spec.InvocationID{Session: session, Number: f.Invocation}.String()
	}
	return e
}

var originNames = map[store.OriginKind]string{
	store.OriginPut: "put", store.OriginInvoke: "invoke", store.OriginTrigger: "trigger",
	store.OriginSession: "session", store.OriginRerun: "rerun",
	store.OriginChild: "child", store.OriginDelete: "delete",
}

func wireSession(app spec.AppName, id spec.SessionID, rec *store.Session) wire.Session {
	s := wire.Session{
		Session: id, App: app, AppVersion: rec.AppVersion, Status: wireStatus(rec.State),
		Origin: wire.Origin{
			Kind: originNames[rec.Origin.Kind], Bucket: rec.Origin.Bucket, Key: rec.Origin.Key,
			Trigger: rec.Origin.Trigger, Session: rec.Origin.Session,
		},
		CreatedAt:          timeOf(rec.Created),
		Invocations:        int(rec.Invocations),
		PendingInvocations: int(rec.Pending),
		Objects:            int(rec.Objects),
		Error:              wireFailure(id, rec.Failure),
		Children:           int(rec.Children),
		Awaited:            int(rec.Awaited),
	}
	if rec.Deadline != 0 {
		s.DeadlineAt = timeOf(rec.Deadline)
	}
	if rec.State != store.SessionRunning {
		s.EndedAt, s.ExpiresAt = timeOf(rec.Ended), timeOf(rec.Purge)
	}
	return s
}

// Session describes a session and what its armed triggers wait for.
func (l *Leader) Session(ctx context.Context, app spec.AppName, id spec.SessionID) (wire.Session, error) {
	if err := l.LedHere(); err != nil {
		return wire.Session{}, err
	}
	if err := l.linearizable(ctx); err != nil {
		return wire.Session{}, err
	}
	rec, err := l.sessionRecord(app, id)
	if err != nil {
		return wire.Session{}, err
	}
	s := wireSession(app, id, &rec)
	if rec.Machines == 0 {
		return s, nil
	}
	c := &inspect{name: sessionName{app, id}}
	if err := l.do(ctx, c, 0); err != nil {
		if spec.CodeOf(err) == spec.CodeNotFound {
			return wire.Session{}, err
		}
		return s, nil // what can be told without the loop is still right
	}
	s.Waiting = c.waiting
	return s, nil
}

// inspect is the command that asks a session's machines what they wait for.
type inspect struct {
	name    sessionName
	waiting []wire.Waiting
}

func (c *inspect) evaluate(t *tx) error {
	s := t.session(c.name)
	if s == nil {
		return errNoSession(c.name)
	}
	for _, bucket := range s.rec.Buckets {
		b, ok := s.plan.app.Bucket(bucket)
		if !ok {
			continue
		}
		for _, tr := range b.Triggers {
			if tr.Scope != spec.ScopeSession {
				continue
			}
			m := t.machine(s, machineName{c.name.app, c.name.session, bucket, tr.Name}, tr)
			if m == nil {
				continue
			}
			if w := m.waiting(); w.Armed || m.stalled != "" {
				c.waiting = append(c.waiting, wire.Waiting{
					Bucket: bucket, Trigger: tr.Name, Primitive: tr.Primitive,
					Have: w.Have, Need: w.Need, Missing: w.Missing, Deadline: w.Deadline, Stalled: m.stalled,
				})
			}
		}
	}
	return nil
}

// SessionPage is a page of sessions of one shard, newest first.
type SessionPage struct {
	Items []wire.Session
	// More says that the page ends before the shard's sessions do, at the one with
	// this time and id, whether that is among Items or not.
	More   bool
	LastAt store.Micros
	LastID spec.SessionID
}

// scanSessions bounds how many sessions one page looks at for those that match.
const scanSessions = 20_000

// Sessions lists up to limit sessions, newest first, that were created before a
// time or, at that time, have a lower id.
func (l *Leader) Sessions(ctx context.Context, app spec.AppName, status wire.SessionStatus, function spec.FunctionName, before store.Micros, beforeID spec.SessionID, limit int) (SessionPage, error) {
	if err := l.linearizable(ctx); err != nil {
		return SessionPage{}, err
	}
	lower, upper := store.Bounds(store.AppendSessionIndexPrefix(nil, l.cfg.Shard, app))
	if before != 0 {
		upper = store.AppendSessionIndexKey(nil, l.cfg.Shard, app, before, beforeID)
	}
	var page SessionPage
	var damaged error
	scanned := 0
	err := l.cfg.DB.ScanReverse(lower, upper, func(k, _ []byte) bool {
		if scanned++; scanned > scanSessions || len(page.Items) == limit || ctx.Err() != nil {
			page.More = true
			return false
		}
		_, created, id, err := store.DecodeSessionIndexKey(k)
		if err != nil {
			damaged = err
			return false
		}
		page.LastAt, page.LastID = created, id
		rec, err := l.sessionRecord(app, id)
		if spec.CodeOf(err) == spec.CodeNotFound {
			return true // purged since the scan began
		}
		if err == nil && (status == "" || wireStatus(rec.State) == status) {
			var ran bool
			if ran, err = l.ran(app, id, function); ran {
				page.Items = append(page.Items, wireSession(app, id, &rec))
			}
		}
		damaged = err
		return err == nil
	})
	return page, errors.Join(err, damaged)
}

// ran tells whether a function has an invocation in the session.
func (l *Leader) ran(app spec.AppName, id spec.SessionID, function spec.FunctionName) (bool, error) {
	if function == "" {
		return true, nil
	}
	found := false
	err := l.invocations(app, id, 0, math.MaxUint64, func(_ uint64, inv *store.Invocation) bool {
		found = inv.Function == function
		return !found
	})
	return found, err
}

// invocations calls fn for the invocations of a session with the numbers first to
// last: those that have ended, then those that are pending.
func (l *Leader) invocations(app spec.AppName, id spec.SessionID, first, last uint64, fn func(number uint64, inv *store.Invocation) bool) error {
	snap := l.cfg.DB.Snapshot()
	defer func() { _ = snap.Close() }()
	scan := func(lower, last []byte, number func([]byte) (uint64, error)) (bool, error) {
		more := true
		var damaged error
		err := snap.Scan(lower, append(last, 0), func(k, v []byte) bool {
			n, err := number(k)
			if err == nil {
				var inv store.Invocation
				if inv, err = store.DecodeInvocation(v); err == nil {
					more = fn(n, &inv)
					return more
				}
			}
			damaged = err
			return false
		})
		return more, errors.Join(err, damaged)
	}
	sh := l.cfg.Shard
	more, err := scan(store.AppendHistoryKey(nil, sh, app, id, first), store.AppendHistoryKey(nil, sh, app, id, last), func(k []byte) (uint64, error) {
		_, inv, err := store.DecodeHistoryKey(k)
		return inv.Number, err
	})
	if err != nil || !more {
		return err
	}
	_, err = scan(store.AppendPendingKey(nil, sh, app, id, first), store.AppendPendingKey(nil, sh, app, id, last), func(k []byte) (uint64, error) {
		_, inv, err := store.DecodePendingKey(k)
		return inv.Number, err
	})
	return err
}

const inputsShown = 100 // inputs of an invocation that the history lists

// History tells how a session ran: up to limit invocations after the one with the
// number after ("" for all), in the order in which they were queued.
func (l *Leader) History(ctx context.Context, app spec.AppName, id spec.SessionID, after string, limit int) (wire.History, error) {
	session, err := l.Session(ctx, app, id)
	if err != nil {
		return wire.History{}, err
	}
	h := wire.History{Session: session, Invocations: []wire.Invocation{}}
	from := uint64(0)
	if after != "" {
		if from, err = strconv.ParseUint(after, 10, 64); err != nil {
			return wire.History{}, spec.Errorf(spec.CodeInvalid, "after must be the next of an earlier page, it is %q", after).WithField("after")
		}
	}
	if after == "" && session.Children > 0 {
		if h.Children, err = l.children(app, id); err != nil {
			return wire.History{}, err
		}
	}
	// Ended and pending invocations interleave by number, so all of the next limit
	// numbers are looked at.
	type numbered struct {
		number uint64
		inv    wire.Invocation
	}
	var list []numbered
	err = l.invocations(app, id, from+1, from+uint64(limit), func(n uint64, inv *store.Invocation) bool {
		list = append(list, numbered{n, l.wireInvocation(app, id, n, inv)})
		return ctx.Err() == nil
	})
	if err = errors.Join(err, ctx.Err()); err != nil {
		return wire.History{}, err
	}
	sortBy(list, func(n numbered) uint64 { return n.number })
	for _, n := range list {
		h.Invocations = append(h.Invocations, n.inv)
	}
	if uint64(session.Invocations) > from+uint64(limit) {
		h.Next = strconv.FormatUint(from+uint64(limit), 10)
	}
	return h, nil
}

func (l *Leader) wireInvocation(app spec.AppName, id spec.SessionID, number uint64, rec *store.Invocation) wire.Invocation {
	inv := wire.Invocation{
		ID:         spec.InvocationID{Session: id, Number: number}.String(),
		Function:   rec.Function,
		State:      invocationState(rec),
		Bucket:     rec.Bucket,
		Trigger:    rec.Trigger,
		Inputs:     []wire.Input{},
		InputCount: len(rec.Inputs),
		QueuedAt:   timeOf(rec.Queued),
		Attempts:   []wire.Attempt{},
	}
	if rec.Ended != 0 {
		inv.EndedAt = timeOf(rec.Ended)
	}
	if rec.Next != 0 {
		inv.NextAt = timeOf(rec.Next)
	}
	for i := range rec.Inputs[:min(len(rec.Inputs), inputsShown)] {
		inv.Inputs = append(inv.Inputs, l.wireInput(app, id, &rec.Inputs[i]))
	}
	for _, a := range rec.Attempts {
		attempt := wire.Attempt{Number: int(a.Number), StartedAt: timeOf(a.Started), Executor: a.Executor, Error: wireFailure(id, a.Failure)}
		if a.Ended != 0 {
			attempt.EndedAt = timeOf(a.Ended)
		}
		inv.Attempts = append(inv.Attempts, attempt)
	}
	return inv
}

// wireInput names an input and its producer, which the object's record knows.
func (l *Leader) wireInput(app spec.AppName, id spec.SessionID, in *store.InputRef) wire.Input {
	out := wire.Input{Key: in.Key, Revision: in.Revision}
	if in.Held {
		out.Producer = string(in.Source)
		if in.Producer != 0 {
			out.Producer = spec.InvocationID{Session: in.Source, Number: in.Producer}.String()
		}
		return out
	}
	if rec, err := readObject(l.cfg.DB, store.AppendSessionObjectKey(nil, l.cfg.Shard, app, in.Bucket, id, in.Key)); err == nil && rec.Producer != 0 {
		out.Producer = spec.InvocationID{Session: id, Number: rec.Producer}.String()
	}
	return out
}

func invocationState(rec *store.Invocation) string {
	switch rec.State {
	case store.InvocationQueued:
		if n := len(rec.Attempts); n > 0 && rec.Attempts[n-1].Ended == 0 {
			return "running"
		}
		return "queued"
	case store.InvocationRetrying:
		return "retrying"
	case store.InvocationSucceeded:
		return "succeeded"
	case store.InvocationFailed:
		return "failed"
	case store.InvocationCancelled:
		return "cancelled"
	}
	return "unknown"
}

// Status tells how the shard is led here.
func (l *Leader) Status() (epoch uint64, pending int, leading bool) {
	r := l.reigning()
	if r == nil {
		return 0, 0, false
	}
	return r.term.Epoch(), int(r.pendingN.Load()), true
}

// Outbox tells how many messages of the shard wait for other shards, 0 where it is
// not led.
func (l *Leader) Outbox() int {
	if r := l.reigning(); r != nil {
		return int(r.mailN.Load())
	}
	return 0
}
