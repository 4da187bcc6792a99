package shard

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/client"

	"github.com/pheromone-run/pheromone/spec"
)

// Shard is this node's replica of a shard.
type Shard struct {
	host    *Host
	id      spec.ShardID
	replica uint64
	sole    bool // its only member, with the timing of one; running guards it
	learner bool // started without a vote
	session *client.Session
	machine atomic.Pointer[machine]
	fits    chan struct{} // closed once the raft log is seen to fit the store

	closing   chan struct{}
	closeOnce sync.Once
	running   sync.Mutex // held while the replica is started again or stopped

	leading   sync.Mutex    // held by Lead
	transfers chan struct{} // has room for one
	handing   atomic.Pointer[func(context.Context) func()]
	mu        struct {
		sync.Mutex
		leader   uint64 // 0 while none is known
		raftTerm uint64
		changed  chan struct{} // closed and replaced whenever leader or raftTerm changes
		term     *Term         // the last one
	}
	applied struct {
		sync.Mutex
		next chan struct{} // closed with the next change of the store; nil while nobody waits
	}
}

func newShard(h *Host, id spec.ShardID, replica uint64) *Shard {
	s := &Shard{
		host:    h,
		id:      id,
		replica: replica,
		session: h.node.GetNoOPSession(uint64(id)),
		closing: make(chan struct{}),

		transfers: make(chan struct{}, 1),
	}
	s.mu.changed = make(chan struct{})
	return s
}

// Lead waits until this replica leads the shard and its claim of a new epoch is
// applied: the local store has everything that any leader before got applied,
// and nothing of theirs is applied any more. It ends the term that an earlier
// Lead returned, if that is not over, and waits until it has reported its batches.
//
// It returns an error only when ctx ends or the shard is closed.
func (s *Shard) Lead(ctx context.Context) (*Term, error) {
	s.leading.Lock()
	defer s.leading.Unlock()
	s.endTerm(errors.New("the shard is claimed again"))
	s.waitTerm()
	for {
		raftTerm, changed, err := s.waitLead(ctx)
		if err != nil {
			return nil, err
		}
		epoch := max(makeEpoch(raftTerm, 0), s.Status().Epoch+1)
		before, err := s.claim(ctx, epoch, changed)
		if err == nil {
			if t := s.begin(newTerm(s, epoch, raftTerm, before)); t != nil {
				return t, nil
			}
			continue
		}
		s.host.cfg.Log.Debug("claim failed", "shard", uint64(s.id), "epoch", epoch, "reason", err)
		if err := s.pause(ctx, changed); err != nil {
			return nil, err
		}
	}
}

// waitLead waits until this replica is the leader of a raft term. changed is
// closed when it may not be any more.
func (s *Shard) waitLead(ctx context.Context) (raftTerm uint64, changed <-chan struct{}, err error) {
	for {
		s.mu.Lock()
		leader, raftTerm, changed := s.mu.leader, s.mu.raftTerm, s.mu.changed
		s.mu.Unlock()
		if leader == s.replica {
			return raftTerm, changed, s.alive(ctx)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return 0, nil, s.alive(ctx)
		case <-s.closing:
			return 0, nil, s.alive(ctx)
		}
	}
}

// claim proposes an epoch and waits until it is applied or lost. A claim that is
// given up may still be applied: then the next one is of a higher epoch.
func (s *Shard) claim(ctx context.Context, epoch uint64, changed <-chan struct{}) (previous, error) {
	command := entry{kind: kindClaim, epoch: epoch}.encode()
	state, err := s.host.node.Propose(s.session, command, proposeTimeout)
	if err != nil {
		return previous{}, err
	}
	select {
	case result := <-state.AppliedC():
		err := outcome(result, verdictClaimed)
		before, ok := decodePrevious(result.GetResult().Data)
		state.Release()
		if err == nil && !ok {
			err = errors.New("the claim's result is not one")
		}
		return before, err
	case <-changed:
		return previous{}, errors.New("the lead has moved")
	case <-ctx.Done():
		return previous{}, ctx.Err()
	case <-s.closing:
		return previous{}, errClosed
	}
}

// begin starts the term unless the lead is lost already.
func (s *Shard) begin(t *Term) *Term {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.leader != s.replica || s.mu.raftTerm != t.raftTerm || isClosed(s.closing) {
		return nil
	}
	s.mu.term = t
	go t.report()
	return t
}

// leaderIs takes news of an election. It is called in order, and must not block.
func (s *Shard) leaderIs(leader, raftTerm uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.leader, s.mu.raftTerm = leader, raftTerm
	s.tellLeader()
	if t := s.mu.term; t != nil && (leader != s.replica || raftTerm != t.raftTerm) {
		t.fail(fmt.Errorf("replica %d leads in raft term %d", leader, raftTerm))
	}
}

// tellLeader wakes those who wait for news of an election. s.mu is held.
func (s *Shard) tellLeader() {
	close(s.mu.changed)
	s.mu.changed = make(chan struct{})
}

// endTerm ends the current term, if there is one.
func (s *Shard) endTerm(reason error) {
	s.mu.Lock()
	t := s.mu.term
	s.mu.Unlock()
	if t != nil {
		t.fail(reason)
	}
}

