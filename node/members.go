package node

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/pheromone-run/pheromone/node/conductor"
	"github.com/pheromone-run/pheromone/node/peer"
	"github.com/pheromone-run/pheromone/raft/control"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// stalledShown bounds the stalled triggers that a shard lists.
const stalledShown = 100

// Cluster implements api.Status.
func (n *Node) Cluster(ctx context.Context) (wire.Cluster, error) {
	ready := n.Ready()
	c := wire.Cluster{Node: n.cfg.Name, Version: n.cfg.Version, Ready: ready == nil, StartedAt: n.started.UTC(), Nodes: []wire.Node{}, Shards: []wire.Shard{}}
	if ready != nil {
		c.Waiting = ready.Error()
	}
	if n.network == nil {
		c.Nodes = append(c.Nodes, wire.Node{Name: n.cfg.Name, API: n.URL(), Version: n.cfg.Version, Live: true, Voter: true})
	} else {
		c.ID = n.record.Cluster()
		if n.keeper.Load() == nil { // the control group is not open
			return c, nil
		}
		live, reached := n.live(ctx)
		if reached { // a name that nobody answers to would make what follows look certain
			c.ControlLeader, _ = n.control.Leader()
		}
		c.Nodes = n.nodes(live)
	}
	c.Shards = n.shards()
	counts := map[string]*wire.Node{}
	for i := range c.Nodes {
		counts[c.Nodes[i].Name] = &c.Nodes[i]
	}
	for _, s := range c.Shards {
		if node := counts[s.Leader]; node != nil {
			node.Leading++
		}
		for _, r := range s.Replicas {
			if node := counts[r.Node]; node != nil {
				node.Replicas++
			}
		}
	}
	return c, nil
}

// nodes describes the members, by name.
func (n *Node) nodes(live map[string]bool) []wire.Node {
	voters := map[string]bool{}
	for _, s := range n.control.Servers() {
		voters[s.Name] = s.Voter
	}
	nodes := []wire.Node{}
	for name, m := range n.control.State().Members {
		nodes = append(nodes, wire.Node{
			Name: name, Address: m.Address, API: m.API, Version: m.Version, Live: live[name], Voter: voters[name],
			Draining: m.Draining, Capacity: m.Capacity, JoinedAt: m.JoinedAt,
		})
	}
	slices.SortFunc(nodes, func(a, b wire.Node) int { return cmp.Compare(a.Name, b.Name) })
	return nodes
}

// shards describes the shards, in order.
func (n *Node) shards() []wire.Shard {
	placement := n.control.State().Placement
	shards := []wire.Shard{}
	for _, id := range sortedShards(placement.Shards) {
		s := wire.Shard{Shard: id, Replicas: []wire.Replica{}}
		for number, r := range placement.Shards[id].Replicas {
			s.Replicas = append(s.Replicas, wire.Replica{Replica: number, Node: r.Node, Joining: r.Joining})
		}
		slices.SortFunc(s.Replicas, func(a, b wire.Replica) int { return cmp.Compare(a.Replica, b.Replica) })
		if local := n.local(id); local != nil {
			_, pending, leading := local.leader.Status()
			status := local.replica.Status()
			s.Epoch, s.Applied, s.PendingInvocations = status.Epoch, status.Applied, pending
			stalled := local.leader.Stalled()
			s.Stalled = stalled[:min(len(stalled), stalledShown)]
			if leading || n.network != nil {
				s.Leader = n.leads(id)
			}
		} else {
			s.Leader = n.hints.get(id)
		}
		shards = append(shards, s)
	}
	addSlots(shards, placement.Slots)
	return shards
}

// addSlots tells which slots the shards own.
func addSlots(shards []wire.Shard, owners []spec.ShardID) {
	at := map[spec.ShardID]*wire.Shard{}
	for i := range shards {
		at[shards[i].Shard] = &shards[i]
	}
	for slot, id := range owners {
		s := at[id]
		if s == nil {
			continue
		}
		s.Slots++
		if last := len(s.Ranges) - 1; last >= 0 && s.Ranges[last].To == spec.Slot(slot)-1 {
			s.Ranges[last].To++
		} else {
			s.Ranges = append(s.Ranges, wire.SlotRange{From: spec.Slot(slot), To: spec.Slot(slot)})
		}
	}
}

const (
	methodLive = "cluster.live"
	// liveWithin is how lately the leader of the control group has heard of a node
	// that lives. It calls each one several times a second.
	liveWithin = 3 * time.Second
	// liveWait bounds how long a description of the cluster waits for the leader.
	liveWait = time.Second
)

