package conductor_test

import (
	"context"
	"encoding/json"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/node/conductor"
	"github.com/pheromone-run/pheromone/node/peer"
	"github.com/pheromone-run/pheromone/raft/shard"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// holder is a node with one replica of shard 1 that runs, and one of shard 2 whose
// data is lost.
type holder struct {
	shard *shard.Shard
	lacks *atomic.Bool
}

func (h holder) Status() []conductor.Held {
	return []conductor.Held{{Shard: 1, Replica: 1, Load: 7, Moves: true}, {Shard: 2, Replica: 5, Lost: true}, {Shard: 3, Replica: 1}}
}

func (h holder) Shard(id spec.ShardID) (*shard.Shard, bool) { return h.shard, id == 1 }

func (h holder) Lacks(_ context.Context, id spec.ShardID) bool { return id == 1 && h.lacks.Load() }

// newHolder starts a node that others can ask, and returns who asks it.
func newHolder(t *testing.T, address string) func(method string, args, result any) error {
	t.Helper()
	return newHolderThatLacks(t, address, new(atomic.Bool), nil)
}

// newHolderThatLacks is newHolder with what the node says of its bytes, and others
// in the raft group that do not run.
func newHolderThatLacks(t *testing.T, address string, lacks *atomic.Bool, others []uint64) func(method string, args, result any) error {
	t.Helper()
	dir := t.TempDir()
	fatal := func(err error) { t.Errorf("fatal: %v", err) }
	db, err := store.Open(filepath.Join(dir, "store"), store.Options{Node: "n1", Fatal: fatal})
	if err != nil {
		t.Fatal(err)
	}
	network, err := peer.Listen(peer.Config{Address: address, Node: "n1", Cluster: func() string { return "test" }})
	if err != nil {
		t.Fatal(err)
	}
	host, err := shard.Open(shard.HostConfig{Dir: filepath.Join(dir, "raft"), Address: network.Address(), Network: network.On(peer.Shards), Fatal: fatal}, db)
	if err != nil {
		t.Fatal(err)
	}
	members := map[uint64]string{1: network.Address()}
	for _, n := range others {
		members[n] = "127.0.0.1:9"
	}
	s, err := host.Start(1, 1, members)
	if err != nil {
		t.Fatal(err)
	}
	c, err := conductor.New(conductor.Config{
		Node: "n1", Replicas: holder{s, lacks}, Call: func(context.Context, string, string, any, any) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	handlers := c.Handlers()
	served := make(chan error, 1)
	go func() {
		served <- peer.Serve(network, func(ctx context.Context, call *peer.Call) (peer.Answer, error) {
			return handlers[call.Method](ctx, call)
		})
	}()
	other, err := peer.Listen(peer.Config{Address: "127.0.0.1:0", Node: "n2", Cluster: func() string { return "test" }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, end := range []func() error{other.Close, host.Close, network.Close, db.Close} {
			if err := end(); err != nil {
				t.Error(err)
			}
		}
		<-served
	})
	caller := peer.NewCaller(other)
	ask := func(method string, args, result any) error {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := caller.Call(ctx, network.Address(), method, args, nil, result)
		return err
	}
	if len(others) > 0 {
		return ask
	}
	lead, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := s.Lead(lead); err != nil {
		t.Fatal(err)
	}
	return ask
}

func TestANodeSaysWhereItsReplicasStand(t *testing.T) {
	ask := newHolder(t, "127.0.0.1:0")
	var status conductor.Status
	if err := ask("node.status", struct{}{}, &status); err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(status)
	if err != nil {
		t.Fatal(err)
	}
	if len(status.Replicas) != 2 {
		t.Fatalf("status %s, want that of two replicas: the third does not run", got)
	}
	led, lost := status.Replicas[0], status.Replicas[1]
	if led.Applied == 0 || led.Load != 7 || led.Members == nil || !slices.Equal(led.Members.Voters, []uint64{1}) {
		t.Errorf("the one that leads: %s", got)
	}
	if !lost.Lost || lost.Replica != 5 || lost.Members != nil {
		t.Errorf("the one that is lost: %s", got)
	}
}

func TestANodeSaysWhetherItLacksBytes(t *testing.T) {
	lacks := func(ask func(method string, args, result any) error) bool {
		t.Helper()
		var status conductor.Status
		if err := ask("node.status", struct{}{}, &status); err != nil {
			t.Fatal(err)
		}
		return status.Replicas[0].Lacks
	}
	var lacking atomic.Bool
	ask := newHolderThatLacks(t, "127.0.0.1:0", &lacking, nil)
	if lacks(ask) {
		t.Error("it has all")
	}
	lacking.Store(true)
	if !lacks(ask) {
		t.Error("it lacks some")
	}
	if !lacks(newHolderThatLacks(t, "127.0.0.1:0", new(atomic.Bool), []uint64{2, 3})) {
		t.Error("it has all that it knows of, and does not know whether that is all")
	}
}

func TestOrdersThatDoNotFitAreRefused(t *testing.T) {
	ask := newHolder(t, "127.0.0.1:0")
	var status conductor.Status
	if err := ask("node.status", struct{}{}, &status); err != nil {
		t.Fatal(err)
	}
	version := status.Replicas[0].Members.Version
	for _, c := range []struct {
		method string
		order  conductor.Order
		code   spec.Code
	}{
		{"replica.remove", conductor.Order{Shard: 1, Replica: 1}, spec.CodePrecondition},   // it leads
		{"replica.remove", conductor.Order{Shard: 1, Replica: 9}, ""},                      // so it is
		{"replica.promote", conductor.Order{Shard: 1, Replica: 9}, spec.CodePrecondition},  // never added
		{"replica.promote", conductor.Order{Shard: 1, Replica: 1}, ""},                     // so it is
		{"replica.transfer", conductor.Order{Shard: 1, Replica: 9}, spec.CodePrecondition}, // never added
		{"replica.transfer", conductor.Order{Shard: 1, Replica: 1}, ""},                    // so it is
		{"replica.add", conductor.Order{Shard: 1, Replica: 1}, ""},                         // so it is
		{"replica.add", conductor.Order{Shard: 2, Replica: 6}, spec.CodeUnavailable},       // not here
		{"replica.add", conductor.Order{Shard: 1, Replica: 2, Version: version + 1000, Address: "127.0.0.1:9"}, spec.CodePrecondition},
	} {
		err := ask(c.method, c.order, nil)
		if c.code == "" && err != nil || c.code != "" && spec.CodeOf(err) != c.code {
			t.Errorf("%s %+v: %v, want code %q", c.method, c.order, err, c.code)
		}
	}

	// One that was removed is used up.
	if err := ask("replica.add", conductor.Order{Shard: 1, Replica: 2, Address: "127.0.0.1:9"}, nil); err != nil {
		t.Fatal(err)
	}
	if err := ask("replica.remove", conductor.Order{Shard: 1, Replica: 2}, nil); err != nil {
		t.Fatal(err)
	}
	if err := ask("replica.add", conductor.Order{Shard: 1, Replica: 2, Address: "127.0.0.1:9"}, nil); spec.CodeOf(err) != spec.CodePrecondition {
		t.Errorf("a number that was removed is added: %v", err)
	}
}
