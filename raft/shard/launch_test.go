package shard_test

import (
	"errors"
	"testing"

	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/raft/shard"
)

// A replica alone is started again with another timing before it gets company. What
// stands in the way of that may be gone the next time.
func TestAReplicaThatCouldNotBeStartedAgainIsByTheNextChange(t *testing.T) {
	t.Parallel()
	n := newNode(t, nodetest.FreeAddress(t))
	s := sole(n)
	mustPropose(t, lead(t, s), 1)
	meta, err := n.db.Meta(1)
	if err != nil {
		t.Fatal(err)
	}
	ahead := meta
	ahead.Applied += 1000 // than the raft log, which is refused
	if err := n.db.Apply(1, nil, ahead); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.At(0).AddReplica(withTimeout(t), 2, nodetest.FreeAddress(t)); !errors.Is(err, shard.ErrLost) {
			t.Fatalf("added with a raft log behind the store: %v", err)
		}
	}
	if err := n.db.Apply(1, nil, meta); err != nil {
		t.Fatal(err)
	}
	if err := s.At(0).AddReplica(withTimeout(t), 2, nodetest.FreeAddress(t)); err != nil {
		t.Fatal(err)
	}
	mustPropose(t, lead(t, s), 2)
}
