package node

import (
	"context"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/pheromone-run/pheromone/api"
	"github.com/pheromone-run/pheromone/leader"
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
	res, err := n.leaderOf(slot).Put(ctx, leader.Put{
		App: p.App, Session: p.Session, Bucket: p.Bucket, Key: p.Key, Body: p.Body, ContentType: p.ContentType,
		Meta: p.Meta, TTL: p.TTL, DeliverAfter: p.DeliverAfter, IfRevision: p.IfRevision, IfExists: p.IfExists,
		SessionTimeout: p.SessionTimeout, Request: p.IdempotencyKey, Traceparent: p.Traceparent,
	})
	return putResult(p.Bucket, res), err
}

func putResult(bucket spec.BucketName, r leader.PutResult) wire.PutResult {
	return wire.PutResult{Bucket: bucket, Key: r.Key, Revision: r.Revision, Session: r.Session, Existed: r.Existed}
}

// Get implements api.Objects.
func (n *Node) Get(ctx context.Context, g api.Get) (api.Object, error) {
	if err := n.knows(g.App, g.Bucket); err != nil {
		return api.Object{}, err
	}
	var o leader.Object
	var err error
	if g.Session != "" {
		o, err = n.leaderOf(spec.SessionSlot(g.App, g.Session)).GetSession(ctx, g.App, g.Session, g.Bucket, g.Key)
	} else {
		o, err = n.leaderOf(spec.KeySlot(g.App, g.Bucket, g.Key)).GetKV(ctx, g.App, g.Bucket, g.Key, g.Stale)
	}
	if err != nil {
		return api.Object{}, err
	}
	if g.HeadOnly {
		_ = o.Body.Close()
		o.Body = nil
	}
	return api.Object{Object: o.Object, Body: o.Body}, nil
}

// Delete implements api.Objects.
func (n *Node) Delete(ctx context.Context, d api.Delete) (wire.PutResult, error) {
	res, err := n.leaderOf(spec.KeySlot(d.App, d.Bucket, d.Key)).Delete(ctx, leader.Delete{
		App: d.App, Bucket: d.Bucket, Key: d.Key, IfRevision: d.IfRevision, Request: d.IdempotencyKey,
		Traceparent: d.Traceparent,
	})
	return putResult(d.Bucket, res), err
}

// List implements api.Objects: a merge of the shards' pages in key order.
func (n *Node) List(ctx context.Context, l api.List) (wire.ObjectList, error) {
	if err := n.knows(l.App, l.Bucket); err != nil {
		return wire.ObjectList{}, err
	}
	leaders := n.leaders
	if l.Session != "" {
		leaders = []*leader.Leader{n.leaderOf(spec.SessionSlot(l.App, l.Session))}
	}
	items := []wire.Object{}
	for _, ld := range leaders {
		var page []wire.Object
		var err error
		if l.Session != "" {
			page, err = ld.ListSession(ctx, l.App, l.Session, l.Bucket, l.Prefix, l.After, l.Limit+1)
		} else {
			page, err = ld.ListKV(ctx, l.App, l.Bucket, l.Prefix, l.After, l.Limit+1)
		}
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

// knows answers whether an app and a bucket of it are deployed.
func (n *Node) knows(app spec.AppName, bucket spec.BucketName) error {
	a, _, ok := n.App(app, 0)
	if !ok {
		return spec.NoApp(app, n.Names())
	}
	if _, ok := a.Bucket(bucket); !ok {
		return spec.Errorf(spec.CodeNotFound, "app %q has no bucket %q", app, bucket)
	}
	return nil
}

// open opens an object so that it can be put again elsewhere.
func (n *Node) open(ctx context.Context, app spec.AppName, session spec.SessionID, bucket spec.BucketName, key spec.Key) (leader.Object, error) {
	return n.leaderOf(spec.SessionSlot(app, session)).GetSession(ctx, app, session, bucket, key)
}

// now is the node's clock.
func (n *Node) now() time.Time { return time.Now() }

var _ io.Closer = (*Node)(nil)
