package shard_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/raft/shard"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// cluster is three nodes in this process, with replicas 1 to 3 of shard 1.
type cluster struct {
	t       testing.TB
	members map[uint64]string
	nodes   map[uint64]*node
	shards  map[uint64]*shard.Shard
	wires   wires
}

func newCluster(t testing.TB, replicas ...uint64) *cluster {
	t.Helper()
	c := &cluster{t: t, members: map[uint64]string{}, nodes: map[uint64]*node{}, shards: map[uint64]*shard.Shard{}}
	for _, replica := range replicas {
		c.members[replica] = nodetest.FreeAddress(t)
	}
	for _, replica := range replicas {
		c.nodes[replica] = newNode(t, c.members[replica], c.wired, steady)
		c.shards[replica] = c.nodes[replica].start(1, replica, c.members)
	}
	if len(replicas) > 0 { // nobody has to wait for an election
		one := replicas[rand.IntN(len(replicas))]
		eventually(t, "a replica leads", func() bool {
			shard.StandForElection(c.nodes[one].host, c.shards[one]) // its log may not be open yet
			_, led := c.shards[one].Leader()
			return led
		})
	}
	return c
}

// steady has no election by mere load.
func steady(n *node) { n.cfg.RTT = 40 * time.Millisecond }

// addFirst makes replica 1 alone, whose log is cut every so many entries.
func (c *cluster) addFirst(snapshotEntries int) {
	c.t.Helper()
	c.members[1] = nodetest.FreeAddress(c.t)
	n := newNode(c.t, c.members[1], c.wired, steady, func(n *node) { n.cfg.SnapshotEntries = snapshotEntries })
	c.nodes[1], c.shards[1] = n, n.start(1, 1, c.members)
}

// leadAny returns the term of whichever replica comes to lead.
func (c *cluster) leadAny() (uint64, *shard.Term) {
	c.t.Helper()
	return leadAny(c.t, c.shards)
}

func leadAny(t testing.TB, replicas map[uint64]*shard.Shard) (uint64, *shard.Term) {
	t.Helper()
	type won struct {
		replica uint64
		term    *shard.Term
	}
	ctx, cancel := context.WithCancel(withTimeout(t))
	defer cancel()
	first := make(chan won, len(replicas))
	for replica, s := range replicas {
		go func() {
			term, err := s.Lead(ctx)
			if err != nil {
				replica = 0
			}
			first <- won{replica, term}
		}()
	}
	var winner won
	for range replicas {
		if w := <-first; w.replica != 0 {
			winner = w
			cancel()
		}
	}
	if winner.replica == 0 {
		t.Fatal("no replica came to lead")
	}
	return winner.replica, winner.term
}

// waitEqual waits until all stores hold the same keys of the shard.
func (c *cluster) waitEqual() {
	c.t.Helper()
	ctx := withTimeout(c.t)
	var want []byte
	for replica, s := range c.shards {
		if err := s.ReadIndex(ctx); err != nil {
			c.t.Fatalf("read index on replica %d: %v", replica, err)
		}
		got := dump(c.t, c.nodes[replica].db, 1)
		if want == nil {
			want = got
		}
		if !bytes.Equal(got, want) {
			c.t.Fatalf("replica %d differs", replica)
		}
	}
}

func dump(t testing.TB, db *store.DB, id spec.ShardID) []byte {
	t.Helper()
	var out bytes.Buffer
	lower, upper := store.Bounds(store.AppendEventsPrefix(nil, id))
	if err := db.Scan(lower, upper, func(k, v []byte) bool {
		fmt.Fprintf(&out, "%x=%x\n", k, v)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for ctx := withTimeout(t); !done(); {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		}
	}
}

func TestThreeReplicasHoldTheSame(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, 2, 3)
	leader, term := c.leadAny()
	for i := range 50 {
		mustPropose(t, term, i)
	}
	c.waitEqual()
	for replica, s := range c.shards {
		if got, ok := s.Leader(); !ok || got != leader {
			t.Errorf("replica %d takes %d for the leader, it is %d", replica, got, leader)
		}
	}
}

