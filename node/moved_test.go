package node_test

import (
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/internal/nodetest"
)

// A leader that stands still never answers. Who has asked it for a client asks the
// one that is elected in its place.
func TestAPutUnderWayGoesOnAtTheNextLeader(t *testing.T) {
	c := nodetest.StartCluster(t, nodetest.ClusterConfig{Nodes: 3, Args: []string{"--shards", "1"}})
	nodes := map[string]*nodetest.Node{}
	for _, n := range c.Nodes() {
		nodes[n.Name()] = n
	}
	first, err := client.New(c.Nodes()[0].URL(), client.WithoutDiscovery())
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if _, err := first.Apply(t.Context(), "notes", []byte("apiVersion: pheromone/v1\napp: notes\nbuckets: {in: {}}\n"), client.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	var leader string
	nodetest.Eventually(t, "the shard is led", func() bool {
		cluster, err := first.Cluster(t.Context())
		if err == nil && len(cluster.Shards) == 1 {
			leader = cluster.Shards[0].Leader
		}
		return leader != ""
	})
	nodes[leader].Pause()
	defer nodes[leader].Resume()
	for name, n := range nodes {
		if name == leader {
			continue
		}
		// One attempt: the node has to find the way.
		once, err := client.New(n.URL(), client.WithoutDiscovery(), client.WithRetry(client.Retry{MaxAttempts: 1, For: 2 * time.Minute}))
		if err != nil {
			t.Fatal(err)
		}
		defer once.Close()
		if _, err := once.Put(t.Context(), "notes", "in", "k", strings.NewReader(name), client.PutOptions{IdempotencyKey: name}); err != nil {
			t.Errorf("through %s: %v", name, err)
		}
	}
}
