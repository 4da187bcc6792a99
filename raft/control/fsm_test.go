package control

import (
	"bytes"
	"encoding/json"
	"errors"
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
	switch rapid.IntRange(0, 4).Draw(rt, "kind") {
	case 0:
		return &DeleteApp{Name: name, Expected: expected, At: time.Unix(1, 0).UTC()}
	case 1:
		return &RollbackApp{Name: name, Version: rapid.Uint64Range(0, 5).Draw(rt, "version"), Expected: expected}
	case 2:
		return &Set{Key: small, Value: rapid.SampledFrom([]string{"", "1"}).Draw(rt, "setting")}
	case 3:
		return &InitPlacement{Shards: rapid.IntRange(-1, 3).Draw(rt, "shards"), Nodes: []string{"n1"}}
	default:
		return &ApplyApp{Name: name, Expected: expected, Spec: []byte(small), Manifest: []byte(small)}
	}
}

func TestAnyCommandsLeadAllNodesToTheSameStateThroughSnapshotsToo(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		one, other := newFSM(), newFSM()
		highest := map[spec.AppName]uint64{}
		for i, n := 1, rapid.IntRange(1, 40).Draw(rt, "commands"); i <= n; i++ {
			data, err := encodeCommand(drawCommand(rt))
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
	} {
		data, err := encodeCommand(c)
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
	f.Add([]byte(`{"format":2}`))
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
