package blobs

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// Repair is the store.Repair of the node: it asks the other replicas, in no order but
// those without a vote last, until one gives the bytes.
func (b *Blobs) Repair(ctx context.Context, shard spec.ShardID, app spec.AppName, blob store.Blob) (err error) {
	defer func() { b.ended(shard, &blob, err) }()
	if err := b.repairs.Acquire(ctx, 1); err != nil {
		return spec.Errorf(spec.CodeUnavailable, "too many blobs are repaired at once: %w", err)
	}
	defer b.repairs.Release(1)
	others, _ := b.cfg.Replicas(shard)
	rand.Shuffle(len(others), func(i, j int) { others[i], others[j] = others[j], others[i] })
	slices.SortStableFunc(others, func(x, y Replica) int { // those that join may be far behind
		switch {
		case x.Votes == y.Votes:
			return 0
		case x.Votes:
			return -1
		}
		return 1
	})
	var failed error
	for _, r := range others {
		if r.Node == "" {
			continue
		}
		err := b.fetch(ctx, r.Node, shard, app, blob)
		if err == nil {
			b.cfg.Log.Info("a blob that this replica lacked was copied", "shard", uint64(shard), "app", app, "bytes", blob.Size, "from", r.Node)
			return nil
		}
		failed = errors.Join(failed, err)
	}
	if failed == nil {
		failed = errors.New("there is no other replica")
	}
	return spec.Errorf(spec.CodeUnavailable, "the object's bytes are not on this replica of shard %d, and no other one could give them: %w", shard, failed).
		WithHint("they are on replicas that can't be reached just now: see which nodes are up, with pheromone cluster status")
}

func (b *Blobs) fetch(ctx context.Context, node string, shard spec.ShardID, app spec.AppName, blob store.Blob) error {
	ctx, cancel := context.WithTimeout(ctx, transferWait(&blob))
	defer cancel()
	body, err := b.cfg.Call(ctx, node, methodGet, named{shard, app, store.AppendBlob(nil, &blob)}, nil, nil)
	if err != nil {
		return err
	}
	if body == nil {
		return spec.Errorf(spec.CodeInternal, "node %s answered without the bytes", node)
	}
	return errors.Join(b.cfg.DB.RestoreBlob(ctx, shard, app, blob, body), body.Close())
}

const (
	// repairBytes is how many bytes are repaired in a second that nobody waits for.
	repairBytes = 64 << 20
	// repairMisses is after how many failures in a row a shard is left for the next look.
	repairMisses = 3
)

// repairAll brings what this node's replicas lack.
func (b *Blobs) repairAll(ctx context.Context) {
	shards := b.cfg.Shards()
	b.forget(shards)
	for _, shard := range shards {
		lacking, err := b.count(ctx, shard)
		if err == nil && lacking.Objects > 0 {
			err = b.repairShard(ctx, shard)
		}
		if err != nil && ctx.Err() == nil {
			b.cfg.Log.Error("blobs that are lacking could not be looked for", "shard", uint64(shard), "error", err)
		}
	}
}

func (b *Blobs) repairShard(ctx context.Context, shard spec.ShardID) error {
	misses := 0
	return b.cfg.DB.EachLacking(ctx, shard, func(l store.LackingBlob) bool {
		err := b.cfg.DB.RepairBlob(ctx, shard, l.App, l.Blob)
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			b.cfg.Log.Warn("a blob is lacking on this replica and could not be copied yet", "shard", uint64(shard), "app", l.App, "error", err)
			misses++
			return misses < repairMisses
		}
		misses = 0
		select {
		case <-time.After(time.Second * time.Duration(l.Blob.Size) / repairBytes):
		case <-ctx.Done():
		}
		return true
	})
}
