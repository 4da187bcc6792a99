package shard_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/raft/shard"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// writers lead shards wherever they are elected and write without a pause. Each
// batch has a key of its own, so that the store tells what was applied.
type writers struct {
	t testing.TB

	mu struct {
		sync.Mutex
		acked map[spec.ShardID]map[uint64]uint64 // by epoch, the last seq that was reported as applied
		total map[spec.ShardID]int
	}
	running sync.WaitGroup
}

func newWriters(t testing.TB) *writers {
	w := &writers{t: t}
	w.mu.acked, w.mu.total = map[spec.ShardID]map[uint64]uint64{}, map[spec.ShardID]int{}
	return w
}

// window is how many batches a writer has under way.
const window = 4

// on has a replica written to whenever it leads, until it is closed or ctx ends.
func (w *writers) on(ctx context.Context, id spec.ShardID, s *shard.Shard) {
	w.running.Go(func() {
		for {
			term, err := s.Lead(ctx)
			if err != nil {
				return
			}
			w.write(ctx, id, term)
		}
	})
}

func (w *writers) write(ctx context.Context, id spec.ShardID, term *shard.Term) {
	room := make(chan struct{}, window)
	for seq := uint64(1); ; seq++ {
		select {
		case room <- struct{}{}:
		case <-ctx.Done():
			return
		}
		var b store.Batch
		b.Set(writtenKey(id, term.Epoch(), seq), fmt.Append(nil, id, term.Epoch(), seq))
		err := term.Propose(b.AppendRepr(nil), func(err error) {
			if err == nil {
				w.ack(id, term.Epoch(), seq)
			}
			<-room
		})
		if err != nil {
			return
		}
	}
}

func writtenKey(id spec.ShardID, epoch, seq uint64) []byte {
	return store.AppendEventKey(nil, id, spec.Revision(epoch<<24|seq))
}

func (w *writers) ack(id spec.ShardID, epoch, seq uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mu.acked[id] == nil {
		w.mu.acked[id] = map[uint64]uint64{}
	}
	if last := w.mu.acked[id][epoch]; seq != last+1 {
		w.t.Errorf("shard %d, epoch %d: batch %d is reported after %d", id, epoch, seq, last)
	}
	w.mu.acked[id][epoch] = seq
	w.mu.total[id]++
}

func (w *writers) totals() map[spec.ShardID]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.mu.total)
}

// progress waits until each shard has taken more batches than it has now.
func (w *writers) progress(ids ...spec.ShardID) {
	w.t.Helper()
	before := w.totals()
	for _, id := range ids {
		eventually(w.t, fmt.Sprintf("shard %d takes batches", id), func() bool { return w.totals()[id] > before[id]+50 })
	}
}

// check compares the stores of all replicas of a shard: they hold the same, and of
// each epoch a row of batches without a hole that ends at or behind the last one
// that was reported.
func (w *writers) check(id spec.ShardID, nodes map[uint64]*node, replicas map[uint64]*shard.Shard) {
	w.t.Helper()
	w.running.Wait()
	leadAny(w.t, replicas) // what is under way yet is not applied behind a claim
	ctx := withTimeout(w.t)
	var first []byte
	for replica, s := range replicas {
		if err := s.ReadIndex(ctx); err != nil {
			w.t.Fatalf("shard %d: %v", id, err)
		}
		got := dump(w.t, nodes[replica].db, id)
		if first == nil {
			first = got
			w.compare(id, nodes[replica].db)
		}
		if !bytes.Equal(got, first) {
			w.t.Errorf("shard %d: replicas differ", id)
		}
	}
}

