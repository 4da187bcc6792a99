package control

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pheromone-run/pheromone/spec"
)

// Member is a node of the cluster.
type Member struct {
	Name string `json:"name"`
	// Install is made once for a data folder: it tells a node that comes back from
	// another one of the same name.
	Install string `json:"install"`
	Address string `json:"address"` // host:port that other nodes reach it at
	API     string `json:"api"`     // URL of its API
	Version string `json:"version"`
	// Capacity is how much it can run compared to the others.
	Capacity int       `json:"capacity"`
	JoinedAt time.Time `json:"joined_at"`
	// Draining says that it takes no more replicas and is to be rid of those it has.
	Draining bool `json:"draining,omitempty"`
}

// Bounds of what is told of a member.
const (
	maxMembers     = 1024
	maxIDBytes     = 128
	maxURLBytes    = 1024
	maxCapacity    = 1_000_000
	maxShardsNamed = 8 // in a message
)

func noMember(name string) *spec.Error {
	return spec.Errorf(spec.CodeNotFound, "no node %.128q is a member of the cluster", name)
}

// Names of members in order.
func (s *State) memberNames() []string {
	names := make([]string, 0, len(s.Members))
	for name := range s.Members {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// ShardsOn lists the shards that have a replica on a node, in order.
func (s *State) ShardsOn(node string) []spec.ShardID {
	var ids []spec.ShardID
	for id, shard := range s.Placement.Shards {
		if _, ok := shard.on(node); ok {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func (s *State) setCluster(c *SetCluster, r *Result) error {
	if c.ID == "" || len(c.ID) > maxIDBytes {
		return spec.Errorf(spec.CodeInvalid, "a cluster's id has 1 to %d bytes, not %d", maxIDBytes, len(c.ID)).WithField("id")
	}
	switch s.Cluster {
	case c.ID:
		return nil
	case "":
		s.Cluster, r.Changed = c.ID, true
		return nil
	}
	return spec.Errorf(spec.CodeConflict, "the cluster is %s, for ever", s.Cluster).WithField("id")
}

func (s *State) putMember(c *PutMember, r *Result) error {
	m := c.Member
	if err := m.check(); err != nil {
		return err
	}
	old, ok := s.Members[m.Name]
	switch {
	case ok && old.Install != m.Install && old.Address != m.Address:
		return spec.Errorf(spec.CodeConflict, "another node is named %s, at %s: each node needs a name of its own", m.Name, old.Address).
			WithField("name").WithHint("choose another name for this node; if the other one is gone for good, remove it first")
	case ok && old.Install != m.Install:
		return spec.Errorf(spec.CodeConflict, "node %s comes with another data folder than it had: what it held is lost to it", m.Name).
			WithField("install").WithHint("start it with the folder it had, or remove it from the cluster and let it join again")
	case !ok && len(s.Members) >= maxMembers:
		return spec.Errorf(spec.CodeOverloaded, "there are %d members, no more fit", len(s.Members))
	}
	for _, name := range s.memberNames() {
		if name != m.Name && s.Members[name].Address == m.Address {
			return spec.Errorf(spec.CodeConflict, "node %s is at %s already", name, m.Address).WithField("address")
		}
	}
	m.Draining = false
	if ok {
		m.JoinedAt, m.Draining = old.JoinedAt, old.Draining
	}
	if ok && m == old {
		return nil
	}
	s.keepMember(m, r)
	return nil
}

func (m Member) check() error {
	if m.Name == "" || len(m.Name) > spec.MaxNameBytes {
		return spec.Errorf(spec.CodeInvalid, "a node's name has 1 to %d bytes, not %d", spec.MaxNameBytes, len(m.Name)).WithField("name")
	}
	if m.Install == "" || len(m.Install) > maxIDBytes {
		return spec.Errorf(spec.CodeInvalid, "the id of a data folder has 1 to %d bytes, not %d", maxIDBytes, len(m.Install)).WithField("install")
	}
	if len(m.API) > maxURLBytes {
		return spec.Errorf(spec.CodeInvalid, "the URL of an API has at most %d bytes, not %d", maxURLBytes, len(m.API)).WithField("api")
	}
	if len(m.Version) > maxIDBytes {
		return spec.Errorf(spec.CodeInvalid, "a version has at most %d bytes, not %d", maxIDBytes, len(m.Version)).WithField("version")
	}
	if m.Capacity < 0 || m.Capacity > maxCapacity {
		return spec.Errorf(spec.CodeInvalid, "capacity %d is not between 0 and %d", m.Capacity, maxCapacity).WithField("capacity")
	}
	return checkAddress(m.Address)
}

func (s *State) removeMember(c *RemoveMember, r *Result) error {
	if _, ok := s.Members[c.Name]; !ok {
		return noMember(c.Name).WithField("name")
	}
	if shards := s.ShardsOn(c.Name); len(shards) > 0 && !c.Force {
		return spec.Errorf(spec.CodeConflict, "node %s holds replicas of %d shards: %s", c.Name, len(shards), someShards(shards)).
			WithField("name").WithHint("drain the node and wait until its replicas have moved")
	}
	s.Members = cloned(s.Members)
	delete(s.Members, c.Name)
	r.Changed = true
	return nil
}

// someShards names shards for people: the first of them.
func someShards(shards []spec.ShardID) string {
	var names []string
	for _, id := range shards[:min(len(shards), maxShardsNamed)] {
		names = append(names, fmt.Sprint(id))
	}
	if len(shards) > maxShardsNamed {
		names = append(names, "…")
	}
	return strings.Join(names, ", ")
}

func (s *State) setDraining(c *SetDraining, r *Result) error {
	m, ok := s.Members[c.Name]
	if !ok {
		return noMember(c.Name).WithField("name")
	}
	if m.Draining == c.Draining {
		return nil
	}
	m.Draining = c.Draining
	s.keepMember(m, r)
	return nil
}

func (s *State) keepMember(m Member, r *Result) {
	s.Members = cloned(s.Members)
	s.Members[m.Name] = m
	r.Changed = true
}
