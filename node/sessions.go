package node

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pheromone-run/pheromone/api"
	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
	"github.com/pheromone-run/pheromone/store"
)

// inputKey is the key of the object in a function's inbox that an invoke puts.
const inputKey spec.Key = "input"

// Invoke implements api.Sessions: it puts the body into the function's inbox, in
// a new session. A repeated idempotency key finds the same shard again.
func (n *Node) Invoke(ctx context.Context, i api.Invoke) (wire.PutResult, error) {
	app, err := n.deployed(ctx, i.App)
	if err == nil && app.Functions[i.Function] == nil {
		app, err = n.newest(ctx, i.App)
	}
	if err != nil {
		return wire.PutResult{}, err
	}
	if app.Functions[i.Function] == nil {
		return wire.PutResult{}, spec.Errorf(spec.CodeNotFound, "app %q has no function %q", i.App, i.Function).
			WithHint("it has: " + strings.Join(functionNames(app), ", "))
	}
	slot := spec.Slot(rand.IntN(spec.Slots))
	if i.IdempotencyKey != "" {
		slot = spec.KeySlot(i.App, spec.Inbox(i.Function), spec.Key(i.IdempotencyKey))
	}
	res, _, err := ask(ctx, n, &n.questions.put, n.ShardOf(slot), leader.Put{
		App: i.App, Session: spec.NewSessionID(slot, n.now()), New: true,
		Origin: store.Origin{Kind: store.OriginInvoke, Bucket: spec.Inbox(i.Function), Key: inputKey},
		Bucket: spec.Inbox(i.Function), Key: inputKey, ContentType: i.ContentType, Meta: i.Meta,
		SessionTimeout: i.SessionTimeout, Request: i.IdempotencyKey, Traceparent: i.Traceparent,
	}, i.Body)
	return putResult(spec.Inbox(i.Function), res), err
}

func functionNames(app *spec.App) []string {
	names := make([]string, 0, len(app.Functions))
	for f := range app.Functions {
		names = append(names, string(f))
	}
	slices.Sort(names)
	return names
}

// ListSessions implements api.Sessions: a merge of the shards' pages, newest
// first. The position is the time and id of the last session of the page.
func (n *Node) ListSessions(ctx context.Context, l api.ListSessions) (wire.SessionList, error) {
	if _, err := n.deployed(ctx, l.App); err != nil {
		return wire.SessionList{}, err
	}
	before, beforeID, err := parsePosition(l.After)
	if err != nil {
		return wire.SessionList{}, err
	}
	items := []wire.Session{}
	var cut sessionPosition // the newest session that a shard's page ends at
	args := sessionsArgs{l.App, l.Status, l.Function, before, beforeID, l.Limit, n.lags(l.App, "", true)}
	for _, id := range n.shardIDs() {
		page, _, err := ask(ctx, n, n.questions.sessions.asked(args.Prompt), id, args, nil)
		if err != nil {
			return wire.SessionList{}, err
		}
		items = append(items, page.Items...)
		if end := (sessionPosition{page.LastAt, page.LastID}); page.More && end.newerThan(cut) {
			cut = end
		}
	}
	slices.SortFunc(items, func(a, b wire.Session) int {
		if c := b.CreatedAt.Compare(a.CreatedAt); c != 0 {
			return c
		}
		return strings.Compare(string(b.Session), string(a.Session))
	})
	// Beyond the cut a shard may have sessions that were not looked at.
	if k := slices.IndexFunc(items, func(s wire.Session) bool { return cut.newerThan(positionOf(s)) }); k >= 0 {
		items = items[:k]
	}
	list := wire.SessionList{Items: items}
	switch {
	case len(items) > l.Limit:
		list.Items = items[:l.Limit]
		list.Next = positionOf(items[l.Limit-1]).String()
	case cut.at != 0:
		list.Next = cut.String()
	}
	return list, nil
}

// sessionPosition is a place in the list of an app's sessions, newest first.
type sessionPosition struct {
	at store.Micros
	id spec.SessionID
}

func positionOf(s wire.Session) sessionPosition {
	return sessionPosition{store.Micros(s.CreatedAt.UnixMicro()), s.Session}
}

func (p sessionPosition) newerThan(q sessionPosition) bool {
	return p.at > q.at || p.at == q.at && p.id > q.id
}

func (p sessionPosition) String() string {
	return strconv.FormatInt(int64(p.at), 10) + ":" + string(p.id)
}

func parsePosition(after string) (store.Micros, spec.SessionID, error) {
	if after == "" {
		return 0, "", nil
	}
	at, id, ok := strings.Cut(after, ":")
	micros, err := strconv.ParseInt(at, 10, 64)
	if !ok || err != nil || micros <= 0 {
		return 0, "", spec.Errorf(spec.CodeInvalid, "after must be the next of an earlier page, it is %q", after).WithField("after")
	}
	return store.Micros(micros), spec.SessionID(id), nil
}

