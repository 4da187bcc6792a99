package node_test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/spec"
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

// Whoever waits for a result may have waited for longer than an election takes when
// the leader is lost.
func TestAWaitForAResultOutlivesTheLeader(t *testing.T) {
	c := nodetest.StartCluster(t, nodetest.ClusterConfig{Nodes: 3, Args: []string{"--shards", "1"}})
	first, err := client.New(c.Nodes()[0].URL(), client.WithoutDiscovery())
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if _, err := first.Apply(t.Context(), "notes", []byte("apiVersion: pheromone/v1\napp: notes\nbuckets: {in: {}}\n"), client.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := first.PutSession(t.Context(), "notes", "s", "in", "k", strings.NewReader("v"), client.PutOptions{DeliverAfter: 18 * time.Second}); err != nil {
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
	answers := make(chan string, 2)
	var leads *nodetest.Node
	for _, n := range c.Nodes() {
		if n.Name() == leader {
			leads = n
			continue
		}
		go func() {
			resp, err := http.Get(n.URL() + "/v1/apps/notes/sessions/s/result?wait=50s")
			if err != nil {
				answers <- err.Error()
				return
			}
			defer func() { _ = resp.Body.Close() }()
			body, err := io.ReadAll(resp.Body)
			answers <- fmt.Sprint(resp.Status, " ", string(body), " ", err)
		}()
	}
	<-time.After(11 * time.Second) // longer than a question looks for a leader: what is tested is an old wait
	leads.Kill()
	for range 2 {
		if got := <-answers; !strings.HasPrefix(got, "200") || !strings.Contains(got, `"completed"`) {
			t.Error(got)
		}
	}
}

// A replica's node that stands still never answers. Who has no replica itself asks
// another one.
func TestAReadGoesOnAtAnotherReplica(t *testing.T) {
	c := nodetest.StartCluster(t, nodetest.ClusterConfig{Nodes: 3, Args: []string{"--shards", "1", "--replicas", "2"}})
	var without *nodetest.Node
	var replicas []string
	nodetest.Eventually(t, "the shard is placed", func() bool {
		x, err := client.New(c.Nodes()[0].URL(), client.WithoutDiscovery())
		if err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		cluster, err := x.Cluster(t.Context())
		if err != nil || len(cluster.Shards) != 1 {
			return false
		}
		replicas = nil
		for _, r := range cluster.Shards[0].Replicas {
			replicas = append(replicas, r.Node)
		}
		return len(replicas) == 2
	})
	for _, n := range c.Nodes() {
		if !slices.Contains(replicas, n.Name()) {
			without = n
		}
	}
	once, err := client.New(without.URL(), client.WithoutDiscovery(), client.WithRetry(client.Retry{MaxAttempts: 1, For: 2 * time.Minute}))
	if err != nil {
		t.Fatal(err)
	}
	defer once.Close()
	if _, err := once.Apply(t.Context(), "notes", []byte("apiVersion: pheromone/v1\napp: notes\nbuckets: {in: {}}\n"), client.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := once.Put(t.Context(), "notes", "in", "k", strings.NewReader("v"), client.PutOptions{}); err != nil {
		t.Fatal(err)
	}
	var with []*nodetest.Node
	for _, n := range c.Nodes() {
		if n != without {
			with = append(with, n)
			awaitStale(t, n, "k")
		}
	}
	for _, n := range with {
		n.Pause()
		_, err := once.Get(t.Context(), "notes", "in", "k", client.GetOptions{Stale: true})
		n.Resume()
		if err != nil {
			t.Errorf("while %s stands still: %v", n.Name(), err)
		}
	}
}

// awaitStale waits until a node's own replica has an object: it may be a moment behind.
func awaitStale(t *testing.T, n *nodetest.Node, key spec.Key) {
	t.Helper()
	own, err := client.New(n.URL(), client.WithoutDiscovery())
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	nodetest.Eventually(t, "node "+n.Name()+" has what was put", func() bool {
		_, err := own.Get(t.Context(), "notes", "in", key, client.GetOptions{Stale: true})
		return err == nil
	})
}
