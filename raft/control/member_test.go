package control_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/raft/control"
	"github.com/pheromone-run/pheromone/spec"
)

func (n *node) mustRefuse(c control.Command, code spec.Code, text string) {
	n.t.Helper()
	before := n.group.State()
	_, err := n.group.Apply(withTimeout(n.t), c)
	var e *spec.Error
	if !errors.As(err, &e) || e.Code != code || !strings.Contains(e.Message, text) {
		n.t.Errorf("%+v: %v, want %s and %q", c, err, code, text)
	}
	if n.group.State() != before {
		n.t.Errorf("%+v was refused and changed the state", c)
	}
}

func (n *node) mustChange(c control.Command, changed bool) control.Result {
	n.t.Helper()
	r := n.apply(c)
	if r.Changed != changed {
		n.t.Errorf("%+v: changed %v, want %v", c, r.Changed, changed)
	}
	return r
}

func memberAt(name, address string) *control.PutMember {
	return &control.PutMember{Member: control.Member{Name: name, Install: "folder of " + name, Address: address, Capacity: 4, JoinedAt: at}}
}

// withMembers is a group that knows so many members, n1 and on.
func withMembers(t *testing.T, count int) *node {
	t.Helper()
	n := newNode(t, control.Config{})
	for i := range count {
		name := fmt.Sprint("n", i+1)
		n.mustChange(memberAt(name, name+":1"), true)
	}
	return n
}

func TestAClusterHasOneIDForEver(t *testing.T) {
	n := newNode(t, control.Config{})
	n.mustRefuse(&control.SetCluster{}, spec.CodeInvalid, "1 to 128 bytes")
	n.mustChange(&control.SetCluster{ID: "one"}, true)
	n.mustChange(&control.SetCluster{ID: "one"}, false)
	n.mustRefuse(&control.SetCluster{ID: "two"}, spec.CodeConflict, "the cluster is one")
	n.close()
	n.open()
	if got := n.group.State().Cluster; got != "one" {
		t.Errorf("after a restart the cluster is %q", got)
	}
}

func TestAMemberKeepsItsNameAndSinceWhenItIsOne(t *testing.T) {
	n := withMembers(t, 2)
	n.mustChange(memberAt("n1", "n1:1"), false)
	n.mustChange(&control.SetDraining{Name: "n1", Draining: true}, true)
	n.mustChange(&control.SetDraining{Name: "n1", Draining: true}, false)
	moved := memberAt("n1", "n1:2")
	moved.Member.Version, moved.Member.JoinedAt = "v2", at.AddDate(1, 0, 0)
	n.mustChange(moved, true)
	if m := n.group.State().Members["n1"]; m.Address != "n1:2" || m.Version != "v2" || !m.JoinedAt.Equal(at) || !m.Draining {
		t.Errorf("it is %+v", m)
	}
	twin := memberAt("n1", "n1:9")
	twin.Member.Install = "another folder"
	n.mustRefuse(twin, spec.CodeConflict, "another node is named n1, at n1:2")
	wiped := memberAt("n1", "n1:2")
	wiped.Member.Install = "another folder"
	n.mustRefuse(wiped, spec.CodeConflict, "another data folder")
	n.mustRefuse(memberAt("n3", "n2:1"), spec.CodeConflict, "node n2 is at n2:1 already")
	for field, bad := range map[string]*control.PutMember{
		"name": memberAt("", "n9:1"), "address": memberAt("n9", "n9"),
		"install":  {Member: control.Member{Name: "n9", Address: "n9:1"}},
		"capacity": {Member: control.Member{Name: "n9", Install: "i", Address: "n9:1", Capacity: -1}},
		"version":  {Member: control.Member{Name: "n9", Install: "i", Address: "n9:1", Version: strings.Repeat("v", 200)}},
		"api":      {Member: control.Member{Name: "n9", Install: "i", Address: "n9:1", API: strings.Repeat("v", 2000)}},
	} {
		_, err := n.group.Apply(withTimeout(t), bad)
		var e *spec.Error
		if !errors.As(err, &e) || e.Code != spec.CodeInvalid || e.Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
	n.mustRefuse(&control.SetDraining{Name: "n9"}, spec.CodeNotFound, "n9")
	n.mustRefuse(&control.RemoveMember{Name: "n9"}, spec.CodeNotFound, "n9")
	n.mustChange(&control.RemoveMember{Name: "n1"}, true)
	n.mustChange(twin, true) // the name is free now
}

func TestAMemberWithReplicasIsRemovedByForceOnly(t *testing.T) {
	n := withMembers(t, 3)
	n.apply(&control.InitPlacement{Shards: 2, Nodes: []string{"n1", "n2", "n3"}})
	n.mustRefuse(&control.RemoveMember{Name: "n3"}, spec.CodeConflict, "replicas of 2 shards")
	n.mustChange(&control.RemoveMember{Name: "n3", Force: true}, true)
	if got := n.group.State().ShardsOn("n3"); len(got) != 2 || got[0] != 1 {
		t.Errorf("the placement has %v on it", got)
	}
}

func TestShardsAreSpreadOverTheNodes(t *testing.T) {
	nodes := []string{"n1", "n2", "n3", "n4", "n5"}
	for _, c := range []struct {
		name                        string
		nodes, shards, asked, given int
	}{
		{"one node", 1, 4, 0, 1},
		{"three of five", 5, 10, 0, 3},
		{"two of three", 3, 9, 2, 2},
		{"five on four", 4, 8, 5, 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := withMembers(t, 5)
			n.apply(&control.InitPlacement{Shards: c.shards, Nodes: nodes[:c.nodes], Replicas: c.asked})
			first := map[string]int{}
			for id, s := range n.group.State().Placement.Shards {
				on := map[string]bool{}
				for number, r := range s.Replicas {
					if number < 1 || number > uint64(c.given) || r.Joining {
						t.Errorf("shard %d has replica %d: %+v", id, number, r)
					}
					on[r.Node] = true
				}
				if len(on) != c.given || s.Next != uint64(c.given+1) {
					t.Errorf("shard %d is on %v, the next replica is %d", id, on, s.Next)
				}
				first[s.Replicas[1].Node]++
			}
			for _, node := range nodes[:c.nodes] {
				if first[node] != c.shards/c.nodes {
					t.Errorf("the first replicas are spread as %v", first)
				}
			}
		})
	}
}

