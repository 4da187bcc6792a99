package conductor_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/node/conductor"
	"github.com/pheromone-run/pheromone/raft/control"
	"github.com/pheromone-run/pheromone/raft/shard"
	"github.com/pheromone-run/pheromone/spec"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// scene is a view that tests describe: nodes that have lived for long, and shards
// with a replica on each node named, numbered from 1, of which the first leads.
type scene struct {
	conductor.View
	state control.State
}

func newScene(nodes int, shards ...[]string) *scene {
	s := &scene{View: conductor.View{
		Now: noon, Nodes: map[string]conductor.Node{}, Shards: map[spec.ShardID]conductor.Shard{}, Self: "a",
		Moved: map[spec.ShardID]time.Time{}, Resting: map[spec.ShardID]time.Time{},
	}}
	s.state.Members = map[string]control.Member{}
	s.state.Placement.Shards = map[spec.ShardID]control.Shard{}
	for i := range nodes {
		name := string(rune('a' + i))
		s.state.Members[name] = control.Member{Name: name, Address: address(name)}
		s.Nodes[name] = conductor.Node{Seen: noon, Since: noon.Add(-time.Hour), Replicas: map[spec.ShardID]conductor.Replica{}}
		s.Servers = append(s.Servers, conductor.Server{Server: control.Server{Name: name, Address: address(name), Voter: i < 3 || nodes >= 5 && i < 5}, Seen: noon})
	}
	for i, on := range shards {
		id := spec.ShardID(i + 1)
		s.Shards[id] = conductor.Shard{Leader: 1, Applied: 5000, Members: shard.Members{Version: 1}}
		s.state.Placement.Shards[id] = control.Shard{Replicas: map[uint64]control.Replica{}, Next: 1}
		for _, node := range on {
			s.replica(id, node, "voter")
		}
	}
	return s
}

// replica gives a shard one more replica: a "voter", a "learner", one that "joins"
// and is in no group yet, one whose data is "lost", or a voter that still "joins".
func (s *scene) replica(id spec.ShardID, node, how string) uint64 {
	placed, group := s.state.Placement.Shards[id], s.Shards[id]
	n := placed.Next
	placed.Next++
	placed.Replicas[n] = control.Replica{Node: node, Joining: how == "learner" || how == "joins" || how == "promoted"}
	s.Nodes[node].Replicas[id] = conductor.Replica{Number: n, Applied: 5000, Lost: how == "lost"}
	switch how {
	case "voter", "lost", "promoted":
		group.Members.Voters = append(group.Members.Voters, n)
	case "learner":
		group.Members.Learners = append(group.Members.Learners, n)
	}
	s.state.Placement.Shards[id], s.Shards[id] = placed, group
	return n
}

func (s *scene) applied(id spec.ShardID, node string, index uint64) {
	r := s.Nodes[node].Replicas[id]
	r.Applied = index
	s.Nodes[node].Replicas[id] = r
}

func (s *scene) lacks(id spec.ShardID, node string, lacks bool) {
	r := s.Nodes[node].Replicas[id]
	r.Lacks = lacks
	s.Nodes[node].Replicas[id] = r
}

// silent has a node not answer for a while.
func (s *scene) silent(node string, d time.Duration) {
	n := s.Nodes[node]
	n.Seen, n.Replicas = noon.Add(-d), nil
	if d >= 3*time.Second {
		n.Since = time.Time{}
	}
	s.Nodes[node] = n
	for i := range s.Servers {
		if s.Servers[i].Name == node {
			s.Servers[i].Seen = n.Seen
		}
	}
}

func (s *scene) drain(node string) {
	m := s.state.Members[node]
	m.Draining = true
	s.state.Members[node] = m
}

func (s *scene) plan() []string {
	s.State = &s.state
	steps := []string{}
	for _, a := range conductor.Plan(s.View) {
		steps = append(steps, a.String())
	}
	return steps
}

func (s *scene) want(t *testing.T, steps ...string) {
	t.Helper()
	if got := s.plan(); !slices.Equal(got, steps) {
		t.Errorf("planned %q, want %q", got, steps)
	}
}

var abc = []string{"a", "b", "c"}

