package node

import (
	"context"
	"slices"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/exec/spread"
	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/node/peer"
	"github.com/pheromone-run/pheromone/spec"
)

// spreadExecs has other nodes run what this one's executors have no room for. A
// node that is alone keeps all to itself.
func (n *Node) spreadExecs() {
	if n.network == nil {
		return
	}
	n.spread = spread.New(spread.Config{
		Node: n.cfg.Name, Local: n.pool, Call: n.call, ErrNotSent: peer.ErrNotSent, Nodes: n.execNodes,
		Inputs: leader.Reader{DB: n.db}, Apps: execApps{n}, Artifact: n.artifacts.Get, Log: n.cfg.Log,
	})
}

// executors runs the attempts of the shards that are led here.
func (n *Node) executors() exec.Runtime {
	if n.spread != nil {
		return n.spread
	}
	return n.pool
}

// execNodes names the nodes that may run attempts of a shard: those with a replica,
// and the others. Drained ones get nothing more.
func (n *Node) execNodes(id spec.ShardID) (replicas, others []string) {
	state := n.control.State()
	for _, r := range state.Placement.Shards[id].Replicas {
		if m, ok := state.Members[r.Node]; ok && !m.Draining && !r.Joining {
			replicas = append(replicas, r.Node)
		}
	}
	for name, m := range state.Members {
		if !m.Draining && !slices.Contains(replicas, name) {
			others = append(others, name)
		}
	}
	return replicas, others
}

// execApps is what is deployed, as far as this node knows.
type execApps struct{ *Node }

func (a execApps) Changed() <-chan struct{} { return a.control.Changed() }

// answerExecs has the node answer others about attempts. They are not asked before
// all parts are started.
func (n *Node) answerExecs() {
	for _, method := range []string{spread.MethodRun, spread.MethodLoad, spread.MethodInputs} {
		n.handle(method, func(ctx context.Context, c *peer.Call) (peer.Answer, error) {
			result, body, err := n.spread.Handlers()[method](ctx, c.Args, c.Body)
			return peer.Answer{Result: result, Body: body}, err
		})
	}
}
