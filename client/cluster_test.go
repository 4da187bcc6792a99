package client_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// testCluster is servers that say they are the nodes n0, n1, … of one cluster, in
// which leader leads all slots.
type testCluster struct {
	t     *testing.T
	nodes []*testNode
	mu    struct {
		sync.Mutex
		leader string
		apis   map[string]string // what the cluster says of each node's address
		done   map[string]wire.PutResult
	}
}

type testNode struct {
	cluster *testCluster
	name    string
	id      string
	server  *httptest.Server
	handle  http.HandlerFunc // instead of the cluster's own
	mu      struct {
		sync.Mutex
		asked []string
		keys  []string
	}
}

func startCluster(t *testing.T, nodes int) *testCluster {
	c := &testCluster{t: t}
	c.mu.apis, c.mu.done = map[string]string{}, map[string]wire.PutResult{}
	for i := range nodes {
		n := &testNode{cluster: c, name: fmt.Sprintf("n%d", i), id: "cluster-1"}
		n.server = httptest.NewServer(n)
		t.Cleanup(n.server.Close)
		c.nodes = append(c.nodes, n)
		c.mu.apis[n.name] = n.server.URL
	}
	return c
}

func (c *testCluster) lead(node string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.leader = node
}

// client is one of the cluster's nodes named, and no patience.
func (c *testCluster) client(servers string, options ...client.Option) *client.Client {
	c.t.Helper()
	options = append([]client.Option{client.WithRetry(client.Retry{For: time.Minute, Backoff: time.Millisecond, MaxBackoff: 2 * time.Millisecond})}, options...)
	made, err := client.New(servers, options...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(made.Close)
	return made
}

// learn has made find the cluster's nodes.
func (c *testCluster) learn(made *client.Client, servers int) {
	c.t.Helper()
	if _, err := made.Apps(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
	nodetest.Eventually(c.t, "the client knows the other nodes", func() bool { return len(made.Servers()) == servers })
}

func (n *testNode) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/v1/cluster" {
		n.cluster.view(n, w)
		return
	}
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(strings.NewReader(string(body)))
	n.mu.Lock()
	n.mu.asked = append(n.mu.asked, r.Method+" "+r.URL.Path)
	n.mu.keys = append(n.mu.keys, r.Header.Get("Idempotency-Key"))
	handle := n.handle
	n.mu.Unlock()
	if handle != nil {
		handle(w, r)
		return
	}
	answer(w, 200, n.cluster.put(r))
}

// put does a request once for each idempotency key, as shards do.
func (c *testCluster) put(r *http.Request) wire.PutResult {
	key := r.Header.Get("Idempotency-Key")
	c.mu.Lock()
	defer c.mu.Unlock()
	if done, ok := c.mu.done[key]; ok {
		done.Existed = true
		return done
	}
	result := wire.PutResult{Revision: spec.Revision(len(c.mu.done) + 1), Session: spec.SessionID(fmt.Sprintf("s%d", len(c.mu.done)+1))}
	c.mu.done[key] = result
	return result
}

func (c *testCluster) puts() int { c.mu.Lock(); defer c.mu.Unlock(); return len(c.mu.done) }

func (c *testCluster) view(n *testNode, w http.ResponseWriter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	type object = map[string]any
	view := object{"id": n.id, "node": n.name, "nodes": []object{}, "shards": []object{
		{"shard": 1, "leader": c.mu.leader, "ranges": []object{{"from": 0, "to": 4095}}},
	}}
	for _, other := range c.nodes {
		view["nodes"] = append(view["nodes"].([]object), object{"name": other.name, "api": c.mu.apis[other.name], "live": true})
	}
	_ = json.NewEncoder(w).Encode(view)
}

func (n *testNode) do(handle http.HandlerFunc) { n.mu.Lock(); defer n.mu.Unlock(); n.handle = handle }

func (n *testNode) asked() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.mu.asked)
}

func (n *testNode) keys() []string { n.mu.Lock(); defer n.mu.Unlock(); return slices.Clone(n.mu.keys) }

// die breaks all connections and takes no more.
func (n *testNode) die() {
	_ = n.server.Listener.Close()
	n.server.CloseClientConnections()
}