func TestADeadNodesReplicasAreMadeAnewAfterTheGrace(t *testing.T) {
	s := newScene(4, abc)
	s.silent("c", 4*time.Minute+59*time.Second)
	s.want(t)
	s.silent("c", 5*time.Minute)
	s.want(t, "add replica shard=1 node=d", "promote voter node=d")
	s.Servers[3].Voter = true
	s.want(t, "add replica shard=1 node=d", "demote voter node=c")
	s.Servers[2].Voter = false

	n := s.replica(1, "d", "joins")
	s.want(t, "add learner shard=1 replica=4 node=d")
	g := s.Shards[1]
	g.Members.Learners = []uint64{n}
	s.Shards[1] = g
	s.applied(1, "d", 0)
	s.want(t)
	s.applied(1, "d", 3999)
	s.want(t)
	s.applied(1, "d", 4000)
	s.want(t, "promote shard=1 replica=4 node=d")
	g.Members.Learners, g.Members.Voters = nil, []uint64{1, 2, 3, 4}
	s.Shards[1] = g
	s.want(t, "mark joined shard=1 replica=4")
	s.state.Placement.Shards[1].Replicas[n] = control.Replica{Node: "d"}
	s.want(t, "remove replica shard=1 replica=3")
	g.Members.Voters, g.Members.Removed = []uint64{1, 2, 4}, []uint64{3}
	s.Shards[1] = g
	s.want(t, "forget replica shard=1 replica=3")
	delete(s.state.Placement.Shards[1].Replicas, 3)
	s.want(t)
}

func TestReplicasStayWhereNobodyElseCanHaveThem(t *testing.T) {
	s := newScene(3, abc)
	s.silent("c", time.Hour)
	s.want(t)
	s = newScene(3, abc)
	for _, node := range abc {
		s.drain(node)
	}
	s.want(t)
}

func TestTheClusterSaysHowManyReplicasThereAre(t *testing.T) {
	s := newScene(3, []string{"a", "b"})
	s.state.Settings = map[string]string{conductor.ReplicasKey: "2"}
	s.want(t)
	s.state.Settings[conductor.ReplicasKey] = "3"
	s.Settings.Replicas = 1
	s.want(t, "add replica shard=1 node=c")
	s.state.Settings[conductor.ReplicasKey] = "none"
	s.want(t, "remove replica shard=1 replica=2")
}

func TestADrainedNodeLosesItsLeadsAndItsReplicasAndStaysEmpty(t *testing.T) {
	s := newScene(4, []string{"c", "a", "b"}, abc)
	s.drain("c")
	s.Servers[2].Voter, s.Servers[3].Voter = false, true
	s.want(t, "add replica shard=1 node=d", "add replica shard=2 node=d")
	s.replica(1, "d", "learner")
	s.replica(2, "d", "voter")
	s.applied(1, "d", 10)
	s.want(t, "remove replica shard=2 replica=3", "transfer lead shard=1 replica=3 node=b")
	s.applied(1, "b", 10)
	s.want(t, "remove replica shard=2 replica=3", "transfer lead shard=1 replica=2 node=a")
	s.applied(1, "a", 10)
	s.want(t, "remove replica shard=2 replica=3")

	s = newScene(4, []string{"a", "b", "d"}, []string{"b", "d", "a"})
	s.drain("c")
	s.Servers[2].Voter, s.Servers[3].Voter = false, true
	s.state.Settings = map[string]string{conductor.RebalanceKey: "now"}
	s.want(t, "end rebalancing")
}

func TestALiveReplicaIsRemovedOnlyWhenEnoughOthersRun(t *testing.T) {
	s := newScene(4, abc)
	s.drain("c")
	s.Servers[2].Voter, s.Servers[3].Voter = false, true
	s.replica(1, "d", "voter")
	b := s.Nodes["b"]
	s.silent("b", time.Second) // it did not answer the last time
	s.want(t)
	s.silent("b", 4*time.Second)
	s.want(t)
	s.Nodes["b"] = b
	s.applied(1, "b", 100) // far behind
	s.want(t)
	s.applied(1, "b", 5000)
	s.want(t, "remove replica shard=1 replica=3")
}

func TestAReplicaGetsItsVoteOnceItHasTheBytesOfTheOthers(t *testing.T) {
	s := newScene(4, abc)
	s.drain("c")
	s.Servers[2].Voter, s.Servers[3].Voter = false, true
	s.replica(1, "d", "learner")
	s.lacks(1, "d", true)
	s.want(t)
	s.lacks(1, "a", true)
	s.lacks(1, "b", true)
	s.want(t) // the one that is drained has them
	s.silent("c", time.Hour)
	s.want(t, "promote shard=1 replica=4 node=d") // nobody can give them
	s.lacks(1, "b", false)
	s.want(t)
	s.lacks(1, "d", false)
	s.want(t, "promote shard=1 replica=4 node=d")
}

