package conductor

import (
	"context"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/raft/control"
	"github.com/pheromone-run/pheromone/raft/shard"
	"github.com/pheromone-run/pheromone/spec"
)

// memory is what a conductor knows of what was before. The next one begins without.
type memory struct {
	current  bool      // the state of the control group is known
	looked   time.Time // when the nodes were asked last
	nodes    map[string]Node
	strays   map[string]time.Time
	moved    map[spec.ShardID]time.Time
	movedAny time.Time
	resting  map[spec.ShardID]time.Time
	rests    map[spec.ShardID]time.Duration
}

func newMemory(now time.Time) *memory {
	return &memory{
		looked: now, nodes: map[string]Node{}, strays: map[string]time.Time{}, moved: map[spec.ShardID]time.Time{},
		movedAny: now, resting: map[spec.ShardID]time.Time{}, rests: map[spec.ShardID]time.Duration{},
	}
}

// Status is what a node says of itself.
type Status struct {
	Replicas []ReplicaStatus `json:"replicas"`
}

// ReplicaStatus is what a node says of a replica: one that runs, or whose data is
// lost.
type ReplicaStatus struct {
	Shard    spec.ShardID `json:"shard"`
	Replica  uint64       `json:"replica"`
	Lost     bool         `json:"lost,omitempty"`
	Lacks    bool         `json:"lacks,omitempty"`
	Applied  uint64       `json:"applied,omitempty"`
	RaftTerm uint64       `json:"raft_term,omitempty"`
	Load     float64      `json:"load,omitempty"`
	// Members are only told by the replica that leads, once it is sure of it.
	Members *shard.Members `json:"members,omitempty"`
}

// collect asks all members where they stand. The state is taken first: what the
// nodes say is never older than what it is compared with.
func (c *Conductor) collect(ctx context.Context, m *memory) View {
	state := c.control.State()
	answers := c.askAll(ctx, state.Members)
	v := View{
		Now: time.Now(), State: state, Nodes: make(map[string]Node, len(state.Members)), Shards: map[spec.ShardID]Shard{},
		Self: c.cfg.Node, Moved: m.moved, MovedAny: m.movedAny, Resting: m.resting, Settings: c.cfg.Settings,
	}
	if v.Now.Sub(m.looked) > stoodStill {
		m.nodes = map[string]Node{}
	}
	m.looked = v.Now
	terms := map[spec.ShardID]uint64{}
	for name := range state.Members {
		answer := answers[name]
		v.Nodes[name] = m.node(name, answer, v.Now, c.cfg.Settings.DeadAfter)
		if answer == nil {
			continue
		}
		for _, r := range answer.Replicas {
			if r.Members != nil && r.RaftTerm >= terms[r.Shard] {
				terms[r.Shard] = r.RaftTerm
				v.Shards[r.Shard] = Shard{Leader: r.Replica, Applied: r.Applied, Members: *r.Members, Load: r.Load}
			}
		}
	}
	m.nodes = v.Nodes
	v.Servers = c.serversNow(m, state, v.Now)
	return v
}

// askAll returns what the members say that answer in time.
func (c *Conductor) askAll(ctx context.Context, members map[string]control.Member) map[string]*Status {
	ctx, cancel := context.WithTimeout(ctx, statusWait)
	defer cancel()
	var all struct {
		sync.Mutex
		answers map[string]*Status
	}
	all.answers = make(map[string]*Status, len(members))
	turn := make(chan struct{}, asksMost)
	var asking sync.WaitGroup
	for name := range members {
		asking.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			status, err := c.ask(ctx, name)
			if err != nil {
				c.cfg.Log.Debug("a node does not say where it stands", "node", name, "reason", err)
				return
			}
			all.Lock()
			defer all.Unlock()
			all.answers[name] = status
		})
	}
	asking.Wait()
	return all.answers
}

func (c *Conductor) ask(ctx context.Context, node string) (*Status, error) {
	if node == c.cfg.Node {
		status := c.status(ctx)
		return &status, nil
	}
	status := new(Status)
	if err := c.cfg.Call(ctx, node, methodStatus, struct{}{}, status); err != nil {
		return nil, err
	}
	return status, nil
}

// node is what is known of a node after it was asked once more.
func (m *memory) node(name string, answer *Status, now time.Time, deadAfter time.Duration) Node {
	n, known := m.nodes[name]
	if !known {
		n.Seen = now
	}
	n.Replicas = nil
	if answer == nil {
		if now.Sub(n.Seen) >= deadAfter {
			n.Since = time.Time{}
		}
		return n
	}
	n.Seen = now
	if n.Since.IsZero() {
		n.Since = now
	}
	n.Replicas = make(map[spec.ShardID]Replica, len(answer.Replicas))
	for _, r := range answer.Replicas {
		n.Replicas[r.Shard] = Replica{Number: r.Replica, Applied: r.Applied, Lost: r.Lost, Lacks: r.Lacks}
	}
	return n
}

// serversNow are the servers of the control group, and how they are.
func (c *Conductor) serversNow(m *memory, state *control.State, now time.Time) []Server {
	strays := map[string]time.Time{}
	var servers []Server
	for _, s := range c.control.Servers() {
		server := Server{Server: s}
		server.Seen, _ = c.control.LastContact(s.Name)
		if _, member := state.Members[s.Name]; !member {
			server.Stray = now
			if since, ok := m.strays[s.Name]; ok {
				server.Stray = since
			}
			strays[s.Name] = server.Stray
		}
		servers = append(servers, server)
	}
	m.strays = strays
	return servers
}
