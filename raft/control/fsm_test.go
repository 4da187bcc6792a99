package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

func encoded(t testing.TB, s *State) string {
	t.Helper()
	b, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func drawCommand(rt *rapid.T) Command {
	name := rapid.SampledFrom([]spec.AppName{"a", "b"}).Draw(rt, "name")
	small := rapid.SampledFrom([]string{"x", "y", "z"}).Draw(rt, "value")
	var expected *uint64
	if rapid.Bool().Draw(rt, "optimistic") {
		v := rapid.Uint64Range(0, 5).Draw(rt, "expected")
		expected = &v
	}
	if rapid.Bool().Draw(rt, "of the cluster") {
		return drawClusterCommand(rt)
	}
	switch rapid.IntRange(0, 3).Draw(rt, "kind") {
	case 0:
		return &DeleteApp{Name: name, Expected: expected, At: time.Unix(1, 0).UTC()}
	case 1:
		return &RollbackApp{Name: name, Version: rapid.Uint64Range(0, 5).Draw(rt, "version"), Expected: expected}
	case 2:
		return &Set{Key: small, Value: rapid.SampledFrom([]string{"", "1"}).Draw(rt, "setting")}
	default:
		return &ApplyApp{Name: name, Expected: expected, Spec: []byte(small), Manifest: []byte(small)}
	}
}

func drawClusterCommand(rt *rapid.T) Command {
	node := rapid.SampledFrom([]string{"n1", "n2", "n3", "n4", "n5"})
	shard := spec.ShardID(rapid.IntRange(0, 3).Draw(rt, "shard"))
	replica := rapid.Uint64Range(0, 8).Draw(rt, "replica")
	switch rapid.IntRange(0, 9).Draw(rt, "kind") {
	case 0:
		return &InitPlacement{Shards: rapid.IntRange(-1, 3).Draw(rt, "shards"), Nodes: rapid.SliceOfN(node, 0, 5).Draw(rt, "nodes"),
			Replicas: rapid.IntRange(-1, 4).Draw(rt, "replicas")}
	case 1:
		return &SetCluster{ID: rapid.SampledFrom([]string{"", "c1", "c2"}).Draw(rt, "cluster")}
	case 2:
		return &RemoveMember{Name: node.Draw(rt, "node"), Force: rapid.Bool().Draw(rt, "force")}
	case 3:
		return &SetDraining{Name: node.Draw(rt, "node"), Draining: rapid.Bool().Draw(rt, "draining")}
	case 4, 5:
		return &AddReplica{Shard: shard, Node: node.Draw(rt, "node")}
	case 6:
		return &ReplicaJoined{Shard: shard, Replica: replica}
	case 7:
		return &RemoveReplica{Shard: shard, Replica: replica}
	default:
		name := node.Draw(rt, "node")
		return &PutMember{Member: Member{
			Name: name, Address: rapid.SampledFrom([]string{name + ":1", name + ":2", "n1:1", "nowhere"}).Draw(rt, "address"),
			Install: rapid.SampledFrom([]string{name, name, "other"}).Draw(rt, "install"), Capacity: rapid.IntRange(-1, 3).Draw(rt, "capacity"),
		}}
	}
}

// history is what the placement must not contradict later.
type history struct {
	cluster string
	nodes   map[[2]uint64]string // where each replica of a shard is or was
}

// check finds what must never be so.
func (h *history) check(s *State) error {
	if h.cluster != "" && s.Cluster != h.cluster {
		return fmt.Errorf("cluster %s became %s", h.cluster, s.Cluster)
	}
	h.cluster = s.Cluster
	if err := s.check(); err != nil {
		return err
	}
	addresses := map[string]bool{}
	for _, m := range s.Members {
		if addresses[m.Address] {
			return fmt.Errorf("two members are at %s", m.Address)
		}
		addresses[m.Address] = true
	}
	for id, shard := range s.Placement.Shards {
		whole, nodes := 0, map[string]bool{}
		for n, r := range shard.Replicas {
			if nodes[r.Node] {
				return fmt.Errorf("shard %d has two replicas on %s", id, r.Node)
			}
			nodes[r.Node] = true
			if !r.Joining {
				whole++
			}
			key := [2]uint64{uint64(id), n}
			if was, ok := h.nodes[key]; ok && was != r.Node {
				return fmt.Errorf("replica %d of shard %d was on %s and is on %s", n, id, was, r.Node)
			}
			h.nodes[key] = r.Node
		}
		if whole == 0 {
			return fmt.Errorf("shard %d has no replica with its data", id)
		}
		for key := range h.nodes {
			if key[0] == uint64(id) && key[1] >= shard.Next {
				return fmt.Errorf("shard %d would give out replica %d twice", id, key[1])
			}
		}
	}
	return nil
}

func TestAnyCommandsKeepThePlacementWhole(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		machine, past := newFSM(), history{nodes: map[[2]uint64]string{}}
		// Some members and a placement first: most commands need them.
		var commands []Command
		for _, node := range []string{"n1", "n2", "n3", "n4"} {
			commands = append(commands, &PutMember{Member: Member{Name: node, Address: node + ":1", Install: node}})
		}
		commands = append(commands, &InitPlacement{Shards: 2, Nodes: []string{"n1", "n2", "n3"}, Replicas: rapid.IntRange(1, 3).Draw(rt, "replicas")})
		for range rapid.IntRange(1, 60).Draw(rt, "commands") {
			commands = append(commands, drawClusterCommand(rt))
		}
		for i, c := range commands {
			data, err := encodeCommand(c, "")
			if err != nil {
				rt.Fatal(err)
			}
			machine.Apply(&raft.Log{Index: uint64(i + 1), Data: data})
			if err := past.check(machine.state.Load()); err != nil {
				rt.Fatalf("after %s: %v", data, err)
			}
			if rapid.IntRange(0, 19).Draw(rt, "snapshot") == 0 {
				machine = restored(t, machine)
			}
		}
	})
}