// GetSession implements api.Sessions.
func (n *Node) GetSession(ctx context.Context, app spec.AppName, id spec.SessionID) (wire.Session, error) {
	s, _, err := ask(ctx, n, &n.questions.session, n.shardOfSession(app, id), sessionArgs{app, id}, nil)
	return s, n.orNoApp(ctx, app, err)
}

func (n *Node) shardOfSession(app spec.AppName, id spec.SessionID) spec.ShardID {
	return n.ShardOf(spec.SessionSlot(app, id))
}

// orNoApp says that it is the app that is not there, if that is why something of
// it is not found.
func (n *Node) orNoApp(ctx context.Context, app spec.AppName, err error) error {
	if spec.CodeOf(err) == spec.CodeNotFound {
		if _, gone := n.deployed(ctx, app); gone != nil {
			return gone
		}
	}
	return err
}

// Result implements api.Sessions.
func (n *Node) Result(ctx context.Context, app spec.AppName, id spec.SessionID, wait time.Duration, untilOutput bool) (wire.Result, error) {
	deadline := time.Now().Add(wait)
	for {
		args := resultArgs{sessionArgs{app, id}, max(time.Until(deadline), 0), untilOutput}
		r, _, err := ask(ctx, n, &n.questions.result, n.shardOfSession(app, id), args, nil)
		if !errors.Is(err, leader.ErrNotTaken) || wait <= 0 || !time.Now().Before(deadline) || ctx.Err() != nil {
			return r, n.orNoApp(ctx, app, err)
		}
	}
}

// History implements api.Sessions.
func (n *Node) History(ctx context.Context, app spec.AppName, id spec.SessionID, after string, limit int) (wire.History, error) {
	args := historyArgs{sessionArgs{app, id}, after, limit, n.lags(app, "", true)}
	h, _, err := ask(ctx, n, n.questions.history.asked(args.Prompt), n.shardOfSession(app, id), args, nil)
	return h, n.orNoApp(ctx, app, err)
}

// Cancel implements api.Sessions.
func (n *Node) Cancel(ctx context.Context, app spec.AppName, id spec.SessionID) (wire.Session, error) {
	if _, _, err := ask(ctx, n, &n.questions.cancel, n.shardOfSession(app, id), sessionArgs{app, id}, nil); err != nil {
		return wire.Session{}, n.orNoApp(ctx, app, err)
	}
	return n.GetSession(ctx, app, id)
}

// Purge implements api.Sessions.
func (n *Node) Purge(ctx context.Context, app spec.AppName, id spec.SessionID) error {
	_, _, err := ask(ctx, n, &n.questions.purge, n.shardOfSession(app, id), sessionArgs{app, id}, nil)
	return n.orNoApp(ctx, app, err)
}

// Rerun implements api.Sessions: it puts a copy of a stored object into a new
// session, which then runs on the app's newest version.
func (n *Node) Rerun(ctx context.Context, app spec.AppName, id spec.SessionID, from string) (wire.PutResult, error) {
	session, err := n.GetSession(ctx, app, id)
	if err != nil {
		return wire.PutResult{}, err
	}
	bucket, key := session.Origin.Bucket, session.Origin.Key
	if from != "" {
		b, k, ok := strings.Cut(from, "/")
		if !ok {
			return wire.PutResult{}, spec.Errorf(spec.CodeInvalid, "from must name an object as bucket/key, it is %q", from).WithField("from")
		}
		bucket, key = spec.BucketName(b), spec.Key(k)
	} else if session.Origin.Trigger != "" { // by a firing of scope bucket, or the rerun of one
		again, _, err := ask(ctx, n, &n.questions.refire, n.shardOfSession(app, id), sessionArgs{app, id}, nil)
		return wire.PutResult{Bucket: bucket, Session: again}, err
	}
	if err := n.knows(ctx, app, bucket); err != nil {
		return wire.PutResult{}, err
	}
	o, err := n.Get(ctx, api.Get{App: app, Session: id, Bucket: bucket, Key: key})
	if err != nil {
		return wire.PutResult{}, err
	}
	defer func() { _ = o.Body.Close() }()
	slot := spec.Slot(rand.IntN(spec.Slots))
	res, _, err := ask(ctx, n, &n.questions.put, n.ShardOf(slot), leader.Put{
		App: app, Session: spec.NewSessionID(slot, n.now()), New: true,
		Origin: store.Origin{Kind: store.OriginRerun, Bucket: bucket, Key: key, Session: id},
		Bucket: bucket, Key: key, ContentType: o.ContentType, Meta: o.Meta, Deleted: o.Deleted,
	}, o.Body)
	return putResult(bucket, res), err
}
