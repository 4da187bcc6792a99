package blobs

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// Spread implements leader.Copies. The bytes go to all other replicas at once;
// those that are behind the majority get theirs while the caller goes on.
//
// The majority is one of the raft group's voters, which are those that have to agree
// to the entry; the placement may be ahead of the group, or behind it.
func (b *Blobs) Spread(ctx context.Context, shard spec.ShardID, app spec.AppName, blob store.Blob) (enough func() bool, err error) {
	s := &spread{blobs: b, shard: shard, app: app, blob: blob}
	others, votes := b.cfg.Replicas(shard)
	var to []Replica
	voters, reached := 0, 0 // of the others
	for _, r := range others {
		if r.Votes {
			voters++
		}
		if r.Node == "" {
			continue
		}
		if r.Votes {
			reached++
		}
		to = append(to, r)
	}
	need := (voters + 1) / 2 // of the others, besides this replica
	switch {
	case !votes:
		return nil, spec.Errorf(spec.CodeUnavailable, "the replica of shard %d on this node does not know that it votes", shard)
	case reached < need:
		return nil, spec.Errorf(spec.CodeUnavailable, "%d of the %d replicas that vote in shard %d are not in the placement", voters-reached, voters+1, shard)
	case len(to) == 0:
		return s.enough, nil
	}
	wait, stop := context.WithTimeout(ctx, transferWait(&blob))
	defer stop()
	// The transfers outlive the caller's ctx: not all of them are waited for.
	under, cancel := context.WithTimeout(b.ctx, transferWait(&blob))
	s.votes, s.end, s.left = make(chan error, reached), cancel, len(to)
	b.note(s)
	for _, r := range to {
		began := b.begin(func() {
			err := b.send(under, r.Node, s)
			if err != nil && under.Err() == nil {
				b.cfg.Log.Debug("a blob was not copied", "shard", uint64(shard), "to", r.Node, "error", err)
			}
			if err == nil {
				s.holds(r.Number)
			}
			if r.Votes {
				s.votes <- err
			}
			b.sent(s)
		})
		if !began {
			cancel()
			return nil, spec.Errorf(spec.CodeUnavailable, "the node is stopping")
		}
	}
	if err := s.await(wait, need, reached); err != nil {
		cancel()
		return nil, err
	}
	// A node that hangs must not collect transfers without end.
	if !b.late.TryAcquire(1) {
		cancel()
		return s.enough, nil
	}
	b.release(s)
	return s.enough, nil
}

// spread is a blob on its way to the other replicas.
type spread struct {
	blobs *Blobs
	shard spec.ShardID
	app   spec.AppName
	blob  store.Blob
	votes chan error // how the transfers to those that vote have ended
	end   context.CancelFunc

	// Beside Blobs.mu:
	left  int      // transfers that have not ended
	later bool     // it holds a token of Blobs.late
	on    []uint64 // replicas that have the blob, besides the one here
}

func (s *spread) holds(replica uint64) {
	s.blobs.mu.Lock()
	defer s.blobs.mu.Unlock()
	s.on = append(s.on, replica)
}

// enough tells whether a majority of those that vote by now has the blob.
func (s *spread) enough() bool {
	others, votes := s.blobs.cfg.Replicas(s.shard)
	s.blobs.mu.Lock()
	defer s.blobs.mu.Unlock()
	voters, have := 1, 1 // with the one here
	for _, r := range others {
		if !r.Votes {
			continue
		}
		voters++
		if slices.Contains(s.on, r.Number) {
			have++
		}
	}
	return votes && have > voters/2
}

