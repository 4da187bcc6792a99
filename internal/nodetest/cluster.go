package nodetest

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

// ClusterConfig says how a cluster is started.
type ClusterConfig struct {
	// Nodes is how many nodes form it; 1 is a node alone.
	Nodes int
	// Args are given to each node.
	Args []string
	// Front, if it is set, returns the address that the others are to reach a node
	// at which listens for them at address: that of a proxy of the test.
	Front func(node, address string) string
}

// Cluster is nodes, in processes of their own, that form one cluster. Their
// addresses stay the same over restarts. The test ends them.
type Cluster struct {
	t     testing.TB
	cfg   ClusterConfig
	nodes []*Node
	peers []string // where the first nodes are reached by others
	made  int      // nodes ever: names are not used again
}

// clusterWait bounds how long a cluster takes to form, or a node to join it.
const clusterWait = 90 * time.Second

// NewCluster makes a cluster, to be started with Start. Its nodes are n1, n2, and so on.
func NewCluster(t testing.TB, cfg ClusterConfig) *Cluster {
	t.Helper()
	c := &Cluster{t: t, cfg: cfg, made: cfg.Nodes}
	listens := make([]string, cfg.Nodes)
	for i := range listens {
		listens[i] = FreeAddress(t)
		c.peers = append(c.peers, c.front(nodeName(i), listens[i]))
	}
	for i, listen := range listens {
		c.nodes = append(c.nodes, c.member(nodeName(i), listen, c.peers[i], "--bootstrap-expect", strconv.Itoa(cfg.Nodes)))
	}
	return c
}

// StartCluster starts a cluster and waits until all of it is ready.
func StartCluster(t testing.TB, cfg ClusterConfig) *Cluster {
	t.Helper()
	c := NewCluster(t, cfg)
	c.Start()
	return c
}

func nodeName(i int) string { return fmt.Sprintf("n%d", i+1) }

func (c *Cluster) front(name, listen string) string {
	if c.cfg.Front == nil {
		return listen
	}
	return c.cfg.Front(name, listen)
}

// member makes a node of the cluster.
func (c *Cluster) member(name, listen, advertise string, args ...string) *Node {
	c.t.Helper()
	n := New(c.t, append([]string{"--name", name}, c.cfg.Args...)...)
	n.name = name
	if c.cfg.Nodes > 1 {
		n.args = append(n.args, "--peer-listen", listen, "--peer-advertise", advertise, "--join", strings.Join(c.peers, ","))
		n.args = append(n.args, args...)
	}
	return n
}

// Start starts all nodes that don't run, and waits until they are ready.
func (c *Cluster) Start() {
	c.t.Helper()
	for _, n := range c.nodes {
		if !n.Running() {
			n.Launch()
		}
	}
	for _, n := range c.nodes {
		n.WaitReady(clusterWait)
	}
}

// Add starts a node that joins the cluster, and waits until it is ready.
func (c *Cluster) Add() *Node {
	c.t.Helper()
	name, listen := nodeName(c.made), FreeAddress(c.t)
	c.made++
	n := c.member(name, listen, c.front(name, listen))
	c.nodes = append(c.nodes, n)
	n.Launch()
	n.WaitReady(clusterWait)
	return n
}

// Forget takes a node that was removed from the cluster out of Nodes.
func (c *Cluster) Forget(gone *Node) {
	for i, n := range c.nodes {
		if n == gone {
			c.nodes = append(c.nodes[:i:i], c.nodes[i+1:]...)
			return
		}
	}
}

// Nodes are the nodes, those that are down included.
func (c *Cluster) Nodes() []*Node { return c.nodes }

// URLs are where the nodes' APIs are.
func (c *Cluster) URLs() []string {
	urls := make([]string, len(c.nodes))
	for i, n := range c.nodes {
		urls[i] = n.URL()
	}
	return urls
}
