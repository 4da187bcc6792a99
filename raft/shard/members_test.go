package shard_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/pheromone-run/pheromone/raft/shard"
)

func TestMembersTellLearnersFromVotersAndThoseThatWereRemoved(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	leader, _ := c.leadAny()
	before, err := c.shards[leader].Members(withTimeout(t))
	if err != nil || !slices.Equal(before.Voters, []uint64{1, 2, 3}) || len(before.Learners)+len(before.Removed) != 0 {
		t.Fatalf("members %+v, error %v", before, err)
	}
	address := freeAddress(t)
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