func TestPlacementsThatCantBeAreRefused(t *testing.T) {
	n := withMembers(t, 2)
	n.mustRefuse(&control.InitPlacement{Shards: 1, Nodes: []string{"n1", "n1"}}, spec.CodeInvalid, "twice")
	n.mustRefuse(&control.InitPlacement{Shards: 1, Nodes: []string{"n1", ""}}, spec.CodeInvalid, "not at all")
	n.mustRefuse(&control.InitPlacement{Shards: 1, Nodes: []string{"n1", "n7"}}, spec.CodeNotFound, "n7")
	n.mustRefuse(&control.InitPlacement{Shards: 1, Nodes: []string{"n1"}, Replicas: 99}, spec.CodeInvalid, "99 replicas")
	n.mustRefuse(&control.AddReplica{Shard: 1, Node: "n1"}, spec.CodeNotFound, "no shard 1")
}

func TestAReplicaMovesUnderANewNumber(t *testing.T) {
	n := withMembers(t, 4)
	n.apply(&control.InitPlacement{Shards: 1, Nodes: []string{"n1", "n2", "n3"}})
	n.mustRefuse(&control.AddReplica{Shard: 1, Node: "n2"}, spec.CodeConflict, "replica 2 on node n2 already")
	n.mustRefuse(&control.AddReplica{Shard: 1, Node: "n9"}, spec.CodeNotFound, "n9")
	n.apply(&control.SetDraining{Name: "n4", Draining: true})
	n.mustRefuse(&control.AddReplica{Shard: 1, Node: "n4"}, spec.CodePrecondition, "drained")
	n.apply(&control.SetDraining{Name: "n4"})

	if r := n.mustChange(&control.AddReplica{Shard: 1, Node: "n4"}, true); r.Replica != 4 {
		t.Errorf("the new replica is %d", r.Replica)
	}
	if r := n.mustChange(&control.AddReplica{Shard: 1, Node: "n4"}, false); r.Replica != 4 {
		t.Errorf("asked again, the new replica is %d", r.Replica)
	}
	if r := n.group.State().Placement.Shards[1].Replicas[4]; !r.Joining || r.Node != "n4" {
		t.Errorf("it is %+v", r)
	}
	n.mustRefuse(&control.ReplicaJoined{Shard: 1, Replica: 9}, spec.CodeNotFound, "no replica 9")
	n.mustChange(&control.ReplicaJoined{Shard: 1, Replica: 4}, true)
	n.mustChange(&control.ReplicaJoined{Shard: 1, Replica: 4}, false)
	n.mustChange(&control.RemoveReplica{Shard: 1, Replica: 2}, true)
	n.mustChange(&control.RemoveReplica{Shard: 1, Replica: 2}, false)
	n.mustRefuse(&control.RemoveReplica{Shard: 1, Replica: 5}, spec.CodeNotFound, "never had")
	n.mustRefuse(&control.ReplicaJoined{Shard: 1, Replica: 2}, spec.CodeNotFound, "no replica 2")
	if r := n.mustChange(&control.AddReplica{Shard: 1, Node: "n2"}, true); r.Replica != 5 {
		t.Errorf("back on n2 it is replica %d", r.Replica)
	}

	n.mustChange(&control.RemoveReplica{Shard: 1, Replica: 1}, true)
	n.mustChange(&control.RemoveReplica{Shard: 1, Replica: 3}, true)
	n.mustRefuse(&control.RemoveReplica{Shard: 1, Replica: 4}, spec.CodeConflict, "the last one")
	n.close()
	n.open()
	if s := n.group.State().Placement.Shards[1]; s.Next != 6 || len(s.Replicas) != 2 || !s.Replicas[5].Joining {
		t.Errorf("after a restart shard 1 is %+v", s)
	}
}
