package shard

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/lni/dragonboat/v4"

	"github.com/pheromone-run/pheromone/spec"
)

// SetAddress tells where a replica of a shard is, when it is new or has moved.
func (h *Host) SetAddress(id spec.ShardID, replica uint64, address string) {
	h.registry.set(uint64(id), replica, address)
}

// Members is who belongs to a shard's raft group, by the numbers of replicas.
type Members struct {
	Voters   []uint64 `json:"voters"`
	Learners []uint64 `json:"learners,omitempty"`
	// Removed never come back.
	Removed []uint64 `json:"removed,omitempty"`
	// Version is another one after each change.
	Version uint64 `json:"version"`
}

// Members returns who belongs to the group, as of now: it asks a majority.
func (s *Shard) Members(ctx context.Context) (Members, error) {
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	now, err := s.host.node.SyncGetShardMembership(ctx, uint64(s.id))
	if err != nil {
		return Members{}, fmt.Errorf("members of shard %d: %w", s.id, err)
	}
	return Members{
		Voters:   slices.Sorted(maps.Keys(now.Nodes)),
		Learners: slices.Sorted(maps.Keys(now.NonVotings)),
		Removed:  slices.Sorted(maps.Keys(now.Removed)),
		Version:  now.ConfigChangeID,
	}, nil
}

// Voters returns the replicas that vote, as of the last change that this replica has
// applied, without asking anybody. It returns none while this one has applied none.
func (s *Shard) Voters() []uint64 {
	info := s.host.node.GetNodeHostInfo(dragonboat.NodeHostInfoOption{SkipLogInfo: true})
	if info == nil { // the host is closed
		return nil
	}
	for i := range info.ShardInfoList {
		if known := &info.ShardInfoList[i]; known.ShardID == uint64(s.id) && !known.Pending {
			return slices.Sorted(maps.Keys(known.Replicas))
		}
	}
	return nil
}

// ErrMembersChanged says that a change was planned on members that are not those
// of the group any more; nothing was done.
var ErrMembersChanged = errors.New("the shard's members have changed")

// Change changes a shard's members.
type Change struct {
	shard   *Shard
	version uint64 // of Members; 0 stands for those there are
}

// At returns the changes that are only made if the members are those of a version;
// else they fail with ErrMembersChanged. Version 0 is any.
func (s *Shard) At(version uint64) Change { return Change{s, version} }

// AddReplica makes a replica on another host a learner, which starts it with
// Host.Join: it gets everything and has no vote, so that the shard does not wait
// for it. The number must never have been used in this shard, not even by a
// replica that was removed. The other members have to be told its address too.
func (c Change) AddReplica(ctx context.Context, replica uint64, address string) error {
	s := c.shard
	s.host.SetAddress(s.id, replica, address)
	if err := s.slowDown(); err != nil {
		return fmt.Errorf("add replica %d to shard %d: %w", replica, s.id, err)
	}
	err := c.make(ctx, func(ctx context.Context, version uint64) error {
		return s.host.node.SyncRequestAddNonVoting(ctx, uint64(s.id), replica, target(replica), version)
	})
	if err != nil {
		return fmt.Errorf("add replica %d to shard %d: %w", replica, s.id, err)
	}
	return nil
}

// Promote gives a learner its vote. It should run and have caught up: the shard
// counts on it from then on.
func (c Change) Promote(ctx context.Context, replica uint64) error {
	s := c.shard
	err := c.make(ctx, func(ctx context.Context, version uint64) error {
		return s.host.node.SyncRequestAddReplica(ctx, uint64(s.id), replica, target(replica), version)
	})
	if err != nil {
		return fmt.Errorf("promote replica %d of shard %d: %w", replica, s.id, err)
	}
	return nil
}

// RemoveReplica takes a replica out of the shard, for ever. Transfer the lead
// first if it is the leader: otherwise the shard is without one for an election.
func (c Change) RemoveReplica(ctx context.Context, replica uint64) error {
	s := c.shard
	err := c.make(ctx, func(ctx context.Context, version uint64) error {
		return s.host.node.SyncRequestDeleteReplica(ctx, uint64(s.id), replica, version)
	})
	if err != nil {
		return fmt.Errorf("remove replica %d of shard %d: %w", replica, s.id, err)
	}
	return nil
}