func put(t *testing.T, c *client.Client, key spec.Key) wire.PutResult {
	t.Helper()
	r, err := c.Put(t.Context(), "a", "b", key, strings.NewReader("value"), client.PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestAPutWhoseNodeDiesInTheMiddleIsDoneOnceByAnother(t *testing.T) {
	cluster := startCluster(t, 2)
	first, second := cluster.nodes[0], cluster.nodes[1]
	first.do(func(_ http.ResponseWriter, r *http.Request) {
		cluster.put(r)
		_ = first.server.Listener.Close()
		panic(http.ErrAbortHandler) // it is done, and nobody is told
	})
	c := cluster.client(first.server.URL + "," + second.server.URL)
	if r := put(t, c, "k"); r.Session != "s1" || !r.Existed || cluster.puts() != 1 {
		t.Errorf("the put gave %+v, and %d puts were done", r, cluster.puts())
	}
	if sent, again := first.keys(), second.keys(); len(sent) != 1 || len(again) != 1 || sent[0] == "" || sent[0] != again[0] {
		t.Errorf("keys %q, then %q: want the same one", sent, again)
	}
}

func TestTheNextServerIsAskedWhereOneDoesNotListen(t *testing.T) {
	cluster := startCluster(t, 2)
	cluster.nodes[0].die()
	c := cluster.client(cluster.nodes[0].server.URL+", "+cluster.nodes[1].server.URL, client.WithoutDiscovery())
	if put(t, c, "k"); len(cluster.nodes[1].asked()) != 1 {
		t.Errorf("the second server was asked %q", cluster.nodes[1].asked())
	}
}

func TestAServerThatAsksToBeLeftAloneIsAndTheNextOneIsNotWaitedFor(t *testing.T) {
	cluster := startCluster(t, 2)
	cluster.nodes[0].do(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "30") // more than the time there is
		refuse(w, 503, spec.CodeUnavailable, "no leader just now")
	})
	c := cluster.client(cluster.nodes[0].server.URL+","+cluster.nodes[1].server.URL, client.WithoutDiscovery())
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
	defer cancel()
	for range 2 {
		if _, err := c.Put(ctx, "a", "b", "k", strings.NewReader("x"), client.PutOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(cluster.nodes[0].asked()); n != 1 {
		t.Errorf("the first server was asked %d times, want once", n)
	}
}

func TestWhatOneServerRefusesForGoodIsNotAskedOfAnother(t *testing.T) {
	for _, status := range []int{400, 404, 409, 410, 412, 413, 500, 504} {
		cluster := startCluster(t, 2)
		cluster.nodes[0].do(func(w http.ResponseWriter, r *http.Request) { refuse(w, status, spec.CodeInvalid, "no") })
		c := cluster.client(cluster.nodes[0].server.URL + "," + cluster.nodes[1].server.URL)
		_, err := c.Put(t.Context(), "a", "b", "k", strings.NewReader("x"), client.PutOptions{})
		if err == nil || len(cluster.nodes[0].asked()) != 1 || len(cluster.nodes[1].asked()) != 0 {
			t.Errorf("status %d: error %v, asked %d and %d times", status, err, len(cluster.nodes[0].asked()), len(cluster.nodes[1].asked()))
		}
	}
}

func TestAServerThatStaysSilentIsLeftForAnother(t *testing.T) {
	cluster := startCluster(t, 2)
	silent := make(chan struct{})
	t.Cleanup(func() { close(silent) })
	cluster.nodes[0].do(func(http.ResponseWriter, *http.Request) { <-silent })
	c := cluster.client(cluster.nodes[0].server.URL+","+cluster.nodes[1].server.URL, client.WithRetry(client.Retry{Silence: 10 * time.Millisecond}))
	if put(t, c, "k"); len(cluster.nodes[1].asked()) == 0 {
		t.Error("the second server was not asked")
	}
}

func TestABodyThatCantBeReadTwiceIsSentOnceAndTheErrorSaysSo(t *testing.T) {
	cluster := startCluster(t, 2)
	cluster.nodes[0].do(func(w http.ResponseWriter, r *http.Request) { refuse(w, 503, spec.CodeUnavailable, "not now") })
	c := cluster.client(cluster.nodes[0].server.URL + "," + cluster.nodes[1].server.URL)
	_, err := c.Put(t.Context(), "a", "b", "k", io.MultiReader(strings.NewReader("value")), client.PutOptions{})
	if spec.CodeOf(err) != spec.CodeUnavailable || !strings.Contains(err.Error(), "can't be read twice") || len(cluster.nodes[1].asked()) != 0 {
		t.Errorf("error %v, the second server was asked %q", err, cluster.nodes[1].asked())
	}
}

func TestAPutThatIsSentOnceGoesWithoutAKeyAndIsNotRepeated(t *testing.T) {
	cluster := startCluster(t, 2)
	cluster.nodes[0].do(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	c := cluster.client(cluster.nodes[0].server.URL + "," + cluster.nodes[1].server.URL)
	_, err := c.Put(t.Context(), "a", "b", "k", strings.NewReader("x"), client.PutOptions{SendOnce: true})
	if spec.CodeOf(err) != spec.CodeUnavailable || len(cluster.nodes[1].asked()) != 0 || !slices.Equal(cluster.nodes[0].keys(), []string{""}) {
		t.Errorf("error %v, keys %q, then asked %q", err, cluster.nodes[0].keys(), cluster.nodes[1].asked())
	}
	if _, err := c.Put(t.Context(), "a", "b", "k", nil, client.PutOptions{SendOnce: true, IdempotencyKey: "x"}); spec.CodeOf(err) != spec.CodeInvalid {
		t.Errorf("with a key: %v, want invalid", err)
	}
}

func TestTheOtherNodesOfAClusterAreFoundAndTakeOver(t *testing.T) {
	cluster := startCluster(t, 3)
	c := cluster.client(cluster.nodes[0].server.URL)
	cluster.learn(c, 3)
	cluster.nodes[0].die()
	if put(t, c, "k"); len(cluster.nodes[1].asked())+len(cluster.nodes[2].asked()) != 1 {
		t.Errorf("the others were asked %q and %q, want one request", cluster.nodes[1].asked(), cluster.nodes[2].asked())
	}
	if c.URL() != cluster.nodes[0].server.URL {
		t.Errorf("the URL is now %s", c.URL())
	}
}

func TestOnlyNodesThatSayTheSameOfThemselvesGetRequests(t *testing.T) {
	cluster := startCluster(t, 4)
	cluster.nodes[2].id = "cluster-2"                                        // another one's, at the same address from here
	cluster.mu.apis["n3"] = "http://user@" + cluster.nodes[3].server.URL[7:] // no server's URL
	cluster.lead("n2")
	c := cluster.client(cluster.nodes[0].server.URL)
	cluster.learn(c, 2)
	if want := []string{cluster.nodes[0].server.URL, cluster.nodes[1].server.URL}; !slices.Equal(c.Servers(), want) {
		t.Errorf("servers %q, want %q", c.Servers(), want)
	}
	if put(t, c, "k"); len(cluster.nodes[2].asked()) != 0 {
		t.Errorf("the stranger was asked %q", cluster.nodes[2].asked())
	}
}

func TestAClientThatWasNamedTLSDoesNotGoOnInTheClear(t *testing.T) {
	cluster := startCluster(t, 3)
	secure := httptest.NewTLSServer(cluster.nodes[0])
	t.Cleanup(secure.Close)
	other := httptest.NewTLSServer(cluster.nodes[2])
	t.Cleanup(other.Close)
	cluster.mu.apis["n0"], cluster.mu.apis["n2"] = secure.URL, other.URL
	cluster.lead("n1")
	c := cluster.client(secure.URL, client.WithHTTPClient(secure.Client()))
	cluster.learn(c, 2)
	if put(t, c, "k"); len(cluster.nodes[1].asked()) != 0 || slices.Contains(c.Servers(), cluster.nodes[1].server.URL) {
		t.Errorf("sent in the clear: %q of %q", cluster.nodes[1].asked(), c.Servers())
	}
}

func TestWithoutDiscoveryOnlyTheNamedServersAreAsked(t *testing.T) {
	for name, made := range map[string]func(*testCluster) *client.Client{
		"asked for":     func(c *testCluster) *client.Client { return c.client(c.nodes[0].server.URL, client.WithoutDiscovery()) },
		"behind a path": func(c *testCluster) *client.Client { return c.client(c.nodes[0].server.URL + "/proxy") },
	} {
		cluster := startCluster(t, 2)
		c := made(cluster)
		for range 3 {
			put(t, c, "k")
		}
		if len(c.Servers()) != 1 || len(cluster.nodes[1].asked()) != 0 {
			t.Errorf("%s: servers %q", name, c.Servers())
		}
	}
}

func TestRequestsForAKeyOrASessionGoToTheLeaderOfItsShard(t *testing.T) {
	cluster := startCluster(t, 3)
	cluster.lead("n2")
	c := cluster.client(cluster.nodes[0].server.URL)
	cluster.learn(c, 3)
	before := len(cluster.nodes[0].asked())
	put(t, c, "k")
	for name, call := range map[string]func() error{
		"get":    func() error { _, err := c.Get(t.Context(), "a", "b", "k", client.GetOptions{}); return err },
		"delete": func() error { _, err := c.Delete(t.Context(), "a", "b", "k", client.DeleteOptions{}); return err },
		"invoke": func() error { _, err := c.Invoke(t.Context(), "a", "f", nil, client.InvokeOptions{}); return err },
		"show":   func() error { _, err := c.Session(t.Context(), "a", "s"); return err },
		"cancel": func() error { _, err := c.Cancel(t.Context(), "a", "s"); return err },
	} {
		if err := call(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if leads, others := len(cluster.nodes[2].asked()), len(cluster.nodes[0].asked())-before+len(cluster.nodes[1].asked()); leads != 6 || others != 0 {
		t.Errorf("the leader was asked %d times and the others %d, want 6 and 0", leads, others)
	}
	// What is about no key or session goes to the node that was named.
	if _, err := c.Apps(t.Context()); err != nil || len(cluster.nodes[0].asked()) != before+1 {
		t.Errorf("apps: %v, asked %q", err, cluster.nodes[0].asked())
	}
	// It dies, and another one leads.
	cluster.nodes[2].die()
	cluster.lead("n1")
	nodetest.Eventually(t, "requests go to the new leader", func() bool {
		put(t, c, "k")
		asked := len(cluster.nodes[1].asked())
		put(t, c, "k")
		return len(cluster.nodes[1].asked()) == asked+1 && !slices.Contains(c.Servers(), cluster.nodes[2].server.URL)
	})
}
