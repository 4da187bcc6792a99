package conductor_test

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/pheromone-run/pheromone/node/conductor"
	"github.com/pheromone-run/pheromone/raft/control"
	"github.com/pheromone-run/pheromone/raft/shard"
	"github.com/pheromone-run/pheromone/spec"
)

// sim is a cluster as far as the conductor sees it and changes it.
type sim struct {
	t        *rapid.T
	now      time.Time
	settings conductor.Settings
	state    control.State // replaced, never changed: views hold on to it
	nodes    map[string]*simNode
	groups   map[spec.ShardID]*simGroup
	servers  map[string]bool // true votes
	leader   string          // of the control group
	strays   map[string]time.Time
	memory   simMemory
	log      []string
}

// simMemory is what the conductor forgets when another takes over.
type simMemory struct {
	seen, since map[string]time.Time
	moved       map[spec.ShardID]time.Time
	movedAny    time.Time
	resting     map[spec.ShardID]time.Time
}

type simNode struct {
	up   bool
	data map[spec.ShardID]*simReplica
}

type simReplica struct {
	number  uint64
	applied uint64
	lost    bool
}

// simGroup is a shard's raft group.
type simGroup struct {
	voters, learners, removed []uint64
	version, leader, commit   uint64
}

func newSim(t *rapid.T, nodes, shards int) *sim {
	s := &sim{
		t: t, now: time.Unix(1_000_000, 0).UTC(), settings: conductor.Settings{Replicas: 3, RebuildAfter: 20 * time.Second, DeadAfter: 3 * time.Second},
		nodes: map[string]*simNode{}, groups: map[spec.ShardID]*simGroup{}, servers: map[string]bool{}, strays: map[string]time.Time{},
	}
	s.state.Placement.Shards = map[spec.ShardID]control.Shard{}
	for range nodes {
		s.joinNode()
	}
	names := s.names()
	for _, name := range names[:min(3, nodes)] {
		s.servers[name] = true
	}
	for i := range shards {
		g := &simGroup{version: 1, commit: 10}
		placed := control.Shard{Replicas: map[uint64]control.Replica{}, Next: 1}
		for k := range min(3, nodes) {
			placed.Replicas[placed.Next] = control.Replica{Node: names[(i+k)%nodes]}
			g.voters = append(g.voters, placed.Next)
			placed.Next++
		}
		id := spec.ShardID(i + 1)
		s.state.Placement.Shards[id], s.groups[id] = placed, g
		for n, r := range placed.Replicas {
			s.nodes[r.Node].data[id] = &simReplica{number: n, applied: 10}
		}
	}
	s.elect()
	return s
}

func (s *sim) names() []string { return slices.Sorted(maps.Keys(s.nodes)) }

func (s *sim) note(format string, args ...any) { s.log = append(s.log, fmt.Sprintf(format, args...)) }

func (s *sim) fatalf(format string, args ...any) {
	s.t.Helper()
	for _, line := range s.log[max(0, len(s.log)-60):] {
		s.t.Log(line)
	}
	for _, id := range slices.Sorted(maps.Keys(s.groups)) {
		s.t.Logf("shard %d: placed %+v group %+v", id, s.state.Placement.Shards[id].Replicas, *s.groups[id])
	}
	s.t.Logf("members %+v", s.state.Members)
	s.t.Fatalf(format, args...)
}

// replica finds a replica that is up and has its data.
func (s *sim) replica(id spec.ShardID, number uint64) *simReplica {
	for _, n := range s.nodes {
		if r := n.data[id]; n.up && r != nil && r.number == number && !r.lost {
			return r
		}
	}
	return nil
}

// quorum tells whether a shard's group can commit.
func (s *sim) quorum(id spec.ShardID) bool {
	live := 0
	for _, n := range s.groups[id].voters {
		if s.replica(id, n) != nil {
			live++
		}
	}
	return live > len(s.groups[id].voters)/2
}

func (s *sim) controlQuorum() bool {
	live, voters := 0, 0
	for name, votes := range s.servers {
		if votes {
			voters++
			if n := s.nodes[name]; n != nil && n.up {
				live++
			}
		}
	}
	return live > voters/2
}

// elect gives the groups leaders where they have none that lives.
func (s *sim) elect() {
	for _, id := range slices.Sorted(maps.Keys(s.groups)) {
		g := s.groups[id]
		if s.replica(id, g.leader) != nil && slices.Contains(g.voters, g.leader) {
			continue
		}
		g.leader = 0
		if !s.quorum(id) {
			continue
		}
		for _, n := range g.voters {
			if r := s.replica(id, n); r != nil && (g.leader == 0 || r.applied > s.replica(id, g.leader).applied) {
				g.leader = n
			}
		}
		if r := s.replica(id, g.leader); r.applied < g.commit {
			s.fatalf("shard %d: entries up to %d were committed, its new leader has %d", id, g.commit, r.applied)
		}
	}
	if n := s.nodes[s.leader]; n != nil && n.up && s.servers[s.leader] {
		return
	}
	s.leader = ""
	var voters []string
	for name, votes := range s.servers {
		if n := s.nodes[name]; votes && n != nil && n.up {
			voters = append(voters, name)
		}
	}
	slices.Sort(voters)
	if s.controlQuorum() {
		s.leader = rapid.SampledFrom(voters).Draw(s.t, "control leader")
		s.newConductor()
	}
}

