package shard_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/node/peer"
	"github.com/pheromone-run/pheromone/raft/shard"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

func TestMain(m *testing.M) {
	// Clusters wait for elections far more than they compute.
	if err := flag.Set("test.parallel", "4"); err != nil {
		panic(err)
	}
	nodetest.MainWithoutLeaks(m)
}

// node is a store and a host in one folder.
type node struct {
	t    testing.TB
	dir  string
	cfg  shard.HostConfig
	db   *store.DB
	host *shard.Host
	net  *peer.Network // nil of a node without an address
	dial func(ctx context.Context, address string) (net.Conn, error)
}

func newNode(t testing.TB, address string, change ...func(*node)) *node {
	t.Helper()
	dir := t.TempDir()
	n := &node{t: t, dir: dir, cfg: shard.HostConfig{
		Dir:     filepath.Join(dir, "raft"),
		Address: address,
		Fatal:   func(err error) { t.Errorf("fatal: %v", err) },
	}}
	for _, c := range change {
		c(n)
	}
	n.open()
	t.Cleanup(n.close)
	return n
}

func (n *node) open() {
	n.t.Helper()
	n.db = openStore(n.t, filepath.Join(n.dir, "store"))
	n.cfg.Network, n.net = nil, nil
	if n.cfg.Address != "" {
		var err error
		if n.net, err = peer.Listen(peer.Config{Address: n.cfg.Address, Node: n.dir, Cluster: func() string { return "test" }, Dialer: n.dial}); err != nil {
			n.t.Fatal(err)
		}
		n.cfg.Network = n.net.On(peer.Shards)
	}
	host, err := shard.Open(n.cfg, n.db)
	if err != nil {
		n.t.Fatalf("open host: %v", err)
	}
	n.host = host
}

func openStore(t testing.TB, dir string) *store.DB {
	t.Helper()
	db, err := store.Open(dir, store.Options{Node: "n1", Fatal: func(err error) { t.Errorf("store: %v", err) }})
	if err != nil {
		t.Fatalf("open store: %v", err)
	}
	return db
}

func (n *node) close() {
	n.t.Helper()
	if n.host == nil {
		return
	}
	if err := errors.Join(n.host.Close(), n.db.Close()); err != nil {
		n.t.Errorf("close node: %v", err)
	}
	if n.net != nil {
		if err := n.net.Close(); err != nil {
			n.t.Errorf("close the network: %v", err)
		}
	}
	n.host = nil
}

// die closes the node as the system closes a process that was killed: its
// connections and its address go first.
func (n *node) die() {
	n.t.Helper()
	if err := n.net.Close(); err != nil {
		n.t.Errorf("close the network: %v", err)
	}
	n.close()
}

func (n *node) start(id spec.ShardID, replica uint64, members map[uint64]string) *shard.Shard {
	n.t.Helper()
	s, err := n.host.Start(id, replica, members)
	if err != nil {
		n.t.Fatalf("start shard: %v", err)
	}
	return s
}

func sole(n *node) *shard.Shard { return n.start(1, 1, map[uint64]string{1: n.cfg.Address}) }