func (w *writers) compare(id spec.ShardID, db *store.DB) {
	w.t.Helper()
	stored := map[uint64]uint64{}
	lower, upper := store.Bounds(store.AppendEventsPrefix(nil, id))
	must(w.t, db.Scan(lower, upper, func(key, _ []byte) bool {
		revision, err := store.DecodeEventKey(key)
		must(w.t, err)
		epoch, seq := uint64(revision)>>24, uint64(revision)&(1<<24-1)
		if seq != stored[epoch]+1 {
			w.t.Errorf("shard %d, epoch %d: batch %d is stored after %d", id, epoch, seq, stored[epoch])
		}
		stored[epoch] = seq
		return true
	}))
	w.mu.Lock()
	defer w.mu.Unlock()
	for epoch, seq := range w.mu.acked[id] {
		if stored[epoch] < seq {
			w.t.Errorf("shard %d, epoch %d: %d batches are stored, %d were reported as applied", id, epoch, stored[epoch], seq)
		}
	}
	if len(w.mu.acked[id]) == 0 {
		w.t.Errorf("shard %d: nothing was written", id)
	}
}

// fleet is a cluster with several shards that are written to.
type fleet struct {
	*cluster
	w    *writers
	ids  []spec.ShardID
	held map[uint64]map[spec.ShardID]*shard.Shard // by replica, which is one node's in all shards
	stop context.CancelFunc
	ctx  context.Context
}

func newFleet(t testing.TB, shards int, change ...func(*node)) *fleet {
	t.Helper()
	f := &fleet{cluster: newCluster(t), w: newWriters(t), held: map[uint64]map[spec.ShardID]*shard.Shard{}}
	f.ctx, f.stop = context.WithCancel(context.Background())
	for id := range shards {
		f.ids = append(f.ids, spec.ShardID(id+1))
	}
	for replica := uint64(1); replica <= 3; replica++ {
		f.members[replica] = nodetest.FreeAddress(t)
	}
	for replica := range f.members {
		f.nodes[replica] = newNode(t, f.members[replica], append(change, f.wired)...)
		f.start(replica)
	}
	t.Cleanup(func() { // before the nodes close
		f.stop()
		for replica := range f.members {
			f.around(replica, mendWire)
		}
	})
	return f
}

// start starts all replicas of a node, and writes to them.
func (f *fleet) start(replica uint64) {
	f.t.Helper()
	f.held[replica] = map[spec.ShardID]*shard.Shard{}
	for _, id := range f.ids {
		s := f.nodes[replica].start(id, replica, f.members)
		f.held[replica][id] = s
		f.w.on(f.ctx, id, s)
	}
}

// kill ends a node in the middle of what it does.
func (f *fleet) kill(replica uint64) {
	f.t.Helper()
	f.nodes[replica].close()
	delete(f.held, replica)
}

// leaderOf waits until replicas of a shard that run know a leader that runs, and
// returns it.
func (f *fleet) leaderOf(id spec.ShardID) (leader uint64) {
	f.t.Helper()
	eventually(f.t, fmt.Sprintf("shard %d has a leader", id), func() bool {
		var newest shard.Status
		for _, held := range f.held {
			if st := held[id].Status(); st.RaftTerm >= newest.RaftTerm && st.Leader != 0 {
				newest = st
			}
		}
		leader = newest.Leader
		return f.held[leader] != nil
	})
	return leader
}

// check ends the writing and compares all replicas.
func (f *fleet) check() {
	f.t.Helper()
	f.stop()
	for _, id := range f.ids {
		replicas := map[uint64]*shard.Shard{}
		for replica, held := range f.held {
			replicas[replica] = held[id]
		}
		f.w.check(id, f.nodes, replicas)
	}
}

// moved tells all nodes where a replica is now.
func (f *fleet) moved(replica uint64) {
	for other := range f.held {
		for _, id := range f.ids {
			f.nodes[other].host.SetAddress(id, replica, f.members[replica])
		}
	}
}

func quick(n *node) { n.cfg.RTT = 10 * time.Millisecond }

func oftenCut(n *node) { n.cfg.SnapshotEntries = 1000 }

func replicasOf(f *fleet) []uint64 { return slices.Sorted(maps.Keys(f.held)) }
