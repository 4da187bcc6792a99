package node

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/spec"
)

const (
	// handOverWait bounds how long a node that stops waits for others to lead.
	handOverWait = 2 * time.Second
	// followsWait bounds how long another node may take to say that it is there.
	followsWait = 500 * time.Millisecond
)

// handOver has other replicas lead the shards that this node leads, which saves
// their users an election.
func (n *Node) handOver() {
	if n.network == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), handOverWait)
	defer cancel()
	var moves sync.WaitGroup
	for _, l := range n.localShards() {
		if here, _, _ := l.replica.Led(); here {
			moves.Go(func() { n.handOverShard(ctx, l) })
		}
	}
	moves.Wait()
}

// handOverShard tries the replicas that can lead one by one. Each has half the time:
// the raft group has one that lags catch up first, and may decline it in the end.
func (n *Node) handOverShard(ctx context.Context, l *local) {
	for _, number := range n.successors(ctx, l) {
		moving, cancel := context.WithTimeout(ctx, handOverWait/2)
		err := l.replica.TransferTo(moving, number)
		cancel()
		if err == nil || ctx.Err() != nil {
			return
		}
		n.cfg.Log.Debug("a shard's lead was not taken over", "shard", uint64(l.id), "replica", number, "reason", err)
	}
	n.cfg.Log.Debug("a shard's lead is left to an election", "shard", uint64(l.id))
}

// successors asks who can lead a shard after this node. It returns the replicas that
// follow this one, and behind them those that are there. One that is gone does not
// answer, and one that stops neither.
func (n *Node) successors(ctx context.Context, l *local) []uint64 {
	ctx, cancel := context.WithTimeout(ctx, followsWait)
	defer cancel()
	var found struct {
		sync.Mutex
		follow, there []uint64
	}
	var asking sync.WaitGroup
	for number, r := range n.control.State().Placement.Shards[l.id].Replicas {
		if number == l.number || r.Joining {
			continue
		}
		asking.Go(func() {
			var a leadsAnswer
			_, err := n.call(ctx, r.Node, methodLeads, shardQuestion[nothing]{Shard: l.id}, nil, &a)
			found.Lock()
			defer found.Unlock()
			switch {
			case err == nil && a.Leader == n.cfg.Name:
				found.follow = append(found.follow, number)
			case err == nil, spec.CodeOf(err) == spec.CodeUnsupported: // an older version
				found.there = append(found.there, number)
			}
		})
	}
	asking.Wait()
	for _, some := range [][]uint64{found.follow, found.there} {
		rand.Shuffle(len(some), func(i, j int) { some[i], some[j] = some[j], some[i] })
	}
	return append(found.follow, found.there...)
}