// waitTerm waits until the term, which has ended, has reported its batches.
func (s *Shard) waitTerm() {
	s.mu.Lock()
	t := s.mu.term
	s.mu.Unlock()
	if t != nil {
		<-t.Done()
	}
}

// pause waits for a tick before something is tried again, or for news.
func (s *Shard) pause(ctx context.Context, changed <-chan struct{}) error {
	select {
	case <-time.After(s.host.cfg.RTT):
	case <-changed:
	case <-ctx.Done():
	case <-s.closing:
	}
	return s.alive(ctx)
}

// alive returns why there is no point in going on.
func (s *Shard) alive(ctx context.Context) error {
	if isClosed(s.closing) {
		return fmt.Errorf("shard %d: %w", s.id, errClosed)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("shard %d: %w", s.id, err)
	}
	return nil
}

// ReadIndex waits until the local store has everything that was acknowledged
// anywhere before the call, by asking the leader, who asks a majority. Calls at
// the same time share one round. It tries until ctx ends.
func (s *Shard) ReadIndex(ctx context.Context) error {
	// A question to a leader that is gone is never answered, so the first ones are
	// short; a replica that is far behind needs a longer one in the end.
	patience := time.Duration(s.host.cfg.ElectionTicks) * s.host.cfg.RTT
	for {
		done, err := s.readIndex(ctx, patience)
		if done {
			return nil
		}
		if stop := s.pause(ctx, nil); stop != nil {
			if errors.Is(stop, errClosed) {
				return spec.Errorf(spec.CodeUnavailable, "%w", stop)
			}
			return spec.Errorf(spec.CodeUnavailable, "shard %d can't be read at its newest: %v: %w", s.id, err, ctx.Err())
		}
		patience = min(2*patience, proposeTimeout)
	}
}

var errNoLeader = errors.New("no answer of a leader yet")

func (s *Shard) readIndex(ctx context.Context, patience time.Duration) (done bool, err error) {
	s.mu.Lock()
	leader, changed := s.mu.leader, s.mu.changed
	s.mu.Unlock()
	if leader == 0 {
		select {
		case <-changed:
		case <-time.After(patience): // the question itself wakes nobody: it would only be dropped
		case <-ctx.Done():
		case <-s.closing:
		}
		return false, errNoLeader
	}
	state, err := s.host.node.ReadIndex(uint64(s.id), max(patience, 2*s.host.cfg.RTT))
	if err != nil {
		return false, err
	}
	select {
	case result := <-state.AppliedC():
		if !result.Completed() {
			return false, outcome(result, verdictApplied)
		}
		state.Release()
		return true, nil
	case <-changed:
	case <-ctx.Done():
	case <-s.closing:
	}
	return false, errNoLeader
}

// Leader returns the replica that leads, as far as is known here.
func (s *Shard) Leader() (replica uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.leader, s.mu.leader != 0
}

// Applied returns a channel that is closed once the local store has taken more
// entries, or a snapshot, and when the shard is closed. Take it before reading.
func (s *Shard) Applied() <-chan struct{} {
	s.applied.Lock()
	defer s.applied.Unlock()
	if s.applied.next == nil {
		s.applied.next = make(chan struct{})
	}
	return s.applied.next
}

func (s *Shard) tellApplied() {
	s.applied.Lock()
	defer s.applied.Unlock()
	if s.applied.next != nil {
		close(s.applied.next)
		s.applied.next = nil
	}
}

// Led tells whether this replica leads the shard in raft, whether the leader is
// known, and returns a channel that is closed with the next news of an election,
// and when the shard is closed.
func (s *Shard) Led() (here, known bool, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.leader == s.replica, s.mu.leader != 0, s.mu.changed
}

// Status is where a replica stands.
type Status struct {
	Replica  uint64
	Leader   uint64 // 0 if none is known
	RaftTerm uint64
	Applied  uint64 // index of the last entry applied
	Epoch    uint64 // the last that was claimed
	Seq      uint64 // of the last batch applied in Epoch
}

// Status returns where this replica stands.
func (s *Shard) Status() Status {
	st := Status{Replica: s.replica}
	s.mu.Lock()
	st.Leader, st.RaftTerm = s.mu.leader, s.mu.raftTerm
	s.mu.Unlock()
	if m := s.machine.Load(); m != nil {
		meta := m.applied()
		st.Applied, st.Epoch, st.Seq = meta.Applied, meta.Epoch, meta.Seq
	}
	return st
}

// Close stops this replica: it neither votes nor applies until it is started
// again. What it has stays.
func (s *Shard) Close() error {
	s.host.forget(s)
	if !s.release() {
		return nil
	}
	s.running.Lock()
	err := s.stop()
	s.running.Unlock()
	s.host.transport.endStreams(s.id) // one that waits for its receiver would hold up Drop
	s.waitTerm()
	if err != nil && !errors.Is(err, dragonboat.ErrClosed) {
		return fmt.Errorf("stop shard %d: %w", s.id, err)
	}
	return nil
}

// release ends what waits on the shard. It returns false if it was released before.
func (s *Shard) release() (first bool) {
	s.closeOnce.Do(func() {
		first = true
		close(s.closing)
		s.endTerm(errClosed)
		s.mu.Lock()
		s.tellLeader()
		s.mu.Unlock()
		s.tellApplied()
	})
	return first
}