// make makes one change, and has an entry applied after it: a snapshot taken right
// behind a change was seen to lack it (dragonboat). A claim of epoch 0 is such an
// entry, it is always lost.
func (c Change) make(ctx context.Context, change func(ctx context.Context, version uint64) error) error {
	s := c.shard
	if s.host.cfg.Address == "" {
		return spec.Errorf(spec.CodeInvalid, "this host has no address, so its shards have no other members")
	}
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	err := s.retry(ctx, func() error {
		now, err := s.host.node.SyncGetShardMembership(ctx, uint64(s.id))
		if err != nil {
			return err
		}
		if c.version != 0 && now.ConfigChangeID != c.version {
			return ErrMembersChanged
		}
		return change(ctx, now.ConfigChangeID)
	})
	if err != nil {
		return err
	}
	return s.retry(ctx, func() error {
		_, err := s.host.node.SyncPropose(ctx, s.session, entry{kind: kindClaim}.encode())
		return err
	})
}

// retry tries again while there is no leader: nothing has been done then.
func (s *Shard) retry(ctx context.Context, try func() error) error {
	for {
		err := try()
		if !errors.Is(err, dragonboat.ErrShardNotReady) && !errors.Is(err, dragonboat.ErrShardNotInitialized) {
			return err
		}
		if stop := s.pause(ctx, nil); stop != nil {
			return errors.Join(err, stop)
		}
	}
}

// slowDown starts the replica again with the timing of a shard with several
// members, unless it has it. The term ends by it. If it can't be started, the next
// call tries again.
func (s *Shard) slowDown() error {
	s.running.Lock()
	defer s.running.Unlock()
	if !s.sole {
		return nil
	}
	if isClosed(s.closing) {
		return errClosed
	}
	if err := s.stop(); err != nil {
		return err
	}
	s.leaderIs(0, 0)
	s.sole = false
	err := s.launch(map[uint64]dragonboat.Target{}, false)
	s.sole = err != nil
	return err
}

// stop stops the replica if it runs. s.running is held.
func (s *Shard) stop() error {
	err := s.host.node.StopReplica(uint64(s.id), s.replica)
	if errors.Is(err, dragonboat.ErrShardNotFound) {
		return nil
	}
	return err
}

// TransferTo hands the lead to another replica, which has to be alive: what is
// proposed to a dead one is lost. It returns once the other replica leads.
//
// While it lasts, the term of this replica takes no batches, and Propose waits:
// those under way end first, because dragonboat drops what comes in the middle of a
// transfer, and has a replica that is behind decline the lead. proposeTimeout
// bounds it.
func (s *Shard) TransferTo(ctx context.Context, replica uint64) error {
	ctx, cancel := context.WithTimeout(ctx, proposeTimeout)
	defer cancel()
	var err error
	select {
	case s.transfers <- struct{}{}:
		err = s.transfer(ctx, replica)
		<-s.transfers
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("transfer the lead of shard %d to replica %d: %w", s.id, replica, err)
	}
	return nil
}

// BeforeTransfer has f run before the lead is handed over, while batches are still
// taken, and what it returns once that is done or has failed.
func (s *Shard) BeforeTransfer(f func(context.Context) (after func())) { s.handing.Store(&f) }

func (s *Shard) transfer(ctx context.Context, replica uint64) error {
	if before := s.handing.Load(); before != nil {
		defer (*before)(ctx)()
	}
	s.mu.Lock()
	t := s.mu.term
	s.mu.Unlock()
	if t != nil && t.Err() == nil {
		resume, err := t.pause(ctx)
		defer resume()
		if err != nil {
			return err
		}
	}
	// The others apply a moment later what is applied here.
	if err := s.pause(ctx, nil); err != nil {
		return err
	}
	// The leader gives a transfer up when the other replica does not take over
	// within an election, without a word: ask again then.
	again := time.NewTicker(2 * time.Duration(s.host.cfg.ElectionTicks) * s.host.cfg.RTT)
	defer again.Stop()
	for ask := true; ; {
		s.mu.Lock()
		leader, changed := s.mu.leader, s.mu.changed
		s.mu.Unlock()
		if leader == replica {
			return nil
		}
		if ask {
			if err := s.host.node.RequestLeaderTransfer(uint64(s.id), replica); err != nil {
				return err
			}
		}
		ask = false
		select {
		case <-changed:
		case <-again.C:
			ask = true
		case <-ctx.Done():
			return ctx.Err()
		case <-s.closing:
			return errClosed
		}
	}
}
