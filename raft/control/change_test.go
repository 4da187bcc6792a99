package control_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/raft/control"
	"github.com/pheromone-run/pheromone/spec"
)

func TestAFollowerPassesChangesOnAndKnowsOfThemThen(t *testing.T) {
	c := newCluster(t, "a", "b", "c")
	c.leader().apply(c.leader().member())
	for i, n := range c.followers() {
		if r := n.apply(app(t, "shop", i+1)); r.Version != uint64(i+1) || !r.Changed {
			t.Errorf("node %s: %+v", n.cfg.Node, r)
		}
		if v, ok := n.group.State().Current("shop"); !ok || v.Version != uint64(i+1) {
			t.Errorf("node %s made version %d and does not know it", n.cfg.Node, i+1)
		}
	}
}

func TestARefusalIsTheSameFromAFollower(t *testing.T) {
	c := newCluster(t, "a", "b", "c")
	ctx := withTimeout(t)
	leader, follower := c.leader(), c.followers()[0]
	leader.apply(leader.member())
	twin := leader.member()
	twin.Member.Install, twin.Member.Address = "another folder", "elsewhere:1"
	bad := app(t, "shop", 1)
	bad.Artifact = "00"
	for _, command := range []control.Command{twin, bad, &control.SetCluster{}, &control.RemoveReplica{Shard: 7, Replica: 1}} {
		_, here := leader.group.Apply(ctx, command)
		_, there := follower.group.Apply(ctx, command)
		var a, b *spec.Error
		if !errors.As(here, &a) || !errors.As(there, &b) {
			t.Fatalf("%T: %v and %v", command, here, there)
		}
		if a.Code != b.Code || a.Message != b.Message || a.Field != b.Field || a.Hint != b.Hint || a.Field == "" {
			t.Errorf("%T: the leader says %+v, a follower %+v", command, a, b)
		}
	}
	answer, err := leader.group.ApplyEncoded(ctx, []byte("\x09nothing"))
	if err != nil || len(answer) == 0 {
		t.Errorf("a request that can't be read: %q, %v", answer, err)
	}
}

func TestWithoutAWayToForwardTheLeaderIsNamed(t *testing.T) {
	c := newCluster(t, "a", "b", "c")
	follower := c.followers()[0]
	c.stop(follower.cfg.Node)
	follower.cfg.Forward = nil
	c.again(follower)
	follower.ready()
	_, err := follower.group.Apply(withTimeout(t), &control.Set{Key: "n", Value: "1"})
	var e *spec.Error
	if leader, _ := follower.group.Leader(); !errors.As(err, &e) || e.Code != spec.CodeUnavailable || e.Hint != leader {
		t.Errorf("got %v, want unavailable and the leader %s", err, leader)
	}
}

// Each change expects the one before it: one that is made twice, or not at all,
// is a conflict.
func TestChangesAreMadeOnceWhileLeadersChangeAndAnswersGetLost(t *testing.T) {
	c := newCluster(t, "a", "b", "c")
	ctx := withTimeout(t)
	nodes := c.running()
	for _, n := range nodes {
		n.ready()
	}
	c.lose.Store(3)
	const changes = 60
	for i := range changes {
		if i%15 == 7 {
			if err := c.leader().group.TransferLeadership(ctx); err != nil {
				t.Logf("transfer: %v", err) // the leader may have just changed
			}
		}
		if r := nodes[i%3].apply(expecting(app(t, "shop", i+1), uint64(i))); r.Version != uint64(i+1) {
			t.Fatalf("change %d made version %d", i, r.Version)
		}
	}
	if c.asked.Load() < changes/3 {
		t.Errorf("only %d requests were forwarded", c.asked.Load())
	}
}

func TestAChangeOutlastsTheLossOfTheLeader(t *testing.T) {
	c := newQuickCluster(t, "a", "b", "c")
	gone := c.leader()
	var survivors []*node
	for _, n := range c.others(gone) {
		n.ready()
		survivors = append(survivors, n)
	}
	made := make(chan error, len(survivors))
	c.cutOff(gone.cfg.Node, true)
	// The old leader still believes that it leads, but must neither say that its
	// state is the newest nor make a change.
	soon, cancel := context.WithTimeout(context.Background(), 400*time.Millisecond)
	defer cancel()
	if err := gone.group.ReadBarrier(soon); err == nil {
		t.Error("a leader without the others says that its state is the newest")
	}
	if _, err := gone.group.Apply(soon, &control.Set{Key: "lost", Value: "v"}); err == nil {
		t.Error("a leader without the others makes a change")
	}
	for i, n := range survivors {
		go func() {
			_, err := n.group.Apply(withTimeout(t), &control.Set{Key: fmt.Sprint("k", i), Value: "v"})
			made <- err
		}()
	}
	for range survivors {
		if err := <-made; err != nil {
			t.Error(err)
		}
	}
	c.cutOff(gone.cfg.Node, false)
	c.await("the change on the old leader", func() bool { return gone.group.State().Settings["k0"] == "v" })
}

// The leader has written the change down and can't know what became of it: it
// asks the next leader, and the change is there once.
func TestALeaderThatIsReplacedInTheMiddleOfAChangeSettlesIt(t *testing.T) {
	c := newQuickCluster(t, "a", "b", "c")
	old := c.leader()
	old.set("before")
	c.cutOff(old.cfg.Node, true)
	type outcome struct {
		result control.Result
		err    error
	}
	made := make(chan outcome, 1)
	go func() {
		r, err := old.group.Apply(withTimeout(t), expecting(app(t, "shop", 1), 0))
		made <- outcome{r, err}
	}()
	c.await("the end of the lead", func() bool { return !old.group.IsLeader() })
	c.leader().set("by the next")
	c.cutOff(old.cfg.Node, false)
	if got := <-made; got.err != nil || got.result.Version != 1 {
		t.Errorf("got %+v, %v", got.result, got.err)
	}
	if a := c.leader().group.State().Apps["shop"]; a == nil || a.Last != 1 {
		t.Errorf("the app is %+v", a)
	}
}

func TestAChangeEndsWithItsContextWhenNobodyLeads(t *testing.T) {
	c := newQuickCluster(t, "a", "b", "c")
	last := c.leader()
	for _, n := range c.others(last) {
		c.stop(n.cfg.Node)
	}
	c.await("the end of the lead", func() bool { return !last.group.IsLeader() })
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if _, err := last.group.Apply(ctx, &control.Set{Key: "n", Value: "1"}); spec.CodeOf(err) != spec.CodeUnavailable || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestAReadAfterABarrierSeesWhatWasAnsweredAnywhere(t *testing.T) {
	c := newCluster(t, "a", "b", "c")
	nodes := c.running()
	for _, n := range nodes {
		n.ready()
	}
	for i := range 60 {
		nodes[i%3].set(fmt.Sprint(i))
		for _, n := range slices.Concat(nodes[(i+1)%3:], nodes[:(i+1)%3]) {
			if err := n.group.ReadBarrier(withTimeout(t)); err != nil {
				t.Fatal(err)
			}
			if got := n.group.State().Settings["n"]; got != fmt.Sprint(i) {
				t.Fatalf("node %s reads %s after %d was set", n.cfg.Node, got, i)
			}
		}
	}
}
