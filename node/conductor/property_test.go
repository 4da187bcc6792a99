package conductor_test

import (
	"maps"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pheromone-run/pheromone/node/conductor"
	"github.com/pheromone-run/pheromone/raft/control"
	"github.com/pheromone-run/pheromone/spec"
)

const nodesMost = 8

// round is one look and what comes of it. Each action may be carried out or not,
// and the conductor may end between any two of them.
func (s *sim) round(faults bool) []conductor.Action {
	s.work(faults)
	if s.leader == "" {
		return nil
	}
	actions := conductor.Plan(s.view())
	s.check(actions)
	leader := s.leader
	for _, a := range actions {
		fate := "done"
		if faults {
			fate = rapid.SampledFrom([]string{"done", "done", "done", "refused", "done and not told", "killed before", "killed after", "done twice"}).Draw(s.t, "fate")
		}
		s.note("%s %v: %s", s.now.Format("15:04:05"), a, fate)
		if fate == "killed before" {
			s.newConductor()
			break
		}
		ok := fate != "refused" && s.carryOut(a)
		if fate == "done twice" && a.Kind != conductor.HandOver {
			s.carryOut(a) // by a conductor that does not know that it was replaced
		}
		switch {
		case s.leader != leader:
			return actions
		case fate == "killed after":
			s.newConductor()
			return actions
		case a.Shard != 0 && (!ok || fate == "done and not told"):
			s.memory.resting[a.Shard] = s.now.Add(2 * time.Second)
		case a.Kind == conductor.TransferLead:
			s.memory.moved[a.Shard], s.memory.movedAny = s.now, s.now
		}
	}
	return actions
}

// check looks at a plan for itself.
func (s *sim) check(actions []conductor.Action) {
	shards := map[spec.ShardID]bool{}
	joins := 0
	for _, p := range s.state.Placement.Shards {
		for _, r := range p.Replicas {
			if r.Joining {
				joins++
			}
		}
	}
	for _, a := range actions {
		if a.Kind == conductor.AddReplica {
			joins++
			if joins > 4 {
				s.fatalf("%v: %d replicas would join at a time", actions, joins)
			}
		}
		if a.Shard == 0 {
			continue
		}
		if shards[a.Shard] || len(shards) == 4 {
			s.fatalf("more than one step of a shard, or than four in all: %v", actions)
		}
		shards[a.Shard] = true
	}
}

// safely does something to the cluster, unless that takes a quorum away.
func (s *sim) safely(what string, do, undo func()) {
	do()
	ok := s.controlQuorum()
	for id := range s.groups {
		ok = ok && s.quorum(id)
	}
	if !ok {
		undo()
		return
	}
	s.note("%s %s", s.now.Format("15:04:05"), what)
	s.elect()
}

// disturb is something that happens.
func (s *sim) disturb() {
	name := rapid.SampledFrom(s.names()).Draw(s.t, "node")
	n := s.nodes[name]
	m, member := s.state.Members[name]
	switch rapid.SampledFrom([]string{"kill", "kill", "start", "start", "lose", "join", "drain", "undrain", "remove", "rebalance", "pause", "conductor"}).Draw(s.t, "event") {
	case "kill":
		s.safely("kill "+name, func() { n.up = false }, func() { n.up = true })
	case "start":
		n.up = n.up || member
		s.note("start %s", name)
	case "lose":
		for _, id := range slices.Sorted(maps.Keys(n.data)) {
			r := n.data[id]
			if !r.lost && rapid.Bool().Draw(s.t, "lost") {
				s.safely("lose data of "+name, func() { r.lost = true }, func() { r.lost = false })
			}
		}
	case "join":
		if len(s.nodes) < nodesMost {
			s.joinNode()
		}
	case "drain", "undrain":
		if drain := rapid.Bool().Draw(s.t, "drain"); member {
			m.Draining = drain
			s.changeMembers(func(all map[string]control.Member) { all[name] = m })
			s.note("draining %s: %v", name, drain)
		}
	case "remove":
		s.remove(name)
	case "rebalance":
		s.state.Settings = map[string]string{conductor.RebalanceKey: "now"}
	case "pause":
		s.now = s.now.Add(rapid.SampledFrom([]time.Duration{4 * time.Second, 19 * time.Second, 40 * time.Second}).Draw(s.t, "pause"))
	case "conductor":
		s.newConductor()
	}
}

// remove takes a member out by force, if the others do without it.
func (s *sim) remove(name string) {
	n, m := s.nodes[name], s.state.Members[name]
	if len(s.state.Members) < 2 || m.Name == "" {
		return
	}
	up := n.up
	s.safely("remove "+name, func() { n.up = false }, func() { n.up = up })
	if !n.up {
		s.changeMembers(func(all map[string]control.Member) { delete(all, name) })
	}
}

func TestInTheEndEveryShardIsPlacedAndLedWell(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newSim(t, rapid.IntRange(1, 6).Draw(t, "nodes"), rapid.IntRange(1, 9).Draw(t, "shards"))
		for range rapid.IntRange(0, 60).Draw(t, "rounds") {
			if rapid.IntRange(0, 2).Draw(t, "disturbed") == 0 {
				s.disturb()
			}
			s.round(true)
			s.now = s.now.Add(time.Duration(rapid.IntRange(50, 1500).Draw(t, "ms")) * time.Millisecond)
		}
		if rapid.Bool().Draw(t, "all come back") {
			for name, n := range s.nodes {
				_, member := s.state.Members[name]
				n.up = n.up || member
			}
		}
		s.note("quiet")
		s.settle()
		s.checkReplicas()
		s.checkLeaders()
		s.checkServers()

		s.state.Settings = map[string]string{conductor.RebalanceKey: "now"}
		s.settle()
		s.checkReplicas()
		s.checkLeaders()
		s.checkBalance()
	})
}

