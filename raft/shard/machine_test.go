package shard

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/lni/dragonboat/v4/statemachine"
	"pgregory.net/rapid"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

const testShard spec.ShardID = 1

func openDB(t testing.TB, fs vfs.FS) *store.DB {
	t.Helper()
	db, err := store.Open("db", store.Options{Node: "n1", FS: fs, ReserveBytes: -1,
		Fatal: func(err error) { t.Errorf("store: %v", err) }})
	if err != nil {
		t.Fatalf("open store: %v", err)
	}
	return db
}

func memoryDB(t testing.TB) *store.DB {
	t.Helper()
	db := openDB(t, vfs.NewMem())
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	})
	return db
}

func openMachine(t testing.TB, db *store.DB) *machine {
	t.Helper()
	m := newMachine(testShard, db, func(err error) { t.Errorf("fatal: %v", err) })
	if _, err := m.Open(nil); err != nil {
		t.Fatalf("open: %v", err)
	}
	return m
}

func setBatch(shard spec.ShardID, revision spec.Revision, value string) []byte {
	var b store.Batch
	b.Set(store.AppendEventKey(nil, shard, revision), []byte(value))
	return b.AppendRepr(nil)
}

func claimOf(epoch uint64) []byte { return entry{kind: kindClaim, epoch: epoch}.encode() }

func batchOf(epoch, seq uint64, value string) []byte {
	return entry{kind: kindBatch, epoch: epoch, seq: seq, body: setBatch(testShard, spec.Revision(seq), value)}.encode()
}

// log is commands as entries from index 1.
func logOf(commands ...[]byte) []statemachine.Entry {
	entries := make([]statemachine.Entry, len(commands))
	for i, c := range commands {
		entries[i] = statemachine.Entry{Index: uint64(i + 1), Cmd: c}
	}
	return entries
}

