package blobs_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pheromone-run/pheromone/node/blobs"
	"github.com/pheromone-run/pheromone/node/peer"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

const (
	mib      = 1 << 20
	patience = time.Minute
)

// tester is a testing.T, or a rapid.T.
type tester interface {
	Helper()
	Error(...any)
	Fatal(...any)
	Fatalf(string, ...any)
}

// cluster is a few nodes in this process that have replicas of shard 1. Their calls
// go over a network on the loopback interface.
type cluster struct {
	t     tester
	names []string
	nodes map[string]*node

	mu        sync.Mutex
	away      map[string]bool // nodes that can't be called, nor call
	joining   map[string]bool // nodes whose replica has no vote
	lost      map[string]bool // nodes that are not known to have a replica
	members   map[string]bool
	addresses map[string]string
}

// node is one of them.
type node struct {
	*cluster
	name     string
	fs       vfs.FS
	dir      string
	db       *store.DB
	network  *peer.Network
	caller   *peer.Caller
	blobs    *blobs.Blobs
	served   sync.WaitGroup
	stop     context.CancelFunc
	behavior atomic.Pointer[behavior]
}

// behavior is what tests change while a node runs.
type behavior struct {
	caughtUp func() error
	ahead    time.Duration    // of its clock
	take     func(*peer.Call) // before a request is handled
}

func (n *node) behave(b behavior) { n.behavior.Store(&b) }

func (n *node) now() time.Time { return time.Now().Add(n.behavior.Load().ahead) }

func newCluster(t tester, names ...string) *cluster {
	c := &cluster{t: t, names: names, nodes: map[string]*node{}, away: map[string]bool{}, joining: map[string]bool{}, lost: map[string]bool{}, members: map[string]bool{}, addresses: map[string]string{}}
	for _, name := range names {
		c.members[name] = true
		n := &node{cluster: c, name: name, fs: vfs.NewMem(), dir: "data"}
		n.behave(behavior{})
		c.nodes[name] = n
		n.start()
		if t, ok := t.(interface{ Cleanup(func()) }); ok {
			t.Cleanup(n.close)
		}
	}
	return c
}

func (n *node) start() {
	n.t.Helper()
	var err error
	if n.db, err = store.Open(n.dir, store.Options{Node: n.name, FS: n.fs, Now: n.now}); err != nil {
		n.t.Fatal(err)
	}
	if n.network, err = peer.Listen(peer.Config{Address: "127.0.0.1:0", Node: n.name, Cluster: func() string { return "c" }}); err != nil {
		n.t.Fatal(err)
	}
	n.caller = peer.NewCaller(n.network)
	n.mu.Lock()
	n.addresses[n.name] = n.network.Address()
	n.mu.Unlock()
	n.blobs = blobs.New(blobs.Config{
		Node: n.name, DB: n.db, Call: n.call, Replicas: n.others, Shards: func() []spec.ShardID { return []spec.ShardID{1} },
		Member: func(name string) bool { n.mu.Lock(); defer n.mu.Unlock(); return n.members[name] },
		CaughtUp: func(context.Context, spec.ShardID) error {
			if f := n.behavior.Load().caughtUp; f != nil {
				return f()
			}
			return nil
		},
		Now: n.now,
	})
	ctx, cancel := context.WithCancel(context.Background())
	n.stop = cancel
	n.served.Go(func() { n.blobs.Run(ctx) })
	n.served.Go(func() {
		_ = peer.Serve(n.network, func(ctx context.Context, c *peer.Call) (peer.Answer, error) {
			if f := n.behavior.Load().take; f != nil {
				f(c)
			}
			return n.blobs.Handle(ctx, c)
		})
	})
}

func (n *node) close() {
	n.t.Helper()
	if n.db == nil {
		return
	}
	n.stop()
	if err := n.network.Close(); err != nil {
		n.t.Error(err)
	}
	n.served.Wait()
	if err := n.db.Close(); err != nil {
		n.t.Error(err)
	}
	n.db = nil
}

// crash starts the node again with what a power cut would have left.
func (n *node) crash(after vfs.FS) {
	n.close()
	n.fs = after
	n.start()
}

func (n *node) others(spec.ShardID) (others []blobs.Replica, votes bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, name := range n.names {
		if name == n.name {
			continue
		}
		r := blobs.Replica{Number: uint64(i + 1), Node: name, Votes: !n.joining[name]}
		if n.lost[name] {
			r.Node = ""
		}
		others = append(others, r)
	}
	return others, !n.joining[n.name]
}

// set changes what is so of nodes.
func (c *cluster) set(what map[string]bool, is bool, names ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range names {
		what[name] = is
	}
}

var errAway = errors.New("it can't be reached")

func (n *node) call(ctx context.Context, to, method string, args any, body io.Reader, result any) (io.ReadCloser, error) {
	n.mu.Lock()
	away, address := n.away[to] || n.away[n.name], n.addresses[to]
	n.mu.Unlock()
	if away {
		return nil, errAway
	}
	return n.caller.Call(ctx, address, method, args, body, result)
}

