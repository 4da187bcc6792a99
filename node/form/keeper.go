package form

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/pheromone-run/pheromone/raft/control"
	"github.com/pheromone-run/pheromone/spec"
)

// Keeper keeps the members of a cluster in step, from a node that belongs to it.
type Keeper struct {
	former *Former
	group  *control.Group
	log    *slog.Logger
	led    time.Time // since when this node leads the group, zero if it does not
	member bool      // this node was seen among the members
	lost   time.Time // since when the group has no leader as far as is known, zero if it has one
}

const (
	keepAgain  = time.Second // from one look at the members to the next
	leaveAgain = 50 * time.Millisecond
	// keepWait bounds a step: it is tried again.
	keepWait = 10 * time.Second
	// joinWait bounds how long a node waits to be taken in; within it the control
	// group may elect a leader.
	joinWait = 10 * time.Second
	// settled is how long a node leads before it judges who is there.
	settled = 5 * time.Second
	// orphaned is how long a node is without a leader before it asks whether it is a
	// member any more.
	orphaned = 5 * time.Second
	// heard is how lately the leader heard from a server that gets a vote.
	heard = 2 * time.Second
)

// NewKeeper makes the Keeper of a node whose control group is open.
func NewKeeper(f *Former, group *control.Group) *Keeper {
	return &Keeper{former: f, group: group, log: f.cfg.Log}
}

// Run keeps the members in step until ctx ends. Its error says that this node is no
// member any more.
func (k *Keeper) Run(ctx context.Context) error {
	for {
		changed, led := k.group.Changed(), k.group.LeaderChanged()
		if err := k.removed(ctx); err != nil {
			return err
		}
		if err := k.step(ctx); err != nil && ctx.Err() == nil {
			k.log.Debug("the cluster's members are not in step yet", "error", err)
		}
		again := time.NewTimer(keepAgain)
		select {
		case <-changed:
		case <-led:
		case <-again.C:
		case <-ctx.Done():
		}
		again.Stop()
		if ctx.Err() != nil {
			return nil
		}
	}
}

// removed tells whether this node was removed from the cluster. One that is told of
// nothing any more asks.
func (k *Keeper) removed(ctx context.Context) error {
	state, self := k.group.State(), k.former.cfg.Self.Name
	m, ok := state.Members[self]
	if ok && m.Install == k.former.record.Identity().Install {
		k.member = true
	} else if k.member { // and not only one that reads what was before it joined
		k.leave(ctx)
		return k.errRemoved()
	}
	if _, led := k.group.Leader(); led {
		k.lost = time.Time{}
		return nil
	}
	if k.lost.IsZero() {
		k.lost = time.Now()
	}
	if time.Since(k.lost) < orphaned {
		return nil
	}
	k.lost = time.Now()
	addresses := k.former.addresses()
	for name, m := range state.Members {
		if name != self && !slices.Contains(addresses, m.Address) {
			addresses = append(addresses, m.Address)
		}
	}
	hello := k.former.hello()
	hello.Sure = true
	for _, v := range k.former.greet(ctx, addresses, hello) {
		if v.err == nil && v.answer.Cluster == hello.Cluster && (v.answer.Standing == StandingStranger || v.answer.Standing == StandingTaken) {
			return k.errRemoved()
		}
	}
	return nil
}

// leave has another node lead the control group, if this one does, and waits until
// it is no server of it: without it the others may be too few to agree on that.
func (k *Keeper) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, keepWait)
	defer cancel()
	for ctx.Err() == nil {
		if _, ok := k.server(k.former.cfg.Self.Name); !ok {
			return
		}
		if k.group.IsLeader() {
			if err := k.group.TransferLeadership(ctx); err != nil {
				k.log.Warn("the control group is not led by another node yet", "error", err)
			}
		}
		select {
		case <-time.After(leaveAgain):
		case <-ctx.Done():
		}
	}
}

func (k *Keeper) errRemoved() error {
	return spec.Errorf(spec.CodePrecondition, "node %s was removed from cluster %s", k.former.cfg.Self.Name, k.former.record.Cluster()).
		WithHint("to have it join again, start it with an empty data folder")
}

func (k *Keeper) step(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, keepWait)
	defer cancel()
	if !k.group.IsLeader() {
		k.led = time.Time{}
		return k.announce(ctx)
	}
	if k.led.IsZero() {
		k.led = time.Now()
	}
	if err := k.found(ctx); err != nil {
		return err
	}
	if err := k.announce(ctx); err != nil {
		return err
	}
	if err := k.servers(ctx); err != nil {
		return err
	}
	return k.votes(ctx)
}

// found makes the founders members and places the shards, once.
func (k *Keeper) found(ctx context.Context) error {
	founding := k.former.record.Identity().Founding
	if founding == nil || len(k.group.State().Placement.Slots) > 0 {
		return nil
	}
	if err := k.group.ReadBarrier(ctx); err != nil || len(k.group.State().Placement.Slots) > 0 {
		return err // an earlier leader has done it
	}
	if _, err := k.group.Apply(ctx, &control.SetCluster{ID: founding.Cluster}); err != nil {
		return err
	}
	for _, n := range founding.Nodes {
		if _, ok := k.group.State().Members[n.Name]; ok {
			continue
		}
		if _, err := k.group.Apply(ctx, putMember(n, k.now())); err != nil {
			return err
		}
	}
	_, err := k.group.Apply(ctx, &control.InitPlacement{Shards: founding.Shards, Nodes: names(founding.Nodes), Replicas: founding.Replicas})
	if err == nil {
		k.log.Info("the shards are placed", "shards", founding.Shards, "nodes", names(founding.Nodes))
	}
	return err
}