func TestAnyCommandsLeadAllNodesToTheSameStateThroughSnapshotsToo(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		one, other := newFSM(), newFSM()
		highest := map[spec.AppName]uint64{}
		for i, n := 1, rapid.IntRange(1, 40).Draw(rt, "commands"); i <= n; i++ {
			data, err := encodeCommand(drawCommand(rt), rapid.SampledFrom([]string{"", "", "i1", "i2"}).Draw(rt, "id"))
			if err != nil {
				rt.Fatal(err)
			}
			entry := &raft.Log{Index: uint64(i), Data: data}
			before := one.state.Load()
			frozen := encoded(t, before)
			a, b := one.Apply(entry).(outcome), other.Apply(entry).(outcome)
			if a.result != b.result || (a.err == nil) != (b.err == nil) {
				rt.Fatalf("command %s: %+v and %+v", data, a, b)
			}
			if got := encoded(t, before); got != frozen {
				rt.Fatalf("command %s changed a State:\n%s\n%s", data, frozen, got)
			}
			for name, app := range one.state.Load().Apps {
				if app.Last < highest[name] {
					rt.Fatalf("app %s went from version %d back to %d", name, highest[name], app.Last)
				}
				highest[name] = app.Last
			}
			if rapid.IntRange(0, 9).Draw(rt, "snapshot") == 0 {
				other = restored(t, other)
			}
		}
		if a, b := encoded(t, one.state.Load()), encoded(t, other.state.Load()); a != b {
			rt.Fatalf("states differ:\n%s\n%s", a, b)
		}
	})
}

type memorySink struct {
	bytes.Buffer
	cancelled bool
}

func (*memorySink) ID() string      { return "memory" }
func (*memorySink) Close() error    { return nil }
func (s *memorySink) Cancel() error { s.cancelled = true; return nil }

func restored(t testing.TB, f *fsm) *fsm {
	t.Helper()
	s, err := f.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	var sink memorySink
	if err := s.Persist(&sink); err != nil {
		t.Fatal(err)
	}
	into := newFSM()
	if err := into.Restore(io.NopCloser(&sink)); err != nil {
		t.Fatal(err)
	}
	return into
}

func FuzzTheStateMachineTakesAnyBytes(f *testing.F) {
	for _, c := range []Command{
		&ApplyApp{Name: "a", Spec: []byte("s")}, &DeleteApp{Name: "a"}, &RollbackApp{Name: "a", Version: 1},
		&PutArtifact{Sum: "00"}, &DeleteArtifact{Sum: "00"}, &Set{Key: "k", Value: "v"}, &InitPlacement{Shards: 3, Nodes: []string{"n"}},
		&SetCluster{ID: "c"}, &PutMember{Member: Member{Name: "n", Install: "i", Address: "n:1"}}, &RemoveMember{Name: "n"}, &SetDraining{Name: "n"},
		&AddReplica{Shard: 1, Node: "n"}, &ReplicaJoined{Shard: 1, Replica: 1}, &RemoveReplica{Shard: 1, Replica: 1}, &readBarrier{},
	} {
		data, err := encodeCommand(c, "")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte{commandVersion})
	f.Add([]byte("\x02{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		machine := newFSM()
		for i := range 3 {
			machine.Apply(&raft.Log{Index: uint64(i + 1), Data: data})
		}
		restored(t, machine)
	})
}

