package control_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/raft/control"
)

// cluster is some nodes and the network between them.
type cluster struct {
	t        testing.TB
	voters   map[string]string
	election time.Duration
	// lose has every so manieth answer to a forwarded request get lost.
	lose, asked atomic.Int64

	mu    sync.Mutex
	nodes map[string]*node // guarded by mu
	cut   map[string]bool  // guarded by mu
	conns map[*conn]bool   // guarded by mu
	slow  *slow            // guarded by mu
}

// slow holds back what a node answers to others until it is let go.
type slow struct {
	address  string
	request  string        // what is in a request that counts
	asked    chan struct{} // has room for one
	released chan struct{}
}

// conn is a connection that ends when one of its ends is cut off.
type conn struct {
	net.Conn
	c        *cluster
	from, to string // a name and an address
}

func (n *conn) held() *slow {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	if n.c.slow == nil || n.c.slow.address != n.to {
		return nil
	}
	return n.c.slow
}

func (n *conn) Write(b []byte) (int, error) {
	k, err := n.Conn.Write(b)
	if s := n.held(); s != nil && bytes.Contains(b, []byte(s.request)) {
		select {
		case s.asked <- struct{}{}:
		default:
		}
	}
	return k, err
}

func (n *conn) Read(b []byte) (int, error) {
	k, err := n.Conn.Read(b)
	if s := n.held(); s != nil {
		<-s.released
	}
	return k, err
}

func (n *conn) Close() error {
	n.c.mu.Lock()
	delete(n.c.conns, n)
	n.c.mu.Unlock()
	return n.Conn.Close()
}

// newCluster starts voters, which make a group. The first one leads it, and goes on
// however busy the machine is: a leader that has not heard of the others for half an
// election gives up.
func newCluster(t testing.TB, names ...string) *cluster {
	t.Helper()
	c := startCluster(t, 10*time.Second, names...)
	if err := control.StandForElection(c.node(names[0]).group); err != nil {
		t.Fatal(err)
	}
	return c
}

// newQuickCluster is for tests in which voters miss their leader and elect another:
// any of them may be it, and a busy machine may make another one.
func newQuickCluster(t testing.TB, names ...string) *cluster {
	t.Helper()
	return startCluster(t, 300*time.Millisecond, names...)
}

func startCluster(t testing.TB, election time.Duration, names ...string) *cluster {
	t.Helper()
	c := &cluster{t: t, voters: map[string]string{}, election: election, nodes: map[string]*node{}, cut: map[string]bool{}, conns: map[*conn]bool{}}
	for _, name := range names {
		c.voters[name] = nodetest.FreeAddress(t)
	}
	for _, name := range names {
		c.start(name, c.voters[name], c.voters)
	}
	return c
}

// start starts a new node; without voters it waits to be added.
func (c *cluster) start(name, address string, voters map[string]string) *node {
	c.t.Helper()
	n := newNode(c.t, control.Config{
		Node: name, Address: address, Voters: voters, Election: c.election,
		Dial:    func(ctx context.Context, to string) (net.Conn, error) { return c.dial(ctx, name, to) },
		Forward: func(ctx context.Context, to string, b []byte) ([]byte, error) { return c.forward(ctx, name, to, b) },
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes[name] = n
	return n
}

func (c *cluster) separated(from, address string) bool {
	for name := range c.cut {
		if name == from || c.nodes[name].cfg.Address == address {
			return true
		}
	}
	return false
}

func (c *cluster) dial(ctx context.Context, from, address string) (net.Conn, error) {
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.separated(from, address) {
		return nil, errors.Join(errors.New("cut off"), raw.Close())
	}
	tracked := &conn{raw, c, from, address}
	c.conns[tracked] = true
	return tracked, nil
}

func (c *cluster) forward(ctx context.Context, from, to string, request []byte) ([]byte, error) {
	c.mu.Lock()
	n := c.nodes[to]
	gone := n == nil || n.group == nil || c.separated(from, n.cfg.Address)
	var group *control.Group
	if !gone {
		group = n.group
	}
	c.mu.Unlock()
	if gone {
		return nil, fmt.Errorf("node %s is not there", to)
	}
	answer, err := group.ApplyEncoded(ctx, request)
	if lose := c.lose.Load(); lose > 0 && c.asked.Add(1)%lose == 0 {
		return nil, errors.New("the answer is lost")
	}
	return answer, err
}

// cutOff takes a node from the others, and back.
func (c *cluster) cutOff(name string, off bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.cut, name)
	if !off {
		return
	}
	c.cut[name] = true
	for n := range c.conns {
		if c.separated(n.from, n.to) {
			_ = n.Conn.Close()
		}
	}
}

// hold has the answers of the node at an address wait.
func (c *cluster) hold(address, request string) *slow {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.slow = &slow{address, request, make(chan struct{}, 1), make(chan struct{})}
	return c.slow
}

func (c *cluster) stop(name string) {
	c.t.Helper()
	n := c.node(name)
	c.mu.Lock()
	delete(c.nodes, name)
	c.mu.Unlock()
	n.close()
}

func (c *cluster) again(n *node) {
	c.t.Helper()
	n.open()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes[n.cfg.Node] = n
}

func (c *cluster) node(name string) *node {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[name]
	if n == nil {
		c.t.Fatalf("node %s does not run", name)
	}
	return n
}

func (c *cluster) running() []*node {
	c.mu.Lock()
	defer c.mu.Unlock()
	var nodes []*node
	for name, n := range c.nodes {
		if !c.cut[name] {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// leader waits until a node leads and says so itself.
func (c *cluster) leader() *node {
	c.t.Helper()
	var leader *node
	c.await("a leader", func() bool {
		for _, n := range c.running() {
			if n.group.IsLeader() {
				leader = n
				return true
			}
		}
		return false
	})
	return leader
}

// followers are the others of those that run.
func (c *cluster) followers() []*node {
	c.t.Helper()
	return c.others(c.leader())
}

func (c *cluster) others(not *node) []*node {
	var others []*node
	for _, n := range c.running() {
		if n != not {
			others = append(others, n)
		}
	}
	return others
}

// await waits for what no single channel tells of.
func (c *cluster) await(what string, done func() bool) {
	c.t.Helper()
	ctx := withTimeout(c.t)
	for !done() {
		select {
		case <-time.After(2 * time.Millisecond):
		case <-ctx.Done():
			c.t.Fatalf("there was never %s", what)
		}
	}
}

// awaitSetting waits until a node is told of a setting.
func (n *node) awaitSetting(value string) {
	n.t.Helper()
	ctx := withTimeout(n.t)
	for {
		changed := n.group.Changed()
		if n.group.State().Settings["n"] == value {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			n.t.Fatalf("node %s never saw %s, but %s", n.cfg.Node, value, n.group.State().Settings["n"])
		}
	}
}

func (c *cluster) awaitSetting(value string) {
	c.t.Helper()
	for _, n := range c.running() {
		n.awaitSetting(value)
	}
}

func (n *node) set(value string) { n.t.Helper(); n.apply(&control.Set{Key: "n", Value: value}) }

func (n *node) ready() {
	n.t.Helper()
	if err := n.group.Ready(withTimeout(n.t)); err != nil {
		n.t.Fatalf("node %s: %v", n.cfg.Node, err)
	}
}

// member is a command that makes a member of a node.
func (n *node) member() *control.PutMember {
	return &control.PutMember{Member: control.Member{
		Name: n.cfg.Node, Install: "folder of " + n.cfg.Node, Address: n.cfg.Address, JoinedAt: at,
	}}
}
