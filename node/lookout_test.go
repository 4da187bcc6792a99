package node_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/internal/nodetest"
)

// A leader that stands still keeps its connections and never answers. A node without a
// replica hears of no election; it has to ask who leads.
func TestNobodyWaitsForALeaderThatStandsStill(t *testing.T) {
	c := nodetest.StartCluster(t, nodetest.ClusterConfig{Nodes: 4, Args: []string{"--shards", "1", "--replicas", "3"}})
	first, err := client.New(c.Nodes()[0].URL(), client.WithoutDiscovery())
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if _, err := first.Apply(t.Context(), "notes", []byte("apiVersion: pheromone/v1\napp: notes\nbuckets: {in: {}}\n"), client.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	var leader string
	var replicas []string
	nodetest.Eventually(t, "the shard is led", func() bool {
		cluster, err := first.Cluster(t.Context())
		if err != nil || len(cluster.Shards) != 1 {
			return false
		}
		leader, replicas = cluster.Shards[0].Leader, nil
		for _, r := range cluster.Shards[0].Replicas {
			replicas = append(replicas, r.Node)
		}
		return leader != "" && len(replicas) == 3
	})
	var leads, follows, without *nodetest.Node
	for _, n := range c.Nodes() {
		switch {
		case n.Name() == leader:
			leads = n
		case slices.Contains(replicas, n.Name()):
			follows = n
		default:
			without = n
		}
	}
	for _, n := range []*nodetest.Node{without, follows} { // they know the leader and the app
		if got := request(t.Context(), n, http.MethodPut, "/buckets/in/objects/warm", ""); !strings.HasPrefix(got, "20") {
			t.Fatalf("a put through %s: %s", n.Name(), got)
		}
	}
	if got := request(t.Context(), without, http.MethodPut, "/sessions/s/buckets/in/objects/k?deliver_after=6s", ""); !strings.HasPrefix(got, "20") {
		t.Fatal(got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	result := make(chan string, 1)
	go func() { result <- request(ctx, without, http.MethodGet, "/sessions/s/result?wait=50s", "") }()
	leads.Pause()
	defer leads.Resume()
	type ended struct {
		what, got string
		once      bool
	}
	answers := make(chan ended, 4)
	for _, n := range []*nodetest.Node{without, follows} {
		for _, key := range []string{"", "key-" + n.Name()} {
			go func() {
				answers <- ended{fmt.Sprintf("a put through %s with the key %q", n.Name(), key), request(ctx, n, http.MethodPut, "/buckets/in/objects/"+n.Name(), key), key == ""}
			}()
		}
	}
	for range 4 {
		a := <-answers
		unknown := a.once && strings.HasPrefix(a.got, "503") && strings.Contains(a.got, "unavailable")
		if !strings.HasPrefix(a.got, "20") && !unknown {
			t.Errorf("%s: %s", a.what, a.got)
		}
	}
	if got := <-result; !strings.HasPrefix(got, "200") || !strings.Contains(got, `"completed"`) {
		t.Errorf("the wait for a result: %s", got)
	}
}

// request is made once, and returns its status and what was answered.
func request(ctx context.Context, n *nodetest.Node, method, path, key string) string {
	var body io.Reader
	if method == http.MethodPut {
		body = strings.NewReader("v")
	}
	req, err := http.NewRequestWithContext(ctx, method, n.URL()+"/v1/apps/notes"+path, body)
	if err != nil {
		return err.Error()
	}
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(resp.Body)
	return fmt.Sprint(resp.Status, " ", string(text), " ", err)
}