func (c *cluster) cut(names ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range names {
		c.away[name] = true
	}
}

func (c *cluster) mend() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.away)
}

func noise(seed uint64, n int) []byte {
	out := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}).Read(out)
	return out
}

func (n *node) stage(data []byte) store.Blob {
	n.t.Helper()
	blob, err := n.db.StageBlob(context.Background(), 1, "a", bytes.NewReader(data), 1<<30)
	if err != nil {
		n.t.Fatal(err)
	}
	return blob
}

func (n *node) spread(blob store.Blob) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_, err := n.blobs.Spread(ctx, 1, "a", blob)
	return err
}

// adopt applies an entry that refers to a blob.
func (n *node) adopt(blob store.Blob, applied uint64) {
	n.t.Helper()
	b := n.db.NewBatch()
	store.AdoptBlob(b, 1, "a", blob)
	if err := n.db.Apply(1, [][]byte{b.Repr()}, store.ShardMeta{Applied: applied}); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) has(blob store.Blob) bool {
	n.t.Helper()
	r, err := n.db.ExportBlob(1, "a", blob)
	if errors.Is(err, store.ErrNotFound) {
		return false
	}
	if err != nil {
		n.t.Fatal(err)
	}
	return r.Close() == nil
}

func (n *node) marks() int {
	n.t.Helper()
	staged, err := n.db.Staged(1)
	if err != nil {
		n.t.Fatal(err)
	}
	return len(staged)
}

func eventually(t tester, what string, done func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("never: %s", what)
		}
	}
}

func TestASpreadBlobIsOnAllReplicas(t *testing.T) {
	c := newCluster(t, "n1", "n2", "n3")
	for _, data := range [][]byte{noise(1, 100<<10), bytes.Repeat([]byte("text "), mib), noise(2, 3*mib+1)} {
		blob := c.nodes["n1"].stage(data)
		if err := c.nodes["n1"].spread(blob); err != nil {
			t.Fatal(err)
		}
		if !c.nodes["n2"].has(blob) && !c.nodes["n3"].has(blob) {
			t.Error("no other replica has it though it is spread")
		}
		for _, name := range []string{"n2", "n3"} {
			n := c.nodes[name]
			eventually(t, name+" has it", func() bool { return n.has(blob) })
			if got, err := n.db.ReadBlob(1, "a", blob); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s: %d bytes, %v", name, len(got), err)
			}
		}
	}
	for _, name := range []string{"n2", "n3"} {
		staged, err := c.nodes[name].db.Staged(1)
		if err != nil || len(staged) != 3 || staged[0].Node != "n1" {
			t.Errorf("%s: marks %+v, %v", name, staged, err)
		}
	}
}

func TestAMajorityIsEnoughAndLessIsNot(t *testing.T) {
	c := newCluster(t, "n1", "n2", "n3")
	n1 := c.nodes["n1"]
	c.cut("n3")
	blob := n1.stage(noise(1, mib))
	if err := n1.spread(blob); err != nil {
		t.Errorf("with one of three away: %v", err)
	}
	if !c.nodes["n2"].has(blob) {
		t.Error("it is on one replica only")
	}
	c.cut("n2")
	if err := n1.spread(n1.stage(noise(2, mib))); spec.CodeOf(err) != spec.CodeUnavailable || !errors.Is(err, errAway) {
		t.Errorf("with two of three away: %v", err)
	}
	alone := newCluster(t, "n1").nodes["n1"]
	if err := alone.spread(alone.stage(noise(3, mib))); err != nil {
		t.Errorf("the only replica: %v", err)
	}
	two := newCluster(t, "n1", "n2")
	two.cut("n2")
	if err := two.nodes["n1"].spread(two.nodes["n1"].stage(noise(4, mib))); spec.CodeOf(err) != spec.CodeUnavailable {
		t.Errorf("with one of two away: %v", err)
	}
}

func TestOnlyThoseThatVoteMakeAMajority(t *testing.T) {
	c := newCluster(t, "n1", "n2", "n3", "n4")
	n1 := c.nodes["n1"]
	c.set(c.joining, true, "n4")
	c.cut("n2", "n3")
	if err := n1.spread(n1.stage(noise(1, mib))); spec.CodeOf(err) != spec.CodeUnavailable {
		t.Errorf("on one of three that vote, and one that joins: %v", err)
	}
	c.mend()
	c.cut("n3")
	blob := n1.stage(noise(2, mib))
	if err := n1.spread(blob); err != nil {
		t.Errorf("on two of three that vote: %v", err)
	}
	eventually(t, "the one that joins gets it, too", func() bool { return c.nodes["n4"].has(blob) })
	c.mend()
	c.set(c.lost, true, "n2", "n3")
	if err := n1.spread(n1.stage(noise(3, mib))); spec.CodeOf(err) != spec.CodeUnavailable {
		t.Errorf("on one of three that vote, as nobody knows where the others are: %v", err)
	}
	c.set(c.lost, false, "n2", "n3")
	c.set(c.joining, true, "n1")
	if err := n1.spread(n1.stage(noise(4, mib))); spec.CodeOf(err) != spec.CodeUnavailable {
		t.Errorf("from one that does not vote: %v", err)
	}
}

