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
	_, _, changed := c.shards[next].Led()
	if err := c.shards[old].TransferTo(withTimeout(t), next); err != nil {
		t.Fatal(err)
	}
	ctx := withTimeout(t)
	for {
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatal("nobody was woken by the election")
		}
		var here bool
		if here, _, changed = c.shards[next].Led(); here {
			return
		}
	}
}

func TestThoseWhoWaitOnAShardAreWokenWhenItCloses(t *testing.T) {
	n := newNode(t, "")
	s := sole(n)
	term := lead(t, s)
	mustPropose(t, term, 1)
	_, _, changed := s.Led()
	applied := s.Applied()
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
