package control

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pheromone-run/pheromone/spec"
)

// Server is a member of the raft group.
type Server struct {
	Name    string
	Address string
	Voter   bool
}

// Servers lists the group's members as this node knows them, by name.
func (g *Group) Servers() []Server {
	var servers []Server
	for _, s := range g.raft.GetConfiguration().Configuration().Servers {
		servers = append(servers, Server{string(s.ID), string(s.Address), s.Suffrage == raft.Voter})
	}
	slices.SortFunc(servers, func(a, b Server) int { return strings.Compare(a.Name, b.Name) })
	return servers
}

func (g *Group) server(name string) (Server, bool) {
	servers := g.Servers()
	i := slices.IndexFunc(servers, func(s Server) bool { return s.Name == name })
	if i < 0 {
		return Server{}, false
	}
	return servers[i], true
}

// AddServer makes a node a member of the group, with a vote or without, or
// changes its address or its vote. Only the leader does it; others answer
// unavailable and name it. A node that is far behind holds up changes when it
// gets a vote: let it join without one first.
func (g *Group) AddServer(ctx context.Context, name, address string, voter bool) error {
	old, known, err := g.checkServer(name, address)
	want := Server{name, address, voter}
	switch {
	case err != nil || known && old == want:
		return err
	case !g.IsLeader():
		return g.notLeader()
	case known && old.Voter && !voter && name == g.cfg.Node:
		return errLeads(name)
	}
	id, at := raft.ServerID(name), raft.ServerAddress(address)
	add := func(what string, do func(raft.ServerID, raft.ServerAddress, uint64, time.Duration) raft.IndexFuture) error {
		return g.configure(ctx, what, func() error {
			begin := func() raft.IndexFuture { return do(id, at, 0, acceptTimeout) }
			if known {
				return g.move(id, begin)
			}
			return begin().Error()
		})
	}
	if voter {
		return add("add voter "+name, g.raft.AddVoter)
	}
	if !known || !old.Voter || old.Address != address {
		// Of a voter it changes the address alone.
		err := add("add server "+name, g.raft.AddNonvoter)
		if err != nil || !known || !old.Voter {
			return err
		}
	}
	return g.configure(ctx, "take the vote of "+name, func() error { return g.raft.DemoteVoter(id, 0, acceptTimeout).Error() })
}

// checkServer refuses a server that can't be one beside the others.
func (g *Group) checkServer(name, address string) (old Server, known bool, err error) {
	switch {
	case g.cfg.sole():
		return Server{}, false, spec.Errorf(spec.CodePrecondition, "node %s has no address for other nodes, and can't have any beside it", g.cfg.Node)
	case name == "" || len(name) > spec.MaxNameBytes:
		return Server{}, false, spec.Errorf(spec.CodeInvalid, "a node's name has 1 to %d bytes, not %d", spec.MaxNameBytes, len(name)).WithField("name")
	}
	if err := checkAddress(address); err != nil {
		return Server{}, false, err
	}
	for _, s := range g.Servers() {
		switch {
		case s.Name == name:
			old, known = s, true
		case s.Address == address:
			return Server{}, false, spec.Errorf(spec.CodeConflict, "node %s is at %s already", s.Name, address).WithField("address")
		}
	}
	return old, known, nil
}

// RemoveServer makes a node a member no more, if it is one. Only another node
// that leads does it.
func (g *Group) RemoveServer(ctx context.Context, name string) error {
	switch {
	case !g.IsLeader():
		return g.notLeader()
	case name == g.cfg.Node:
		return errLeads(name)
	}
	if _, ok := g.server(name); !ok {
		return nil
	}
	return g.configure(ctx, "remove server "+name, func() error { return g.raft.RemoveServer(raft.ServerID(name), 0, acceptTimeout).Error() })
}

func errLeads(name string) error {
	return spec.Errorf(spec.CodePrecondition, "node %s leads the control group", name).
		WithHint("hand the leadership over first, then ask the new leader")
}

// configure makes a change of the group's members.
func (g *Group) configure(ctx context.Context, what string, change func() error) error {
	return g.settle(Result{}, await(ctx, what, change), false).err
}

// places lists where a server may be, likeliest first: its member record tells of
// a move before raft's configuration does, and that of more servers than were
// there at first.
func (g *Group) places(name string) []string {
	candidates := []string{g.State().Members[name].Address}
	select {
	case <-g.started:
		s, _ := g.server(name)
		candidates = append(candidates, s.Address)
	default: // raft is quicker than its constructor
	}
	candidates = append(candidates, g.cfg.Voters[name])
	var places []string
	for _, address := range candidates {
		if checkAddress(address) == nil && !slices.Contains(places, address) {
			places = append(places, address)
		}
	}
	return places
}
