package node

import (
	"context"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// ShardHash implements api.Status: the hash of what this node's replica of a shard
// holds. A shard is read from end to end for it, so one hash is made at a time.
func (n *Node) ShardHash(ctx context.Context, id spec.ShardID) (wire.ShardHash, error) {
	placed, ok := n.control.State().Placement.Shards[id]
	if !ok {
		return wire.ShardHash{}, spec.Errorf(spec.CodeNotFound, "there is no shard %d", id)
	}
	number, here := replicaOn(placed, n.cfg.Name)
	if !here {
		return wire.ShardHash{}, spec.Errorf(spec.CodeNotFound, "node %q holds no replica of shard %d", n.cfg.Name, id).
			WithHint("ask a node that holds one: GET /v1/cluster/shards lists them")
	}
	select {
	case n.hashing <- struct{}{}:
		defer func() { <-n.hashing }()
	case <-ctx.Done():
		return wire.ShardHash{}, spec.Errorf(spec.CodeTimeout, "another hash is being made: %w", ctx.Err())
	}
	s := n.db.Snapshot()
	defer s.Close()
	// A replica is dropped only once the placement says so.
	if now, here := replicaOn(n.control.State().Placement.Shards[id], n.cfg.Name); !here || now != number {
		return wire.ShardHash{}, spec.Errorf(spec.CodeUnavailable, "the replica of shard %d is just taken off node %q", id, n.cfg.Name)
	}
	hash, meta, err := s.HashRange(id)
	if err != nil {
		return wire.ShardHash{}, err
	}
	blobs, lacking, err := s.HashBlobs(id)
	if err != nil {
		return wire.ShardHash{}, err
	}
	return wire.ShardHash{
		Shard: id, Node: n.cfg.Name, Replica: number, Applied: meta.Applied, Hash: hash.String(), Blobs: blobs.String(), Lacking: lacking,
	}, nil
}
