package node

import (
	"context"
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/pheromone-run/pheromone/api"
	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// position is how far a watch over a bucket has come: a revision for each shard.
// Its text form is opaque to clients.
type position map[spec.ShardID]spec.Revision

func (p position) String() string {
	var parts []string
	for id, revision := range p {
		parts = append(parts, fmt.Sprintf("%d:%d", id, revision))
	}
	slices.Sort(parts)
	return base64.RawURLEncoding.EncodeToString([]byte(strings.Join(parts, ",")))
}

func badPosition(s string) error {
	return spec.Errorf(spec.CodeInvalid, "from must be the position of an event of this bucket's watch, it is %.100q", s).WithField("from")
}

func parseWatchPosition(s string) (position, error) {
	raw, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(raw) > 4096 {
		return nil, badPosition(s)
	}
	p := position{}
	for part := range strings.SplitSeq(string(raw), ",") {
		id, revision, ok := strings.Cut(part, ":")
		shard, err1 := strconv.ParseUint(id, 10, 32)
		rev, err2 := strconv.ParseUint(revision, 10, 64)
		if !ok || err1 != nil || err2 != nil {
			return nil, badPosition(s)
		}
		p[spec.ShardID(shard)] = spec.Revision(rev)
	}
	return p, nil
}

const watchPage = 256 // events read from a shard at once

// Watch implements api.Objects: one reader for each shard, merged into one stream.
// Events of one key come in the order of their revisions.
func (n *Node) Watch(ctx context.Context, w api.Watch, emit func(wire.WatchEvent) error) error {
	if err := n.knows(w.App, w.Bucket); err != nil {
		return err
	}
	at := position{}
	if w.From != "" {
		p, err := parseWatchPosition(w.From)
		if err != nil {
			return err
		}
		at = p
	}
	for id := range at {
		if n.byShard[id] == nil {
			return badPosition(w.From)
		}
	}
	for i, ld := range n.leaders {
		id := n.shards[i]
		if _, ok := at[id]; ok {
			continue
		}
		revision, err := ld.Revision(ctx)
		if err != nil {
			return err
		}
		at[id] = revision
	}
	if err := emit(wire.WatchEvent{Position: at.String()}); err != nil {
		return err
	}
	return n.follow(ctx, w, at, emit)
}

// page is what a shard's reader found; last is how far it has come.
type page struct {
	shard  spec.ShardID
	events []wire.WatchEvent
	last   spec.Revision
}

func (n *Node) follow(ctx context.Context, w api.Watch, at position, emit func(wire.WatchEvent) error) error {
	group, ctx := errgroup.WithContext(ctx)
	pages := make(chan page) // unbuffered: a slow client slows its readers
	for i, ld := range n.leaders {
		id := n.shards[i]
		from := at[id]
		group.Go(func() error { return readChanges(ctx, w, id, ld, from, pages) })
	}
	group.Go(func() error {
		for {
			select {
			case p := <-pages:
				for i, e := range p.events {
					at[p.shard] = e.Object.Revision
					if i == len(p.events)-1 {
						at[p.shard] = p.last
					}
					e.Position = at.String()
					if err := emit(e); err != nil {
						return err
					}
				}
				at[p.shard] = p.last
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	return group.Wait()
}

func readChanges(ctx context.Context, w api.Watch, id spec.ShardID, ld *leader.Leader, from spec.Revision, pages chan<- page) error {
	for {
		changed := ld.Changed()
		events, last, err := ld.Changes(w.App, w.Bucket, w.Prefix, from, watchPage)
		if spec.CodeOf(err) == spec.CodeGone {
			return spec.Errorf(spec.CodeGone, "the changes after this position are not kept any more: list the bucket and watch from now on (without from)")
		}
		if err != nil {
			return err
		}
		more := len(events) == watchPage
		if len(events) > 0 {
			select {
			case pages <- page{id, events, last}:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		from = last
		if more {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
