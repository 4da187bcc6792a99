package node_test

import (
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/node"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

func TestAShardsHashFollowsWhatItHolds(t *testing.T) {
	n := startInproc(t, node.Config{}, "shop", "apiVersion: pheromone/v1\napp: shop\nbuckets: {in: {}}\n")
	hash := func() wire.ShardHash {
		t.Helper()
		h, err := n.ShardHash(t.Context(), 1)
		if err != nil {
			t.Fatal(err)
		}
		return h
	}
	empty := hash()
	if empty.Shard != 1 || empty.Node != "n1" || empty.Replica == 0 || len(empty.Hash) != 32 {
		t.Errorf("the hash of an empty shard: %+v", empty)
	}
	c, err := client.New(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Put(t.Context(), "shop", "in", "k", strings.NewReader("v"), client.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	full := hash()
	if full.Hash == empty.Hash || full.Applied <= empty.Applied {
		t.Errorf("after a put: %+v, was %+v", full, empty)
	}
	if again := hash(); again != full {
		t.Errorf("without a change: %+v, was %+v", again, full)
	}
	if _, err := c.Put(t.Context(), "shop", "in", "large", strings.NewReader(strings.Repeat("v", 2<<20)), client.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	if large := hash(); large.Hash == full.Hash || large.Blobs == full.Blobs || large.Lacking != 0 {
		t.Errorf("after a put of a large object: %+v, was %+v", large, full)
	}
	if _, err := n.ShardHash(t.Context(), 7); spec.CodeOf(err) != spec.CodeNotFound {
		t.Errorf("of a shard that is not there: %v", err)
	}
}
