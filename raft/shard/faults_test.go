package shard_test

import (
	"errors"
	"sync"
	"testing"

	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/raft/shard"
	"github.com/pheromone-run/pheromone/spec"
)

func TestNothingIsLostOrDoneTwiceWhenLeadersAreKilled(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3, quick)
	f.w.progress(f.ids...)
	for round := range 4 {
		killed := f.leaderOf(f.ids[round%len(f.ids)])
		f.kill(killed)
		f.w.progress(f.ids...)
		f.nodes[killed].open()
		f.start(killed)
	}
	f.check()
}

func TestAllAreKilledAndStartAgainAtOtherAddresses(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2, quick)
	f.w.progress(f.ids...)
	killed := replicasOf(f)
	for _, replica := range killed {
		f.kill(replica)
	}
	for _, replica := range killed {
		f.members[replica] = nodetest.FreeAddress(t)
	}
	for _, replica := range killed {
		f.nodes[replica].cfg.Address = f.members[replica]
		f.nodes[replica].open()
		f.start(replica)
	}
	f.w.progress(f.ids...)
	// One alone moves; the others are told.
	f.kill(2)
	f.members[2] = nodetest.FreeAddress(t)
	f.nodes[2].cfg.Address = f.members[2]
	f.nodes[2].open()
	f.start(2)
	f.moved(2)
	f.w.progress(f.ids...)
	f.check()
}

func TestALeaderThatIsCutOffIsReplacedAndDoesNotComeBackAsOne(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		fault func(*wire)
	}{
		{"connections break", cutWire},
		{"messages come late", stallWire},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFleet(t, 2, quick)
			f.w.progress(f.ids...)
			old := f.leaderOf(1)
			epoch := f.held[old][1].Status().Epoch
			f.around(old, c.fault)
			eventually(t, "another replica leads", func() bool {
				for replica, held := range f.held {
					if st := held[1].Status(); replica != old && st.Epoch > epoch && st.Leader == replica {
						return true
					}
				}
				return false
			})
			f.w.progress(f.ids...)
			f.around(old, mendWire)
			f.w.progress(f.ids...)
			eventually(t, "the one that was cut off follows", func() bool {
				return f.held[old][1].Status().Epoch > epoch
			})
			f.check()
		})
	}
}

func TestWritesGoOnOverConnectionsThatAreSlowAndBreak(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2, quick)
	for replica := range f.members {
		f.around(replica, func(w *wire) {
			w.set(func(w *wire) { w.bytesPerSec, w.breakAfter, w.cut = 2<<20, 64<<10, true })
			w.set(func(w *wire) { w.cut = false }) // those that are open break now
		})
	}
	eventually(t, "connections have broken", func() bool {
		broken := 0
		for replica := range f.members {
			f.around(replica, func(w *wire) { w.Lock(); broken += w.broken; w.Unlock() })
		}
		return broken >= 6
	})
	f.w.progress(f.ids...)
	for replica := range f.members {
		f.around(replica, mendWire)
	}
	f.w.progress(f.ids...)
	f.check()
}

// handOver hands the lead of a shard to another replica, whoever has it by then: a
// busy machine may have an election of its own.
func (f *fleet) handOver(id spec.ShardID) {
	f.t.Helper()
	eventually(f.t, "the lead is handed over", func() bool {
		leader := f.leaderOf(id)
		return f.held[leader][id].TransferTo(withTimeout(f.t), leader%3+1) == nil
	})
}

func TestTheLeadIsHandedOverUnderLoad(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2, quick)
	f.w.progress(f.ids...)
	for range 6 {
		for _, id := range f.ids {
			f.handOver(id)
		}
		f.w.progress(f.ids...)
	}
	f.check()
}

func TestReadersOfEveryReplicaSeeWhatWasReportedBefore(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, quick)
	f.w.progress(1)
	var readers sync.WaitGroup
	ctx := withTimeout(t)
	for replica, held := range f.held {
		for range 8 {
			readers.Go(func() {
				for range 40 {
					f.w.mu.Lock()
					var epoch, seq uint64
					for e, s := range f.w.mu.acked[1] {
						if e >= epoch {
							epoch, seq = e, s
						}
					}
					f.w.mu.Unlock()
					if err := held[1].ReadIndex(ctx); err != nil {
						t.Errorf("read index on replica %d: %v", replica, err)
						return
					}
					if ok, err := f.nodes[replica].db.Has(writtenKey(1, epoch, seq)); err != nil || !ok {
						t.Errorf("replica %d does not have batch %d of epoch %d, which was reported before: %v", replica, seq, epoch, err)
						return
					}
				}
			})
		}
	}
	readers.Wait()
	f.check()
}

func TestAReplicaThatWasAwayForLongGetsASnapshotWhileWritesGoOn(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, quick, oftenCut)
	f.w.progress(1)
	away := f.leaderOf(1)
	f.kill(away)
	gone := f.w.totals()[1]
	eventually(t, "the log is cut", func() bool { return f.w.totals()[1] > gone+4000 })
	f.nodes[away].open()
	f.start(away)
	f.w.progress(1)
	f.check()
}

// settles tells whether a term lasts while writes go on. A busy machine may have an
// election of its own, but not time and again.
func (f *fleet) settles(s *shard.Shard) bool {
	for range 10 {
		before := s.Status()
		for range 10 {
			f.w.progress(1)
		}
		if after := s.Status(); after.RaftTerm == before.RaftTerm && after.Leader == before.Leader {
			return true
		}
	}
	return false
}

func TestAReplicaThatWasRemovedDisturbsNobody(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 1, steady)
	f.w.progress(1)
	leader := f.leaderOf(1)
	removed := leader%3 + 1
	f.around(removed, cutWire) // it does not learn that it is removed
	if err := f.held[leader][1].At(0).RemoveReplica(withTimeout(t), removed); err != nil {
		t.Fatal(err)
	}
	f.around(removed, mendWire)
	// It asks for votes again and again.
	campaigns := f.held[removed][1]
	eventually(t, "it knows no leader", func() bool { _, ok := campaigns.Leader(); return !ok })
	if !f.settles(f.held[leader][1]) {
		t.Error("there is one election after the other")
	}
	must(t, f.nodes[removed].host.Drop(1, removed))
	if _, err := f.nodes[removed].host.Start(1, removed, f.members); !errors.Is(err, shard.ErrLost) {
		t.Errorf("start of the removed replica: %v", err)
	}
	delete(f.held, removed)
	f.check()
}