func FuzzASnapshotOfAnyBytesIsReadOrRefused(f *testing.F) {
	f.Add([]byte(`{"format":1,"state":{"index":3,"apps":{"a":{"name":"a","versions":[{"version":1}],"last":1}}}}`))
	f.Add([]byte(`{"format":1,"state":{"apps":{"a":null}}}`))
	f.Add([]byte(`{"format":1,"state":{"placement":{"shards":{"1":{"replicas":{"1":"n1"}}}}}}`))
	f.Add([]byte(`{"format":2,"state":{"placement":{"shards":{"1":{"replicas":{"1":{"node":"n1"}},"next":2}}}}}`))
	f.Add([]byte(`{"format":3}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		machine := newFSM()
		if err := machine.Restore(io.NopCloser(bytes.NewReader(data))); err != nil {
			return
		}
		s := machine.state.Load()
		for name := range s.Apps {
			s.Version(name, 1)
		}
		s.Names()
		s.Placement.ShardOf(1)
	})
}

func openTestLog(t *testing.T, fs vfs.FS) (*logStore, *store.DB) {
	t.Helper()
	db, err := store.Open("db", store.Options{Node: "n1", FS: fs, ReserveBytes: -1, Fatal: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	l, err := openLog(db)
	if err != nil {
		t.Fatal(err)
	}
	return l, db
}

func TestTheLogKeepsWhatItWasGivenThroughAPowerCut(t *testing.T) {
	fs := vfs.NewCrashableMem()
	l, db := openTestLog(t, fs)
	if err := l.StoreLogs([]*raft.Log{
		{Index: 5, Term: 2, Type: raft.LogNoop},
		{Index: 6, Term: 2, Type: raft.LogCommand, Data: []byte("data"), Extensions: []byte("ext"), AppendedAt: time.UnixMicro(77).UTC()},
		{Index: 7, Term: 3, Type: raft.LogConfiguration, Data: []byte("x")},
		{Index: 8, Term: 3},
	}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.DeleteRange(5, 5), l.DeleteRange(8, 8), l.SetUint64([]byte("CurrentTerm"), 3)); err != nil {
		t.Fatal(err)
	}
	cut := fs.CrashClone(vfs.CrashCloneCfg{})
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	l, db = openTestLog(t, cut)
	defer db.Close()
	first, _ := l.FirstIndex()
	last, _ := l.LastIndex()
	if first != 6 || last != 7 {
		t.Errorf("the log goes from %d to %d", first, last)
	}
	var e raft.Log
	if err := l.GetLog(6, &e); err != nil || e.Term != 2 || string(e.Data) != "data" || string(e.Extensions) != "ext" || !e.AppendedAt.Equal(time.UnixMicro(77)) || e.Index != 6 {
		t.Errorf("entry 6 is %+v, %v", e, err)
	}
	if err := l.GetLog(8, &e); !errors.Is(err, raft.ErrLogNotFound) {
		t.Errorf("entry 8: %v", err)
	}
	if term, err := l.GetUint64([]byte("CurrentTerm")); err != nil || term != 3 {
		t.Errorf("term %d, %v", term, err)
	}
	if _, err := l.Get([]byte("nothing")); err == nil || err.Error() != "not found" {
		t.Errorf("a key that is not there: %v, raft compares the text", err)
	}
	if err := l.DeleteRange(6, 7); err != nil {
		t.Fatal(err)
	}
	if last, _ := l.LastIndex(); last != 0 {
		t.Errorf("an empty log ends at %d", last)
	}
}

func FuzzALogEntryOfAnyBytesIsReadOrRefused(f *testing.F) {
	f.Add(encodeLog(&raft.Log{Term: 1, Data: []byte("d"), Extensions: []byte("e"), AppendedAt: time.Unix(9, 0)}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, raw []byte) {
		var e raft.Log
		if decodeLog(raw, &e) == nil && !bytes.Equal(encodeLog(&e), raw) {
			t.Errorf("%x is read as %+v", raw, e)
		}
	})
}
