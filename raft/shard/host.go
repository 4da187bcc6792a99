package shard

import (
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// Host holds the shards of a node: their logs, connections and workers. A node
// has one.
type Host struct {
	cfg      HostConfig
	db       *store.DB
	node     *dragonboat.NodeHost
	registry *registry
	// transport is nil of a host without an address.
	transport *transport

	mu struct {
		sync.Mutex
		shards map[spec.ShardID]*Shard
		busy   map[spec.ShardID]*sync.Mutex // held while a shard is started or dropped
		closed bool
	}
}

// logShards is the number of log databases, each with its own stream of syncs,
// and of the workers before them. Shards of one worker share syncs. It can't be
// changed once there are logs.
const logShards = 2

// logMemTableBytes bounds a memtable of a log database; up to four exist. It is
// also the size of its log files, which are used again after the first round:
// overwriting a file needs no sync of the file system's journal, as growing one
// does, so the first round is better short.
const logMemTableBytes = 4 << 20

// snapshotWorkers is how many snapshots are made, sent and restored at a time, and how
// many replicas open at a time. A stream holds one also while it waits for a
// receiver that is cut off.
const snapshotWorkers = 4

// maxInMemLogBytes bounds the entries of a shard that are not applied yet; more
// are refused as busy.
const maxInMemLogBytes = 64 << 20

// Open makes the host of the store's node ready to start shards. The store must
// stay open until the host is closed.
func Open(cfg HostConfig, db *store.DB) (*Host, error) {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, spec.Errorf(spec.CodeInvalid, "shard host: %w", err)
	}
	if err := prepareFolder(cfg.Dir, db); err != nil {
		return nil, fmt.Errorf("shard host: %w", err)
	}
	routeRaftLog(cfg.Log)
	h := &Host{cfg: cfg, db: db, registry: newRegistry()}
	h.mu.shards = make(map[spec.ShardID]*Shard)
	h.mu.busy = make(map[spec.ShardID]*sync.Mutex)
	node, err := openNode(h.nodeConfig())
	if err != nil {
		return nil, fmt.Errorf("shard host: open the raft logs in %s: %w", cfg.Dir, err)
	}
	h.node = node
	raftFatal.Store(&h.cfg.Fatal)
	if err := h.finishDrops(); err != nil {
		return nil, errors.Join(fmt.Errorf("shard host: %w", err), h.Close())
	}
	return h, nil
}

// openNode turns dragonboat's panics about what it finds on disk into errors.
func openNode(cfg config.NodeHostConfig) (node *dragonboat.NodeHost, err error) {
	err = guarded(func() (err error) {
		node, err = dragonboat.NewNodeHost(cfg)
		return err
	})
	if node == nil && err == nil {
		err = errors.New("damaged: dragonboat gave up without a reason")
	}
	return node, err
}

func (h *Host) nodeConfig() config.NodeHostConfig {
	logs := config.GetTinyMemLogDBConfig()
	logs.Shards = logShards
	logs.KVWriteBufferSize = logMemTableBytes
	c := config.NodeHostConfig{
		DeploymentID:      deploymentID,
		NodeHostDir:       h.cfg.Dir,
		RTTMillisecond:    uint64(max(h.cfg.RTT/time.Millisecond, 1)),
		RaftAddress:       h.cfg.Address,
		RaftEventListener: leaderEvents{h},
		Expert: config.ExpertConfig{
			LogDB: logs,
			Engine: config.EngineConfig{
				ExecShards: logShards, CommitShards: 2, ApplyShards: 2, SnapshotShards: snapshotWorkers, CloseShards: 2,
			},
			NodeRegistryFactory: h.registry,
		},
	}
	if h.cfg.Address == "" {
		c.RaftAddress = "none"
		c.Expert.TransportFactory = noTransport{}
		return c
	}
	c.Expert.TransportFactory = transportFactory{network: h.cfg.Network, log: h.cfg.Log, host: h}
	return c
}

// Start starts this node's replica of a shard. members are the shard's replicas
// and where they are, this one included. The first start of all of them makes
// the shard, and then they must be the same on every host; later ones only tell
// the addresses.
func (h *Host) Start(id spec.ShardID, replica uint64, members map[uint64]string) (*Shard, error) {
	if _, ok := members[replica]; !ok {
		return nil, spec.Errorf(spec.CodeInvalid, "start shard %d: replica %d is not among its members", id, replica)
	}
	return h.start(id, replica, members, false)
}