func TestAReplicaStaysWhileOthersLackBytes(t *testing.T) {
	s := newScene(4, []string{"a", "b", "c"})
	s.drain("c")
	s.Servers[2].Voter, s.Servers[3].Voter = false, true
	s.replica(1, "d", "voter")
	for _, node := range []string{"a", "d"} {
		s.lacks(1, node, true)
		s.want(t)
		s.lacks(1, node, false)
	}
	s.lacks(1, "c", true)
	s.want(t, "remove replica shard=1 replica=3")
	s.lacks(1, "a", true)
	s.silent("c", time.Hour) // it does not have them either
	s.want(t, "remove replica shard=1 replica=3")
}

func TestAReplicaWhoseDataIsLostIsReplacedOnItsNode(t *testing.T) {
	s := newScene(3, []string{"a", "b"})
	n := s.replica(1, "c", "lost")
	s.want(t, fmt.Sprintf("remove replica shard=1 replica=%d", n))
	g := s.Shards[1]
	g.Members.Voters, g.Members.Removed = []uint64{1, 2}, []uint64{n}
	s.Shards[1] = g
	s.want(t, fmt.Sprintf("forget replica shard=1 replica=%d", n))
	delete(s.state.Placement.Shards[1].Replicas, n)
	s.want(t, "add replica shard=1 node=c")

	// It got its vote and lost what it had before it was known to have joined.
	s = newScene(3, []string{"a", "b"})
	n = s.replica(1, "c", "promoted")
	s.want(t, fmt.Sprintf("mark joined shard=1 replica=%d", n))
	s.Nodes["c"].Replicas[1] = conductor.Replica{Number: n, Lost: true}
	s.want(t, fmt.Sprintf("remove replica shard=1 replica=%d", n))

	// The others are no quorum without it: what they have must not be all there is.
	s = newScene(3, []string{"a"})
	s.replica(1, "b", "lost")
	s.replica(1, "c", "lost")
	s.want(t)
}

func TestWhatJoinsOnANodeThatDiesJoinsElsewhere(t *testing.T) {
	s := newScene(5, []string{"a", "b"})
	s.replica(1, "c", "learner")
	s.silent("c", 29*time.Second)
	s.want(t)
	s.silent("c", 30*time.Second)
	s.want(t, "remove replica shard=1 replica=3")
	g := s.Shards[1]
	g.Members.Learners, g.Members.Removed = nil, []uint64{3}
	s.Shards[1] = g
	s.want(t, "forget replica shard=1 replica=3")
	delete(s.state.Placement.Shards[1].Replicas, 3)
	s.want(t, "add replica shard=1 node=d")
}

func TestMembersThatThePlacementDoesNotKnowAreRemovedUnlessTheyAreNewer(t *testing.T) {
	s := newScene(3, abc)
	n := s.replica(1, "a", "voter")
	delete(s.state.Placement.Shards[1].Replicas, n)
	s.Nodes["a"].Replicas[1] = conductor.Replica{Number: 1, Applied: 5000}
	s.want(t, fmt.Sprintf("remove replica shard=1 replica=%d", n))
	placed := s.state.Placement.Shards[1]
	placed.Next = n
	s.state.Placement.Shards[1] = placed
	s.want(t)
}

func TestFewThingsChangeAtATime(t *testing.T) {
	all := [][]string{}
	for range 9 {
		all = append(all, []string{"a", "b", "e"})
	}
	s := newScene(5, all...)
	s.MovedAny = noon
	s.drain("e")
	if steps := s.plan(); len(steps) != 4 {
		t.Errorf("planned %q, want four steps", steps)
	}
	for id := range spec.ShardID(3) {
		n := s.replica(id+1, "c", "learner")
		s.Nodes["c"].Replicas[id+1] = conductor.Replica{Number: n}
	}
	if steps := s.plan(); len(steps) != 1 {
		t.Errorf("planned %q, want one more replica that joins beside three", steps)
	}
	for id := range s.Shards {
		s.Resting[id] = noon.Add(time.Second)
	}
	s.want(t)
}

func TestLeadersAreSpreadByCount(t *testing.T) {
	bca, cab := []string{"b", "c", "a"}, []string{"c", "a", "b"}
	s := newScene(3, abc, abc, bca, cab)
	s.want(t)
	s = newScene(3, abc, abc, bca)
	s.want(t, "transfer lead shard=1 replica=3 node=c")
	s.applied(1, "c", 100)
	s.want(t, "transfer lead shard=2 replica=3 node=c")
	s.applied(2, "c", 100)
	s.applied(3, "c", 100)
	s.want(t)

	s = newScene(3, abc, abc, bca)
	s.MovedAny = noon.Add(-4 * time.Second)
	s.want(t)
	s.MovedAny = noon.Add(-5 * time.Second)
	s.Moved[1] = noon.Add(-4 * time.Second)
	s.want(t, "transfer lead shard=2 replica=3 node=c")
	c := s.Nodes["c"]
	c.Since = noon.Add(-4 * time.Second)
	s.Nodes["c"] = c
	s.want(t)
}

