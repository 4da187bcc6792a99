package shard_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lni/dragonboat/v4/raftpb"

	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/raft/shard"
	"github.com/pheromone-run/pheromone/store"
)

func TestEveryAcknowledgedBatchIsThereOnceAfterEachRestart(t *testing.T) {
	t.Parallel()
	n := newNode(t, "")
	random := rand.New(rand.NewPCG(1, 2))
	next, lastEpoch := 0, uint64(0)
	for round := range 12 {
		s := sole(n)
		term := lead(t, s)
		if term.Epoch() <= lastEpoch {
			t.Fatalf("round %d: epoch %d after %d", round, term.Epoch(), lastEpoch)
		}
		lastEpoch = term.Epoch()
		if got := count(t, n.db); got != next {
			t.Fatalf("round %d: %d keys, %d were acknowledged or settled", round, got, next)
		}
		outstanding := make(chan error, 100)
		proposed := random.IntN(100)
		for i := range proposed {
			if err := term.Propose(body(next+i, []byte("v")), func(err error) { outstanding <- err }); err != nil {
				t.Fatal(err)
			}
		}
		acknowledged := 0
		for range random.IntN(proposed + 1) {
			if err := <-outstanding; err != nil {
				t.Fatal(err)
			}
			acknowledged++
		}
		n.close() // with the rest in flight
		for range proposed - acknowledged {
			if err := <-outstanding; err == nil {
				acknowledged++
			} else if !errors.Is(err, shard.ErrTermOver) {
				t.Fatal(err)
			}
		}
		n.open()
		after := lead(t, sole(n))
		if after.PreviousEpoch() != lastEpoch {
			t.Fatalf("round %d: the epoch before is %d, want %d", round, after.PreviousEpoch(), lastEpoch)
		}
		lastEpoch = after.Epoch()
		applied := int(after.PreviousSeq())
		if applied < acknowledged || applied > proposed {
			t.Fatalf("round %d: %d applied, %d acknowledged, %d proposed", round, applied, acknowledged, proposed)
		}
		next += applied
		n.close()
		n.open()
	}
}

func TestTheLogsOpenAfterTheHostWasRenamed(t *testing.T) {
	t.Parallel()
	n := newNode(t, "")
	mustPropose(t, lead(t, sole(n)), 1)
	n.close()
	pretendHostName(t, n.cfg.Dir, "another-host")
	n.open()
	term := lead(t, sole(n))
	if term.PreviousSeq() != 1 {
		t.Errorf("the epoch before had %d batches, want 1", term.PreviousSeq())
	}
	mustPropose(t, term, 2)
}

// pretendHostName makes a folder look as if it was written on host name.
func pretendHostName(t *testing.T, dir, name string) {
	t.Helper()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, host), filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
	if err := shard.RewriteFlag(filepath.Join(dir, "dragonboat.ds"), func(s *raftpb.RaftDataStatus) {
		if s.Hostname != host {
			t.Errorf("the folder is of host %q, want %q", s.Hostname, host)
		}
		s.Hostname = name
	}); err != nil {
		t.Fatal(err)
	}
}

func TestTheAddressMayChangeBetweenStarts(t *testing.T) {
	t.Parallel()
	n := newNode(t, nodetest.FreeAddress(t))
	mustPropose(t, lead(t, sole(n)), 1)
	n.close()
	n.cfg.Address = nodetest.FreeAddress(t)
	n.open()
	mustPropose(t, lead(t, sole(n)), 2)
	n.close()
	n.cfg.Address = ""
	n.open()
	mustPropose(t, lead(t, sole(n)), 3)
}

func TestAStoreAndRaftLogsThatDoNotBelongTogetherAreRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, n *node)
		want   string
	}{
		{"the raft logs are gone", func(t *testing.T, n *node) {
			remove(t, n.cfg.Dir)
		}, "raft log is not in"},
		{"the store is gone", func(t *testing.T, n *node) {
			remove(t, filepath.Join(n.dir, "store"))
		}, "belong to a store that is not there"},
		{"the raft logs are of another store", func(t *testing.T, n *node) {
			other := newNode(t, "")
			mustPropose(t, lead(t, sole(other)), 1)
			other.close()
			n.cfg.Dir = other.cfg.Dir
		}, "belong to another store"},
		{"the description of the raft logs is damaged", func(t *testing.T, n *node) {
			if err := os.WriteFile(filepath.Join(n.cfg.Dir, "dragonboat.ds"), []byte("something else"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "is damaged"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t, "")
			mustPropose(t, lead(t, sole(n)), 1)
			n.close()
			c.damage(t, n)
			db := openStore(t, filepath.Join(n.dir, "store"))
			defer closeStore(t, db)
			host, err := shard.Open(n.cfg, db)
			if err == nil {
				_ = host.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q does not say %q", err, c.want)
			}
		})
	}
}

func remove(t *testing.T, dir string) {
	t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
}

func closeStore(t *testing.T, db *store.DB) {
	t.Helper()
	if err := db.Close(); err != nil {
		t.Error(err)
	}
}
