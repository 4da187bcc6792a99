package node_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/node"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// member is a node of a cluster that tests start in this process.
type member struct {
	t    *testing.T
	cfg  node.Config
	node *node.Node
}

// members makes the configurations of nodes that are to found a cluster together.
func members(t *testing.T, count int) []*member {
	t.Helper()
	var all []*member
	var join []string
	for i := range count {
		m := &member{t: t, cfg: node.Config{
			Name: fmt.Sprintf("n%d", i+1), DataDir: filepath.Join(t.TempDir(), "data"),
			Listen: "127.0.0.1:0", PeerListen: nodetest.FreeAddress(t), Expect: count, Shards: 2,
			Fatal: func(err error) { panic(err) },
		}}
		join = append(join, m.cfg.PeerListen)
		all = append(all, m)
	}
	for _, m := range all {
		m.cfg.Join = join
	}
	return all
}

func (m *member) start() {
	m.t.Helper()
	n, err := node.Start(m.t.Context(), m.cfg)
	if err != nil {
		m.t.Fatalf("start node %s: %v", m.cfg.Name, err)
	}
	m.node = n
	m.t.Cleanup(m.stop)
}

func (m *member) stop() {
	m.t.Helper()
	if m.node == nil {
		return
	}
	if err := m.node.Close(); err != nil {
		m.t.Errorf("close node %s: %v", m.cfg.Name, err)
	}
	m.node = nil
}

const patience = time.Minute

func (m *member) ready() {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	for {
		err := m.node.Ready()
		if err == nil {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			m.t.Fatalf("node %s does not get ready: %v", m.cfg.Name, err)
		}
	}
}

// shows waits until a node describes its cluster in a certain way.
func (m *member) shows(what string, ok func(wire.Cluster) bool) wire.Cluster {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	for {
		c, err := m.node.Cluster(ctx)
		if err == nil && ok(c) {
			return c
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			m.t.Fatalf("node %s never showed %s, but %v and %+v", m.cfg.Name, what, err, c)
		}
	}
}

// ends waits until a node has ended by itself, and returns why.
func (m *member) ends() error {
	m.t.Helper()
	ended := make(chan error, 1)
	n := m.node
	go func() { ended <- n.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-time.After(patience):
		m.t.Fatalf("node %s goes on: %v", m.cfg.Name, m.node.Ready())
		return nil
	}
}

// form starts nodes and waits until they are ready.
func form(all ...*member) {
	for _, m := range all {
		m.start()
	}
	for _, m := range all {
		m.ready()
	}
}

