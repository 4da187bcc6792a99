package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pheromone-run/pheromone/spec"
)

// Group is this node's member of the control group.
type Group struct {
	cfg       Config
	raft      *raft.Raft
	fsm       *fsm
	transport raft.Transport
}

// Bounds of the network.
const (
	connections    = 3 // kept to each peer
	networkTimeout = 5 * time.Second
	acceptTimeout  = 5 * time.Second // for a command to be taken by the leader's own loop
	poll           = 2 * time.Millisecond
	snapshotsKept  = 2
)

// Open starts the node's member, and makes the group if there is none. A group
// of one is ready when Open returns: it leads, and State has all that was
// applied before. Of several, Ready says when that is so.
func Open(ctx context.Context, cfg Config) (*Group, error) {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, spec.Errorf(spec.CodeInvalid, "control group: %w", err)
	}
	log, err := openLog(cfg.DB)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("control group: make the folder for snapshots: %w", err)
	}
	snapshots, err := raft.NewFileSnapshotStoreWithLogger(cfg.Dir, snapshotsKept, hashicorpLog(cfg.Log, cfg.sole()))
	if err != nil {
		return nil, fmt.Errorf("control group: open the snapshots in %s: %w", cfg.Dir, err)
	}
	g := &Group{cfg: cfg, fsm: newFSM()}
	if g.transport, err = openTransport(cfg); err != nil {
		return nil, err
	}
	if err := g.start(log, snapshots); err != nil {
		return nil, errors.Join(err, closeTransport(g.transport))
	}
	if cfg.sole() {
		if err := g.Ready(ctx); err != nil {
			return nil, errors.Join(err, g.Close())
		}
	}
	return g, nil
}

func (g *Group) start(log *logStore, snapshots raft.SnapshotStore) error {
	known, err := raft.HasExistingState(log, log, snapshots)
	if err != nil {
		return fmt.Errorf("control group: %w", err)
	}
	cached, err := raft.NewLogCache(512, log)
	if err != nil {
		return fmt.Errorf("control group: %w", err)
	}
	g.raft, err = raft.NewRaft(g.raftConfig(), g.fsm, cached, log, snapshots, g.transport)
	if err != nil {
		return fmt.Errorf("control group: %w", err)
	}
	if known {
		return nil
	}
	err = g.raft.BootstrapCluster(g.voters()).Error()
	if err != nil && !errors.Is(err, raft.ErrCantBootstrap) {
		return errors.Join(fmt.Errorf("make the control group: %w", err), g.raft.Shutdown().Error())
	}
	return nil
}

func (g *Group) raftConfig() *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(g.cfg.Node)
	c.HeartbeatTimeout, c.ElectionTimeout = g.cfg.Election, g.cfg.Election
	c.LeaderLeaseTimeout = g.cfg.Election / 2
	if g.cfg.sole() {
		c.LeaderLeaseTimeout = g.cfg.Election
	}
	// Followers learn what is committed with the next message; on an idle group
	// this timer sends one, and watches wait for it.
	c.CommitTimeout = commitInterval
	c.BatchApplyCh = true
	c.SnapshotThreshold = uint64(g.cfg.SnapshotEntries)
	c.TrailingLogs = trailingEntries
	c.Logger = hashicorpLog(g.cfg.Log, g.cfg.sole())
	c.NoLegacyTelemetry = true
	return c
}

// voters returns the same configuration on every node that makes the group.
func (g *Group) voters() raft.Configuration {
	if g.cfg.sole() {
		return raft.Configuration{Servers: []raft.Server{{
			ID: raft.ServerID(g.cfg.Node), Address: g.transport.LocalAddr(),
		}}}
	}
	var c raft.Configuration
	for _, node := range slices.Sorted(maps.Keys(g.cfg.Peers)) {
		c.Servers = append(c.Servers, raft.Server{ID: raft.ServerID(node), Address: raft.ServerAddress(g.cfg.Peers[node])})
	}
	return c
}

// State returns this node's copy of what the group agrees on. It takes no lock.
func (g *Group) State() *State { return g.fsm.state.Load() }

// Changed returns a channel that is closed at the next change of State. To miss
// none, call it first and State then.
func (g *Group) Changed() <-chan struct{} { return g.fsm.watch() }

