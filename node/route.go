package node

import (
	"context"
	"slices"

	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/raft/control"
	"github.com/pheromone-run/pheromone/spec"
)

// leaderOf returns the leader of the shard that owns a slot.
func (n *Node) leaderOf(slot spec.Slot) *leader.Leader { return n.byShard[n.ShardOf(slot)] }

// ShardOf implements leader.Router.
func (n *Node) ShardOf(slot spec.Slot) spec.ShardID {
	return n.control.State().Placement.ShardOf(slot)
}

// Deliver implements leader.Router: all shards are on this node.
func (n *Node) Deliver(ctx context.Context, to spec.ShardID, m leader.Mail) error {
	l, ok := n.byShard[to]
	if !ok {
		return spec.Errorf(spec.CodeUnavailable, "shard %d is not on this node", to)
	}
	return l.TakeMail(ctx, m)
}

func sortedShards(placed map[spec.ShardID]control.Shard) []spec.ShardID {
	ids := make([]spec.ShardID, 0, len(placed))
	for id := range placed {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}