func nodesOf(c wire.Cluster) string {
	var names []string
	for _, n := range c.Nodes {
		name := n.Name
		if n.Live {
			name += "+"
		}
		if n.Voter {
			name += "!"
		}
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

func showing(nodes string) (string, func(wire.Cluster) bool) {
	return "the nodes " + nodes, func(c wire.Cluster) bool { return nodesOf(c) == nodes && c.Ready }
}

func TestThreeNodesWithTheSameAddressesFormACluster(t *testing.T) {
	all := members(t, 3)
	form(all...)
	first := all[0].shows(showing("n1+! n2+! n3+!"))
	for _, m := range all {
		c := m.shows("leaders of all shards", func(c wire.Cluster) bool {
			return nodesOf(c) == "n1+! n2+! n3+!" && len(c.Shards) == 2 && c.Shards[0].Leader != "" && c.Shards[1].Leader != ""
		})
		if c.ID != first.ID || c.ID == "" || c.Node != m.cfg.Name || c.ControlLeader != first.ControlLeader {
			t.Errorf("node %s describes %+v, node n1 %+v", m.cfg.Name, c, first)
		}
		if s := c.Shards[1]; len(s.Replicas) != 3 || s.Slots != spec.Slots/2 || len(s.Ranges) != 1 || s.Ranges[0] != (wire.SlotRange{From: spec.Slots / 2, To: spec.Slots - 1}) {
			t.Errorf("node %s describes shard 2 as %+v", m.cfg.Name, s)
		}
		if leads := c.Nodes[0].Leading + c.Nodes[1].Leading + c.Nodes[2].Leading; leads != 2 || c.Nodes[0].Replicas != 2 || c.Nodes[1].API == "" {
			t.Errorf("node %s describes the nodes as %+v", m.cfg.Name, c.Nodes)
		}
	}
}

func TestAFounderWithoutAVoteIsInTheCluster(t *testing.T) {
	all := members(t, 4)
	form(all...)
	for _, m := range all {
		m.shows(showing("n1+! n2+! n3+! n4+"))
	}
}

func TestAMemberComesBackWithNothingButItsData(t *testing.T) {
	all := members(t, 3)
	form(all...)
	id := all[0].shows(showing("n1+! n2+! n3+!")).ID
	away := all[1]
	away.stop()
	all[0].shows(showing("n1+! n2! n3+!"))
	away.cfg = node.Config{Name: "n2", DataDir: away.cfg.DataDir, Listen: "127.0.0.1:0", Fatal: away.cfg.Fatal}
	form(away)
	if c := away.shows(showing("n1+! n2+! n3+!")); c.ID != id {
		t.Errorf("it came back to %s, not %s", c.ID, id)
	}
	all[0].shows(showing("n1+! n2+! n3+!"))
}

func TestAMemberThatMovesIsFoundAgain(t *testing.T) {
	all := members(t, 3)
	form(all...)
	moved := all[2]
	moved.stop()
	moved.cfg.PeerListen = nodetest.FreeAddress(t)
	form(moved)
	for _, m := range all {
		m.shows("the new address", func(c wire.Cluster) bool {
			return nodesOf(c) == "n1+! n2+! n3+!" && c.Nodes[2].Address == moved.cfg.PeerListen
		})
	}
}

// joins makes a node that joins the cluster of others.
func joins(t *testing.T, name string, others []*member) *member {
	m := members(t, 1)[0]
	m.cfg.Name, m.cfg.Join, m.cfg.Expect = name, others[0].cfg.Join, 0
	return m
}

func TestAFourthNodeJoinsAndIsRemoved(t *testing.T) {
	all := members(t, 3)
	form(all...)
	fourth := joins(t, "n4", all)
	form(fourth)
	for _, m := range append(all, fourth) {
		m.shows(showing("n1+! n2+! n3+! n4+"))
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := all[1].node.RemoveNode(ctx, "n3", false); spec.CodeOf(err) != spec.CodeConflict {
		t.Errorf("a node with replicas: %v", err)
	}
	if err := all[1].node.RemoveNode(ctx, "n4", false); err != nil {
		t.Fatal(err)
	}
	const removed = "node n4 was removed from cluster"
	if err := fourth.ends(); err == nil || !strings.Contains(err.Error(), removed) {
		t.Errorf("the node ended with %v", err)
	}
	all[0].shows(showing("n1+! n2+! n3+!"))
	fourth.node = nil
	fourth.start()
	if err := fourth.ends(); err == nil || !strings.Contains(err.Error(), removed) {
		t.Errorf("with the same folder it ended with %v", err)
	}
	again := joins(t, "n4", all)
	form(again)
	all[0].shows(showing("n1+! n2+! n3+! n4+"))
}

func TestTheClusterOutlivesTheRemovalOfTheControlLeader(t *testing.T) {
	first := members(t, 1)[0]
	first.cfg.Replicas = 1
	form(first)
	second := joins(t, "n2", []*member{first})
	form(second)
	// It gets a vote once the leader has seen for a while that it stays.
	second.shows(showing("n1+! n2+!"))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := second.node.RemoveNode(ctx, "n1", true); err != nil {
		t.Fatal(err)
	}
	if err := first.ends(); err == nil || !strings.Contains(err.Error(), "was removed") {
		t.Errorf("the node ended with %v", err)
	}
	second.shows("itself as the leader of what is left", func(c wire.Cluster) bool {
		return nodesOf(c) == "n2+!" && c.ControlLeader == "n2"
	})
	if err := second.node.Rebalance(ctx); err != nil {
		t.Errorf("a change of what is left: %v", err)
	}
	if err := second.node.RemoveNode(ctx, "n2", true); spec.CodeOf(err) != spec.CodePrecondition {
		t.Errorf("the last one: %v", err)
	}
}

func TestAVoteThatIsNeededIsNotRemoved(t *testing.T) {
	all := members(t, 3)
	form(all...)
	all[2].stop()
	all[0].shows(showing("n1+! n2+! n3!"))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	err := all[0].node.RemoveNode(ctx, "n2", false)
	if spec.CodeOf(err) != spec.CodePrecondition || !strings.Contains(err.Error(), "the vote of node n2 is needed while node n3 is away") {
		t.Errorf("error %v", err)
	}
}

func TestANodeThatWaitsSaysSoAndTakesNoRequests(t *testing.T) {
	all := members(t, 2)
	all[0].cfg.Expect, all[1].cfg.Expect = 0, 0
	all[0].start()
	all[0].shows("what it waits for", func(c wire.Cluster) bool {
		return strings.Contains(c.Waiting, "pheromone cluster init") && c.ID == "" && !c.Ready
	})
	c, err := client.New(all[0].node.URL(), client.WithRetry(client.Retry{MaxAttempts: 1}))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Apps(t.Context()); spec.CodeOf(err) != spec.CodeUnavailable || !strings.Contains(err.Error(), "belongs to no cluster yet") {
		t.Errorf("a request: %v", err)
	}
	all[1].start()
	all[0].shows("the other one", func(c wire.Cluster) bool {
		return strings.Contains(c.Waiting, "pheromone cluster init") && !strings.Contains(c.Waiting, "nobody to talk to")
	})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := c.InitCluster(ctx, nil); err != nil {
		t.Fatal(err)
	}
	all[0].ready()
	all[1].ready()
	if _, err := c.Apps(t.Context()); err != nil {
		t.Errorf("a request after init: %v", err)
	}
	third := members(t, 1)[0]
	third.cfg.Name, third.cfg.Expect, third.cfg.Join = "n3", 0, []string{third.cfg.PeerListen}
	third.start()
	to, err := client.New(third.node.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer to.Close()
	if _, err := to.JoinCluster(ctx, all[1].cfg.PeerListen); err != nil {
		t.Fatal(err)
	}
	third.ready()
}

func TestDrainAndRebalanceAreKnownToAll(t *testing.T) {
	all := members(t, 3)
	form(all...)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	draining := func(c wire.Cluster) bool { return c.Nodes[1].Draining }
	if err := all[2].node.DrainNode(ctx, "n2", true); err != nil {
		t.Fatal(err)
	}
	all[0].shows("a node that drains", draining)
	if err := all[0].node.DrainNode(ctx, "n2", false); err != nil {
		t.Fatal(err)
	}
	all[1].shows("no node that drains", func(c wire.Cluster) bool { return !draining(c) })
	if err := all[1].node.DrainNode(ctx, "n9", true); spec.CodeOf(err) != spec.CodeNotFound {
		t.Errorf("an unknown node: %v", err)
	}
}

func TestALeaderThatIsNotReachedIsNotNamed(t *testing.T) {
	all := members(t, 3)
	form(all...)
	all[0].shows(showing("n1+! n2+! n3+!"))
	old := all[0].shows("who leads", func(c wire.Cluster) bool { return c.ControlLeader != "" }).ControlLeader
	var left *member
	for _, m := range all {
		if m.cfg.Name == old {
			m.stop()
		} else {
			left = m
		}
	}
	left.shows("another leader", func(c wire.Cluster) bool {
		for _, n := range c.Nodes {
			if n.Name == c.ControlLeader && !n.Live {
				t.Fatalf("%s leads and is away: %+v", n.Name, c.Nodes)
			}
		}
		return c.ControlLeader != "" && c.ControlLeader != old
	})
}