// live tells which members live: what the leader of the control group says. If that
// is not reached it is false, and all that is known is that this node lives.
func (n *Node) live(ctx context.Context) (live map[string]bool, reached bool) {
	if n.control.IsLeader() {
		live, reached = n.heardOf(), true
	} else if leader, ok := n.control.Leader(); ok {
		ctx, cancel := context.WithTimeout(ctx, liveWait)
		defer cancel()
		_, err := n.call(ctx, leader, methodLive, nil, nil, &live)
		reached = err == nil
	}
	if !reached || live == nil {
		live = map[string]bool{}
	}
	live[n.cfg.Name] = true
	return live, reached
}

// heardOf tells on the leader of the control group which members live.
func (n *Node) heardOf() map[string]bool {
	live := map[string]bool{}
	for name := range n.control.State().Members {
		last, ok := n.control.LastContact(name)
		live[name] = ok && time.Since(last) < liveWithin
	}
	return live
}

func (n *Node) answerLive() {
	n.handle(methodLive, func(context.Context, *peer.Call) (peer.Answer, error) {
		if !n.control.IsLeader() {
			return peer.Answer{}, spec.Errorf(spec.CodeUnavailable, "node %s does not lead the control group", n.cfg.Name)
		}
		return peer.Answer{Result: n.heardOf()}, nil
	})
}

// errAlone refuses what only a cluster can do.
func errAlone() error {
	return spec.Errorf(spec.CodePrecondition, "this node is alone, not one of a cluster").
		WithHint("start a node with an empty --data folder and --join to found or join one")
}

// InitCluster implements api.Members.
func (n *Node) InitCluster(ctx context.Context, voters []string) error {
	if n.former == nil {
		return errAlone()
	}
	return n.former.Init(ctx, voters)
}

// JoinCluster implements api.Members.
func (n *Node) JoinCluster(ctx context.Context, address string) error {
	if n.former == nil {
		return errAlone()
	}
	if err := checkPeerAddress("address", address); err != nil {
		return spec.Errorf(spec.CodeInvalid, "%w", err).WithField("address")
	}
	return n.former.JoinAt(ctx, address)
}

// DrainNode implements api.Members.
func (n *Node) DrainNode(ctx context.Context, name string, drain bool) error {
	if n.former == nil {
		return errAlone()
	}
	_, err := n.control.Apply(ctx, &control.SetDraining{Name: name, Draining: drain})
	return err
}

// RemoveNode implements api.Members. The keeper of the control group's leader takes
// the node out of the group then.
func (n *Node) RemoveNode(ctx context.Context, name string, force bool) error {
	if n.former == nil {
		return errAlone()
	}
	members := slices.Collect(maps.Keys(n.control.State().Members))
	if len(members) == 1 && members[0] == name {
		return spec.Errorf(spec.CodePrecondition, "node %s is the only one of its cluster", name).
			WithHint("stop it and remove its data folder to be rid of the cluster")
	}
	if err := n.spareVote(ctx, name); err != nil && !force {
		return err
	}
	_, err := n.control.Apply(ctx, &control.RemoveMember{Name: name, Force: force})
	return err
}

// spareVote refuses to remove a node if the control group's voters that are left
// could not agree on anything: too many of them are away.
func (n *Node) spareVote(ctx context.Context, name string) error {
	live, _ := n.live(ctx)
	voters, there, votes := 0, 0, false
	away := ""
	for _, s := range n.control.Servers() {
		switch {
		case !s.Voter:
			continue
		case s.Name == name:
			votes = true
			continue
		case live[s.Name]:
			there++
		default:
			away = s.Name
		}
		voters++
	}
	if !votes || there > voters/2 {
		return nil
	}
	if voters == 0 {
		return spec.Errorf(spec.CodePrecondition, "node %s is the only one with a vote in the control group", name).
			WithHint("wait until another one has one, which takes some seconds once it is there")
	}
	return spec.Errorf(spec.CodePrecondition, "the vote of node %s is needed while node %s is away", name, away).
		WithHint("bring node " + away + " back, or remove that one first")
}

// Rebalance implements api.Members. The conductor ends the request when it is
// fulfilled.
func (n *Node) Rebalance(ctx context.Context) error {
	if n.former == nil {
		return errAlone()
	}
	_, err := n.control.Apply(ctx, &control.Set{Key: conductor.RebalanceKey, Value: n.now().UTC().Format(time.RFC3339Nano)})
	return err
}