// settle goes on until nothing is left to do, for longer than any patience lasts.
func (s *sim) settle() {
	idle := 0
	for range 4000 {
		if len(s.round(false)) > 0 {
			idle = 0
		} else if idle++; idle == 90 {
			return
		}
		s.now = s.now.Add(time.Second)
	}
	s.fatalf("it never ends: %v", conductor.Plan(s.view()))
}

// homes are the nodes that shards should be on.
func (s *sim) homes() (homes []string, wanted int) {
	for name, m := range s.state.Members {
		if m.Draining {
			continue
		}
		wanted++
		if s.nodes[name].up {
			homes = append(homes, name)
		}
	}
	slices.Sort(homes)
	return homes, max(1, min(3, wanted))
}

// There are as many replicas as are wanted, and nothing else; with fewer nodes
// than that, there is one on each, and none of the others was given up.
func (s *sim) checkReplicas() {
	homes, wanted := s.homes()
	for id, p := range s.state.Placement.Shards {
		g := s.groups[id]
		sound := 0
		for n, r := range p.Replicas {
			if slices.Contains(homes, r.Node) && !r.Joining && s.replica(id, n) != nil && slices.Contains(g.voters, n) {
				sound++
			}
		}
		switch {
		case sound < min(wanted, len(homes)):
			s.fatalf("shard %d has %d sound replicas, %d are wanted on %v", id, sound, wanted, homes)
		case len(homes) >= wanted && (len(p.Replicas) != wanted || len(g.voters) != wanted || len(g.learners) > 0):
			s.fatalf("shard %d has more than the %d replicas that are wanted", id, wanted)
		}
	}
}

func (s *sim) leads(homes []string) map[string]int {
	leads := map[string]int{}
	for _, name := range homes {
		leads[name] = 0
	}
	for id, g := range s.groups {
		leads[s.state.Placement.Shards[id].Replicas[g.leader].Node]++
	}
	return leads
}

// Leaders are spread evenly, where the replicas are such that they can be.
func (s *sim) checkLeaders() {
	homes, wanted := s.homes()
	if len(homes) < wanted {
		return
	}
	leads := s.leads(homes)
	for node := range leads {
		if !slices.Contains(homes, node) {
			s.fatalf("node %s leads: %v", node, leads)
		}
	}
	least, most := slices.Min(slices.Collect(maps.Values(leads))), slices.Max(slices.Collect(maps.Values(leads)))
	floor := len(s.groups) / len(homes)
	ceil := (len(s.groups) + len(homes) - 1) / len(homes)
	if most-least > 1 && s.assigns(homes, ceil, false) && s.assigns(homes, floor, true) {
		s.fatalf("leaders are not spread: %v", leads)
	}
}

// assigns tells whether every shard finds a leader with at most quota for each
// node, or every node that many shards.
func (s *sim) assigns(homes []string, quota int, nodes bool) bool {
	taken := map[string][]spec.ShardID{} // by node
	holds := func(id spec.ShardID, node string) bool {
		for _, r := range s.state.Placement.Shards[id].Replicas {
			if r.Node == node {
				return true
			}
		}
		return false
	}
	var place func(id spec.ShardID, seen map[string]bool) bool
	place = func(id spec.ShardID, seen map[string]bool) bool {
		for _, node := range homes {
			if seen[node] || !holds(id, node) {
				continue
			}
			seen[node] = true
			if len(taken[node]) < quota {
				taken[node] = append(taken[node], id)
				return true
			}
			for i, other := range taken[node] {
				if place(other, seen) {
					taken[node][i] = id
					return true
				}
			}
		}
		return false
	}
	placed := 0
	for id := range s.groups {
		if place(id, map[string]bool{}) {
			placed++
		}
	}
	if nodes {
		return placed == quota*len(homes)
	}
	return placed == len(s.groups)
}

func (s *sim) checkServers() {
	votes, voters := 0, 0
	for name, v := range s.servers {
		if _, ok := s.state.Members[name]; !ok {
			s.fatalf("server %s is no member", name)
		}
		if v {
			voters++
			if s.nodes[name].up {
				votes++
			}
		}
	}
	want, up := 3, 0
	if len(s.state.Members) >= 5 {
		want = 5
	}
	for name := range s.state.Members {
		if s.nodes[name].up {
			up++
		}
	}
	if voters > want || votes != min(want, up) {
		s.fatalf("%d voters of whom %d live, want %d: %v", voters, votes, want, s.servers)
	}
}

// Replicas are spread evenly after a request, if all nodes live.
func (s *sim) checkBalance() {
	homes, wanted := s.homes()
	if len(homes) < wanted {
		return
	}
	counts := map[string]int{}
	for _, name := range homes {
		counts[name] = len(s.nodes[name].data)
	}
	if n := slices.Collect(maps.Values(counts)); slices.Max(n)-slices.Min(n) > 1 {
		s.fatalf("replicas are not spread: %v", counts)
	}
}
