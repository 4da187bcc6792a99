package blobs

import (
	"context"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

const (
	sweepWait   = 30 * time.Second
	askedAtOnce = 1000 // blobs in one question
)

// Sweep removes copies that nothing refers to, in the shards that have a replica
// here. The package's text says why it may.
func (b *Blobs) Sweep(ctx context.Context) {
	for _, shard := range b.cfg.Shards() {
		if ctx.Err() != nil {
			return
		}
		if err := b.sweep(ctx, shard); err != nil && ctx.Err() == nil {
			b.cfg.Log.Warn("staged blobs were not swept and will be later", "shard", uint64(shard), "error", err)
		}
	}
}

func (b *Blobs) sweep(ctx context.Context, shard spec.ShardID) error {
	ctx, cancel := context.WithTimeout(ctx, sweepWait)
	defer cancel()
	if err := b.cfg.DB.SweepLoose(shard); err != nil {
		return err
	}
	aged, err := b.cfg.DB.StagedBefore(shard, b.cfg.Now().Add(-keepStaged))
	if err != nil {
		return err
	}
	byNode := map[string][]store.StagedBlob{}
	for _, s := range aged {
		byNode[s.Node] = append(byNode[s.Node], s)
	}
	var decided []store.StagedBlob
	for node, list := range byNode {
		decided = append(decided, b.decided(ctx, shard, node, list)...)
	}
	if len(decided) == 0 {
		return nil
	}
	if err := b.cfg.CaughtUp(ctx, shard); err != nil {
		return err
	}
	return b.cfg.DB.DropStaged(shard, decided)
}

// decided returns those of the blobs that a node has staged for which no entry
// comes any more that is not committed.
func (b *Blobs) decided(ctx context.Context, shard spec.ShardID, node string, staged []store.StagedBlob) (decided []store.StagedBlob) {
	if node == "" || node == b.cfg.Node || !b.cfg.Member(node) {
		return staged
	}
	for len(staged) > 0 {
		page := staged[:min(len(staged), askedAtOnce)]
		staged = staged[len(page):]
		args := namesArgs{Shard: shard}
		for _, s := range page {
			args.Names = append(args.Names, s.BlobName)
		}
		var open stagedAnswer
		if _, err := b.cfg.Call(ctx, node, methodStaged, args, nil, &open); err != nil {
			b.cfg.Log.Debug("a node was not asked what it has staged", "shard", uint64(shard), "node", node, "error", err)
			return decided
		}
		undecided := map[store.BlobName]bool{}
		for _, name := range open.Staged {
			undecided[name] = true
		}
		for _, s := range page {
			if !undecided[s.BlobName] {
				decided = append(decided, s)
			}
		}
	}
	return decided
}
