package node

import (
	"context"
	"strconv"

	"github.com/pheromone-run/pheromone/node/conductor"
	"github.com/pheromone-run/pheromone/raft/shard"
	"github.com/pheromone-run/pheromone/spec"
)

// prepareConductor has the node answer the conductor of its cluster, and be able to
// be it.
func (n *Node) prepareConductor() error {
	var err error
	n.conductor, err = conductor.New(conductor.Config{
		Node: n.cfg.Name, Replicas: held{n}, Log: n.cfg.Log,
		Settings: conductor.Settings{Replicas: n.cfg.Replicas, RebuildAfter: n.cfg.RebuildAfter},
		Founded: func() int {
			if f := n.record.Identity().Founding; f != nil {
				return f.Replicas
			}
			return 0
		},
		Call: func(ctx context.Context, node, method string, args, result any) error {
			_, err := n.call(ctx, node, method, args, nil, result)
			return err
		},
	})
	if err != nil {
		return err
	}
	for method, h := range n.conductor.Handlers() {
		n.handle(method, h)
	}
	return nil
}

// held tells the conductor of the replicas on this node.
type held struct{ *Node }

// Status implements conductor.Replicas.
func (n held) Status() []conductor.Held {
	var all []conductor.Held
	state := n.control.State()
	wanted, _ := strconv.Atoi(state.Settings[conductor.ReplicasKey])
	for id, placed := range state.Placement.Shards {
		number, here := replicaOn(placed, n.cfg.Name)
		if !here {
			continue
		}
		h := conductor.Held{Shard: id, Replica: number, Lost: n.locals.isLost(id, number)}
		h.Moves = len(placed.Replicas) > wanted
		for _, r := range placed.Replicas {
			h.Moves = h.Moves || r.Joining || state.Members[r.Node].Draining
		}
		if l := n.local(id); l != nil {
			_, pending, _ := l.leader.Status()
			h.Load = float64(pending)
		}
		all = append(all, h)
	}
	return all
}

// Lacks implements conductor.Replicas. What is lacking is looked for at once, since
// somebody waits for it.
func (n held) Lacks(ctx context.Context, id spec.ShardID) bool {
	if n.blobs == nil || !n.blobs.Lacks(ctx, id) {
		return false
	}
	n.blobs.Look()
	return true
}

// Shard implements conductor.Replicas.
func (n held) Shard(id spec.ShardID) (*shard.Shard, bool) {
	l := n.local(id)
	if l == nil {
		return nil, false
	}
	return l.replica, true
}