func TestAmongLeadersThatCouldMoveTheLoadDecides(t *testing.T) {
	bca := []string{"b", "c", "a"}
	s := newScene(3, abc, abc, abc, bca, bca, []string{"c", "a", "b"})
	load := func(id spec.ShardID, load float64) {
		g := s.Shards[id]
		g.Load = load
		s.Shards[id] = g
	}
	for id, l := range map[spec.ShardID]float64{1: 500, 2: 90, 3: 400, 4: 300, 6: 10} {
		load(id, l)
	}
	s.want(t, "transfer lead shard=1 replica=3 node=c")
	load(6, 800)
	s.want(t, "transfer lead shard=2 replica=3 node=c")
	load(4, 2000)
	s.want(t, "transfer lead shard=2 replica=3 node=c")
}

func TestLeadersMakeRoomForEachOther(t *testing.T) {
	// a leads three and shares them with b alone; b leads two that c could lead.
	s := newScene(3, []string{"a", "b"}, []string{"a", "b"}, []string{"a", "b"}, []string{"b", "c"}, []string{"b", "c"}, []string{"c", "b"})
	s.Settings.Replicas = 2
	s.want(t, "transfer lead shard=4 replica=2 node=c")
	for id, node := range map[spec.ShardID]string{1: "b", 4: "c"} {
		g := s.Shards[id]
		g.Leader = 2
		s.Shards[id] = g
		if s.state.Placement.Shards[id].Replicas[2].Node != node {
			t.Fatalf("replica 2 of shard %d is not on %s", id, node)
		}
	}
	s.want(t)
}

func TestARequestEvensReplicasOut(t *testing.T) {
	s := newScene(4, abc, abc, []string{"b", "c", "a"}, []string{"c", "a", "b"})
	s.want(t)
	s.state.Settings = map[string]string{conductor.RebalanceKey: "now"}
	s.want(t, "add replica shard=1 node=d", "add replica shard=2 node=d", "add replica shard=3 node=d")
	s.silent("a", 10*time.Second)
	s.want(t)

	s = newScene(3, abc, []string{"b", "a"})
	s.state.Settings = map[string]string{conductor.RebalanceKey: "now"}
	s.replica(2, "c", "learner")
	s.applied(2, "c", 10)
	s.want(t) // it is not over yet
}

func TestTheControlGroupHasThreeVotersAndFiveFromFiveNodesOn(t *testing.T) {
	s := newScene(4, abc)
	s.want(t)
	s = newScene(5, abc)
	s.Servers[3].Voter, s.Servers[4].Voter = false, false
	s.want(t, "promote voter node=d")
	s.silent("d", time.Second)
	s.want(t, "promote voter node=e")
	s = newScene(4, abc)
	s.Servers[3].Voter = true
	s.want(t, "demote voter node=d")
	s.Resting[0] = noon.Add(time.Second)
	s.want(t)
}

func TestVotersGoToNodesThatStay(t *testing.T) {
	s := newScene(4, abc)
	s.drain("b")
	s.Nodes["b"].Replicas[1] = conductor.Replica{} // only the servers are looked at here
	s.Resting[1] = noon.Add(time.Second)
	s.want(t, "promote voter node=d")
	s.Servers[3].Voter = true
	s.want(t, "demote voter node=b")
	s.silent("c", time.Second)
	s.want(t, "demote voter node=b")
	s.silent("d", time.Second)
	s.want(t) // without b too few would answer

	// The node that conducts goes last, and hands over before.
	s = newScene(4, abc)
	s.Resting[1] = noon.Add(time.Second)
	s.drain("a")
	s.Servers[3].Voter = true
	s.want(t, "hand over")
}

func TestServersFollowTheMembers(t *testing.T) {
	s := newScene(4, abc)
	s.Servers = s.Servers[:3]
	s.want(t, "add server node=d")
	s = newScene(3, abc)
	s.Servers = append(s.Servers, conductor.Server{Server: control.Server{Name: "z", Voter: true}, Seen: noon, Stray: noon.Add(-4 * time.Second)})
	s.want(t)
	s.Servers[3].Stray = noon.Add(-5 * time.Second)
	s.want(t, "remove server node=z")
	s.silent("b", time.Second)
	s.want(t, "remove server node=z")
	s.silent("c", time.Second)
	s.want(t)
	s = newScene(3)
	s.Servers[2].Name = "z" // the cluster is being made
	s.want(t)
}
