package control_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/raft/control"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

func TestThreeVotersAgreeAndOutliveTheirLeader(t *testing.T) {
	c := newQuickCluster(t, "a", "b", "c")
	first := c.leader()
	for i := range 20 {
		first.set(fmt.Sprint(i))
	}
	c.awaitSetting("19")
	c.stop(first.cfg.Node)
	c.followers()[0].set("without the first")
	c.awaitSetting("without the first")
	c.again(first) // behind, and catches up
	c.awaitSetting("without the first")
	first.ready()
}

func (c *cluster) servers(n *node) string {
	var all []string
	for _, s := range n.group.Servers() {
		if s.Voter {
			s.Name += "*"
		}
		all = append(all, s.Name)
	}
	return strings.Join(all, " ")
}

func TestANodeJoinsGetsAVoteAndTakesThePlaceOfAnother(t *testing.T) {
	c := newCluster(t, "a", "b", "c")
	ctx := withTimeout(t)
	c.leader().set("before")
	d := c.start("d", nodetest.FreeAddress(t), nil)
	soon, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := d.group.Ready(soon); spec.CodeOf(err) != spec.CodeUnavailable {
		t.Errorf("a node in no group is ready: %v", err)
	}
	leader := c.leader()
	if err := leader.group.AddServer(ctx, "d", d.cfg.Address, false); err != nil {
		t.Fatal(err)
	}
	d.ready()
	if got := d.group.State().Settings["n"]; got != "before" {
		t.Errorf("it is ready and knows %q", got)
	}
	leader.set("joined")
	d.awaitSetting("joined")
	if got := c.servers(leader); got != "a* b* c* d" {
		t.Errorf("servers %s", got)
	}

	if err := leader.group.AddServer(ctx, "d", d.cfg.Address, true); err != nil {
		t.Fatal(err)
	}
	var gone *node // a voter of the first ones
	for _, n := range c.followers() {
		if n != d {
			gone = n
		}
	}
	if err := leader.group.RemoveServer(ctx, gone.cfg.Node); err != nil {
		t.Fatal(err)
	}
	if err := leader.group.RemoveServer(ctx, gone.cfg.Node); err != nil {
		t.Errorf("remove it again: %v", err)
	}
	if got := c.servers(leader); strings.Contains(got, gone.cfg.Node) || !strings.Contains(got, "d*") {
		t.Errorf("servers %s after %s left", got, gone.cfg.Node)
	}
	c.stop(gone.cfg.Node)
	for _, n := range c.followers() {
		if n != d {
			c.stop(n.cfg.Node)
		}
	}
	leader.set("by two") // a majority of three only with the new one's vote
	d.awaitSetting("by two")
}

// Raft may be changing what it knows of a server that moves, and must not hear of it
// meanwhile.
func TestAnswersOfAServerThatMovesAreLost(t *testing.T) {
	c := newCluster(t, "a", "b", "c")
	leader, other := c.leader(), c.followers()[0]
	ask := func(by string) error { return control.Ask(leader.group, other.cfg.Node, other.cfg.Address, by) }
	if err := ask("before"); err != nil {
		t.Fatal(err)
	}
	held := c.hold(other.cfg.Address, "meanwhile")
	answer := make(chan error, 1)
	go func() { answer <- ask("meanwhile") }()
	<-held.asked
	moved := nodetest.FreeAddress(t)
	if err := leader.group.AddServer(withTimeout(t), other.cfg.Node, moved, true); err != nil {
		t.Fatal(err)
	}
	close(held.released)
	if err := <-answer; err == nil || !strings.Contains(err.Error(), "changes") {
		t.Errorf("an answer to what was asked before it moved: %v", err)
	}
	if err := ask("after"); err != nil {
		t.Errorf("after it moved: %v", err)
	}
	leader.set("after")
	c.awaitSetting("after")
}

func TestAVoteCanBeTakenAgain(t *testing.T) {
	c := newCluster(t, "a", "b", "c")
	ctx := withTimeout(t)
	leader := c.leader()
	other := c.followers()[0]
	moved := nodetest.FreeAddress(t)
	if err := leader.group.AddServer(ctx, other.cfg.Node, moved, false); err != nil {
		t.Fatal(err)
	}
	for _, s := range leader.group.Servers() {
		if s.Name == other.cfg.Node && (s.Voter || s.Address != moved) {
			t.Errorf("it is %+v", s)
		}
	}
}

func TestServersThatCantBeAreRefused(t *testing.T) {
	c := newCluster(t, "a", "b", "c")
	ctx := withTimeout(t)
	leader := c.leader()
	follower := c.followers()[0]
	own, address := leader.cfg.Node, leader.cfg.Address
	alone := newNode(t, control.Config{Node: "alone"})
	for _, r := range []struct {
		name string
		err  error
		want spec.Code
		text string
	}{
		{"two at one address", leader.group.AddServer(ctx, "d", address, true), spec.CodeConflict, own + " is at"},
		{"an address that is none", leader.group.AddServer(ctx, "d", "d", true), spec.CodeInvalid, "not host:port"},
		{"no name", leader.group.AddServer(ctx, "", "d:1", true), spec.CodeInvalid, "name"},
		{"by a follower", follower.group.AddServer(ctx, "d", "d:1", true), spec.CodeUnavailable, own + " leads"},
		{"removed by a follower", follower.group.RemoveServer(ctx, own), spec.CodeUnavailable, own + " leads"},
		{"the leader removes itself", leader.group.RemoveServer(ctx, own), spec.CodePrecondition, "leads"},
		{"the leader gives its vote away", leader.group.AddServer(ctx, own, address, false), spec.CodePrecondition, "leads"},
		{"beside a node alone", alone.group.AddServer(ctx, "d", "d:1", true), spec.CodePrecondition, "no address"},
		{"the lead of a node alone", alone.group.TransferLeadership(ctx), spec.CodePrecondition, "no other voter"},
		{"the lead by a follower", follower.group.TransferLeadership(ctx), spec.CodeUnavailable, own + " leads"},
	} {
		if spec.CodeOf(r.err) != r.want || !strings.Contains(r.err.Error(), r.text) {
			t.Errorf("%s: %v, want %s and %q", r.name, r.err, r.want, r.text)
		}
	}
	if err := leader.group.AddServer(ctx, own, address, true); err != nil {
		t.Errorf("a server that is there already: %v", err)
	}
}