// Join starts a learner that was added to a running shard (Shard.AddReplica).
// members are the replicas that it can learn from. Once it is promoted it is
// started with Start.
func (h *Host) Join(id spec.ShardID, replica uint64, members map[uint64]string) (*Shard, error) {
	return h.start(id, replica, members, true)
}

func (h *Host) start(id spec.ShardID, replica uint64, members map[uint64]string, join bool) (*Shard, error) {
	if id == 0 || replica == 0 {
		return nil, spec.Errorf(spec.CodeInvalid, "start shard %d, replica %d: both are counted from 1", id, replica)
	}
	if h.cfg.Address == "" && (join || len(members) > 1) {
		return nil, spec.Errorf(spec.CodeInvalid, "start shard %d: it has several members and this host has no address", id)
	}
	defer h.lockShard(id)()
	r, known, err := h.admit(id, replica)
	if err != nil {
		return nil, err
	}
	for member, address := range members {
		h.registry.set(uint64(id), member, address)
	}
	s := newShard(h, id, replica)
	// A replica that joined has its time as a learner in its log, and dragonboat
	// goes through that again: it gets its vote where the log says so.
	s.sole, s.learner = len(members) == 1 && !join, join || known && r.Joined
	if err := h.register(s); err != nil {
		return nil, err
	}
	initial := make(map[uint64]dragonboat.Target)
	if !known && !join {
		for member := range maps.Keys(members) {
			initial[member] = target(member)
		}
	}
	if err := s.launch(initial, join && !known); err != nil {
		h.forget(s)
		return nil, err
	}
	if holds := (record{Replica: replica, Joined: s.learner, State: stateHeld}); r != holds {
		if err := h.writeRecord(id, holds); err != nil {
			return nil, errors.Join(err, s.Close())
		}
	}
	return s, nil
}

// lockShard keeps others from starting or dropping replicas of the shard.
func (h *Host) lockShard(id spec.ShardID) (unlock func()) {
	h.mu.Lock()
	busy := h.mu.busy[id]
	if busy == nil {
		busy = &sync.Mutex{}
		h.mu.busy[id] = busy
	}
	h.mu.Unlock()
	busy.Lock()
	return busy.Unlock
}

func (h *Host) register(s *Shard) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.closed {
		return fmt.Errorf("start shard %d: %w", s.id, errClosed)
	}
	if h.mu.shards[s.id] != nil {
		return spec.Errorf(spec.CodeConflict, "start shard %d: it runs already", s.id)
	}
	h.mu.shards[s.id] = s
	return nil
}

// has tells whether a replica of a shard runs here.
func (h *Host) has(id spec.ShardID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mu.shards[id] != nil
}

func (h *Host) forget(s *Shard) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.mu.shards, s.id)
}

var errClosed = errors.New("the host is closed")

// Close stops all shards and waits until their terms have reported everything.
// Calls that wait return with an error. The store stays open.
func (h *Host) Close() error {
	h.mu.Lock()
	if h.mu.closed {
		h.mu.Unlock()
		return nil
	}
	h.mu.closed = true
	shards := maps.Clone(h.mu.shards)
	h.mu.Unlock()
	for _, s := range shards {
		s.release()
	}
	raftFatal.CompareAndSwap(&h.cfg.Fatal, nil)
	err := guarded(func() error { h.node.Close(); return nil })
	if err != nil {
		return fmt.Errorf("close the shard host: %w", err)
	}
	for _, s := range shards {
		s.waitTerm()
	}
	return nil
}

// leaderEvents gets dragonboat's news about leaders, on one goroutine for all
// shards, which must not be kept waiting.
type leaderEvents struct{ host *Host }

var _ raftio.IRaftEventListener = leaderEvents{}

func (e leaderEvents) LeaderUpdated(info raftio.LeaderInfo) {
	e.host.mu.Lock()
	s := e.host.mu.shards[spec.ShardID(info.ShardID)]
	e.host.mu.Unlock()
	if s != nil && s.replica == info.ReplicaID {
		s.leaderIs(info.LeaderID, info.Term)
	}
}
