package control

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pheromone-run/pheromone/spec"
)

// leadership tells of changes of the leader.
type leadership struct {
	mu struct {
		sync.Mutex
		changed chan struct{} // closed and replaced at each change
		since   time.Time     // when this node began to lead, zero if it does not
	}
}

func (l *leadership) init() { l.mu.changed = make(chan struct{}) }

// observe is raft's filter of observations, which it calls where they are made:
// unlike a channel of them it misses none.
func (l *leadership) observe(o *raft.Observation) bool {
	switch event := o.Data.(type) {
	case raft.RaftState:
		l.mu.Lock()
		l.mu.since = time.Time{}
		if event == raft.Leader {
			l.mu.since = time.Now()
		}
		l.mu.Unlock()
		l.tell()
	case raft.LeaderObservation:
		l.tell()
	}
	return false
}

func (l *leadership) tell() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.mu.changed)
	l.mu.changed = make(chan struct{})
}

func (l *leadership) watch() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.changed
}

func (l *leadership) ledSince() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.since
}

// Leader returns the name of the node that leads, if one does, as far as this
// node knows.
func (g *Group) Leader() (node string, ok bool) {
	_, id := g.raft.LeaderWithID()
	if string(id) == g.cfg.Node && !g.IsLeader() {
		return "", false // raft forgets itself a moment later
	}
	return string(id), id != ""
}

// IsLeader says whether this node leads, as far as it knows.
func (g *Group) IsLeader() bool { return g.raft.State() == raft.Leader }

// LeaderChanged returns a channel that is closed at the next change of what
// Leader or IsLeader answer. To miss none, call it first and those then.
func (g *Group) LeaderChanged() <-chan struct{} { return g.leadership.watch() }

// TransferLeadership hands the leadership to the voter that was heard of last.
func (g *Group) TransferLeadership(ctx context.Context) error {
	if !g.IsLeader() {
		return g.notLeader()
	}
	var best Server
	var heard time.Time
	for _, s := range g.Servers() {
		if last, _ := g.LastContact(s.Name); s.Voter && s.Name != g.cfg.Node && last.After(heard) {
			best, heard = s, last
		}
	}
	if best.Name == "" {
		return spec.Errorf(spec.CodePrecondition, "the control group has no other voter to lead it")
	}
	return g.configure(ctx, "hand the leadership over to "+best.Name, func() error {
		return g.raft.LeadershipTransferToServer(raft.ServerID(best.Name), raft.ServerAddress(best.Address)).Error()
	})
}

// LastContact returns when the leader last heard of a server; a server that has
// not been heard of counts from when this node began to lead. It is false on a
// node that does not lead, and for a name that is no server's.
func (g *Group) LastContact(name string) (time.Time, bool) {
	since := g.leadership.ledSince()
	if since.IsZero() {
		return time.Time{}, false
	}
	if name == g.cfg.Node {
		return time.Now(), true
	}
	if _, ok := g.server(name); !ok {
		return time.Time{}, false
	}
	if heard := g.stream.lastHeard(name); heard.After(since) {
		return heard, true
	}
	return since, true
}

// ReadBarrier waits until State has every change that was answered before
// ReadBarrier was called, on any node. A node that does not lead asks the leader,
// by Config.Forward.
func (g *Group) ReadBarrier(ctx context.Context) error {
	result, err := g.request(ctx, &readBarrier{}, "")
	if err != nil {
		return err
	}
	return g.waitState(ctx, result.Index)
}

// barrier returns the index of a State with every change made before. It goes
// through the log: raft's own check of the leader counts the answers of servers
// without a vote too, and may believe a leader that was replaced.
func (g *Group) barrier(ctx context.Context) (Result, error) {
	if err := await(ctx, "read barrier", func() error { return g.raft.Barrier(acceptTimeout).Error() }); err != nil {
		return Result{}, err
	}
	return Result{Index: g.State().Index}, nil
}

// waitState waits until State is that of an index or a later one.
func (g *Group) waitState(ctx context.Context, index uint64) error {
	for {
		changed := g.Changed()
		if g.State().Index >= index {
			return nil
		}
		select {
		case <-changed:
		case <-g.ended:
			return errClosed()
		case <-ctx.Done():
			return spec.Errorf(spec.CodeTimeout, "this node does not know of change %d of the control group yet: %w", index, ctx.Err())
		}
	}
}
