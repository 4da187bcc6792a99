package nodetest_test

import (
	"testing"

	"github.com/pheromone-run/pheromone/internal/nodetest"
)

func TestMain(m *testing.M) { nodetest.Main(m) }

func TestThreeNodesFormAClusterAndAnyOfThemAnswers(t *testing.T) {
	c := nodetest.StartCluster(t, nodetest.ClusterConfig{Nodes: 3})
	c.Nodes()[0].CLI(0, "apply", "-f", "../linear/testdata/app/app.yaml")
	c.Nodes()[1].CLI(0, "put", "linear", "objects/k", "v")
	if out, _ := c.Nodes()[2].CLI(0, "get", "linear", "objects/k"); out != "v" {
		t.Errorf("the third node answers %q", out)
	}
	c.Nodes()[0].Kill()
	nodetest.Eventually(t, "the others take a put", func() bool {
		out, _ := c.Nodes()[1].CLI(0, "put", "linear", "objects/k", "w", "--timeout", "30s")
		return out != ""
	})
	c.Nodes()[0].Restart()
	if out, _ := c.Nodes()[0].CLI(0, "get", "linear", "objects/k"); out != "w" {
		t.Errorf("the first node answers %q", out)
	}
}
