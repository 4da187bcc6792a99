package shard_test

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// BenchmarkFailover ends the leader's host and its connections, and counts the
// time until the next leader has a batch applied.
func BenchmarkFailover(b *testing.B) {
	c := newCluster(b, 1, 2, 3)
	leader, term := c.leadAny()
	mustPropose(b, term, 0)
	var took []time.Duration
	for b.Loop() {
		b.StopTimer()
		c.waitEqual()
		killed := leader
		delete(c.shards, killed)
		b.StartTimer()
		began := time.Now()
		c.nodes[killed].close()
		leader, term = c.leadAny()
		mustPropose(b, term, 1)
		took = append(took, time.Since(began))
		b.StopTimer()
		c.nodes[killed].open()
		c.shards[killed] = c.nodes[killed].start(1, killed, c.members)
		b.StartTimer()
	}
	reportQuantiles(b, took)
	b.ReportMetric(float64(slices.Max(took).Milliseconds()), "max-ms")
}

// BenchmarkProposeReplicated is one batch of 100 bytes at a time on three replicas
// in this process, which share its disk.
func BenchmarkProposeReplicated(b *testing.B) {
	c := newCluster(b, 1, 2, 3)
	_, term := c.leadAny()
	batch := body(1, make([]byte, 100))
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		if err := propose(b, term, batch); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	reportQuantiles(b, took)
}

// BenchmarkReadIndexOnFollower is one barrier at a time on a replica that follows.
func BenchmarkReadIndexOnFollower(b *testing.B) {
	c := newCluster(b, 1, 2, 3)
	leader, term := c.leadAny()
	mustPropose(b, term, 1)
	c.waitEqual()
	s := c.shards[leader%3+1]
	ctx := withTimeout(b)
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		if err := s.ReadIndex(ctx); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	reportQuantiles(b, took)
}

// BenchmarkProposeDuringSnapshot has a new replica fetch a range of 200 MiB, and
// compares the batches that are applied meanwhile with those before.
func BenchmarkProposeDuringSnapshot(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		c := newCluster(b)
		c.addFirst(1000)
		term := lead(b, c.shards[1])
		const size, values = 64 << 10, 200 << 20 / (64 << 10)
		value := compressibleBytes(size)
		done := make(chan error, values)
		for i := range values {
			must(b, term.Propose(body(i, value), func(err error) { done <- err }))
		}
		for range values {
			must(b, <-done)
		}
		must(b, c.shards[1].At(0).AddReplica(withTimeout(b), 2, "127.0.0.1:1")) // it becomes one of several
		term = lead(b, c.shards[1])
		var applied atomic.Int64
		stop, stopped := make(chan struct{}), make(chan struct{})
		var slowest atomic.Int64
		go func() {
			defer close(stopped)
			last := time.Now()
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if propose(b, term, body(values+i%1000, []byte("beside"))) != nil {
					return
				}
				applied.Add(1)
				slowest.Store(max(slowest.Load(), int64(time.Since(last))))
				last = time.Now()
			}
		}()
		pause(b, 3*time.Second)
		before := float64(applied.Swap(0)) / 3
		slowestBefore := slowest.Swap(0)
		b.StartTimer()
		began := time.Now()
		c.addLearner(1, 3)
		eventually(b, "the new replica has all", func() bool {
			ok, err := c.nodes[3].db.Has(store.AppendEventKey(nil, 1, spec.Revision(values)))
			_, restoring := c.nodes[3].db.Meta(1)
			return ok && err == nil && restoring == nil
		})
		took := time.Since(began)
		b.ReportMetric(float64(applied.Load())/took.Seconds(), "during/s")
		b.ReportMetric(before, "before/s")
		b.ReportMetric(took.Seconds(), "snapshot-s")
		b.ReportMetric(float64(slowest.Load())/1e6, "slowest-ms")
		b.ReportMetric(float64(slowestBefore)/1e6, "slowest-before-ms")
		close(stop)
		<-stopped
	}
}

func pause(b *testing.B, d time.Duration) {
	b.Helper()
	<-time.After(d)
}

// compressibleBytes are about as compressible as JSON is.
func compressibleBytes(n int) []byte {
	out := make([]byte, n)
	state := uint64(1)
	for i := range out {
		if i%4 == 0 {
			state = state*6364136223846793005 + 1442695040888963407
		}
		out[i] = byte(state >> (56 + i%3))
	}
	return out
}
