package form

import (
	"context"
	"fmt"

	"github.com/pheromone-run/pheromone/spec"
)

// JoinArgs asks a cluster to take a node in.
type JoinArgs struct {
	Node Node `json:"node"`
	// Member says that the node knows itself as a member, and tells what changed.
	Member bool `json:"member,omitempty"`
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

// joinAt carries out a user's request to join the cluster of the node at an address.
func (f *Former) joinAt(ctx context.Context, address string) error {
	views := f.see(ctx, []string{address})
	s, v := f.sort(views), views[0]
	if err := f.obstacle(s); err != nil {
		return err
	}
	switch {
	case v.err != nil:
		return spec.Errorf(spec.CodeUnavailable, "no node is reached at %s: %w", address, v.err).
			WithHint("name the address where the other node listens for nodes, its --peer-listen")
	case len(s.members) == 0:
		return spec.Errorf(spec.CodePrecondition, "node %s at %s belongs to no cluster itself", v.answer.Node.Name, address).
			WithHint("`pheromone cluster init` there founds one")
	case v.answer.Standing == standingMember:
		return f.belong(v)
	}
	waiting, err := f.join(ctx, s.members)
	if err == nil && waiting != "" {
		err = spec.Errorf(spec.CodeUnavailable, "%s", waiting)
	}
	return err
}

// belong takes over the cluster of a node that knows this one.
func (f *Former) belong(v view) error {
	f.cfg.Log.Info("the node belongs to a cluster already", "cluster", v.answer.Cluster, "says", v.answer.Node.Name)
	return f.record.belong(v.answer.Cluster, v.answer.Founding)
}

// Verify looks, on a node that belongs to a cluster, whether those at the addresses
// it was given are of the same one: data and addresses may have been mixed up. None
// needs to be there.
func (f *Former) Verify(ctx context.Context) error {
	var against error
	for _, v := range f.see(ctx, f.addresses()) {
		switch {
		case v.err == nil && v.answer.Standing == standingTaken:
			return f.memberObstacle(v, v)
		case v.err == nil && v.answer.Cluster != "":
			if err := f.clockObstacle(v); err != nil {
				f.cfg.Log.Error("the node goes on all the same", "error", err)
			}
			return nil
		case against == nil:
			against = refused(v)
		}
	}
	return against
}
