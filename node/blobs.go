package node

import (
	"context"
	"slices"

	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/node/blobs"
	"github.com/pheromone-run/pheromone/node/peer"
	"github.com/pheromone-run/pheromone/spec"
)

// answerBlobs has the node answer what others ask about the bytes of large objects.
func (n *Node) answerBlobs() {
	for _, method := range blobs.Methods {
		n.handle(method, func(ctx context.Context, c *peer.Call) (peer.Answer, error) { return n.blobs.Handle(ctx, c) })
	}
}

// startBlobs keeps the bytes of large objects on all replicas of their shards. A
// node that is alone has no use for it.
func (n *Node) startBlobs() {
	if n.network == nil {
		return
	}
	n.blobs = blobs.New(blobs.Config{
		Node: n.cfg.Name, DB: n.db, Call: n.call, Replicas: n.replicasElsewhere, Shards: n.replicated, Member: n.member, CaughtUp: n.caughtUp, Log: n.cfg.Log,
	})
	n.tasks.Go(func() { n.blobs.Run(n.ctx) })
}

// copies is what leaders spread large objects with.
func (n *Node) copies() leader.Copies {
	if n.blobs == nil {
		return nil
	}
	return n.blobs
}

// replicasElsewhere lists the other nodes that have a replica of a shard, in order.
func (n *Node) replicasElsewhere(id spec.ShardID) (voters, joining []string) {
	for _, r := range n.control.State().Placement.Shards[id].Replicas {
		switch {
		case r.Node == n.cfg.Name:
		case r.Joining:
			joining = append(joining, r.Node)
		default:
			voters = append(voters, r.Node)
		}
	}
	slices.Sort(voters)
	slices.Sort(joining)
	return voters, joining
}

// replicated lists the shards that have a replica here.
func (n *Node) replicated() (ids []spec.ShardID) {
	for _, l := range n.localShards() {
		ids = append(ids, l.id)
	}
	return ids
}

func (n *Node) member(name string) bool {
	_, ok := n.control.State().Members[name]
	return ok
}

func (n *Node) caughtUp(ctx context.Context, id spec.ShardID) error {
	l := n.local(id)
	if l == nil {
		return errNotHere(id, n.cfg.Name)
	}
	return l.replica.ReadIndex(ctx)
}
