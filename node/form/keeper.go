package form

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/pheromone-run/pheromone/raft/control"
	"github.com/pheromone-run/pheromone/spec"
)

// Keeper makes a node known to its cluster, and takes others in. Who of the members
// has a vote, and who is dropped, is the conductor's to decide.
type Keeper struct {
	former *Former
	group  *control.Group
	log    *slog.Logger
	member bool // this node was seen among the members
}

const (
	keepAgain  = time.Second // from one look at what is known to the next
	leaveAgain = 100 * time.Millisecond
	// keepWait bounds a step: it is tried again.
	keepWait = 10 * time.Second
	// leaveWait bounds how long a removed node stays for the others to agree without
	// it, which the conductor sees to.
	leaveWait = 30 * time.Second
	// joinWait bounds how long a node waits to be taken in; within it the control
	// group may elect a leader.
	joinWait = 10 * time.Second
)

// NewKeeper makes the Keeper of a node whose control group is open.
func NewKeeper(f *Former, group *control.Group) *Keeper {
	return &Keeper{former: f, group: group, log: f.cfg.Log}
}

// Run keeps what the cluster knows of this node right until ctx ends. Its error says
// that the node is no member any more.
func (k *Keeper) Run(ctx context.Context) error {
	for {
		changed, led := k.group.Changed(), k.group.LeaderChanged()
		if err := k.removed(ctx); err != nil {
			return err
		}
		err := k.step(ctx)
		switch {
		case ctx.Err() != nil:
		case spec.CodeOf(err) == spec.CodeGone:
			return k.errRemoved()
		case err != nil:
			k.log.Debug("the node is not known to its cluster yet", "error", err)
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

// removed tells whether this node saw its removal from the cluster.
func (k *Keeper) removed(ctx context.Context) error {
	state, self := k.group.State(), k.former.cfg.Self.Name
	m, ok := state.Members[self]
	if ok && m.Install == k.former.record.Identity().Install {
		k.member = true
	} else if k.member { // and not only one that reads what was before it joined
		k.leave(ctx)
		return k.errRemoved()
	}
	return nil
}

// places are the addresses at which other members may be.
func (k *Keeper) places() []string {
	places := k.former.addresses()[1:]
	add := func(name, address string) {
		if name != k.former.cfg.Self.Name && !slices.Contains(places, address) {
			places = append(places, address)
		}
	}
	for name, m := range k.group.State().Members {
		add(name, m.Address)
	}
	for _, s := range k.group.Servers() {
		add(s.Name, s.Address)
	}
	return places
}

// leave has another node lead the control group, if this one does, and waits until
// it is no server of it: without it the others may be too few to agree on that.
func (k *Keeper) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, leaveWait)
	defer cancel()
	for ctx.Err() == nil {
		if _, ok := k.server(k.former.cfg.Self.Name); !ok {
			return
		}
		if k.group.IsLeader() {
			if err := k.group.TransferLeadership(ctx); err != nil {
				k.log.Debug("the control group is not led by another node yet", "error", err)
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
	if k.group.IsLeader() {
		if err := k.found(ctx); err != nil {
			return err
		}
	}
	return k.announce(ctx)
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

// announce has the cluster know where this node is now, and in which version. One
// that was moved, or is no server of the control group yet, can't be found by the
// leader, and does not know it.
func (k *Keeper) announce(ctx context.Context) error {
	self := k.former.self()
	if _, led := k.group.Leader(); !led {
		return k.announceTo(ctx, self)
	}
	m, ok := k.group.State().Members[self.Name]
	if !ok || m.Install != self.Install ||
		m.Address == self.Address && m.API == self.API && m.Version == self.Version && m.Capacity == self.Capacity {
		return nil
	}
	_, err := k.Join(ctx, JoinArgs{Node: self, Member: true})
	return err
}

// announceTo asks the other members to tell the leader of this node.
func (k *Keeper) announceTo(ctx context.Context, self Node) error {
	var errs []error
	for _, address := range k.places() {
		ctx, cancel := context.WithTimeout(ctx, askWait)
		err := k.former.cfg.Ask(ctx, address, MethodJoin, JoinArgs{Node: self, Member: true}, &Joined{})
		cancel()
		if err == nil || spec.CodeOf(err) == spec.CodeGone {
			return err
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
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
	return k.admit(ctx, args)
}

// admit makes a node a member, on the leader.
func (k *Keeper) admit(ctx context.Context, args JoinArgs) (Joined, error) {
	n := args.Node
	if err := k.group.ReadBarrier(ctx); err != nil {
		return Joined{}, err
	}
	state := k.group.State()
	if len(state.Placement.Slots) == 0 {
		return Joined{}, spec.Errorf(spec.CodeUnavailable, "the cluster is being founded")
	}
	if m := state.Members[n.Name]; args.Member && m.Install != n.Install {
		return Joined{}, spec.Errorf(spec.CodeGone, "node %s is no member of the cluster any more", n.Name)
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
