package conductor

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/node/peer"
	"github.com/pheromone-run/pheromone/raft/shard"
	"github.com/pheromone-run/pheromone/spec"
)

// What the conductor asks of nodes.
const (
	methodStatus   = "node.status"
	methodAdd      = "replica.add"
	methodPromote  = "replica.promote"
	methodRemove   = "replica.remove"
	methodTransfer = "replica.transfer"
)

// Order is a change of a shard's raft group.
type Order struct {
	Shard   spec.ShardID `json:"shard"`
	Replica uint64       `json:"replica"`
	// Version is that of the members that the order rests on.
	Version uint64 `json:"version,omitempty"`
	Address string `json:"address,omitempty"` // of the replica that is added
}

// membersWait bounds how long the leader of a shard may take to be sure of it: less
// than the conductor waits for the node's answer.
const membersWait = 600 * time.Millisecond

// Handlers returns what other nodes may ask of this one, by method.
func (c *Conductor) Handlers() map[string]peer.Handler {
	handlers := map[string]peer.Handler{
		methodStatus: func(ctx context.Context, _ *peer.Call) (peer.Answer, error) {
			return peer.Answer{Result: c.status(ctx)}, nil
		},
	}
	for _, method := range []string{methodAdd, methodPromote, methodRemove, methodTransfer} {
		handlers[method] = func(ctx context.Context, call *peer.Call) (peer.Answer, error) {
			var o Order
			if err := call.Args(&o); err != nil {
				return peer.Answer{}, err
			}
			return peer.Answer{}, c.obey(ctx, method, o)
		}
	}
	return handlers
}

// status says where this node's replicas stand.
func (c *Conductor) status(ctx context.Context) Status {
	ctx, cancel := context.WithTimeout(ctx, membersWait)
	defer cancel()
	held := c.cfg.Replicas.Status()
	replicas := make([]*ReplicaStatus, len(held))
	var asking sync.WaitGroup
	for i, h := range held {
		asking.Go(func() { replicas[i] = c.replicaStatus(ctx, h) })
	}
	asking.Wait()
	status := Status{Replicas: []ReplicaStatus{}}
	for _, r := range replicas {
		if r != nil {
			status.Replicas = append(status.Replicas, *r)
		}
	}
	return status
}

// replicaStatus returns nil for a replica that does not run just now.
func (c *Conductor) replicaStatus(ctx context.Context, h Held) *ReplicaStatus {
	r := &ReplicaStatus{Shard: h.Shard, Replica: h.Replica, Lost: h.Lost}
	if h.Lost {
		return r
	}
	s, ok := c.cfg.Replicas.Shard(h.Shard)
	if !ok {
		return nil
	}
	now := s.Status()
	if now.Replica != h.Replica {
		return nil
	}
	r.Applied, r.RaftTerm = now.Applied, now.RaftTerm
	if now.Leader == now.Replica {
		r.Load = h.Load
		members, err := s.Members(ctx)
		if err != nil {
			c.cfg.Log.Debug("a shard's members are not known", "shard", uint64(h.Shard), "reason", err)
		} else {
			r.Members = &members
		}
	}
	// What it does not lack is worth knowing only of all that is acknowledged.
	r.Lacks = h.Moves && (s.ReadIndex(ctx) != nil || c.cfg.Replicas.Lacks(ctx, h.Shard))
	return r
}

// obey carries an order out, if this node leads the shard. What is so already is
// done.
func (c *Conductor) obey(ctx context.Context, method string, o Order) error {
	s, ok := c.cfg.Replicas.Shard(o.Shard)
	if !ok {
		return spec.Errorf(spec.CodeUnavailable, "node %s has no replica of shard %d that runs", c.cfg.Node, o.Shard)
	}
	if st := s.Status(); st.Leader != st.Replica && (method != methodTransfer || st.Leader != o.Replica) {
		return spec.Errorf(spec.CodeUnavailable, "node %s does not lead shard %d", c.cfg.Node, o.Shard)
	}
	members, err := s.Members(ctx)
	if err != nil {
		return spec.Errorf(spec.CodeUnavailable, "%w", err)
	}
	err = change(ctx, s, method, o, members)
	if errors.Is(err, shard.ErrMembersChanged) {
		return spec.Errorf(spec.CodePrecondition, "%w", err)
	}
	return err
}

func change(ctx context.Context, s *shard.Shard, method string, o Order, now shard.Members) error {
	voter, learner := slices.Contains(now.Voters, o.Replica), slices.Contains(now.Learners, o.Replica)
	at := s.At(o.Version)
	switch {
	case method == methodAdd && slices.Contains(now.Removed, o.Replica):
		return spec.Errorf(spec.CodePrecondition, "replica %d of shard %d was removed and can't come back", o.Replica, o.Shard)
	case method == methodAdd && !voter && !learner:
		return at.AddReplica(ctx, o.Replica, o.Address)
	case method == methodPromote && learner:
		return at.Promote(ctx, o.Replica)
	case (method == methodPromote || method == methodTransfer) && !voter:
		return spec.Errorf(spec.CodePrecondition, "replica %d is not in shard %d", o.Replica, o.Shard)
	case method == methodRemove && s.Status().Leader == o.Replica:
		return spec.Errorf(spec.CodePrecondition, "replica %d leads shard %d: its lead goes to another one first", o.Replica, o.Shard)
	case method == methodRemove && (voter || learner):
		return at.RemoveReplica(ctx, o.Replica)
	case method == methodTransfer:
		ctx, cancel := context.WithTimeout(ctx, transferWait)
		defer cancel()
		return s.TransferTo(ctx, o.Replica)
	}
	return nil
}