func TestAMemberComesBackAtAnotherAddress(t *testing.T) {
	c := newCluster(t, "a", "b", "c")
	for _, n := range c.running() {
		c.leader().apply(n.member())
	}
	moved := c.followers()[0]
	name := moved.cfg.Node
	c.stop(name)
	moved.cfg.Address = nodetest.FreeAddress(t)
	c.leader().apply(moved.member())
	c.leader().set("moved")
	c.again(moved) // its own Voters still tell of the old address
	moved.awaitSetting("moved")
	moved.ready()
	if err := c.leader().group.AddServer(withTimeout(t), name, moved.cfg.Address, true); err != nil {
		t.Errorf("write the address down: %v", err)
	}
	for _, n := range c.followers() {
		if n != moved {
			c.stop(n.cfg.Node)
		}
	}
	c.leader().set("by two") // with the one that moved
	moved.awaitSetting("by two")
}

func TestVotersThatDoNotKnowTheirOwnAddressMakeNoGroup(t *testing.T) {
	db, err := store.Open(t.TempDir(), store.Options{Node: "a", Fatal: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, err = control.Open(withTimeout(t), control.Config{
		Node: "a", Dir: t.TempDir(), DB: db, Address: "a:1", Listener: listener, Voters: map[string]string{"a": "a:2"},
		Dial: func(context.Context, string) (net.Conn, error) { return nil, io.EOF },
	})
	if spec.CodeOf(err) != spec.CodeInvalid || !strings.Contains(err.Error(), "a:2") {
		t.Errorf("got %v", err)
	}
}

// All nodes get new addresses at once, and only the configuration tells of them.
func TestAWholeGroupMoves(t *testing.T) {
	c := newCluster(t, "a", "b", "c")
	for _, n := range c.running() {
		c.leader().apply(n.member())
	}
	c.leader().set("before")
	c.awaitSetting("before")
	nodes, voters := c.running(), map[string]string{}
	for _, n := range nodes {
		c.stop(n.cfg.Node)
		n.cfg.Address = nodetest.FreeAddress(t)
		n.cfg.Voters, voters[n.cfg.Node] = voters, n.cfg.Address
	}
	for _, n := range nodes {
		c.again(n)
	}
	if err := control.StandForElection(nodes[0].group); err != nil {
		t.Fatal(err)
	}
	c.leader().set("after")
	c.awaitSetting("after")
}

// A node that has the address of another now must not answer for it: the leader
// would count one copy as two.
func TestANodeAnswersOnlyToItsOwnName(t *testing.T) {
	c := newCluster(t, "a", "b", "c")
	for _, r := range []struct{ call, want string }{{"a", "\x01"}, {"b", ""}, {"", ""}} {
		conn, err := net.Dial("tcp", c.voters["a"])
		if err != nil {
			t.Fatal(err)
		}
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(append([]byte{byte(len(r.call))}, r.call...)); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, 1)
		n, err := io.ReadFull(conn, answer)
		if string(answer[:n]) != r.want || (err == nil) != (r.want != "") {
			t.Errorf("node a answers to %q with %q, %v", r.call, answer[:n], err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestTheLeadIsHandedOverAndWatchersAreTold(t *testing.T) {
	c := newCluster(t, "a", "b", "c")
	ctx := withTimeout(t)
	for range 3 {
		old := c.leader()
		other := c.followers()[0]
		other.ready()
		changed := other.group.LeaderChanged()
		if err := old.group.TransferLeadership(ctx); err != nil {
			t.Fatal(err)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			t.Fatal("nobody was told")
		}
		// From here on only the watch says when to look.
		for {
			changed = other.group.LeaderChanged()
			if name, ok := other.group.Leader(); ok && name != old.cfg.Node {
				break
			}
			select {
			case <-changed:
			case <-ctx.Done():
				t.Fatal("there was no other leader")
			}
		}
	}
}

func TestTheLeaderKnowsOfWhomItHearsNoMore(t *testing.T) {
	c := newCluster(t, "a", "b", "c")
	leader := c.leader()
	followers := c.followers()
	silent, lively := followers[0].cfg.Node, followers[1].cfg.Node
	c.stop(silent)
	c.await("a sign of life of one, and none of the other", func() bool {
		last, known := leader.group.LastContact(silent)
		if !known {
			t.Fatal("it knows nothing of a server")
		}
		heard, _ := leader.group.LastContact(lively)
		return heard.After(last.Add(time.Second)) // which is many heartbeats
	})
	if _, ok := leader.group.LastContact("nobody"); ok {
		t.Error("it hears of a server that is none")
	}
	if _, ok := followers[1].group.LastContact(leader.cfg.Node); ok {
		t.Error("a follower says whom it hears of")
	}
}

// A pipeline of the raft library could keep a leader that stops from ever ending.
func TestEntriesGoToFollowersOneByOne(t *testing.T) {
	c := newCluster(t, "n1")
	if control.Pipelines(c.nodes["n1"].group) {
		t.Error("entries go to followers by pipelines")
	}
}