func TestASpreadBlobIsNotEnoughOnceOthersVote(t *testing.T) {
	c := newCluster(t, "n1", "n2", "n3", "n4")
	n1 := c.nodes["n1"]
	c.set(c.joining, true, "n4")
	c.cut("n2", "n4")
	blob := n1.stage(noise(1, mib))
	enough, err := n1.blobs.Spread(t.Context(), 1, "a", blob)
	if err != nil {
		t.Fatal(err)
	}
	if !enough() {
		t.Error("on two of three that vote")
	}
	c.set(c.joining, false, "n4")
	if enough() {
		t.Error("on two of four that vote")
	}
	c.set(c.joining, true, "n3")
	if enough() {
		t.Error("on one of three that vote")
	}
	c.mend()
	if enough, err = n1.blobs.Spread(t.Context(), 1, "a", blob); err != nil || !enough() {
		t.Errorf("once it is spread again: %v", err)
	}
	c.set(c.joining, true, "n1")
	if enough() {
		t.Error("from one that does not vote any more")
	}
}

func TestANodeThatHangsHoldsUpNothing(t *testing.T) {
	c := newCluster(t, "n1", "n2", "n3")
	n1 := c.nodes["n1"]
	hang := make(chan struct{})
	c.nodes["n3"].behave(behavior{take: func(*peer.Call) { <-hang }})
	for i := range 20 { // more than it is sent at once
		if err := n1.spread(n1.stage(noise(uint64(i), 100<<10))); err != nil {
			t.Fatal(err)
		}
	}
	c.cut("n2")
	ctx, cancel := context.WithCancelCause(context.Background())
	gone := errors.New("the client has gone")
	failed := make(chan error)
	go func() {
		_, err := n1.blobs.Spread(ctx, 1, "a", n1.stage(noise(99, 100<<10)))
		failed <- err
	}()
	cancel(gone)
	if err := <-failed; spec.CodeOf(err) != spec.CodeUnavailable || !errors.Is(err, gone) {
		t.Errorf("with no majority: %v", err)
	}
	close(hang)
}

func TestTheLastReplicaGetsItsBytesBehindTheMajority(t *testing.T) {
	c := newCluster(t, "n1", "n2", "n3")
	n1, n3 := c.nodes["n1"], c.nodes["n3"]
	goOn := make(chan struct{})
	n3.behave(behavior{take: func(*peer.Call) { <-goOn }})
	blob := n1.stage(noise(1, 5*mib))
	if err := n1.spread(blob); err != nil {
		t.Fatal(err)
	}
	n1.adopt(blob, 1)
	n1.db.ReleaseBlob(blob)
	close(goOn)
	eventually(t, "the last one has it", func() bool { return n3.marks() == 1 && n3.has(blob) })
}

func TestADiscardedBlobGoesEverywhere(t *testing.T) {
	c := newCluster(t, "n1", "n2", "n3")
	n1, n2, n3 := c.nodes["n1"], c.nodes["n2"], c.nodes["n3"]
	blob := n1.stage(noise(1, mib))
	if err := n1.spread(blob); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both have it", func() bool { return n2.has(blob) && n3.has(blob) })
	discard := func(blob store.Blob) {
		if err := n1.db.DiscardBlob(1, "a", blob); err != nil {
			t.Error(err)
		}
		n1.blobs.Discard(1, "a", blob)
	}
	discard(blob)
	eventually(t, "it is gone", func() bool { return !n2.has(blob) && !n3.has(blob) })

	// While the bytes are on their way to one of them.
	arrives, goOn := make(chan struct{}), make(chan struct{})
	n3.behave(behavior{take: func(call *peer.Call) {
		if call.Method == "blob.put" {
			close(arrives)
			<-goOn
		}
	}})
	blob = n1.stage(noise(2, 8*mib))
	if err := n1.spread(blob); err != nil {
		t.Fatal(err)
	}
	<-arrives
	discard(blob)
	close(goOn)
	eventually(t, "it is gone", func() bool { return !n2.has(blob) && keys(t, n3.db) == 0 })
}

func keys(t tester, db *store.DB) (n int) {
	t.Helper()
	lower, upper := store.ShardRange(1)
	if err := db.Scan(lower, upper, func(_, _ []byte) bool { n++; return true }); err != nil {
		t.Fatal(err)
	}
	return n
}

func compare(t tester, nodes ...*node) {
	var want string
	for _, n := range nodes {
		decided, _, err := n.db.HashRange(1)
		if err != nil {
			t.Fatalf("%v", err)
		}
		hash, lacking, err := n.db.HashBlobs(1)
		if err != nil || lacking > 0 {
			t.Fatalf("%s lacks %d blobs, %v", n.name, lacking, err)
		}
		got := fmt.Sprint(decided, hash)
		if want == "" {
			want = got
		}
		if got != want {
			t.Fatalf("%s differs", n.name)
		}
	}
}
