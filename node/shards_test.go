package node

import (
	"slices"
	"testing"

	"github.com/pheromone-run/pheromone/node/blobs"
	"github.com/pheromone-run/pheromone/raft/control"
)

// A founder may start its replicas for the first time when the cluster has gone on
// without it.
func TestOnlyTheFirstReplicasMakeAShard(t *testing.T) {
	n1, n2, n3, n4 := control.Replica{Node: "n1"}, control.Replica{Node: "n2"}, control.Replica{Node: "n3"}, control.Replica{Node: "n4"}
	joining := control.Replica{Node: "n4", Joining: true}
	for _, c := range []struct {
		what   string
		placed control.Shard
		number uint64
		want   bool
	}{
		{"as founded", control.Shard{Next: 4, Replicas: map[uint64]control.Replica{1: n1, 2: n2, 3: n3}}, 3, true},
		{"one joins", control.Shard{Next: 5, Replicas: map[uint64]control.Replica{1: n1, 2: n2, 3: n3, 4: joining}}, 3, false},
		{"the one that joins", control.Shard{Next: 5, Replicas: map[uint64]control.Replica{1: n1, 2: n2, 3: n3, 4: joining}}, 4, true},
		{"one has joined for another", control.Shard{Next: 5, Replicas: map[uint64]control.Replica{1: n1, 3: n3, 4: n4}}, 3, false},
		{"one is gone", control.Shard{Next: 4, Replicas: map[uint64]control.Replica{1: n1, 3: n3}}, 3, false},
	} {
		if got := canStart(c.placed, c.number, 3); got != c.want {
			t.Errorf("%s: replica %d can be started: %v", c.what, c.number, got)
		}
	}
}

// While members change, a placement and its raft group are not the same.
func TestCopiesGoToThoseThatArePlacedAndToThoseThatVote(t *testing.T) {
	placed := map[uint64]control.Replica{1: {Node: "n1"}, 2: {Node: "n2"}, 4: {Node: "n4", Joining: true}, 5: {Node: "n5"}}
	got := replicasOf(placed, "n1", 1, []uint64{1, 2, 3, 4})
	want := []blobs.Replica{{Number: 2, Node: "n2", Votes: true}, {Number: 3, Votes: true}, {Number: 4, Node: "n4", Votes: true}, {Number: 5, Node: "n5"}}
	if !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
