package node

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/node/peer"
	"github.com/pheromone-run/pheromone/raft/control"
	"github.com/pheromone-run/pheromone/raft/shard"
	"github.com/pheromone-run/pheromone/spec"
)

// local is a replica that is on this node, with the leader that works whenever it
// is elected.
type local struct {
	id      spec.ShardID
	number  uint64
	joining bool // it may lack what was written before it came
	replica *shard.Shard
	leader  *leader.Leader
	cancel  context.CancelFunc
	ended   chan struct{} // closed when the leader has stopped
}

// locals are the replicas on this node. They follow the placement.
type locals struct {
	all atomic.Pointer[map[spec.ShardID]*local] // never changed, only replaced

	mu   sync.Mutex
	lost map[spec.ShardID]uint64 // replicas placed here whose data is gone
}

func (l *locals) lose(id spec.ShardID, number uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost == nil {
		l.lost = make(map[spec.ShardID]uint64)
	}
	l.lost[id] = number
}

func (l *locals) isLost(id spec.ShardID, number uint64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost[id] == number && number != 0
}

// local returns the replica of a shard that is on this node, nil if there is none.
func (n *Node) local(id spec.ShardID) *local { return (*n.locals.all.Load())[id] }

// localShards returns the replicas on this node in the order of their shards.
func (n *Node) localShards() []*local {
	all := *n.locals.all.Load()
	list := make([]*local, 0, len(all))
	for _, id := range slices.Sorted(maps.Keys(all)) {
		list = append(list, all[id])
	}
	return list
}

// replaceLocal changes what local answers; only startShards and followPlacement do.
func (n *Node) replaceLocal(id spec.ShardID, l *local) {
	all := maps.Clone(*n.locals.all.Load())
	if l == nil {
		delete(all, id)
	} else {
		all[id] = l
	}
	n.locals.all.Store(&all)
}

// shardIDs lists the shards of the cluster.
func (n *Node) shardIDs() []spec.ShardID { return sortedShards(n.control.State().Placement.Shards) }

// startShards opens the raft logs and starts the replicas that are placed here.
func (n *Node) startShards() error {
	cfg := shard.HostConfig{Dir: n.path(raftFolder), Log: n.cfg.Log, Fatal: n.fatal}
	if n.network != nil {
		cfg.Address = n.cfg.PeerAdvertise
		cfg.Network = n.network.On(peer.Shards)
		cfg.RTT, cfg.ElectionTicks = n.cfg.RaftRTT, n.cfg.RaftElection
	}
	var err error
	if n.host, err = shard.Open(cfg, n.db); err != nil {
		return fmt.Errorf("open the raft logs: %w", err)
	}
	if err := n.reconcile(); err != nil {
		return err
	}
	// Mail between shards needs all of them to be known before the first one leads.
	for _, l := range n.localShards() {
		n.lead(l)
	}
	return nil
}

// reconcile starts the replicas that are placed here and not running, and ends
// those that are not placed here any more. It does not have them led.
func (n *Node) reconcile() error {
	state := n.control.State()
	held, err := n.host.Held()
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range sortedShards(state.Placement.Shards) {
		placed := state.Placement.Shards[id]
		number, here := replicaOn(placed, n.cfg.Name)
		l := n.local(id)
		if old, has := held[id]; has && (!here || old != number) {
			if err := n.end(id, old); err != nil {
				errs = append(errs, err)
				continue
			}
			l = nil
		}
		switch {
		case !here || n.locals.isLost(id, number):
		case l == nil && n.network != nil && held[id] != number && !canStart(placed, number, n.founded()):
			n.cfg.Log.Error("a replica was never started here, and the shard has changed its members since; a new one is to take its place",
				"shard", uint64(id), "replica", number)
			n.locals.lose(id, number)
		case l == nil:
			errs = append(errs, n.begin(id, number, placed, state))
		default:
			n.addresses(id, placed, state)
			if l.joining && !placed.Replicas[number].Joining {
				joined := *l
				joined.joining = false
				n.replaceLocal(id, &joined)
			}
		}
	}
	return errors.Join(errs...)
}

func replicaOn(s control.Shard, node string) (number uint64, ok bool) {
	for number, r := range s.Replicas {
		if r.Node == node {
			return number, true
		}
	}
	return 0, false
}

