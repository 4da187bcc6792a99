package conductor

import (
	"context"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/raft/control"
	"github.com/pheromone-run/pheromone/spec"
)

// carryOut does what was planned, all of it at once, and tells whether anything
// was done. What fails is planned again, after a rest.
func (c *Conductor) carryOut(ctx context.Context, m *memory, state *control.State, actions []Action) bool {
	errs := make([]error, len(actions))
	var working sync.WaitGroup
	for i, a := range actions {
		working.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, carryWait)
			defer cancel()
			errs[i] = c.do(ctx, state, a)
		})
	}
	working.Wait()
	done := false
	for i, a := range actions {
		switch {
		case errs[i] == nil:
			c.cfg.Log.Info("conducted: "+string(a.Kind), a.attrs()...)
			m.did(a, time.Now())
			done = true
		case ctx.Err() == nil:
			c.cfg.Log.Warn("not conducted, it is tried again: "+string(a.Kind), append(a.attrs(), "reason", errs[i])...)
			m.failed(a, time.Now())
		}
	}
	return done
}

func (a Action) attrs() []any {
	var attrs []any
	if a.Shard != 0 {
		attrs = append(attrs, "shard", uint64(a.Shard))
	}
	if a.Replica != 0 {
		attrs = append(attrs, "replica", a.Replica)
	}
	if a.Node != "" {
		attrs = append(attrs, "node", a.Node)
	}
	return attrs
}

func (m *memory) did(a Action, now time.Time) {
	delete(m.rests, a.Shard)
	if a.Kind == TransferLead {
		m.moved[a.Shard], m.movedAny = now, now
	}
}

func (m *memory) failed(a Action, now time.Time) {
	m.rests[a.Shard] = min(max(restFirst, 2*m.rests[a.Shard]), restMost)
	m.resting[a.Shard] = now.Add(m.rests[a.Shard])
}

// do carries out one action.
func (c *Conductor) do(ctx context.Context, state *control.State, a Action) error {
	switch a.Kind {
	case AddReplica:
		return c.apply(ctx, &control.AddReplica{Shard: a.Shard, Node: a.Node})
	case MarkJoined:
		return c.apply(ctx, &control.ReplicaJoined{Shard: a.Shard, Replica: a.Replica})
	case ForgetReplica:
		return c.apply(ctx, &control.RemoveReplica{Shard: a.Shard, Replica: a.Replica})
	case AddLearner:
		return c.order(ctx, a, methodAdd, state.Members[a.Node].Address)
	case Promote:
		if err := c.order(ctx, a, methodPromote, ""); err != nil {
			return err
		}
		// At once; if that is lost, the next plan has it.
		return c.apply(ctx, &control.ReplicaJoined{Shard: a.Shard, Replica: a.Replica})
	case RemoveReplica:
		return c.order(ctx, a, methodRemove, "")
	case TransferLead:
		return c.order(ctx, a, methodTransfer, "")
	case EndRebalance:
		return c.apply(ctx, &control.Set{Key: RebalanceKey})
	case HandOver:
		return c.control.TransferLeadership(ctx)
	case RemoveServer:
		return c.control.RemoveServer(ctx, a.Node)
	}
	return c.server(ctx, state, a)
}

// server makes a member a server of the control group, or changes its vote.
func (c *Conductor) server(ctx context.Context, state *control.State, a Action) error {
	voter := a.Kind == PromoteVoter
	address := state.Members[a.Node].Address
	for _, s := range c.control.Servers() {
		if s.Name != a.Node {
			continue
		}
		if a.Kind == AddServer {
			voter = s.Voter
		}
		if address == "" {
			address = s.Address
		}
	}
	return c.control.AddServer(ctx, a.Node, address, voter)
}

func (c *Conductor) apply(ctx context.Context, command control.Command) error {
	_, err := c.control.Apply(ctx, command)
	return err
}

// order has the node that leads a shard change the shard's raft group.
func (c *Conductor) order(ctx context.Context, a Action, method, address string) error {
	o := Order{Shard: a.Shard, Replica: a.Replica, Version: a.Version, Address: address}
	switch a.Leader {
	case "":
		return spec.Errorf(spec.CodeUnavailable, "nobody is known to lead shard %d", a.Shard)
	case c.cfg.Node:
		return c.obey(ctx, method, o)
	}
	return c.cfg.Call(ctx, a.Leader, method, o, nil)
}
