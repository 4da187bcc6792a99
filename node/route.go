package node

import "github.com/pheromone-run/pheromone/spec"

// ShardOf implements leader.Router.
func (n *Node) ShardOf(slot spec.Slot) spec.ShardID {
	return n.control.State().Placement.ShardOf(slot)
}
