package shard_test

import (
	"testing"

	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/raft/shard"
)

// addLearner adds a replica on a new node and has it run.
func (c *cluster) addLearner(leader, replica uint64) {
	c.t.Helper()
	c.members[replica] = nodetest.FreeAddress(c.t)
	c.addLearnerAt(leader, replica)
}

// addLearnerAt does so where the members say it is.
func (c *cluster) addLearnerAt(leader, replica uint64, change ...func(*node)) {
	c.t.Helper()
	must(c.t, c.shards[leader].At(0).AddReplica(withTimeout(c.t), replica, c.members[replica]))
	for _, n := range c.nodes {
		n.host.SetAddress(1, replica, c.members[replica])
	}
	n := newNode(c.t, c.members[replica], append(change, c.wired, steady)...)
	s, err := n.host.Join(1, replica, c.members)
	must(c.t, err)
	c.nodes[replica], c.shards[replica] = n, s
}

// The log of a replica that joined has its time as a learner in it, and is gone
// through again when it starts.
func TestALearnerKeepsItsPlaceOverRestarts(t *testing.T) {
	t.Parallel()
	start := func(n *node, c *cluster) (*shard.Shard, error) { return n.host.Start(1, 4, c.members) }
	join := func(n *node, c *cluster) (*shard.Shard, error) { return n.host.Join(1, 4, c.members) }
	for _, test := range []struct {
		name    string
		promote bool
		again   func(*node, *cluster) (*shard.Shard, error)
	}{
		{"before it is promoted", false, join},
		{"promoted", true, start},
		{"promoted, which its node does not know yet", true, join},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := newCluster(t, 1, 2, 3)
			leader, term := c.leadAny()
			fill(t, term, 10)
			c.addLearner(leader, 4)
			if test.promote {
				must(t, c.shards[leader].At(0).Promote(withTimeout(t), 4))
			}
			mustPropose(t, term, 11)
			c.waitEqual()
			c.nodes[4].close()
			c.nodes[4].open()
			s, err := test.again(c.nodes[4], c)
			must(t, err)
			c.shards[4] = s
			if !test.promote {
				must(t, c.shards[leader].At(0).Promote(withTimeout(t), 4))
			}
			mustPropose(t, term, 12)
			c.waitEqual()
			must(t, c.shards[leader].TransferTo(withTimeout(t), 4))
			mustPropose(t, lead(t, s), 13)
			c.waitEqual()
		})
	}
}