// contents returns the shard's keys and values as text.
func contents(t testing.TB, db *store.DB) string {
	t.Helper()
	var out bytes.Buffer
	lower, upper := store.ShardRange(testShard)
	err := db.Scan(lower, upper, func(key, value []byte) bool {
		fmt.Fprintf(&out, "%x=%x\n", key, value)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestTheFenceLetsOnlyTheNextBatchOfTheCurrentEpochThrough(t *testing.T) {
	foreign := entry{kind: kindBatch, epoch: 5, seq: 3, body: setBatch(2, 1, "x")}.encode()
	torn := entry{kind: kindBatch, epoch: 5, seq: 3, body: []byte{1, 2, 3}}.encode()
	steps := []struct {
		name    string
		command []byte
		want    verdict
	}{
		{"a batch before any claim is stale", batchOf(5, 1, "x"), verdictStale},
		{"the first claim wins", claimOf(5), verdictClaimed},
		{"the first batch is applied", batchOf(5, 1, "a"), verdictApplied},
		{"the same batch again is a gap", batchOf(5, 1, "again"), verdictGap},
		{"a batch after a dropped one is a gap", batchOf(5, 3, "x"), verdictGap},
		{"the next batch is applied", batchOf(5, 2, "b"), verdictApplied},
		{"a batch of another shard is malformed", foreign, verdictMalformed},
		{"a torn batch is malformed", torn, verdictMalformed},
		{"the sequence goes on behind malformed ones", batchOf(5, 3, "c"), verdictApplied},
		{"a claim of the same epoch is lost", claimOf(5), verdictClaimLost},
		{"a claim of an older epoch is lost", claimOf(4), verdictClaimLost},
		{"a higher claim wins", claimOf(9), verdictClaimed},
		{"a batch of the epoch before is stale", batchOf(5, 4, "x"), verdictStale},
		{"a batch of an epoch to come is stale", batchOf(10, 1, "x"), verdictStale},
		{"the sequence starts anew", batchOf(9, 1, "d"), verdictApplied},
		{"an unknown kind is refused", []byte{77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, verdictUnknown},
		{"a short entry is refused", []byte{kindBatch, 1}, verdictUnknown},
		{"an empty entry is refused", nil, verdictUnknown},
	}
	db := memoryDB(t)
	m := openMachine(t, db)
	var commands [][]byte
	for i, step := range steps {
		commands = append(commands, step.command)
		got, err := m.Update([]statemachine.Entry{{Index: uint64(i + 1), Cmd: step.command}})
		if err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		if v := verdict(got[0].Result.Value); v != step.want {
			t.Errorf("%s: %s, want %s", step.name, v, step.want)
		}
		if meta, err := db.Meta(testShard); err != nil || meta.Applied != uint64(i+1) {
			t.Errorf("%s: the store has applied %d, error %v", step.name, meta.Applied, err)
		}
	}
	before, ok := decodePrevious(func() []byte {
		other := openMachine(t, memoryDB(t))
		got, err := other.Update(logOf(commands...))
		if err != nil {
			t.Fatal(err)
		}
		if a, b := contents(t, db), contents(t, other.db); a != b {
			t.Errorf("one by one the store holds\n%s, as one slice\n%s", a, b)
		}
		return got[11].Result.Data
	}())
	if !ok || before != (previous{5, 3}) {
		t.Errorf("the second claim found %+v, want epoch 5 and seq 3", before)
	}
}

func TestReplicasThatApplyTheSameLogInDifferentSlicesAreEqual(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		commands := rapid.SliceOfN(rapid.Custom(func(rt *rapid.T) []byte {
			epoch := rapid.Uint64Range(1, 4).Draw(rt, "epoch")
			switch rapid.IntRange(0, 9).Draw(rt, "kind") {
			case 0:
				return claimOf(epoch)
			case 1:
				return rapid.SliceOf(rapid.Byte()).Draw(rt, "bytes")
			default:
				return batchOf(epoch, rapid.Uint64Range(1, 5).Draw(rt, "seq"), rapid.StringN(0, 8, 8).Draw(rt, "value"))
			}
		}), 1, 40).Draw(rt, "log")
		one, many := openMachine(t, memoryDB(t)), openMachine(t, memoryDB(t))
		all, err := one.Update(logOf(commands...))
		if err != nil {
			rt.Fatal(err)
		}
		rest := logOf(commands...)
		for len(rest) > 0 {
			n := rapid.IntRange(1, len(rest)).Draw(rt, "slice")
			got, err := many.Update(rest[:n])
			if err != nil {
				rt.Fatal(err)
			}
			for i := range got {
				if want := all[len(all)-len(rest)+i].Result; got[i].Result.Value != want.Value || !bytes.Equal(got[i].Result.Data, want.Data) {
					rt.Fatalf("entry %d: %v and %v", got[i].Index, got[i].Result, want)
				}
			}
			rest = rest[n:]
		}
		if a, b := contents(t, one.db), contents(t, many.db); a != b {
			rt.Fatalf("stores differ:\n%s\n%s", a, b)
		}
	})
}

func TestAfterAPowerCutTheStoreHoldsAPrefixAndTheRestAppliesAgain(t *testing.T) {
	const entries = 400
	commands := [][]byte{claimOf(1)}
	for i := range entries {
		commands = append(commands, batchOf(1, uint64(i+1), fmt.Sprint("value ", i)))
	}
	log := logOf(commands...)
	whole := openMachine(t, memoryDB(t))
	if _, err := whole.Update(logOf(commands...)); err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 7))
		fs := vfs.NewCrashableMem()
		db := openDB(t, fs)
		m := openMachine(t, db)
		synced, at := uint64(0), 0
		for end := random.IntN(len(log)); at < end; {
			n := min(1+random.IntN(9), len(log)-at)
			if _, err := m.Update(log[at : at+n]); err != nil {
				t.Fatal(err)
			}
			at += n
			if random.IntN(20) == 0 {
				if err := m.Sync(); err != nil {
					t.Fatal(err)
				}
				synced = uint64(at)
			}
		}
		cut := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: random.IntN(101), RNG: random})
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		again := openDB(t, cut)
		restarted := newMachine(testShard, again, func(err error) { t.Errorf("fatal: %v", err) })
		applied, err := restarted.Open(nil)
		if err != nil {
			t.Fatal(err)
		}
		if applied < synced || applied > uint64(at) {
			t.Errorf("seed %d: %d entries survived of %d, %d were synced", seed, applied, at, synced)
		}
		if applied < uint64(len(log)) {
			got, err := restarted.Update(log[applied:])
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range got {
				if v := verdict(e.Result.Value); v != verdictApplied && v != verdictClaimed {
					t.Fatalf("seed %d: entry %d after the cut at %d: %s", seed, e.Index, applied, v)
				}
			}
		}
		if a, b := contents(t, again), contents(t, whole.db); a != b {
			t.Errorf("seed %d: the store differs after the cut", seed)
		}
		if err := again.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestASnapshotMakesAnEqualReplica(t *testing.T) {
	from, to := openMachine(t, memoryDB(t)), openMachine(t, memoryDB(t))
	if _, err := to.Update(logOf(claimOf(1), batchOf(1, 1, "to be replaced"))); err != nil {
		t.Fatal(err)
	}
	if _, err := from.Update(logOf(claimOf(3), batchOf(3, 1, "a"), batchOf(3, 2, "b"))); err != nil {
		t.Fatal(err)
	}
	state, err := from.PrepareSnapshot()
	if err != nil {
		t.Fatal(err)
	}
	want := contents(t, from.db)
	if _, err := from.Update([]statemachine.Entry{{Index: 4, Cmd: batchOf(3, 3, "after the snapshot")}}); err != nil {
		t.Fatal(err)
	}
	var stream bytes.Buffer
	if err := from.SaveSnapshot(state, &stream, nil); err != nil {
		t.Fatal(err)
	}
	if err := to.RecoverFromSnapshot(&stream, nil); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, to.db); got != want {
		t.Errorf("restored\n%s, want\n%s", got, want)
	}
	if got := to.applied(); got != (store.ShardMeta{Applied: 3, Epoch: 3, Seq: 2}) {
		t.Errorf("restored meta %+v", got)
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestASnapshotThatCanNotBeSentIsGivenUp(t *testing.T) {
	m := openMachine(t, memoryDB(t))
	if _, err := m.Update(logOf(claimOf(1), batchOf(1, 1, "a"))); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan struct{})
	for _, c := range []struct {
		name string
		stop bool
		want error
	}{
		{"because the receiver is gone", false, statemachine.ErrSnapshotAborted},
		{"because the replica stops", true, statemachine.ErrSnapshotStopped},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.stop {
				close(stopped)
			}
			state, err := m.PrepareSnapshot()
			if err != nil {
				t.Fatal(err)
			}
			if err := m.SaveSnapshot(state, brokenPipe{}, stopped); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}

func TestAnEntryThatComesTwiceEndsTheProcess(t *testing.T) {
	var reason error
	m := newMachine(testShard, memoryDB(t), func(err error) { reason = err })
	if _, err := m.Open(nil); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Update(logOf(claimOf(1))); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Update(logOf(claimOf(2))); err == nil || reason == nil {
		t.Errorf("index 1 was applied twice: error %v, reason %v", err, reason)
	}
}

func FuzzUpdateTakesAnyBytes(f *testing.F) {
	f.Add([]byte{}, uint64(1), uint64(1))
	f.Add(claimOf(7), uint64(7), uint64(1))
	f.Add(batchOf(1, 1, "value"), uint64(1), uint64(1))
	f.Add(setBatch(testShard, 1, "value"), uint64(1), uint64(1))
	f.Fuzz(func(t *testing.T, raw []byte, epoch, seq uint64) {
		m := openMachine(t, memoryDB(t))
		wrapped := entry{kind: kindBatch, epoch: 1, seq: 1, body: raw}.encode()
		if _, err := m.Update(logOf(claimOf(1), wrapped, raw, batchOf(epoch, seq, "v"))); err != nil {
			t.Errorf("refused as a whole: %v", err)
		}
	})
}