func withTimeout(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func lead(t testing.TB, s *shard.Shard) *shard.Term {
	t.Helper()
	term, err := s.Lead(withTimeout(t))
	if err != nil {
		t.Fatalf("lead: %v", err)
	}
	return term
}

func testKey(i int) []byte {
	return store.AppendEventKey(nil, 1, spec.Revision(i+1))
}

// body is a batch that sets test key i.
func body(i int, value []byte) []byte {
	var b store.Batch
	b.Set(testKey(i), value)
	return b.AppendRepr(nil)
}

// propose proposes and waits.
func propose(t testing.TB, term *shard.Term, body []byte) error {
	t.Helper()
	done := make(chan error, 1)
	if err := term.Propose(body, func(err error) { done <- err }); err != nil {
		return err
	}
	select {
	case err := <-done:
		return err
	case <-time.After(time.Minute):
		t.Fatal("a batch was never reported")
		return nil
	}
}

func mustPropose(t testing.TB, term *shard.Term, i int) {
	t.Helper()
	if err := propose(t, term, body(i, fmt.Append(nil, "value ", i))); err != nil {
		t.Fatalf("propose %d: %v", i, err)
	}
}

// count returns how many of the test keys are stored.
func count(t testing.TB, db *store.DB) int {
	t.Helper()
	n := 0
	lower, upper := store.Bounds(store.AppendEventsPrefix(nil, 1))
	if err := db.Scan(lower, upper, func(_, _ []byte) bool { n++; return true }); err != nil {
		t.Fatal(err)
	}
	return n
}

func TestABatchIsInTheStoreWhenItIsReported(t *testing.T) {
	n := newNode(t, "")
	s := sole(n)
	term := lead(t, s)
	for i := range 50 {
		mustPropose(t, term, i)
		if ok, err := n.db.Has(testKey(i)); err != nil || !ok {
			t.Fatalf("key %d: there %v, error %v", i, ok, err)
		}
	}
	st := s.Status()
	if st.Seq != 50 || st.Epoch != term.Epoch() || st.Leader != 1 {
		t.Errorf("status %+v after 50 batches in epoch %d", st, term.Epoch())
	}
	if err := s.ReadIndex(withTimeout(t)); err != nil {
		t.Errorf("read index: %v", err)
	}
}

func TestBatchesAreReportedInTheOrderOfProposing(t *testing.T) {
	n := newNode(t, "")
	term := lead(t, sole(n))
	const batches = 3000
	var (
		all   sync.WaitGroup
		order []int // written on the term's goroutine only
	)
	all.Add(batches)
	for i := range batches {
		err := term.Propose(body(i, []byte("v")), func(err error) {
			if err != nil {
				t.Errorf("batch %d: %v", i, err)
			}
			order = append(order, i)
			all.Done()
		})
		if err != nil {
			t.Fatalf("propose %d: %v", i, err)
		}
	}
	all.Wait()
	for i, got := range order {
		if got != i {
			t.Fatalf("report %d is of batch %d", i, got)
		}
	}
	if got := count(t, n.db); got != batches {
		t.Errorf("%d keys stored, %d batches reported", got, batches)
	}
}

func TestClaimingAgainEndsTheTermAndTellsWhatWasApplied(t *testing.T) {
	n := newNode(t, "")
	s := sole(n)
	first := lead(t, s)
	for i := range 7 {
		mustPropose(t, first, i)
	}
	second := lead(t, s)
	select {
	case <-first.Done():
	default:
		t.Error("the first term is not done though the shard is claimed again")
	}
	if err := first.Propose(body(9, nil), func(error) { t.Error("a refused batch was reported") }); !errors.Is(err, shard.ErrTermOver) {
		t.Errorf("propose in a term that is over: %v", err)
	}
	if second.Epoch() <= first.Epoch() {
		t.Errorf("epoch %d after %d", second.Epoch(), first.Epoch())
	}
	if second.PreviousEpoch() != first.Epoch() || second.PreviousSeq() != 7 {
		t.Errorf("previous %d/%d, want %d/7", second.PreviousEpoch(), second.PreviousSeq(), first.Epoch())
	}
	mustPropose(t, second, 100)
}

func TestABatchOutsideOfTheShardEndsTheTermAndChangesNothing(t *testing.T) {
	n := newNode(t, "")
	s := sole(n)
	term := lead(t, s)
	var b store.Batch
	b.Set(store.AppendEventKey(nil, 2, 1), []byte("of another shard"))
	if err := propose(t, term, b.Repr()); !errors.Is(err, shard.ErrTermOver) {
		t.Errorf("foreign batch: %v", err)
	}
	<-term.Done()
	again := lead(t, s)
	if again.PreviousSeq() != 0 {
		t.Errorf("%d batches applied in the term before, want none", again.PreviousSeq())
	}
	mustPropose(t, again, 1)
}

func TestClosingTheHostFailsWhatIsOutstandingAndWhoWaits(t *testing.T) {
	n := newNode(t, "")
	s := sole(n)
	term := lead(t, s)
	var reported sync.WaitGroup
	for i := range 200 {
		reported.Add(1)
		if err := term.Propose(body(i, nil), func(error) { reported.Done() }); err != nil {
			t.Fatal(err)
		}
	}
	n.close()
	reported.Wait()
	if err := term.Err(); !errors.Is(err, shard.ErrTermOver) {
		t.Errorf("term after close: %v", err)
	}
	if _, err := s.Lead(withTimeout(t)); err == nil {
		t.Error("a closed shard leads")
	}
	if err := s.ReadIndex(withTimeout(t)); spec.CodeOf(err) != spec.CodeUnavailable {
		t.Errorf("read index of a closed shard: %v", err)
	}
}

func TestLeadEndsWithItsContext(t *testing.T) {
	addresses := []string{nodetest.FreeAddress(t), nodetest.FreeAddress(t)}
	n := newNode(t, addresses[0])
	s := n.start(1, 1, map[uint64]string{1: addresses[0], 2: addresses[1]}) // the other never comes
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := s.Lead(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("lead: %v", err)
	}
	if err := s.ReadIndex(ctx); spec.CodeOf(err) != spec.CodeUnavailable {
		t.Errorf("read index: %v", err)
	}
}

func TestASoleReplicaLeadsSoonAfterStart(t *testing.T) {
	n := newNode(t, "")
	began := time.Now()
	lead(t, sole(n))
	t.Logf("led after %v", time.Since(began))
}
