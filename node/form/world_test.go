package form_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pheromone-run/pheromone/node/form"
	"github.com/pheromone-run/pheromone/node/peer"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

const patience = time.Minute

// world is some nodes and the network between them, in memory.
type world struct {
	t      testing.TB
	tokens map[string]string // of those that have one, by name

	mu    sync.Mutex
	nodes map[string]*life // by address; guarded by mu
	lossy *rand.Rand       // loses requests and answers if it is set; guarded by mu
	deaf  string           // a node that gets no answers; guarded by mu
}

func newWorld(t testing.TB) *world { return &world{t: t, nodes: map[string]*life{}} }

// node is a node that looks for its cluster, and its disk.
type node struct {
	w      *world
	cfg    form.Config
	at     string // where it is reached, if that is not the address it tells
	disk   *vfs.MemFS
	db     *store.DB
	record *form.Record
	former *form.Former
	cancel context.CancelFunc
	ended  chan error // gets what Run returns; capacity 1
}

// life is what others meet of a node from one start to its stop. It never changes.
type life struct {
	name   string
	record *form.Record
	former *form.Former
}

// add makes a node that is not started yet.
func (w *world) add(name, address string, expect int, join ...string) *node {
	w.t.Helper()
	n := &node{w: w, disk: vfs.NewCrashableMem(), cfg: form.Config{
		Self: form.Node{Name: name, Address: address, API: "http://" + name, Version: "v1"}, Join: join, Expect: expect,
		Shards: 2, Replicas: 3, Pace: time.Millisecond,
	}}
	return n
}

// start opens the node's data and has it look for its cluster.
func (n *node) start() *node {
	n.w.t.Helper()
	var err error
	n.db, err = store.Open("data", store.Options{Node: n.cfg.Self.Name, FS: n.disk, ReserveBytes: -1, Fatal: func(err error) { panic(err) }})
	if err != nil {
		n.w.t.Fatal(err)
	}
	if n.record, err = form.OpenRecord(n.db); err != nil {
		n.w.t.Fatal(err)
	}
	if err := n.record.Begin(n.cfg.Self.Address, n.cfg.Self.Address); err != nil {
		n.w.t.Fatal(err)
	}
	own := &life{name: n.cfg.Self.Name, record: n.record}
	n.cfg.Ask = func(ctx context.Context, address, method string, args, result any) error {
		return n.w.ask(ctx, own, address, method, args, result)
	}
	n.former = form.New(n.cfg, n.record)
	own.former = n.former
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel, n.ended = cancel, make(chan error, 1)
	n.w.mu.Lock()
	n.w.nodes[n.place()] = own
	n.w.mu.Unlock()
	former, ended := n.former, n.ended
	go func() { ended <- former.Run(ctx) }()
	return n
}

func (n *node) place() string {
	if n.at != "" {
		return n.at
	}
	return n.cfg.Self.Address
}

// stop ends the node; its disk has what was synced, and by chance more.
func (n *node) stop(chance *rand.Rand) {
	n.w.t.Helper()
	if n.cancel == nil {
		return
	}
	n.w.mu.Lock()
	delete(n.w.nodes, n.place())
	n.w.mu.Unlock()
	after := n.disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 30, RNG: chance})
	n.cancel()
	<-n.ended
	n.cancel = nil
	if err := n.db.Close(); err != nil {
		n.w.t.Errorf("close the store: %v", err)
	}
	n.disk = after
}

// ask carries a request to the node at an address, as peer does.
func (w *world) ask(ctx context.Context, from *life, address, method string, args, result any) error {
	w.mu.Lock()
	to := w.nodes[address]
	var lost, mute bool
	if w.lossy != nil {
		lost, mute = w.lossy.IntN(4) == 0, w.lossy.IntN(4) == 0
	}
	lost = lost || from.name == w.deaf && to != from
	w.mu.Unlock()
	switch {
	case to == nil || lost:
		return fmt.Errorf("%w: nobody at %s", peer.ErrNotSent, address)
	case to == from:
		return &peer.Refusal{Reason: peer.ReasonSelf, Message: "the address is that of the node itself"}
	case w.tokens[to.name] != w.tokens[from.name]:
		return &peer.Refusal{Reason: peer.ReasonToken, Message: "it has another join token"}
	case to.name == from.name:
		return &peer.Refusal{Reason: peer.ReasonName, Message: fmt.Sprintf("both nodes are named %q", from.name)}
	case from.record.Cluster() != "" && to.record.Cluster() != "" && from.record.Cluster() != to.record.Cluster():
		return &peer.Refusal{Reason: peer.ReasonCluster, Message: "they belong to different clusters"}
	}
	var answer any
	var err error
	switch method {
	case form.MethodHello:
		var hello form.Hello
		through(w.t, args, &hello)
		answer, err = to.former.Hello(ctx, hello)
	case form.MethodJoin:
		if to.record.Identity().Founding == nil {
			err = spec.Errorf(spec.CodeUnavailable, "it has no control group to ask for the members")
		}
		answer = form.Joined{Cluster: to.record.Cluster()}
	default:
		err = fmt.Errorf("nobody knows %s", method)
	}
	if mute {
		return spec.Errorf(spec.CodeUnavailable, "the answer is lost")
	}
	if err != nil {
		return err
	}
	through(w.t, answer, result)
	return nil
}

// through copies as the network does.
func through(t testing.TB, from, to any) {
	raw, err := json.Marshal(from)
	if err == nil {
		err = json.Unmarshal(raw, to)
	}
	if err != nil {
		t.Error(err)
	}
}

// finds waits until a node has found its cluster.
func (n *node) finds() string {
	n.w.t.Helper()
	if err := n.result(); err != nil {
		n.w.t.Fatalf("node %s: %v", n.cfg.Self.Name, err)
	}
	return n.record.Cluster()
}

// fails waits until a node has given up, and returns why.
func (n *node) fails() *spec.Error {
	n.w.t.Helper()
	err := n.result()
	var e *spec.Error
	if !errors.As(err, &e) {
		n.w.t.Fatalf("node %s: error %v, cluster %q", n.cfg.Self.Name, err, n.record.Cluster())
	}
	return e
}

func (n *node) result() error {
	n.w.t.Helper()
	select {
	case err := <-n.ended:
		n.ended <- err // for stop
		return err
	case <-time.After(patience):
		n.w.t.Fatalf("node %s still waits: %s", n.cfg.Self.Name, n.former.Waiting())
		return nil
	}
}

// waits waits until a node says that it waits for something.
func (n *node) waits(forWhat string) {
	n.w.t.Helper()
	n.w.await(forWhat, func() (string, bool) {
		waiting := n.former.Waiting()
		return waiting, contains(waiting, forWhat)
	})
}

func (w *world) await(what string, done func() (string, bool)) {
	w.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		is, ok := done()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("never came true: %s; it is %s", what, is)
		}
		<-time.After(time.Millisecond)
	}
}

// end stops the nodes that run.
func (w *world) end(nodes ...*node) {
	for _, n := range nodes {
		n.stop(rand.New(rand.NewPCG(1, 1)))
	}
}
