package shard_test

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/raft/shard"
)

// slow is a cluster whose elections by timeout come long after the test, led by
// replica 1, and what replica 3 says.
func slow(t *testing.T) (*cluster, *shard.Term, *said) {
	t.Helper()
	c := &cluster{t: t, members: map[uint64]string{}, nodes: map[uint64]*node{}, shards: map[uint64]*shard.Shard{}}
	for replica := range uint64(3) {
		c.members[replica+1] = nodetest.FreeAddress(t)
	}
	log := &said{}
	for replica := range c.members {
		c.nodes[replica] = newNode(t, c.members[replica], c.wired, func(n *node) {
			// The second to stand gives the first one four seconds, also on a busy machine: two
			// that stand at once have to wait for a timeout.
			n.cfg.RTT, n.cfg.ElectionTicks = 500*time.Millisecond, 2400
			if replica == 3 {
				n.cfg.Log = slog.New(slog.NewTextHandler(log, nil))
			}
		})
		c.shards[replica] = c.nodes[replica].start(1, replica, c.members)
	}
	eventually(t, "replica 1 leads", func() bool {
		shard.StandForElection(c.nodes[1].host, c.shards[1]) // its log may not be open yet
		leader, ok := c.shards[3].Leader()
		return ok && leader == 1
	})
	return c, lead(t, c.shards[1]), log
}

// said keeps what is logged.
type said struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *said) has(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(s.text.String(), text)
}

func TestAnotherReplicaLeadsAtOnceWhenTheLeadersProcessIsGone(t *testing.T) {
	t.Parallel()
	c, term, _ := slow(t)
	for i := range 20 {
		mustPropose(t, term, i)
	}
	c.nodes[1].die()
	delete(c.shards, 1)
	_, after := c.leadAny()
	mustPropose(t, after, 20)
	c.waitEqual()
}

func TestAReplicaThatReachesTooFewDoesNotStandForElection(t *testing.T) {
	t.Parallel()
	c, term, log := slow(t)
	mustPropose(t, term, 1)
	before := c.shards[3].Status().RaftTerm
	c.nodes[2].die()
	mustPropose(t, term, 2)
	c.nodes[1].die()
	eventually(t, "replica 3 has looked for others", func() bool { return log.has("too few voters are reached") })
	if after := c.shards[3].Status(); after.RaftTerm != before || after.Leader != 1 {
		t.Errorf("raft term %d, leader %d; they were %d and 1", after.RaftTerm, after.Leader, before)
	}
}
