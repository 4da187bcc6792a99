package crash

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/spec/wire"
)

var (
	formations    = flag.Int("crash.formations", 3, "clusters that are founded while their nodes are killed")
	formationSeed = flag.Uint64("crash.formation-seed", 0, "seed of the moments of the kills; 0 takes a new one")
)

// Three nodes are killed at any moment of the founding of their cluster, one after
// the other or together, and started again: they come to one cluster, which works.
func TestNodesKilledWhileTheyFoundTheirClusterComeToIt(t *testing.T) {
	start := *formationSeed
	if start == 0 {
		start = rand.Uint64()
	}
	for round := range *formations {
		seed := start + uint64(round)
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			chance := rand.New(rand.NewPCG(seed, 7))
			nodes := founders(t, 3)
			for range 10 {
				n := nodes[chance.IntN(len(nodes))]
				if n.running {
					n.Kill()
				} else {
					n.Launch()
				}
				n.running = !n.running
				// From what a process takes to listen to what an election takes.
				<-time.After(time.Duration(chance.IntN(600)) * time.Millisecond)
			}
			for _, n := range nodes {
				if !n.running {
					n.Launch()
				}
			}
			var id string
			for i, n := range nodes {
				c := n.awaitCluster(len(nodes))
				if i == 0 {
					id = c.ID
				}
				if c.ID != id || id == "" {
					t.Fatalf("node %s is in cluster %q, the first one in %q", c.Node, c.ID, id)
				}
			}
		})
	}
}

// founder is a node that is to found a cluster.
type founder struct {
	*nodetest.Node
	t       *testing.T
	running bool
}

func founders(t *testing.T, count int) []*founder {
	t.Helper()
	join := ""
	var addresses []string
	for range count {
		address := nodetest.FreeAddress(t)
		addresses = append(addresses, address)
		join += "," + address
	}
	var all []*founder
	for i, address := range addresses {
		all = append(all, &founder{t: t, Node: nodetest.New(t, "--name", fmt.Sprint("n", i+1), "--peer-listen", address,
			"--bootstrap-expect", fmt.Sprint(count), "--join", join[1:], "--shards", "2", "--join-token", "founded in a storm")})
	}
	return all
}

// awaitCluster waits until a node is ready and sees that all are there.
func (n *founder) awaitCluster(count int) wire.Cluster {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), 2*time.Minute)
	defer cancel()
	c, err := client.New(n.URL(), client.WithRetry(client.Retry{MaxAttempts: 1}))
	if err != nil {
		n.t.Fatal(err)
	}
	defer c.Close()
	for {
		cluster, err := c.Cluster(ctx)
		live := 0
		for _, node := range cluster.Nodes {
			if node.Live && node.Voter {
				live++
			}
		}
		if err == nil && cluster.Ready && live == count && len(cluster.Shards) == 2 {
			return cluster
		}
		select {
		case <-n.Exited():
			n.t.Fatalf("a node ended by itself:\n%s", n.Log())
		case <-ctx.Done():
			n.t.Fatalf("the cluster does not come together: %v, %+v\n%s", err, cluster, n.Log())
		case <-time.After(50 * time.Millisecond):
		}
	}
}
