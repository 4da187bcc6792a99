package control

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/hashicorp/raft"

	"github.com/pheromone-run/pheromone/spec"
)

// The files in testdata were written by the version for one node, which had no
// members and whose replicas were names of nodes.

func oldCommands(t *testing.T) *fsm {
	t.Helper()
	raw, err := os.ReadFile("testdata/commands-1.txt")
	if err != nil {
		t.Fatal(err)
	}
	machine := newFSM()
	index := uint64(3)
	for lines := bufio.NewScanner(bytes.NewReader(raw)); lines.Scan(); index++ {
		data, err := strconv.Unquote(lines.Text())
		if err != nil {
			t.Fatal(err)
		}
		if o := machine.Apply(&raft.Log{Index: index, Data: []byte(data)}).(outcome); o.err != nil || !o.result.Changed {
			t.Fatalf("%s: %+v", data, o)
		}
	}
	return machine
}

func oldSnapshot(t *testing.T) *fsm {
	t.Helper()
	raw, err := os.ReadFile("testdata/snapshot-1.json")
	if err != nil {
		t.Fatal(err)
	}
	machine := newFSM()
	if err := machine.Restore(io.NopCloser(bytes.NewReader(raw))); err != nil {
		t.Fatal(err)
	}
	return machine
}

func TestWhatTheVersionForOneNodeWroteIsReadAlike(t *testing.T) {
	log, snapshot := oldCommands(t), oldSnapshot(t)
	if a, b := encoded(t, log.state.Load()), encoded(t, snapshot.state.Load()); a != b {
		t.Fatalf("the log makes\n%s\nthe snapshot\n%s", a, b)
	}
	s := snapshot.state.Load()
	if s.Index != 12 || len(s.Apps) != 2 || s.Apps["shop"].Last != 3 || s.Settings["k"] != "v" || len(s.Artifacts) != 1 {
		t.Errorf("it is read as %s", encoded(t, s))
	}
	if len(s.Placement.Shards) != 4 || s.Placement.ShardOf(spec.Slots-1) != 4 {
		t.Errorf("the placement is %+v", s.Placement.Shards)
	}
	for id, shard := range s.Placement.Shards {
		if len(shard.Replicas) != 1 || shard.Replicas[1] != (Replica{Node: "n1"}) || shard.Next != 2 {
			t.Errorf("shard %d is %+v", id, shard)
		}
	}
	for name, a := range s.Apps {
		if a.Incarnation != 0 {
			t.Errorf("app %s is incarnation %d", name, a.Incarnation)
		}
	}
	if v, _ := s.Current("shop"); v.Version != 3 {
		t.Errorf("version %d", v.Version)
	} else if app, err := v.App(); err != nil || app.Functions["f"].Concurrency != 2 {
		t.Errorf("%+v, %v", app, err)
	}
}

// A node that was alone gets others beside it.
func TestAnOldStateGrowsIntoACluster(t *testing.T) {
	machine := oldSnapshot(t)
	for i, c := range []Command{
		&SetCluster{ID: "c1"},
		&PutMember{Member: Member{Name: "n1", Install: "i1", Address: "n1:1"}},
		&PutMember{Member: Member{Name: "n2", Install: "i2", Address: "n2:1"}},
		&AddReplica{Shard: 3, Node: "n2"},
	} {
		data, err := encodeCommand(c, "")
		if err != nil {
			t.Fatal(err)
		}
		if o := machine.Apply(&raft.Log{Index: uint64(20 + i), Data: data}).(outcome); o.err != nil || !o.result.Changed {
			t.Fatalf("%s: %+v", data, o)
		}
	}
	again := restored(t, machine).state.Load()
	if got := again.Placement.Shards[3]; got.Next != 3 || got.Replicas[2] != (Replica{Node: "n2", Joining: true}) || got.Replicas[1].Node != "n1" {
		t.Errorf("shard 3 is %+v", got)
	}
}

func TestASnapshotOfALaterVersionIsRefused(t *testing.T) {
	err := newFSM().Restore(io.NopCloser(strings.NewReader(`{"format":3,"state":{}}`)))
	if err == nil || !strings.Contains(err.Error(), "format 3") {
		t.Errorf("it is read with %v", err)
	}
}

func TestAnAppThatIsDeployedAgainIsAnotherIncarnation(t *testing.T) {
	machine := oldSnapshot(t)
	index := machine.state.Load().Index
	want := []uint64{1, 1, 1, 2}
	for i, c := range []Command{
		&ApplyApp{Name: "gone", Spec: []byte("1")},
		&ApplyApp{Name: "gone", Spec: []byte("2")},
		&DeleteApp{Name: "gone"},
		&RollbackApp{Name: "gone", Version: 1},
	} {
		data, err := encodeCommand(c, "")
		if err != nil {
			t.Fatal(err)
		}
		index++
		if o := machine.Apply(&raft.Log{Index: index, Data: data}).(outcome); o.err != nil {
			t.Fatalf("%T: %v", c, o.err)
		}
		if got := machine.state.Load().Incarnation("gone"); got != want[i] {
			t.Errorf("after %T it is incarnation %d, want %d", c, got, want[i])
		}
	}
	if n := machine.state.Load().Incarnation("shop"); n != 0 {
		t.Errorf("another app is incarnation %d", n)
	}
}
