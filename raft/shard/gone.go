package shard

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"

	"github.com/pheromone-run/pheromone/spec"
)

// A process that ends, in whatever way, has its connections closed by its system at
// once, and its address refuses new ones. So the others need not wait for an
// election's timeout, which has to be long enough for a leader that is only slow:
// they stand for election as soon as the leader's process is gone. Raft calls that a
// leader that hands its lead over (TimeoutNow, section 3.10 of the raft thesis: no
// different from a clock that jumps forward), so it is as safe as that. A leader
// whose machine is gone, which refuses nothing, is left to the timeout.

const (
	// goneAsks is how often an address is asked that closes what it has taken, as one
	// whose process is about to go does, and an address that stands for one that is gone.
	goneAsks  = 5
	goneAgain = 15 * time.Millisecond
	// reachWait bounds how long other voters are waited for.
	reachWait = 500 * time.Millisecond
	// standApart is by how much later the next voter stands, if the one before, whose
	// log may be behind, has not been elected.
	standApart = 8 // ticks
)

// goneHosts finds out which hosts are gone, one question at a time for each.
type goneHosts struct {
	mu    sync.Mutex
	asked map[string]struct{}
}

// begin tells whether an address is to be asked now, and takes that on.
func (g *goneHosts) begin(address string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, asked := g.asked[address]; asked {
		return false
	}
	if g.asked == nil {
		g.asked = make(map[string]struct{})
	}
	g.asked[address] = struct{}{}
	return true
}

func (g *goneHosts) end(address string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.asked, address)
}

// lost looks into why a connection of another host has ended.
func (t *transport) lost(address string) {
	if !t.asked.begin(address) {
		return
	}
	t.workers.Go(func() {
		defer t.asked.end(address)
		if t.gone(address) {
			t.host.hostGone(t.ctx, address)
		}
	})
}

// gone tells whether no process answers at an address whose machine does.
func (t *transport) gone(address string) bool {
	for range goneAsks {
		ctx, cancel := context.WithTimeout(t.ctx, reachWait)
		conn, err := t.network.Dial(ctx, address)
		cancel()
		switch {
		case err == nil:
			_ = conn.Close()
			return false
		case errors.Is(err, syscall.ECONNREFUSED):
			return true
		case !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE):
			return false
		}
		if !pause(t.ctx, goneAgain) {
			return false
		}
	}
	return true
}

// reach returns those of some addresses where a host answers.
func (t *transport) reach(ctx context.Context, addresses []string) map[string]bool {
	ctx, cancel := context.WithTimeout(ctx, reachWait)
	defer cancel()
	var mu sync.Mutex
	reached := make(map[string]bool)
	var asking sync.WaitGroup
	for _, address := range addresses {
		asking.Go(func() {
			conn, err := t.network.Dial(ctx, address)
			if err != nil {
				return
			}
			_ = conn.Close()
			mu.Lock()
			defer mu.Unlock()
			reached[address] = true
		})
	}
	asking.Wait()
	return reached
}

// candidate is a replica here that could take the place of a leader that is gone.
type candidate struct {
	shard  *Shard
	leader uint64
	others []string // where the other voters are
	rank   int      // among all that could
}

// hostGone has the replicas here stand for election whose leader was at an address.
func (h *Host) hostGone(ctx context.Context, address string) {
	all := h.ledAt(address)
	var addresses []string
	for _, s := range all {
		for _, other := range s.others {
			if !slices.Contains(addresses, other) {
				addresses = append(addresses, other)
			}
		}
	}
	reached := h.transport.reach(ctx, addresses)
	var standing sync.WaitGroup
	for _, s := range all {
		voters, here := len(s.others)+2, 1
		for _, other := range s.others {
			if reached[other] {
				here++
			}
		}
		if here <= voters/2 { // whoever can't win only disturbs
			h.cfg.Log.Info("the process of a shard's leader is gone, and too few voters are reached to elect another", "shard", uint64(s.shard.id), "leader", s.leader)
			continue
		}
		standing.Go(func() {
			if pause(ctx, time.Duration(s.rank*standApart)*h.cfg.RTT) {
				h.stand(s.shard, s.leader)
			}
		})
	}
	standing.Wait()
}

// ledAt lists the replicas here that have a vote and a leader at an address.
func (h *Host) ledAt(address string) (all []candidate) {
	info := h.node.GetNodeHostInfo(dragonboat.NodeHostInfoOption{SkipLogInfo: true})
	if info == nil { // it is closed
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, group := range info.ShardInfoList {
		s := h.mu.shards[spec.ShardID(group.ShardID)]
		if s == nil || group.IsNonVoting || group.Pending {
			continue
		}
		leader, ok := s.Leader()
		at, _, err := h.registry.Resolve(group.ShardID, leader)
		if !ok || err != nil || at != address {
			continue
		}
		one := candidate{shard: s, leader: leader}
		for voter := range group.Replicas {
			if voter == s.replica || voter == leader {
				continue
			}
			at, _, _ := h.registry.Resolve(group.ShardID, voter) // one without an address is not reached
			one.others = append(one.others, at)
			if voter < s.replica {
				one.rank++
			}
		}
		all = append(all, one)
	}
	return all
}

// stand has a replica stand for election unless another one leads by now.
func (h *Host) stand(s *Shard, gone uint64) {
	if leader, ok := s.Leader(); ok && leader != gone {
		return
	}
	h.cfg.Log.Info("the process of a shard's leader is gone, this replica stands for election", "shard", uint64(s.id), "leader", gone)
	h.transport.campaign(s, gone)
}

// campaign has a replica here believe that the leader hands its lead over to it.
func (t *transport) campaign(s *Shard, leader uint64) {
	t.batches(raftpb.MessageBatch{
		DeploymentId: t.deployment, BinVer: raftio.TransportBinVersion,
		Requests: []raftpb.Message{{Type: raftpb.TimeoutNow, ShardID: uint64(s.id), From: leader, To: s.replica}},
	})
}

// pause waits; it returns false if ctx has ended.
func pause(ctx context.Context, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
