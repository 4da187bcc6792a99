package node

import (
	"context"
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pheromone-run/pheromone/api"
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

const (
	watchPage = 256 // events read from a shard at once
	// watchRefresh is how often a reader looks without having been woken. The change
	// log is cut by the changes of all buckets of the shard: the position of a bucket
	// in which nothing happens must follow them.
	watchRefresh = time.Second
	// positionStep is how many revisions a position falls behind before the client
	// is told, if there is no event that tells it.
	positionStep = 10_000
	// deletedWait is how long a watch whose app is deleted waits for the position at
	// which each shard has seen to that.
	deletedWait = 5 * time.Second
)

// Watch implements api.Objects: one reader for each shard, merged into one stream.
// Events of one key come in the order of their revisions.
func (n *Node) Watch(ctx context.Context, w api.Watch, emit func(wire.WatchEvent) error) error {
	if err := n.knows(ctx, w.App, w.Bucket); err != nil {
		return err
	}
	at, err := n.newestPosition(ctx)
	if err != nil {
		return err
	}
	if w.From != "" {
		if at, err = n.resume(ctx, w, at); err != nil {
			return err
		}
	}
	if err := emit(wire.WatchEvent{Position: at.String()}); err != nil {
		return err
	}
	return n.follow(ctx, w, at, emit)
}

// newestPosition is behind everything that was acknowledged before the call.
func (n *Node) newestPosition(ctx context.Context) (position, error) {
	at := position{}
	for _, id := range n.shardIDs() {
		revision, _, err := ask(ctx, n, &n.questions.revision, id, nothing{}, nil)
		if err != nil {
			return nil, err
		}
		at[id] = revision
	}
	return at, nil
}

// resume returns the position that a watch asks for, for shards that it does not
// name the newest one. One that can't be gone on from is refused here, before the
// stream begins.
func (n *Node) resume(ctx context.Context, w api.Watch, newest position) (position, error) {
	from, err := parseWatchPosition(w.From)
	if err != nil {
		return nil, err
	}
	at := maps.Clone(newest)
	for id, revision := range from {
		if _, ok := newest[id]; !ok {
			return nil, badPosition(w.From)
		}
		if revision > newest[id] { // as after an older state was restored
			return nil, gone(newest)
		}
		since, _, err := ask(ctx, n, &n.questions.changes, id, changesArgs{App: w.App, Bucket: w.Bucket, After: revision, Limit: 1}, nil)
		if since.Deleted {
			return nil, goneWithApp(w.App, newest)
		}
		if spec.CodeOf(err) == spec.CodeGone {
			return nil, gone(newest)
		}
		if err != nil {
			return nil, err
		}
		at[id] = revision
	}
	return at, nil
}

// gone tells a watcher that it has missed changes. It goes on without a gap if it
// lists after it was given the new position, and watches from there.
func gone(newest position) error {
	return spec.Errorf(spec.CodeGone, "the changes after this position are not kept any more: list the bucket, then watch from the position in the hint").
		WithHint(newest.String())
}

// goneWithApp is gone for the reason that the app was deleted.
func goneWithApp(app spec.AppName, newest position) error {
	return spec.Errorf(spec.CodeGone, "the app was deleted: if %q is there again, list the bucket, then watch from the position in the hint", app).
		WithHint(newest.String())
}

// page is what a shard's reader found; last is how far it has come.
type page struct {
	shard   spec.ShardID
	events  []wire.WatchEvent
	last    spec.Revision
	deleted bool // the app was deleted: the reader's last page
}

func (n *Node) follow(ctx context.Context, w api.Watch, at position, emit func(wire.WatchEvent) error) error {
	group, ctx := errgroup.WithContext(ctx)
	pages := make(chan page) // unbuffered: a slow client slows its readers
	for id, from := range at {
		group.Go(func() error { return n.readChanges(ctx, w, id, from, pages) })
	}
	group.Go(func() error {
		for {
			select {
			case p := <-pages:
				if p.deleted {
					return n.awaitDeletion(ctx, w.App, at, &p, pages)
				}
				if err := p.emit(at, emit); err != nil {
					return err
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	return group.Wait()
}

// awaitDeletion ends a watch whose app was deleted, as the first shard says. The
// position to go on from is behind the deletion on each shard, or a watcher that
// goes on from it is told of the same deletion once more.
func (n *Node) awaitDeletion(ctx context.Context, app spec.AppName, at position, first *page, pages <-chan page) error {
	at[first.shard] = first.last
	patience := time.NewTimer(deletedWait)
	defer patience.Stop()
	for left := len(at) - 1; left > 0; {
		select {
		case p := <-pages:
			at[p.shard] = p.last
			if p.deleted {
				left--
			}
		case <-patience.C:
			left = 0
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return goneWithApp(app, at)
}

// emit sends the page's events, each with the position behind it, and moves the
// position on.
func (p *page) emit(at position, emit func(wire.WatchEvent) error) error {
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
	if len(p.events) > 0 {
		return nil
	}
	at[p.shard] = p.last
	return emit(wire.WatchEvent{Position: at.String()})
}

func (n *Node) readChanges(ctx context.Context, w api.Watch, id spec.ShardID, from spec.Revision, pages chan<- page) error {
	told := from
	for {
		args := changesArgs{App: w.App, Bucket: w.Bucket, Prefix: []byte(w.Prefix), After: from, Limit: watchPage, Wait: watchRefresh}
		found, _, err := ask(ctx, n, &n.questions.changes, id, args, nil)
		events, last := found.Events, found.Last
		if found.Deleted {
			select {
			case pages <- page{shard: id, last: last, deleted: true}:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if spec.CodeOf(err) == spec.CodeGone {
			newest, failed := n.newestPosition(ctx)
			if failed != nil {
				return failed
			}
			return gone(newest)
		}
		if err != nil {
			return err
		}
		from = last
		if len(events) > 0 || last >= told+positionStep {
			select {
			case pages <- page{shard: id, events: events, last: last}:
				told = last
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}