// canStart tells whether a replica of which nothing is here can be started. One that
// did not join makes the shard, as its other first replicas did, so those in the
// placement must be the first ones still: with others it would have another log.
func canStart(placed control.Shard, number uint64, founded int) bool {
	first := len(placed.Replicas) == founded && placed.Next == uint64(founded)+1
	return placed.Replicas[number].Joining || first || founded == 0
}

// founded is with how many replicas each shard began, 0 if that is not known here.
func (n *Node) founded() int {
	f := n.record.Identity().Founding
	if f == nil { // only founders have replicas that did not join, and they know
		return 0
	}
	return min(f.Replicas, len(f.Nodes))
}

// members tells where the replicas of a shard are.
func (n *Node) members(placed control.Shard, state *control.State) map[uint64]string {
	members := map[uint64]string{}
	for number, r := range placed.Replicas {
		members[number] = state.Members[r.Node].Address
	}
	return members
}

// addresses tells the raft group where its replicas are now.
func (n *Node) addresses(id spec.ShardID, placed control.Shard, state *control.State) {
	for number, address := range n.members(placed, state) {
		n.host.SetAddress(id, number, address)
	}
}

// begin starts a replica.
func (n *Node) begin(id spec.ShardID, number uint64, placed control.Shard, state *control.State) error {
	members := n.members(placed, state)
	joining := placed.Replicas[number].Joining
	start := n.host.Start
	if joining {
		delete(members, number)
		start = n.host.Join
	}
	s, err := start(id, number, members)
	if errors.Is(err, shard.ErrLost) && n.network != nil {
		n.cfg.Log.Error("a replica can't go on with what is left of its data; the other replicas have the shard, and a new one is to take its place",
			"shard", uint64(id), "replica", number, "reason", err)
		n.locals.lose(id, number)
		return nil
	}
	if err != nil {
		return err
	}
	leads := leader.New(leader.Config{
		Shard: id, DB: n.db, Replica: s, Apps: n, Router: n, Copies: n.copies(),
		Runtime: n.executors(), Tell: n.logs.Append, Now: n.cfg.Now, Log: n.cfg.Log,
	})
	s.BeforeTransfer(leads.Firm)
	n.replaceLocal(id, &local{id: id, number: number, joining: joining, replica: s, leader: leads, ended: make(chan struct{})})
	return nil
}

// lead has a replica's leader work until the replica ends.
func (n *Node) lead(l *local) {
	ctx, cancel := context.WithCancel(n.ctx)
	l.cancel = cancel
	if !n.tasks.Go(func() {
		defer close(l.ended)
		if err := l.leader.Run(ctx); err != nil && ctx.Err() == nil {
			n.fatal(err)
		}
	}) {
		close(l.ended)
	}
}

// end stops a replica that is not placed here any more, and removes what it has.
func (n *Node) end(id spec.ShardID, number uint64) error {
	if l := n.local(id); l != nil && l.number == number {
		n.replaceLocal(id, nil)
		if l.cancel != nil {
			l.cancel()
			<-l.ended
		}
	}
	if err := n.host.Drop(id, number); err != nil {
		return fmt.Errorf("drop replica %d of shard %d: %w", number, id, err)
	}
	n.cfg.Log.Info("a replica was dropped that is not placed here any more", "shard", uint64(id), "replica", number)
	return nil
}

// reconcileAgain is how long a placement that could not be followed is left alone.
const reconcileAgain = time.Second

// followPlacement keeps the replicas here as the placement has them.
func (n *Node) followPlacement() {
	for {
		changed := n.control.Changed()
		running := *n.locals.all.Load()
		var again <-chan time.Time
		if err := n.reconcile(); err != nil && n.ctx.Err() == nil {
			n.cfg.Log.Warn("the placement is not followed yet and tried again", "error", err)
			again = time.After(reconcileAgain)
		}
		for _, l := range n.localShards() {
			if old := running[l.id]; old == nil || old.number != l.number {
				n.lead(l)
			}
		}
		select {
		case <-changed:
		case <-again:
		case <-n.ctx.Done():
			return
		}
	}
}

// hints remembers which node led a shard that has no replica here.
type hints struct {
	mu    sync.Mutex
	nodes map[spec.ShardID]string
}

func (h *hints) get(id spec.ShardID) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.nodes[id]
}

func (h *hints) set(id spec.ShardID, node string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.nodes == nil {
		h.nodes = map[spec.ShardID]string{}
	}
	h.nodes[id] = node
}

func sortedShards(placed map[spec.ShardID]control.Shard) []spec.ShardID {
	return slices.Sorted(maps.Keys(placed))
}