func (k *Keeper) now() time.Time { return k.former.cfg.Now().UTC().Truncate(time.Microsecond) }

func putMember(n Node, at time.Time) *control.PutMember {
	return &control.PutMember{Member: control.Member{
		Name: n.Name, Install: n.Install, Address: n.Address, API: n.API, Version: n.Version,
		Capacity: n.Capacity, JoinedAt: at,
	}}
}

// announce has the cluster know where this node is now, and in which version.
func (k *Keeper) announce(ctx context.Context) error {
	self := k.former.self()
	m, ok := k.group.State().Members[self.Name]
	if !ok || m.Install != self.Install ||
		m.Address == self.Address && m.API == self.API && m.Version == self.Version && m.Capacity == self.Capacity {
		return nil
	}
	_, err := k.Join(ctx, JoinArgs{Node: self})
	return err
}

// Join takes a node into the cluster, or what changed of a member. A node that does
// not lead the control group passes it on to the one that does.
func (k *Keeper) Join(ctx context.Context, args JoinArgs) (Joined, error) {
	leader, err := k.waitLeader(ctx)
	if err != nil {
		return Joined{}, err
	}
	if leader != k.former.cfg.Self.Name {
		if args.Passed {
			return Joined{}, spec.Errorf(spec.CodeUnavailable, "node %s leads the control group now", leader)
		}
		args.Passed = true
		address, ok := k.address(leader)
		if !ok {
			return Joined{}, spec.Errorf(spec.CodeUnavailable, "it is not known here where node %s is, which leads the control group", leader)
		}
		var done Joined
		err := k.former.cfg.Ask(ctx, address, MethodJoin, args, &done)
		return done, err
	}
	return k.admit(ctx, args.Node)
}

// admit makes a node a member, on the leader.
func (k *Keeper) admit(ctx context.Context, n Node) (Joined, error) {
	state := k.group.State()
	if len(state.Placement.Slots) == 0 {
		return Joined{}, spec.Errorf(spec.CodeUnavailable, "the cluster is being founded")
	}
	if m, ok := state.Members[n.Name]; n.Name != k.former.cfg.Self.Name && (!ok || m.Address != n.Address) {
		if err := is(k.former.see(ctx, []string{n.Address})[0], n); err != nil {
			return Joined{}, err
		}
	}
	result, err := k.group.Apply(ctx, putMember(n, k.now()))
	if err != nil {
		return Joined{}, err
	}
	if result.Changed {
		k.log.Info("a node is a member of the cluster", "node", n.Name, "address", n.Address, "version", n.Version)
	}
	return Joined{Cluster: state.Cluster}, k.serve(ctx, n.Name, n.Address)
}

// serve makes a member a server of the control group, without a vote if it has none.
func (k *Keeper) serve(ctx context.Context, name, address string) error {
	s, _ := k.server(name)
	return k.group.AddServer(ctx, name, address, s.Voter)
}

func (k *Keeper) server(name string) (control.Server, bool) {
	servers := k.group.Servers()
	i := slices.IndexFunc(servers, func(s control.Server) bool { return s.Name == name })
	if i < 0 {
		return control.Server{}, false
	}
	return servers[i], true
}

func (k *Keeper) waitLeader(ctx context.Context) (string, error) {
	for {
		changed := k.group.LeaderChanged()
		if leader, ok := k.group.Leader(); ok {
			return leader, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return "", spec.Errorf(spec.CodeUnavailable, "the control group has no leader: %w", ctx.Err())
		}
	}
}

// address returns where a member is, as far as is known here.
func (k *Keeper) address(name string) (string, bool) {
	if m, ok := k.group.State().Members[name]; ok {
		return m.Address, true
	}
	s, ok := k.server(name)
	return s.Address, ok
}

// servers keeps the control group's servers those of the members.
func (k *Keeper) servers(ctx context.Context) error {
	state := k.group.State()
	if len(state.Placement.Slots) == 0 {
		return nil
	}
	for name, m := range state.Members {
		if s, ok := k.server(name); !ok || s.Address != m.Address {
			if err := k.serve(ctx, name, m.Address); err != nil {
				return err
			}
		}
	}
	for _, s := range k.group.Servers() {
		if _, ok := state.Members[s.Name]; ok || s.Name == k.former.cfg.Self.Name { // which leaves by itself
			continue
		}
		if err := k.group.RemoveServer(ctx, s.Name); err != nil {
			return err
		}
		k.log.Info("a node is no server of the control group any more", "node", s.Name)
	}
	return nil
}

// votes gives votes to members until there are enough.
func (k *Keeper) votes(ctx context.Context) error {
	if time.Since(k.led) < settled {
		return nil
	}
	state, voters := k.group.State(), 0
	servers := k.group.Servers()
	for _, s := range servers {
		if s.Voter {
			voters++
		}
	}
	for _, s := range servers {
		if voters >= votersFor(len(state.Members)) {
			return nil
		}
		last, ok := k.group.LastContact(s.Name)
		if s.Voter || !ok || time.Since(last) > heard || state.Members[s.Name].Draining {
			continue
		}
		if err := k.group.AddServer(ctx, s.Name, s.Address, true); err != nil {
			return err
		}
		voters++
		k.log.Info("a node votes in the control group", "node", s.Name)
	}
	return nil
}
