package crashmatrix

import (
	"bytes"
	"fmt"
	"path/filepath"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// finish looks once more at what all cells came to, after all the crashes that
// followed, deletes it, and checks that nothing of it is left on the disk.
func (c *column) finish(cells []*cell) {
	for _, x := range cells {
		if x.retention == kept {
			o, err := collect(c.ctx, c.client, x.app, c.scenario)
			if err != nil {
				c.t.Fatalf("collect what became of %s in the end: %v", x.app, err)
			}
			c.compare(x, o)
		}
	}
	for _, x := range cells {
		c.deleteAll(x.app)
	}
	for _, x := range cells {
		c.awaitGone(x.app)
	}
	c.node.Stop()
	nodetest.Eventually(c.t, "executors end with their nodes", func() bool { return len(c.node.Executors()) == 0 })
	db, err := store.Open(filepath.Join(c.node.Data(), "store"), store.Options{Node: "n1"})
	if err != nil {
		c.t.Fatalf("open the store: %v", err)
	}
	defer func() { _ = db.Close() }()
	for _, x := range cells {
		for shard := spec.ShardID(1); shard <= shards; shard++ {
			for _, key := range leftOf(c, db, shard, x.app) {
				c.t.Errorf("after a crash at %q this is left of %s on shard %d: %q", x.point, x.app, shard, key)
			}
		}
	}
}

// shards is the most that a scenario's node has.
const shards = 3

// deleteAll deletes the sessions of an app and its key-value objects.
func (c *column) deleteAll(app spec.AppName) {
	for s, err := range c.client.Sessions(c.ctx, app, client.SessionsOptions{}) {
		if err == nil {
			err = c.client.Purge(c.ctx, app, s.Session)
		}
		if err != nil && spec.CodeOf(err) != spec.CodeNotFound {
			c.t.Fatalf("purge %s: %v", app, err)
		}
	}
	for o, err := range c.client.List(c.ctx, app, "in", client.ListOptions{}) {
		if err == nil {
			_, err = c.client.Delete(c.ctx, app, "in", o.Key, client.DeleteOptions{})
		}
		if err != nil {
			c.t.Fatalf("delete the objects of %s: %v", app, err)
		}
	}
}

// leftOf lists the keys of an app that has no session and no object any more. Its
// idempotency keys are kept for a day, and triggers of scope bucket keep their
// state, though not what they held.
func leftOf(c *column, db *store.DB, shard spec.ShardID, app spec.AppName) []string {
	var left []string
	requests := store.AppendRequestKey(nil, shard, app, "")[:5] // the shard and the table
	states := store.AppendTriggerStatesPrefix(nil, shard, app, "")
	for _, r := range store.AppRanges(shard, app) {
		err := db.Scan(r.Lower, r.Upper, func(key, _ []byte) bool {
			if !bytes.HasPrefix(key, requests) && !bytes.HasPrefix(key, states) {
				left = append(left, string(key))
			}
			return true
		})
		if err != nil {
			c.t.Fatalf("scan what is left of %s: %v", app, err)
		}
	}
	lower, upper := store.Bounds(store.AppendTimersPrefix(nil, shard))
	err := db.Scan(lower, upper, func(key, _ []byte) bool {
		_, timer, err := store.DecodeTimer(key)
		if err != nil || timer.App == app && timer.Kind != store.TimerRequest {
			left = append(left, fmt.Sprintf("timer %+v %v", timer, err))
		}
		return true
	})
	if err != nil {
		c.t.Fatalf("scan the timers of %s: %v", app, err)
	}
	lower, upper = store.Bounds(store.AppendOutboxPrefix(nil, shard))
	if err := db.Scan(lower, upper, func(key, _ []byte) bool { left = append(left, string(key)); return true }); err != nil {
		c.t.Fatalf("scan the outbox: %v", err)
	}
	return left
}
