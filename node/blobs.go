package node

import (
	"cmp"
	"context"
	"slices"

	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/node/blobs"
	"github.com/pheromone-run/pheromone/node/peer"
	"github.com/pheromone-run/pheromone/raft/control"
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

// replicasElsewhere lists the other replicas of a shard, in order: those that are
// placed, and those that vote though the placement here does not have them. votes
// tells whether the one here does.
func (n *Node) replicasElsewhere(id spec.ShardID) (others []blobs.Replica, votes bool) {
	placed := n.control.State().Placement.Shards[id].Replicas
	l := n.local(id)
	if l == nil { // of a shard that has just gone from here only the placement is known
		return replicasOf(placed, n.cfg.Name, 0, nil), false
	}
	voters := l.replica.Voters()
	return replicasOf(placed, n.cfg.Name, l.number, voters), slices.Contains(voters, l.number)
}

func replicasOf(placed map[uint64]control.Replica, here string, number uint64, voters []uint64) (others []blobs.Replica) {
	for _, voter := range voters {
		if _, ok := placed[voter]; !ok && voter != number {
			others = append(others, blobs.Replica{Number: voter, Votes: true})
		}
	}
	for n, r := range placed {
		if r.Node != here {
			others = append(others, blobs.Replica{Number: n, Node: r.Node, Votes: slices.Contains(voters, n)})
		}
	}
	slices.SortFunc(others, func(x, y blobs.Replica) int { return cmp.Compare(x.Number, y.Number) })
	return others
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
