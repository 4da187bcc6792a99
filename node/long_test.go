package node_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/spec"
)

// A node without a replica of a shard has long answers from one that has it: lists
// of many objects, and what a watch has missed.
func TestANodeWithoutReplicasPassesLongAnswersOn(t *testing.T) {
	c := nodetest.StartCluster(t, nodetest.ClusterConfig{Nodes: 3, Args: []string{"--shards", "1", "--replicas", "1"}})
	const objects = 300
	for i, n := range c.Nodes() {
		one, err := client.New(n.URL(), client.WithoutDiscovery())
		if err != nil {
			t.Fatal(err)
		}
		defer one.Close()
		if i == 0 {
			if _, err := one.Apply(t.Context(), "notes", []byte("apiVersion: pheromone/v1\napp: notes\nbuckets: {in: {}}\n"), client.ApplyOptions{}); err != nil {
				t.Fatal(err)
			}
			for k := range objects {
				key := spec.Key(fmt.Sprintf("%04d-%s", k, strings.Repeat("k", 900)))
				if _, err := one.Put(t.Context(), "notes", "in", key, strings.NewReader("v"), client.PutOptions{}); err != nil {
					t.Fatal(err)
				}
			}
		}
		listed := 0
		for _, err := range one.List(t.Context(), "notes", "in", client.ListOptions{}) {
			if err != nil {
				t.Fatalf("list at %s: %v", n.Name(), err)
			}
			listed++
		}
		if listed != objects {
			t.Errorf("%s lists %d objects, want %d", n.Name(), listed, objects)
		}
	}
}
