package shard

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/client"

	"github.com/pheromone-run/pheromone/spec"
)

// ErrTermOver says that a term has ended: its batches that were not reported as
// applied may or may not be. The next term's PreviousEpoch and PreviousSeq tell.
var ErrTermOver = errors.New("the term is over")

// maxInFlight bounds the batches of a term that are proposed and not reported.
// Dragonboat's own queue holds 2048; leaders keep far fewer in flight.
const maxInFlight = 1024

// commandKept is up to how many bytes of an entry are kept for the next one. Few are
// larger than what a leader gathers for one.
const commandKept = 256 << 10

// Term is the time in which this replica leads its shard under one epoch. It
// ends with the first batch that is not applied, or when the lead is lost.
type Term struct {
	shard    spec.ShardID
	epoch    uint64
	raftTerm uint64
	previous previous
	node     *dragonboat.NodeHost
	session  *client.Session

	slots   chan struct{}  // a token for each batch not reported yet
	pending chan *proposal // in the order of proposing; as large as slots, so that sending never blocks
	over    chan struct{}  // closed with the first failure
	done    chan struct{}  // closed once every batch is reported

	mu struct {
		sync.Mutex
		seq     uint64 // of the last batch proposed
		closed  bool   // no more batches are taken
		command []byte // the last entry, whose bytes the next one takes: dragonboat copies it
	}
	end struct {
		sync.Mutex
		err error
	}
}

// proposal is a batch on its way.
type proposal struct {
	seq   uint64
	state *dragonboat.RequestState
	done  func(error)
}

func newTerm(s *Shard, epoch, raftTerm uint64, previous previous) *Term {
	t := &Term{
		shard:    s.id,
		epoch:    epoch,
		raftTerm: raftTerm,
		previous: previous,
		node:     s.host.node,
		session:  s.session,
		slots:    make(chan struct{}, maxInFlight),
		pending:  make(chan *proposal, maxInFlight),
		over:     make(chan struct{}),
		done:     make(chan struct{}),
	}
	return t
}

// Epoch returns the number under which the term's batches are applied. Epochs
// of a shard grow, and no two terms have the same.
func (t *Term) Epoch() uint64 { return t.epoch }

// PreviousSeq returns the number of batches that were applied in the epoch
// before: of a leader that claims again, what became of the batches that its
// last term ended without knowing of. It counts from 1 with each term.
func (t *Term) PreviousSeq() uint64 { return t.previous.seq }

// PreviousEpoch returns the epoch that PreviousSeq is about. Another one than
// the caller's last means that another replica has led in between.
func (t *Term) PreviousEpoch() uint64 { return t.previous.epoch }

// Propose replicates a batch: body is the batch as the store encodes it, and may
// be used again once Propose returns. The batch gets the next seq of the term.
//
// For each batch that is taken (no error is returned) done is called exactly
// once, in the order of proposing, on the term's own goroutine: with nil after
// the batch is applied to the local store, or with ErrTermOver. Done functions
// must not block and must not propose.
//
// Propose does not wait for the batch. It waits only while as much is in flight
// as is allowed. It must be called from one goroutine at a time, the leader's.
func (t *Term) Propose(body []byte, done func(error)) error {
	select {
	case t.slots <- struct{}{}:
	case <-t.over:
		return t.Err()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.closed {
		<-t.slots
		return t.Err()
	}
	p := &proposal{seq: t.mu.seq + 1, done: done}
	command := entry{kind: kindBatch, epoch: t.epoch, seq: p.seq, body: body}.append(t.mu.command[:0])
	if cap(command) <= commandKept {
		t.mu.command = command
	}
	if err := t.enqueue(p, command); err != nil {
		t.fail(fmt.Errorf("propose batch %d: %w", p.seq, err))
		<-t.slots
		return t.Err()
	}
	t.mu.seq = p.seq
	t.pending <- p
	return nil
}

// enqueue hands the entry to dragonboat. A full queue has taken nothing, so the
// same entry is handed over again.
func (t *Term) enqueue(p *proposal, command []byte) error {
	const wait = time.Millisecond
	for {
		state, err := t.node.Propose(t.session, command, proposeTimeout)
		if err == nil {
			p.state = state
			return nil
		}
		if !errors.Is(err, dragonboat.ErrSystemBusy) {
			return err
		}
		select {
		case <-time.After(wait):
		case <-t.over:
			return errors.New("the queue is full")
		}
	}
}

// pause has Propose wait, and waits until every batch that was proposed is
// reported, or the term is over. resume has to be called in any case.
func (t *Term) pause(ctx context.Context) (resume func(), err error) {
	held := 0
	resume = func() {
		for range held {
			<-t.slots
		}
	}
	for held < maxInFlight {
		select {
		case t.slots <- struct{}{}:
			held++
		case <-t.over:
			return resume, nil
		case <-ctx.Done():
			return resume, ctx.Err()
		}
	}
	return resume, nil
}

// Done is closed once the term is over and every batch is reported.
func (t *Term) Done() <-chan struct{} { return t.done }

// Err returns why the term is over, an ErrTermOver, or nil while it is not.
func (t *Term) Err() error {
	t.end.Lock()
	defer t.end.Unlock()
	return t.end.err
}

// fail ends the term; only the first reason counts. It never blocks for long:
// dragonboat's goroutines call it.
func (t *Term) fail(reason error) {
	t.end.Lock()
	defer t.end.Unlock()
	if t.end.err != nil {
		return
	}
	t.end.err = fmt.Errorf("shard %d, epoch %d: %w: %w", t.shard, t.epoch, ErrTermOver, reason)
	close(t.over)
}

// report runs on the term's own goroutine and calls every done.
func (t *Term) report() {
	defer close(t.done)
	for {
		select {
		case p := <-t.pending:
			t.settle(p)
			<-t.slots
		case <-t.over:
			t.mu.Lock()
			t.mu.closed = true // what Propose takes, it has put into pending by now
			t.mu.Unlock()
			for {
				select {
				case p := <-t.pending:
					t.settle(p)
					<-t.slots
				default:
					return
				}
			}
		}
	}
}

// settle waits for the outcome of a batch. After the first one that fails none
// can be known to be applied by its result alone, so they all fail.
func (t *Term) settle(p *proposal) {
	select {
	case result := <-p.state.AppliedC():
		err := outcome(result, verdictApplied)
		p.state.Release()
		if err == nil && t.Err() == nil {
			p.done(nil)
			return
		}
		if err != nil {
			t.fail(fmt.Errorf("batch %d: %w", p.seq, err))
		}
	case <-t.over: // the state is left to the collector: dragonboat still holds it
	}
	p.done(t.Err())
}

// outcome turns dragonboat's result into nil or the reason why the entry has not
// had the verdict wanted.
func outcome(r dragonboat.RequestResult, want verdict) error {
	switch {
	case r.Completed():
		if got := verdict(r.GetResult().Value); got != want {
			return fmt.Errorf("refused: %s", got)
		}
		return nil
	case r.Timeout():
		return fmt.Errorf("no answer in time: %w", context.DeadlineExceeded)
	case r.Dropped():
		return errors.New("dropped: the replica does not lead")
	case r.Terminated():
		return errors.New("the replica is stopping")
	default:
		return errors.New("aborted")
	}
}
