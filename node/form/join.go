package form

import (
	"context"
	"fmt"

	"github.com/pheromone-run/pheromone/spec"
)

// JoinArgs asks a cluster to take a node in.
type JoinArgs struct {
	Node Node `json:"node"`
	// Passed says that the request was passed on already, by a node that took the
	// one asked for the leader.
	Passed bool `json:"passed,omitempty"`
}

// Joined is the answer.
type Joined struct {
	Cluster string `json:"cluster"`
}

// join has a cluster take this node in.
func (f *Former) join(ctx context.Context, members []view) (waiting string, err error) {
	for _, v := range members {
		var done Joined
		ctx, cancel := context.WithTimeout(ctx, joinWait)
		err := f.cfg.Ask(ctx, v.address, MethodJoin, JoinArgs{Node: f.self()}, &done)
		cancel()
		if err == nil {
			f.cfg.Log.Info("the node joined the cluster", "cluster", done.Cluster, "by", v.answer.Node.Name)
			return "", f.record.belong(done.Cluster, nil)
		}
		switch spec.CodeOf(err) {
		case spec.CodeConflict, spec.CodeInvalid, spec.CodePrecondition, spec.CodeUnsupported:
			return "", fmt.Errorf("cluster %s does not take this node: %w", v.answer.Cluster, err)
		}
		waiting = fmt.Sprintf("cluster %s can't take the node in just now: %v", v.answer.Cluster, err)
	}
	return waiting, nil
}