func (s *sim) newConductor() {
	s.note("%s conducts", s.leader)
	s.memory = simMemory{
		seen: map[string]time.Time{}, since: map[string]time.Time{}, moved: map[spec.ShardID]time.Time{},
		movedAny: s.now, resting: map[spec.ShardID]time.Time{},
	}
}

// work is what the nodes do by themselves: write, catch up, start and drop replicas.
func (s *sim) work(writes bool) {
	for _, name := range s.names() {
		n := s.nodes[name]
		if !n.up {
			continue
		}
		for id, placed := range s.state.Placement.Shards {
			have := n.data[id]
			number := uint64(0)
			for k, r := range placed.Replicas {
				if r.Node == name {
					number = k
				}
			}
			if have != nil && have.number != number {
				delete(n.data, id)
				have = nil
			}
			if have == nil && number != 0 {
				n.data[id] = &simReplica{number: number}
			}
		}
	}
	s.elect()
	for _, id := range slices.Sorted(maps.Keys(s.groups)) {
		g := s.groups[id]
		if g.leader == 0 {
			continue
		}
		if writes {
			s.commit(id, uint64(rapid.IntRange(0, 700).Draw(s.t, "writes")))
		}
		for _, n := range slices.Concat(g.voters, g.learners) {
			if r := s.replica(id, n); r != nil && (!writes || rapid.Bool().Draw(s.t, "catches up")) {
				r.applied = g.commit
			}
		}
	}
}

// commit writes to a quorum, and to no more.
func (s *sim) commit(id spec.ShardID, entries uint64) {
	g := s.groups[id]
	g.commit += entries
	s.replica(id, g.leader).applied = g.commit
	have := 1
	for _, n := range g.voters {
		if r := s.replica(id, n); r != nil && n != g.leader && have <= len(g.voters)/2 {
			r.applied = g.commit
			have++
		}
	}
}

// view is what the conductor collects.
func (s *sim) view() conductor.View {
	state := s.state
	v := conductor.View{
		Now: s.now, State: &state, Nodes: map[string]conductor.Node{}, Shards: map[spec.ShardID]conductor.Shard{}, Self: s.leader,
		Moved: s.memory.moved, MovedAny: s.memory.movedAny, Resting: s.memory.resting, Settings: s.settings,
	}
	for name := range s.state.Members {
		node, up := s.nodes[name], s.nodes[name].up
		if _, ok := s.memory.seen[name]; !ok || up {
			s.memory.seen[name] = s.now
		}
		if since := s.memory.since[name]; up && since.IsZero() {
			s.memory.since[name] = s.now
		}
		if s.now.Sub(s.memory.seen[name]) >= s.settings.DeadAfter {
			s.memory.since[name] = time.Time{}
		}
		n := conductor.Node{Seen: s.memory.seen[name], Since: s.memory.since[name]}
		if up {
			n.Replicas = map[spec.ShardID]conductor.Replica{}
			for id, r := range node.data {
				n.Replicas[id] = conductor.Replica{Number: r.number, Applied: r.applied, Lost: r.lost}
				if g := s.groups[id]; g.leader == r.number {
					v.Shards[id] = conductor.Shard{Leader: r.number, Applied: r.applied, Load: float64(id % 3), Members: shard.Members{
						Voters: slices.Clone(g.voters), Learners: slices.Clone(g.learners), Removed: slices.Clone(g.removed), Version: g.version,
					}}
				}
			}
		}
		v.Nodes[name] = n
	}
	for _, name := range slices.Sorted(maps.Keys(s.servers)) {
		if _, ok := s.state.Members[name]; ok {
			delete(s.strays, name)
		} else if s.strays[name].IsZero() {
			s.strays[name] = s.now
		}
		seen := s.memory.seen[name]
		if n := s.nodes[name]; n != nil && n.up {
			seen = s.now
		}
		v.Servers = append(v.Servers, conductor.Server{Server: control.Server{Name: name, Address: address(name), Voter: s.servers[name]}, Seen: seen, Stray: s.strays[name]})
	}
	return v
}

func address(node string) string { return node + ":7170" }

// changePlacement gives the state a shard as change leaves it.
func (s *sim) changePlacement(id spec.ShardID, change func(*control.Shard)) {
	shards := maps.Clone(s.state.Placement.Shards)
	placed := shards[id]
	placed.Replicas = maps.Clone(placed.Replicas)
	change(&placed)
	shards[id] = placed
	s.state.Placement.Shards = shards
}