// await waits until enough of the others have the blob.
func (s *spread) await(ctx context.Context, need, voters int) error {
	var failed error
	for had, lost := 0, 0; had < need; {
		if voters-lost < need {
			return spec.Errorf(spec.CodeUnavailable, "the object's bytes could not be copied to a majority of the replicas of shard %d: %w", s.shard, failed).
				WithHint("try again; if it stays so, see which nodes are up: pheromone cluster status")
		}
		select {
		case err := <-s.votes:
			if err == nil {
				had++
				continue
			}
			lost++
			failed = errors.Join(failed, err)
		case <-ctx.Done():
			return spec.Errorf(spec.CodeUnavailable, "the object's bytes were not copied in time to a majority of the replicas of shard %d: %w", s.shard, context.Cause(ctx))
		}
	}
	return nil
}

// note has Discard find the transfers of a blob.
func (b *Blobs) note(s *spread) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.spreads[s.blob.ID] = s
}

// sent counts a transfer that has ended; with the last one the spread is over.
func (b *Blobs) sent(s *spread) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.left--; s.left > 0 {
		return
	}
	s.end()
	if b.mu.spreads[s.blob.ID] == s { // and not one that has followed it
		delete(b.mu.spreads, s.blob.ID)
	}
	if s.later {
		b.late.Release(1)
	}
}

// release lets a spread hold the token for those behind the majority until all
// transfers have ended.
func (b *Blobs) release(s *spread) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if s.left == 0 {
		b.late.Release(1)
		return
	}
	s.later = true
}

// send copies a blob to one node.
func (b *Blobs) send(ctx context.Context, node string, s *spread) error {
	slots := b.slotsTo(node)
	if err := slots.Acquire(ctx, 1); err != nil {
		return spec.Errorf(spec.CodeUnavailable, "node %s has more to take than it can: %w", node, err)
	}
	defer slots.Release(1)
	// Nobody closes the stream: the connection may read from it for a moment after
	// an early answer, and it holds nothing.
	stream, err := b.cfg.DB.ExportBlob(s.shard, s.app, s.blob)
	if err != nil {
		return err
	}
	_, err = b.cfg.Call(ctx, node, methodPut, putArgs{b.cfg.Node, named{s.shard, s.app, store.AppendBlob(nil, &s.blob)}}, stream, nil)
	return err
}

// drop is a copy that is to go.
type drop struct {
	shard spec.ShardID
	name  store.BlobName
}

// Discard implements leader.Copies. What does not arrive is swept later.
func (b *Blobs) Discard(shard spec.ShardID, app spec.AppName, blob store.Blob) {
	b.mu.Lock()
	under := b.mu.spreads[blob.ID]
	b.mu.Unlock()
	if under != nil {
		under.end()
	}
	select {
	case b.drops <- drop{shard, store.BlobName{App: app, ID: blob.ID}}:
	default:
	}
}

const (
	dropsAtOnce = 256
	dropWait    = 5 * time.Second
)

// sendDrops tells the other replicas which copies are to go, those that have
// gathered at once.
func (b *Blobs) sendDrops() {
	for {
		select {
		case d := <-b.drops:
			gathered := map[spec.ShardID][]store.BlobName{d.shard: {d.name}}
		gather:
			for range dropsAtOnce {
				select {
				case d := <-b.drops:
					gathered[d.shard] = append(gathered[d.shard], d.name)
				default:
					break gather
				}
			}
			for shard, names := range gathered {
				b.sendDrop(shard, names)
			}
		case <-b.ctx.Done():
			return
		}
	}
}

func (b *Blobs) sendDrop(shard spec.ShardID, names []store.BlobName) {
	ctx, cancel := context.WithTimeout(b.ctx, dropWait)
	defer cancel()
	others, _ := b.cfg.Replicas(shard)
	var sending sync.WaitGroup
	for _, r := range others {
		if r.Node == "" {
			continue
		}
		sending.Go(func() {
			if _, err := b.cfg.Call(ctx, r.Node, methodDrop, namesArgs{shard, names}, nil, nil); err != nil {
				b.cfg.Log.Debug("copies of staged blobs were not removed yet", "shard", uint64(shard), "on", r.Node, "error", err)
			}
		})
	}
	sending.Wait()
}