func TestATransferEndsTheTermAndTheNextLeaderGoesOn(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, 2, 3)
	old, term := c.leadAny()
	for i := range 20 {
		mustPropose(t, term, i)
	}
	next := old%3 + 1
	if err := c.shards[old].TransferTo(withTimeout(t), next); err != nil {
		t.Fatal(err)
	}
	<-term.Done()
	if err := term.Err(); !errors.Is(err, shard.ErrTermOver) {
		t.Errorf("old term: %v", err)
	}
	if err := propose(t, term, body(999, []byte("too late"))); !errors.Is(err, shard.ErrTermOver) {
		t.Errorf("propose in the old term: %v", err)
	}
	after := lead(t, c.shards[next])
	if after.PreviousEpoch() != term.Epoch() || after.PreviousSeq() != 20 {
		t.Errorf("previous %d/%d, want %d/20", after.PreviousEpoch(), after.PreviousSeq(), term.Epoch())
	}
	mustPropose(t, after, 100)
	c.waitEqual()

	// And back again, with batches under way.
	transferred := make(chan error, 1)
	ctx := withTimeout(t)
	for i := range 200 {
		if err := after.Propose(body(200+i, nil), func(error) {}); err != nil {
			break
		}
		if i == 100 {
			go func() { transferred <- c.shards[next].TransferTo(ctx, old) }()
		}
	}
	if err := <-transferred; err != nil {
		t.Fatal(err)
	}
	<-after.Done()
	again := lead(t, c.shards[old])
	mustPropose(t, again, 500)
	c.waitEqual()
	if got, want := count(t, c.nodes[old].db), 20+1+int(again.PreviousSeq())-1+1; got != want {
		t.Errorf("%d keys stored, want %d: %d of the term before", got, want, again.PreviousSeq())
	}
}

func TestTheOthersGoOnWhenTheLeaderIsGone(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 1, 2, 3)
	old, term := c.leadAny()
	mustPropose(t, term, 1)
	c.nodes[old].close()
	delete(c.shards, old)
	next, after := c.leadAny()
	mustPropose(t, after, 2)
	c.waitEqual()

	// The old leader comes back behind and follows.
	c.nodes[old].open()
	c.shards[old] = c.nodes[old].start(1, old, c.members)
	mustPropose(t, after, 3)
	c.waitEqual()
	if next == old {
		t.Errorf("replica %d leads though it was closed", old)
	}
}

func TestAReplicaThatJoinsLateGetsASnapshot(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.addFirst(1000)
	term := lead(t, c.shards[1])
	pending := make(chan error, 4000)
	for i := range cap(pending) {
		if err := term.Propose(body(i, []byte("value")), func(err error) { pending <- err }); err != nil {
			t.Fatal(err)
		}
	}
	for range cap(pending) {
		if err := <-pending; err != nil {
			t.Fatal(err)
		}
	}
	for replica := uint64(2); replica <= 3; replica++ {
		c.members[replica] = nodetest.FreeAddress(t)
		if err := c.shards[1].At(0).AddReplica(withTimeout(t), replica, c.members[replica]); err != nil {
			t.Fatal(err)
		}
		for _, n := range c.nodes {
			n.host.SetAddress(1, replica, c.members[replica])
		}
		n := newNode(t, c.members[replica], c.wired, steady)
		s, err := n.host.Join(1, replica, c.members)
		if err != nil {
			t.Fatal(err)
		}
		c.nodes[replica], c.shards[replica] = n, s
		eventually(t, fmt.Sprintf("replica %d has all", replica), func() bool { return count(t, n.db) == cap(pending) })
		if err := c.shards[1].At(0).Promote(withTimeout(t), replica); err != nil {
			t.Fatal(err)
		}
	}
	<-term.Done() // the first member was started again with the timing of several
	_, again := c.leadAny()
	mustPropose(t, again, 9000)
	c.waitEqual()
	members, err := c.shards[2].Members(withTimeout(t))
	if err != nil || !slices.Equal(members.Voters, []uint64{1, 2, 3}) || len(members.Learners) != 0 {
		t.Errorf("members %v, error %v", members, err)
	}

	// One that joined starts again like any other, wherever it is by then.
	c.nodes[3].close()
	c.members[3] = nodetest.FreeAddress(t)
	c.nodes[3].cfg.Address = c.members[3]
	c.nodes[3].open()
	c.shards[3] = c.nodes[3].start(1, 3, c.members)
	for _, n := range c.nodes {
		n.host.SetAddress(1, 3, c.members[3])
	}
	mustPropose(t, again, 9001)
	c.waitEqual()

	leader, _ := c.shards[1].Leader()
	gone := leader%3 + 1
	if err := c.shards[leader].At(0).RemoveReplica(withTimeout(t), gone); err != nil {
		t.Fatal(err)
	}
	mustPropose(t, again, 9002)
	delete(c.shards, gone)
	c.waitEqual()
}
