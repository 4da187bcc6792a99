package shard_test

import (
	"errors"
	"os"
	"testing"

	"github.com/pheromone-run/pheromone/raft/shard"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// keysOf counts all keys that a store has of a shard.
func keysOf(t *testing.T, db *store.DB, id spec.ShardID) (keys int) {
	t.Helper()
	lower, upper := store.ShardRange(id)
	if err := db.Scan(lower, upper, func(_, _ []byte) bool { keys++; return true }); err != nil {
		t.Fatal(err)
	}
	return keys
}

// mustBeLost starts a replica that must not start.
func mustBeLost(t *testing.T, n *node, id spec.ShardID, replica uint64) {
	t.Helper()
	s, err := n.host.Start(id, replica, map[uint64]string{replica: n.cfg.Address})
	if err == nil {
		_ = s.Close()
		t.Fatalf("replica %d of shard %d was started", replica, id)
	}
	if !errors.Is(err, shard.ErrLost) || spec.CodeOf(err) != spec.CodeUnavailable {
		t.Fatalf("replica %d of shard %d: %v", replica, id, err)
	}
}

// twoShards is a node alone with shards 1 and 2, which have a few batches.
func twoShards(t *testing.T) *node {
	t.Helper()
	n := newNode(t, "")
	for id := spec.ShardID(1); id <= 2; id++ {
		s := n.start(id, 1, map[uint64]string{1: ""})
		term := lead(t, s)
		for i := range 5 {
			var b store.Batch
			b.Set(store.AppendEventKey(nil, id, spec.Revision(i+1)), []byte("value"))
			if err := propose(t, term, b.AppendRepr(nil)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return n
}

func TestADroppedReplicaLeavesNothingAndItsNumberIsUsedUp(t *testing.T) {
	t.Parallel()
	n := twoShards(t)
	for range 2 { // it may be repeated
		if err := n.host.Drop(1, 1); err != nil {
			t.Fatal(err)
		}
		if keys := keysOf(t, n.db, 1); keys != 0 {
			t.Errorf("%d keys of the dropped shard are left", keys)
		}
		mustBeLost(t, n, 1, 1)
		n.close()
		n.open()
	}
	mustBeLost(t, n, 1, 1)

	// The other shard has all it had, and a replica with a new number finds room.
	if term := lead(t, n.start(2, 1, map[uint64]string{1: ""})); term.PreviousSeq() != 5 {
		t.Errorf("shard 2 had %d batches, want 5", term.PreviousSeq())
	}
	term := lead(t, n.start(1, 2, map[uint64]string{2: ""}))
	mustPropose(t, term, 1)
	if err := n.host.Drop(1, 1); err != nil {
		t.Errorf("dropped once more, after another has taken its place: %v", err)
	}
	mustPropose(t, term, 2)
	if got := count(t, n.db); got != 2 {
		t.Errorf("the new replica has %d keys, want 2", got)
	}
	mustBeLost(t, n, 1, 1)
	if err := n.host.Drop(1, 3); spec.CodeOf(err) != spec.CodeConflict {
		t.Errorf("drop of a replica that is not here, while another is: %v", err)
	}
	if _, err := n.host.Start(1, 3, map[uint64]string{3: ""}); spec.CodeOf(err) != spec.CodeConflict || errors.Is(err, shard.ErrLost) {
		t.Errorf("start of a third replica beside the one that is here: %v", err)
	}
}

func TestADropThatWasCutShortIsEnded(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		logToo bool
	}{{"before anything was removed", false}, {"after the raft log was removed", true}} {
		for _, by := range []struct {
			name string
			end  func(t *testing.T, n *node)
		}{
			{"by the next drop", func(t *testing.T, n *node) {
				mustBeLost(t, n, 1, 1)
				if err := n.host.Drop(1, 1); err != nil {
					t.Fatal(err)
				}
			}},
			{"by the next start", func(_ *testing.T, n *node) {
				n.close()
				n.open()
			}},
		} {
			t.Run(c.name+" "+by.name, func(t *testing.T) {
				n := twoShards(t)
				n.close()
				n.open()
				if err := shard.BeginDrop(n.host, 1, 1, c.logToo); err != nil {
					t.Fatal(err)
				}
				by.end(t, n)
				if keys := keysOf(t, n.db, 1); keys != 0 {
					t.Errorf("%d keys of the dropped shard are left", keys)
				}
				mustBeLost(t, n, 1, 1)
				mustPropose(t, lead(t, n.start(1, 2, map[uint64]string{2: ""})), 1)
			})
		}
	}
}

func TestAReplicaThatHasLostWhatItHadIsRefusedAndTheOthersGoOn(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		lose func(t *testing.T, n *node)
	}{
		{"its raft log", func(t *testing.T, n *node) { must(t, shard.LoseLog(n.host, 1, 1)) }},
		{"its raft log, in the store of an older version", func(t *testing.T, n *node) {
			must(t, shard.LoseLog(n.host, 1, 1))
			must(t, shard.ForgetRecord(n.host, 1))
		}},
		{"its raft log, before anything was applied", func(t *testing.T, n *node) {
			must(t, shard.LoseLog(n.host, 1, 1))
			must(t, n.db.DropShard(1))
		}},
		{"its range, whose entries the log has no more", func(t *testing.T, n *node) { must(t, n.db.DropShard(1)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := twoShards(t)
			n.close()
			n.cfg.SnapshotEntries = 1000
			n.open()
			fill(t, lead(t, n.start(1, 1, map[uint64]string{1: ""})), 4000)
			n.close()
			n.open()
			c.lose(t, n)
			mustBeLost(t, n, 1, 1)
			if term := lead(t, n.start(2, 1, map[uint64]string{1: ""})); term.PreviousSeq() != 5 {
				t.Errorf("shard 2 had %d batches, want 5", term.PreviousSeq())
			}
			must(t, n.host.Drop(1, 1))
			mustPropose(t, lead(t, n.start(1, 2, map[uint64]string{2: ""})), 1)
		})
	}
}

func TestARaftLogThatIsOlderThanTheStoreIsRefused(t *testing.T) {
	t.Parallel()
	n := newNode(t, "")
	fill(t, lead(t, sole(n)), 10)
	n.close()
	copied := t.TempDir()
	must(t, os.CopyFS(copied, os.DirFS(n.cfg.Dir)))
	n.open()
	fill(t, lead(t, sole(n)), 10)
	n.close()
	must(t, os.RemoveAll(n.cfg.Dir))
	must(t, os.CopyFS(n.cfg.Dir, os.DirFS(copied)))
	n.open()
	mustBeLost(t, n, 1, 1)
}

func TestTheReplicaOfAnOlderVersionIsTakenOver(t *testing.T) {
	t.Parallel()
	n := newNode(t, "")
	mustPropose(t, lead(t, sole(n)), 1)
	n.close()
	n.open()
	must(t, shard.ForgetRecord(n.host, 1))
	if term := lead(t, sole(n)); term.PreviousSeq() != 1 {
		t.Errorf("it had %d batches, want 1", term.PreviousSeq())
	}
	n.close()
	n.open()
	must(t, shard.LoseLog(n.host, 1, 1))
	must(t, n.db.DropShard(1))
	mustBeLost(t, n, 1, 1) // it was noted down
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fill has a number of batches applied.
func fill(t testing.TB, term *shard.Term, batches int) {
	t.Helper()
	done := make(chan error, batches)
	for i := range batches {
		must(t, term.Propose(body(i, []byte("value")), func(err error) { done <- err }))
	}
	for range batches {
		must(t, <-done)
	}
}
