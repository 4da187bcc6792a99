package node

import (
	"context"

	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec"
)

// ShardOf implements leader.Router.
func (n *Node) ShardOf(slot spec.Slot) spec.ShardID {
	return n.control.State().Placement.ShardOf(slot)
}

// Deliver implements leader.Router.
func (n *Node) Deliver(ctx context.Context, to spec.ShardID, m leader.Mail) error {
	l := n.local(to)
	if l == nil {
		return errNotHere(to, n.cfg.Name)
	}
	return l.leader.TakeMail(ctx, m)
}
