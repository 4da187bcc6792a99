package shard_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/raft/shard"
)

func TestMembersTellLearnersFromVotersAndThoseThatWereRemoved(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, 2, 3)
	leader, _ := c.leadAny()
	before, err := c.shards[leader].Members(withTimeout(t))
	if err != nil || !slices.Equal(before.Voters, []uint64{1, 2, 3}) || len(before.Learners)+len(before.Removed) != 0 {
		t.Fatalf("members %+v, error %v", before, err)
	}
	address := nodetest.FreeAddress(t)
	if err := c.shards[leader].At(before.Version).AddReplica(withTimeout(t), 4, address); err != nil {
		t.Fatal(err)
	}
	learning, err := c.shards[leader].Members(withTimeout(t))
	if err != nil || !slices.Equal(learning.Learners, []uint64{4}) || len(learning.Voters) != 3 || learning.Version == before.Version {
		t.Fatalf("members %+v, error %v", learning, err)
	}

	err = c.shards[leader].At(before.Version).RemoveReplica(withTimeout(t), leader%3+1)
	if !errors.Is(err, shard.ErrMembersChanged) {
		t.Errorf("a change that was planned before the last one: %v", err)
	}
	if err := c.shards[leader].At(learning.Version).RemoveReplica(withTimeout(t), 4); err != nil {
		t.Fatal(err)
	}
	after, err := c.shards[leader].Members(withTimeout(t))
	if err != nil || !slices.Equal(after.Voters, []uint64{1, 2, 3}) || len(after.Learners) != 0 || !slices.Equal(after.Removed, []uint64{4}) {
		t.Fatalf("members %+v, error %v", after, err)
	}
}

func TestAReplicaKnowsWhoVotesWithoutAskingAnybody(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, 2, 3)
	leader, _ := c.leadAny()
	s := c.shards[leader]
	if voters := s.Voters(); !slices.Equal(voters, []uint64{1, 2, 3}) {
		t.Fatalf("voters %v", voters)
	}
	if err := s.At(0).AddReplica(withTimeout(t), 4, nodetest.FreeAddress(t)); err != nil {
		t.Fatal(err)
	}
	if voters := s.Voters(); !slices.Equal(voters, []uint64{1, 2, 3}) {
		t.Errorf("with a learner: %v", voters)
	}
	gone := leader%3 + 1
	if err := s.At(0).RemoveReplica(withTimeout(t), gone); err != nil {
		t.Fatal(err)
	}
	stay := slices.DeleteFunc([]uint64{1, 2, 3}, func(n uint64) bool { return n == gone })
	if voters := s.Voters(); !slices.Equal(voters, stay) {
		t.Errorf("without one: %v", voters)
	}
	for number, n := range c.nodes {
		if number != leader {
			n.close()
		}
	}
	if voters := s.Voters(); !slices.Equal(voters, stay) {
		t.Errorf("alone: %v", voters)
	}
	c.nodes[leader].close()
	if voters := s.Voters(); len(voters) != 0 {
		t.Errorf("when it has ended: %v", voters)
	}
}

// The placement says that it joins until it is told otherwise, and a node goes by
// the placement.
func TestAReplicaThatHasItsVoteMayBeStartedAsOneThatJoins(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, 2, 3)
	leader, term := c.leadAny()
	for i := range 30 {
		mustPropose(t, term, i)
	}
	c.members[4] = nodetest.FreeAddress(t)
	if err := c.shards[leader].At(0).AddReplica(withTimeout(t), 4, c.members[4]); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.nodes {
		n.host.SetAddress(1, 4, c.members[4])
	}
	n := newNode(t, c.members[4], steady)
	s, err := n.host.Join(1, 4, c.members)
	if err != nil {
		t.Fatal(err)
	}
	c.nodes[4], c.shards[4] = n, s
	eventually(t, "replica 4 has all", func() bool { return count(t, n.db) == 30 })
	if err := c.shards[leader].At(0).Promote(withTimeout(t), 4); err != nil {
		t.Fatal(err)
	}
	mustPropose(t, term, 100)
	eventually(t, "replica 4 has all", func() bool { return count(t, n.db) == 31 })
	n.close()
	mustPropose(t, term, 101)
	n.open()
	if s, err = n.host.Join(1, 4, c.members); err != nil {
		t.Fatal(err)
	}
	c.shards[4] = s
	mustPropose(t, term, 102)
	c.waitEqual()
	other := leader%3 + 1
	c.nodes[other].close() // 4 is needed now
	delete(c.shards, other)
	mustPropose(t, term, 103)
	eventually(t, "replica 4 has all", func() bool { return count(t, n.db) == 34 })
	if err := c.shards[leader].TransferTo(withTimeout(t), 4); err != nil {
		t.Fatal(err)
	}
}
