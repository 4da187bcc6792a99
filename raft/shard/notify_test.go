package shard_test

import (
	"errors"
	"testing"

	"github.com/pheromone-run/pheromone/raft/shard"
)

// waitKey waits for a test key, woken by the replica alone.
func waitKey(t *testing.T, n *node, s *shard.Shard, i int) {
	t.Helper()
	ctx := withTimeout(t)
	for {
		applied := s.Applied()
		there, err := n.db.Has(testKey(i))
		if err != nil {
			t.Fatal(err)
		}
		if there {
			return
		}
		select {
		case <-applied:
		case <-ctx.Done():
			t.Fatalf("key %d: nobody was woken for it", i)
		}
	}
}

func TestThoseWhoWatchAFollowerAreWokenByEachEntry(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, 2, 3)
	leader, term := c.leadAny()
	for i := range 20 {
		mustPropose(t, term, i)
		for replica, s := range c.shards {
			if replica != leader {
				waitKey(t, c.nodes[replica], s, i)
			}
		}
	}
}

func TestThoseWhoWaitForALeaderAreWokenByTheElection(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, 2, 3)
	old, term := c.leadAny()
	mustPropose(t, term, 1)
	next := old%3 + 1
	c.waitEqual() // all know the leader
	before := c.shards[next].LeaderChanged()
	if err := c.shards[old].TransferTo(withTimeout(t), next); err != nil {
		t.Fatal(err)
	}
	ctx := withTimeout(t)
	for changed := before; ; {
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatal("nobody was woken by the election")
		}
		changed = c.shards[next].LeaderChanged()
		if leader, _ := c.shards[next].Leader(); leader == next {
			return
		}
	}
}

func TestThoseWhoWaitOnAShardAreWokenWhenItCloses(t *testing.T) {
	n := newNode(t, "")
	s := sole(n)
	term := lead(t, s)
	mustPropose(t, term, 1)
	changed, applied := s.LeaderChanged(), s.Applied()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for name, woken := range map[string]<-chan struct{}{"leader": changed, "applied": applied} {
		select {
		case <-woken:
		case <-withTimeout(t).Done():
			t.Errorf("%s: not woken", name)
		}
	}
	if err := term.Err(); !errors.Is(err, shard.ErrTermOver) {
		t.Errorf("the term: %v", err)
	}
}