// Leader returns the name of the node that leads, if one does.
func (g *Group) Leader() (node string, ok bool) {
	_, id := g.raft.LeaderWithID()
	return string(id), id != ""
}

// Ready waits until there is a leader and this node has applied everything that
// was committed when Ready was called, as far as this node is told.
func (g *Group) Ready(ctx context.Context) error {
	return g.waitFor(ctx, "control group is not ready", func() bool {
		switch _, led := g.Leader(); {
		case !led:
			return false
		case g.raft.State() == raft.Leader:
			return g.raft.Barrier(acceptTimeout).Error() == nil
		}
		return g.raft.CommitIndex() > 0 && g.raft.AppliedIndex() >= g.raft.CommitIndex()
	})
}

func (g *Group) waitFor(ctx context.Context, what string, done func() bool) error {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return spec.Errorf(spec.CodeUnavailable, "%s: %w", what, ctx.Err())
		}
	}
	return nil
}

// Apply makes a change and waits until it is applied here. It waits for an
// election to end; on a node that does not lead it answers unavailable and names
// the leader. If ctx ends first, the change may still be made.
func (g *Group) Apply(ctx context.Context, c Command) (Result, error) {
	if a, ok := c.(*ApplyApp); ok {
		// The state machine takes the spec as it is: nobody could read it later.
		if _, _, err := spec.Parse(string(a.Name), a.Spec, spec.FormatJSON); err != nil {
			return Result{}, spec.Errorf(spec.CodeInvalid, "apply app %s: its spec can't be read: %w", a.Name, err)
		}
	}
	command, err := encodeCommand(c, "")
	if err != nil {
		return Result{}, err
	}
	for {
		result, err := g.propose(ctx, command)
		if !errors.Is(err, raft.ErrNotLeader) {
			return result, err
		}
		if err := g.waitTurn(ctx); err != nil {
			return Result{}, err
		}
	}
}

// waitTurn waits while no one leads. It returns nil if this node does.
func (g *Group) waitTurn(ctx context.Context) error {
	var leader string
	err := g.waitFor(ctx, "the control group has no leader", func() bool {
		leader, _ = g.Leader()
		return leader != "" && (leader != g.cfg.Node || g.raft.State() == raft.Leader) || g.raft.State() == raft.Shutdown
	})
	switch {
	case err != nil:
		return err
	case g.raft.State() == raft.Shutdown:
		return spec.Errorf(spec.CodeUnavailable, "the control group's member is closed")
	case leader != g.cfg.Node:
		return spec.Errorf(spec.CodeUnavailable, "node %s leads the control group", leader).WithHint(leader)
	}
	return nil
}

func (g *Group) propose(ctx context.Context, command []byte) (Result, error) {
	future := g.raft.Apply(command, acceptTimeout)
	done := make(chan error, 1)
	go func() { done <- future.Error() }() // ends with the future, at the latest when raft shuts down
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		return Result{}, spec.Errorf(spec.CodeTimeout, "the change was handed over and its outcome is not known: %w", ctx.Err())
	}
	switch {
	case errors.Is(err, raft.ErrNotLeader):
		return Result{}, err
	case errors.Is(err, raft.ErrEnqueueTimeout):
		return Result{}, spec.Errorf(spec.CodeOverloaded, "the control group takes no more just now: %w", err)
	case err != nil:
		return Result{}, spec.Errorf(spec.CodeUnavailable, "the outcome of the change is not known: %w", err)
	}
	o, ok := future.Response().(outcome)
	if !ok {
		return Result{}, spec.Errorf(spec.CodeInternal, "the control group answered %T", future.Response())
	}
	return o.result, o.err
}

// Snapshot writes the State down and cuts the log now, not when it is due.
func (g *Group) Snapshot() error {
	if err := g.raft.Snapshot().Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return fmt.Errorf("snapshot of the control group: %w", err)
	}
	return nil
}

// Close stops this node's member. The store stays open.
func (g *Group) Close() error {
	err := g.raft.Shutdown().Error()
	if err := errors.Join(err, closeTransport(g.transport)); err != nil {
		return fmt.Errorf("close the control group: %w", err)
	}
	return nil
}