func (s *sim) changeMembers(change func(map[string]control.Member)) {
	members := maps.Clone(s.state.Members)
	if members == nil {
		members = map[string]control.Member{}
	}
	change(members)
	s.state.Members = members
}

// carryOut does what an action says. It returns false if it is refused.
func (s *sim) carryOut(a conductor.Action) bool {
	g, placed := s.groups[a.Shard], s.state.Placement.Shards[a.Shard]
	switch a.Kind {
	case conductor.AddReplica, conductor.MarkJoined, conductor.ForgetReplica:
		return s.carryOutPlacement(a, placed)
	case conductor.AddServer, conductor.PromoteVoter, conductor.DemoteVoter, conductor.RemoveServer, conductor.HandOver:
		s.carryOutServer(a)
		return true
	case conductor.EndRebalance:
		s.state.Settings = nil
		return true
	}
	if g.leader == 0 || s.replica(a.Shard, g.leader) == nil || a.Version != g.version {
		return false
	}
	switch a.Kind {
	case conductor.TransferLead:
		r := s.replica(a.Shard, a.Replica)
		if r == nil || !slices.Contains(g.voters, a.Replica) || r.applied+1000 < g.commit {
			s.fatalf("%v: to a replica that can't lead", a)
		}
		r.applied = g.commit
		g.leader = a.Replica
		return true
	case conductor.AddLearner:
		if slices.Contains(g.removed, a.Replica) || slices.Contains(g.voters, a.Replica) {
			s.fatalf("%v: the number was used before", a)
		}
		if !slices.Contains(g.learners, a.Replica) {
			g.learners = append(g.learners, a.Replica)
		}
	case conductor.Promote:
		g.learners = without(g.learners, a.Replica)
		g.voters = append(g.voters, a.Replica)
	case conductor.RemoveReplica:
		if a.Replica == g.leader {
			s.fatalf("%v: it leads", a)
		}
		g.learners, g.voters = without(g.learners, a.Replica), without(g.voters, a.Replica)
		g.removed = append(g.removed, a.Replica)
	}
	g.version++
	if !s.quorum(a.Shard) {
		s.fatalf("%v: took the quorum", a)
	}
	s.commit(a.Shard, 1)
	return true
}

func without(numbers []uint64, number uint64) []uint64 {
	return slices.DeleteFunc(slices.Clone(numbers), func(n uint64) bool { return n == number })
}

// carryOutPlacement refuses what the control group refuses.
func (s *sim) carryOutPlacement(a conductor.Action, placed control.Shard) bool {
	switch a.Kind {
	case conductor.AddReplica:
		for _, r := range placed.Replicas {
			if r.Node == a.Node {
				return r.Joining
			}
		}
		if m, ok := s.state.Members[a.Node]; !ok || m.Draining {
			return false
		}
		s.changePlacement(a.Shard, func(p *control.Shard) {
			p.Replicas[p.Next] = control.Replica{Node: a.Node, Joining: true}
			p.Next++
		})
	case conductor.MarkJoined:
		r, ok := placed.Replicas[a.Replica]
		if !ok {
			return false
		}
		r.Joining = false
		s.changePlacement(a.Shard, func(p *control.Shard) { p.Replicas[a.Replica] = r })
	case conductor.ForgetReplica:
		whole := 0
		for n, r := range placed.Replicas {
			if n != a.Replica && !r.Joining {
				whole++
			}
		}
		if whole == 0 {
			s.fatalf("%v: it is the last one", a)
		}
		s.changePlacement(a.Shard, func(p *control.Shard) { delete(p.Replicas, a.Replica) })
	}
	return true
}

func (s *sim) carryOutServer(a conductor.Action) {
	switch a.Kind {
	case conductor.AddServer:
		s.servers[a.Node] = false
	case conductor.PromoteVoter:
		s.servers[a.Node] = true
	case conductor.DemoteVoter:
		if a.Node == s.leader {
			s.fatalf("%v: it leads", a)
		}
		s.servers[a.Node] = false
	case conductor.RemoveServer:
		if a.Node == s.leader {
			s.fatalf("%v: it leads", a)
		}
		delete(s.servers, a.Node)
	case conductor.HandOver:
		var voters []string
		for name, votes := range s.servers {
			if n := s.nodes[name]; votes && n != nil && n.up && name != s.leader {
				voters = append(voters, name)
			}
		}
		slices.Sort(voters)
		s.leader = rapid.SampledFrom(voters).Draw(s.t, "successor")
		s.newConductor()
	}
	if !s.controlQuorum() {
		s.fatalf("%v: took the control group's quorum", a)
	}
}

func (s *sim) joinNode() {
	name := fmt.Sprintf("n%02d", len(s.nodes)+1)
	s.nodes[name] = &simNode{up: true, data: map[spec.ShardID]*simReplica{}}
	s.changeMembers(func(m map[string]control.Member) {
		m[name] = control.Member{Name: name, Address: address(name), Install: name}
	})
	s.servers[name] = false
	s.note("%s joins", name)
}
