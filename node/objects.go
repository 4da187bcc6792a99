package node

import (
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/pheromone-run/pheromone/api"
	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/raft/control"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// Put implements api.Objects.
func (n *Node) Put(ctx context.Context, p api.Put) (wire.PutResult, error) {
	slot := spec.KeySlot(p.App, p.Bucket, p.Key)
	if p.Session != "" {
		if p.IfRevision != nil || p.IfExists || p.TTL != 0 {
			return wire.PutResult{}, spec.Errorf(spec.CodeInvalid, "objects of a session are immutable: conditions and ttl are for key-value objects")
		}
		slot = spec.SessionSlot(p.App, p.Session)
	}
	res, _, err := ask(ctx, n, &n.questions.put, n.ShardOf(slot), leader.Put{
		App: p.App, Session: p.Session, Bucket: p.Bucket, Key: p.Key, ContentType: p.ContentType,
		Meta: p.Meta, TTL: p.TTL, DeliverAfter: p.DeliverAfter, IfRevision: p.IfRevision, IfExists: p.IfExists,
		SessionTimeout: p.SessionTimeout, Request: p.IdempotencyKey, Traceparent: p.Traceparent,
	}, p.Body)
	return putResult(p.Bucket, res), err
}

func putResult(bucket spec.BucketName, r leader.PutResult) wire.PutResult {
	return wire.PutResult{Bucket: bucket, Key: r.Key, Revision: r.Revision, Session: r.Session, Existed: r.Existed}
}

// Get implements api.Objects.
func (n *Node) Get(ctx context.Context, g api.Get) (api.Object, error) {
	if err := n.knows(ctx, g.App, g.Bucket); err != nil {
		return api.Object{}, err
	}
	slot := spec.KeySlot(g.App, g.Bucket, g.Key)
	if g.Session != "" {
		slot = spec.SessionSlot(g.App, g.Session)
	}
	args := getArgs{g.App, g.Session, g.Bucket, g.Key, g.Stale, !g.Stale && n.lags(g.App, g.Bucket, g.Session != "")}
	o, body, err := ask(ctx, n, n.questions.get.asked(args.Prompt), n.ShardOf(slot), args, nil)
	if err != nil {
		return api.Object{}, err
	}
	if body == nil { // it came without any
		body = http.NoBody
	}
	if g.HeadOnly {
		_ = body.Close()
		body = nil
	}
	return api.Object{Object: o, Body: body}, nil
}

// Delete implements api.Objects.
func (n *Node) Delete(ctx context.Context, d api.Delete) (wire.PutResult, error) {
	res, _, err := ask(ctx, n, &n.questions.remove, n.ShardOf(spec.KeySlot(d.App, d.Bucket, d.Key)), leader.Delete{
		App: d.App, Bucket: d.Bucket, Key: d.Key, IfRevision: d.IfRevision, Request: d.IdempotencyKey,
		Traceparent: d.Traceparent,
	}, nil)
	return putResult(d.Bucket, res), err
}

// List implements api.Objects: a merge of the shards' pages in key order.
func (n *Node) List(ctx context.Context, l api.List) (wire.ObjectList, error) {
	if err := n.knows(ctx, l.App, l.Bucket); err != nil {
		return wire.ObjectList{}, err
	}
	shards := n.shardIDs()
	if l.Session != "" {
		shards = []spec.ShardID{n.ShardOf(spec.SessionSlot(l.App, l.Session))}
	}
	args := listArgs{l.App, l.Session, l.Bucket, []byte(l.Prefix), []byte(l.After), l.Limit + 1, n.lags(l.App, l.Bucket, l.Session != "")}
	items := []wire.Object{}
	for _, id := range shards {
		page, _, err := ask(ctx, n, n.questions.list.asked(args.Prompt), id, args, nil)
		if err != nil {
			return wire.ObjectList{}, err
		}
		items = append(items, page...)
	}
	slices.SortFunc(items, func(a, b wire.Object) int { return strings.Compare(string(a.Key), string(b.Key)) })
	list := wire.ObjectList{Items: items}
	if len(items) > l.Limit {
		list.Items = items[:l.Limit]
		list.Next = string(list.Items[l.Limit-1].Key)
	}
	return list, nil
}

// lags tells whether replicas may lack what was answered of a bucket, because nobody
// waits until it is committed; without a bucket, of any one of the app. Sessions may be
// of any version that is kept.
func (n *Node) lags(app spec.AppName, bucket spec.BucketName, ofSessions bool) bool {
	state := n.control.State()
	newest, ok := state.Current(app)
	if !ok {
		return false
	}
	versions := []*control.AppVersion{newest}
	if ofSessions {
		versions = state.Apps[app].Versions
	}
	return slices.ContainsFunc(versions, func(v *control.AppVersion) bool {
		a, err := v.App()
		return err != nil || lagsIn(a, bucket)
	})
}

func lagsIn(a *spec.App, bucket spec.BucketName) bool {
	if bucket != "" {
		b, ok := a.Bucket(bucket)
		return ok && b.Durability == spec.Ephemeral
	}
	for _, b := range a.Buckets {
		if b.Durability == spec.Ephemeral {
			return true
		}
	}
	return a.Durability == spec.Ephemeral
}

// knows answers whether an app and a bucket of it are deployed.
func (n *Node) knows(ctx context.Context, app spec.AppName, bucket spec.BucketName) error {
	a, err := n.deployed(ctx, app)
	if err != nil {
		return err
	}
	if _, ok := a.Bucket(bucket); ok {
		return nil
	}
	if a, err = n.newest(ctx, app); err != nil {
		return err
	}
	if _, ok := a.Bucket(bucket); !ok {
		return spec.Errorf(spec.CodeNotFound, "app %q has no bucket %q", app, bucket)
	}
	return nil
}

// now is the node's clock.
func (n *Node) now() time.Time { return n.cfg.Now() }

var _ io.Closer = (*Node)(nil)
