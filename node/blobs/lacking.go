package blobs

import (
	"context"
	"slices"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// Lacking is what a replica lacks of what entries refer to.
type Lacking struct {
	Objects int
	Bytes   int64
}

// Stats tells what the replicas here lack, as of the last look at each and without what
// was repaired since, and how repairs have ended since the start.
type Stats struct {
	Lacking          map[spec.ShardID]Lacking
	Repaired, Failed uint64
}

// Stats returns the numbers for metrics.
func (b *Blobs) Stats() Stats {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := Stats{Lacking: make(map[spec.ShardID]Lacking, len(b.mu.lacking)), Repaired: b.mu.repaired, Failed: b.mu.failed}
	for shard, l := range b.mu.lacking {
		s.Lacking[shard] = l
	}
	return s
}

// count looks what the replica of a shard lacks.
func (b *Blobs) count(ctx context.Context, shard spec.ShardID) (Lacking, error) {
	var l Lacking
	err := b.cfg.DB.EachLacking(ctx, shard, func(blob store.LackingBlob) bool {
		l.Objects++
		l.Bytes += blob.Blob.Size
		return true
	})
	if err != nil {
		return l, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.lacking[shard] = l
	return l, nil
}

// forget drops the numbers of shards that have no replica here any more.
func (b *Blobs) forget(here []spec.ShardID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for shard := range b.mu.lacking {
		if !slices.Contains(here, shard) {
			delete(b.mu.lacking, shard)
		}
	}
}

// ended counts a repair.
func (b *Blobs) ended(shard spec.ShardID, blob *store.Blob, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil {
		b.mu.failed++
		return
	}
	b.mu.repaired++
	if l := b.mu.lacking[shard]; l.Objects > 0 { // it may have come to lack since it was counted
		l.Objects, l.Bytes = l.Objects-1, max(0, l.Bytes-blob.Size)
		b.mu.lacking[shard] = l
	}
}

// lookKept is how long the outcome of a look that nobody has waited for holds.
const lookKept = 10 * time.Second

// look is one search of a shard for something that is lacking.
type look struct {
	voters []uint64 // besides the replica here, when it began
	done   chan struct{}
	lacks  bool      // once done is closed
	ended  time.Time // once done is closed
}

// Lacks tells whether the replica of a shard lacks bytes that entries refer to, as it
// was when the call began, or at some time since the shard's voters last changed. It
// is true also if that can't be found out before ctx ends: of a replica with millions
// of large objects the search goes on, and a later call has its outcome.
func (b *Blobs) Lacks(ctx context.Context, shard spec.ShardID) bool {
	l := b.lookAt(shard)
	if l == nil {
		return true
	}
	select {
	case <-l.done:
	case <-ctx.Done():
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mu.looks[shard] == l {
		delete(b.mu.looks, shard)
	}
	return l.lacks
}

// lookAt returns the look at a shard that is under way, or has ended and still holds,
// or else begins one. It returns nil when the node stops.
func (b *Blobs) lookAt(shard spec.ShardID) *look {
	var voters []uint64
	others, _ := b.cfg.Replicas(shard)
	for _, r := range others {
		if r.Votes {
			voters = append(voters, r.Number)
		}
	}
	b.mu.Lock()
	l := b.mu.looks[shard]
	if l != nil && slices.Equal(l.voters, voters) && (l.ended.IsZero() || time.Since(l.ended) < lookKept) {
		b.mu.Unlock()
		return l
	}
	l = &look{voters: voters, done: make(chan struct{})}
	b.mu.looks[shard] = l
	b.mu.Unlock()
	began := b.begin(func() {
		lacks := false
		err := b.cfg.DB.EachLacking(b.ctx, shard, func(store.LackingBlob) bool {
			lacks = true
			return false
		})
		b.mu.Lock()
		defer b.mu.Unlock()
		l.lacks, l.ended = lacks || err != nil, time.Now()
		close(l.done)
	})
	if !began {
		return nil
	}
	return l
}
