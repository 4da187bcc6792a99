package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/pheromone-run/pheromone/spec"
)

// Group is this node's member of the control group.
type Group struct {
	cfg        Config
	raft       *raft.Raft
	fsm        *fsm
	stream     *stream // nil in a group of one node
	transport  raft.Transport
	leadership leadership
	started    chan struct{} // closed once raft is set
	ended      chan struct{} // closed by Close
	once       sync.Once
}

// Bounds of the network.
const (
	connections    = 3 // kept to each member
	networkTimeout = 5 * time.Second
	acceptTimeout  = 5 * time.Second // for a command to be taken by the leader's own loop
	poll           = 2 * time.Millisecond
	snapshotsKept  = 2
)

// Open starts the node's member, and makes the group if there is none and the
// configuration tells of whom. A group of one is ready when Open returns: it
// leads, and State has all that was applied before. Of several, Ready says when
// that is so.
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
	g := &Group{cfg: cfg, fsm: newFSM(), started: make(chan struct{}), ended: make(chan struct{})}
	g.leadership.init()
	if cfg.sole() {
		_, g.transport = raft.NewInmemTransport("local")
	} else {
		g.stream = openStream(cfg, g.places)
		g.transport = g.stream.transport()
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
	close(g.started)
	g.raft.RegisterObserver(raft.NewObserver(nil, false, g.leadership.observe))
	g.leadership.tell() // of what was so before it looked
	if known || !g.cfg.sole() && len(g.cfg.Voters) == 0 {
		return nil
	}
	if at := g.cfg.Voters[g.cfg.Node]; at != g.cfg.Address {
		return errors.Join(spec.Errorf(spec.CodeInvalid, "make the control group: the voters tell of node %s at %s, it is at %s", g.cfg.Node, at, g.cfg.Address), g.raft.Shutdown().Error())
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
	// A member that is removed ends when its node closes it, not by itself.
	c.ShutdownOnRemove = false
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
	for _, node := range slices.Sorted(maps.Keys(g.cfg.Voters)) {
		c.Servers = append(c.Servers, raft.Server{ID: raft.ServerID(node), Address: raft.ServerAddress(g.cfg.Voters[node])})
	}
	return c
}

// State returns this node's copy of what the group agrees on. It takes no lock.
func (g *Group) State() *State { return g.fsm.state.Load() }

// Changed returns a channel that is closed at the next change of State. To miss
// none, call it first and State then.
func (g *Group) Changed() <-chan struct{} { return g.fsm.watch() }

// Ready waits until there is a leader and this node has applied everything that
// was committed when Ready was called: without a way to ask the leader, as far as
// this node is told. A node that is in no group waits until one takes it.
func (g *Group) Ready(ctx context.Context) error {
	err := g.waitFor(ctx, "control group is not ready", func() bool {
		_, led := g.Leader()
		return led && (g.IsLeader() || g.raft.CommitIndex() > 0 && g.raft.AppliedIndex() >= g.raft.CommitIndex())
	})
	if err != nil || !g.IsLeader() && g.cfg.Forward == nil {
		return err
	}
	return g.ReadBarrier(ctx)
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

// Snapshot writes the State down and cuts the log now, not when it is due.
func (g *Group) Snapshot() error {
	if err := g.raft.Snapshot().Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return fmt.Errorf("snapshot of the control group: %w", err)
	}
	return nil
}

// Close stops this node's member. The store stays open.
func (g *Group) Close() error {
	g.once.Do(func() { close(g.ended) })
	stopped := g.raft.Shutdown()
	// First, so that nothing waits for a node that does not answer.
	err := closeTransport(g.transport)
	if err := errors.Join(err, stopped.Error()); err != nil {
		return fmt.Errorf("close the control group: %w", err)
	}
	return nil
}

func closeTransport(t raft.Transport) error {
	if c, ok := t.(raft.WithClose); ok {
		return c.Close()
	}
	return nil
}
