package control

import (
	"encoding/json"
	"fmt"

	"github.com/pheromone-run/pheromone/spec"
)

// Placement says where everything is. It is empty until InitPlacement.
type Placement struct {
	// Slots maps each slot to the shard that owns it: spec.Slots of them, or none.
	Slots  []spec.ShardID         `json:"slots,omitempty"`
	Shards map[spec.ShardID]Shard `json:"shards,omitempty"`
}

// Shard is where a shard's replicas are, by number: each on a node of its own.
type Shard struct {
	Replicas map[uint64]Replica `json:"replicas"`
	// Next is the number of the next replica. None is ever given out twice, because
	// a raft group never takes back a replica that was removed from it.
	Next uint64 `json:"next"`
}

// Replica is where one replica of a shard is.
type Replica struct {
	Node string `json:"node"`
	// Joining says that it is not known yet to have all of the shard's data.
	Joining bool `json:"joining,omitempty"`
}

// defaultReplicas is how many replicas of a shard there are.
const defaultReplicas = 3

// maxReplicas bounds the replicas of a shard, those that join included.
const maxReplicas = 9

// UnmarshalJSON also reads a replica as versions for one node wrote it: the name
// of the node alone.
func (r *Replica) UnmarshalJSON(b []byte) error {
	*r = Replica{}
	if len(b) > 0 && b[0] == '"' {
		return json.Unmarshal(b, &r.Node)
	}
	type plain Replica
	return decodeStrict(b, (*plain)(r))
}

// UnmarshalJSON also reads a shard as versions for one node wrote it: without
// Next.
func (s *Shard) UnmarshalJSON(b []byte) error {
	*s = Shard{}
	type plain Shard
	if err := decodeStrict(b, (*plain)(s)); err != nil {
		return err
	}
	if s.Next == 0 {
		for n := range s.Replicas {
			s.Next = max(s.Next, n)
		}
		s.Next++
	}
	return nil
}

// ShardOf returns the shard that owns a slot, 0 before there is a placement.
func (p Placement) ShardOf(slot spec.Slot) spec.ShardID {
	if int(slot) >= len(p.Slots) {
		return 0
	}
	return p.Slots[slot]
}

// on returns the number of a shard's replica on a node.
func (s Shard) on(node string) (number uint64, ok bool) {
	for n, r := range s.Replicas {
		if r.Node == node {
			return n, true
		}
	}
	return 0, false
}

// check looks for what would lead two replicas to one place.
func (p Placement) check() error {
	if n := len(p.Slots); n != 0 && n != spec.Slots {
		return fmt.Errorf("the placement has %d slots, not %d", n, spec.Slots)
	}
	for slot, id := range p.Slots {
		if _, ok := p.Shards[id]; !ok {
			return fmt.Errorf("slot %d is of shard %d, which is nowhere", slot, id)
		}
	}
	for id, s := range p.Shards {
		if len(s.Replicas) == 0 {
			return fmt.Errorf("shard %d has no replica", id)
		}
		nodes := make(map[string]bool, len(s.Replicas))
		for n, r := range s.Replicas {
			if n == 0 || n >= s.Next || r.Node == "" || nodes[r.Node] {
				return fmt.Errorf("replica %d of shard %d on node %.80q can't be", n, id, r.Node)
			}
			nodes[r.Node] = true
		}
	}
	return nil
}

func (s *State) initPlacement(c *InitPlacement, r *Result) error {
	if len(s.Placement.Slots) > 0 {
		return nil
	}
	if c.Shards < 1 || c.Shards > maxShards {
		return spec.Errorf(spec.CodeInvalid, "%d shards: 1 to %d are possible", c.Shards, maxShards).WithField("shards")
	}
	if c.Replicas < 0 || c.Replicas > maxReplicas {
		return spec.Errorf(spec.CodeInvalid, "%d replicas: 1 to %d are possible", c.Replicas, maxReplicas).WithField("replicas")
	}
	if err := s.checkNodes(c.Nodes); err != nil {
		return err
	}
	replicas := c.Replicas
	if replicas == 0 {
		replicas = defaultReplicas
	}
	p := Placement{Slots: make([]spec.ShardID, spec.Slots), Shards: make(map[spec.ShardID]Shard, c.Shards)}
	for slot := range p.Slots {
		p.Slots[slot] = spec.ShardID(1 + slot*c.Shards/spec.Slots)
	}
	for i := range c.Shards {
		shard := Shard{Replicas: make(map[uint64]Replica), Next: 1}
		for n := range min(replicas, len(c.Nodes)) {
			shard.Replicas[shard.Next] = Replica{Node: c.Nodes[(i+n)%len(c.Nodes)]}
			shard.Next++
		}
		p.Shards[spec.ShardID(i+1)] = shard
	}
	s.Placement = p
	r.Changed = true
	return nil
}

// checkNodes refuses nodes that shards can't be placed on. A group that has no
// members yet is one of a node alone.
func (s *State) checkNodes(nodes []string) error {
	if len(nodes) < 1 || len(nodes) > maxMembers {
		return spec.Errorf(spec.CodeInvalid, "shards on %d nodes: 1 to %d are possible", len(nodes), maxMembers).WithField("nodes")
	}
	seen := make(map[string]bool, len(nodes))
	for _, node := range nodes {
		if node == "" || seen[node] {
			return spec.Errorf(spec.CodeInvalid, "node %q is named twice, or not at all", node).WithField("nodes")
		}
		seen[node] = true
		if _, ok := s.Members[node]; !ok && len(s.Members) > 0 {
			return noMember(node).WithField("nodes")
		}
	}
	return nil
}

func (s *State) addReplica(c *AddReplica, r *Result) error {
	shard, err := s.shard(c.Shard)
	if err != nil {
		return err
	}
	switch m, ok := s.Members[c.Node]; {
	case !ok:
		return noMember(c.Node).WithField("node")
	case m.Draining:
		return spec.Errorf(spec.CodePrecondition, "node %s is drained: it takes no more replicas", c.Node).WithField("node")
	}
	if n, ok := shard.on(c.Node); ok {
		if !shard.Replicas[n].Joining {
			return spec.Errorf(spec.CodeConflict, "shard %d has replica %d on node %s already", c.Shard, n, c.Node).WithField("node")
		}
		r.Replica = n
		return nil
	}
	if len(shard.Replicas) >= maxReplicas {
		return spec.Errorf(spec.CodeConflict, "shard %d has %d replicas, more are not possible", c.Shard, len(shard.Replicas))
	}
	r.Replica = shard.Next
	shard.Replicas = cloned(shard.Replicas)
	shard.Replicas[shard.Next] = Replica{Node: c.Node, Joining: true}
	shard.Next++
	s.putShard(c.Shard, shard, r)
	return nil
}

func (s *State) replicaJoined(c *ReplicaJoined, r *Result) error {
	shard, err := s.shard(c.Shard)
	if err != nil {
		return err
	}
	replica, ok := shard.Replicas[c.Replica]
	if !ok {
		return spec.Errorf(spec.CodeNotFound, "shard %d has no replica %d", c.Shard, c.Replica).WithField("replica")
	}
	r.Replica = c.Replica
	if !replica.Joining {
		return nil
	}
	replica.Joining = false
	shard.Replicas = cloned(shard.Replicas)
	shard.Replicas[c.Replica] = replica
	s.putShard(c.Shard, shard, r)
	return nil
}

func (s *State) removeReplica(c *RemoveReplica, r *Result) error {
	shard, err := s.shard(c.Shard)
	if err != nil {
		return err
	}
	if c.Replica == 0 || c.Replica >= shard.Next {
		return spec.Errorf(spec.CodeNotFound, "shard %d never had a replica %d", c.Shard, c.Replica).WithField("replica")
	}
	r.Replica = c.Replica
	if _, ok := shard.Replicas[c.Replica]; !ok {
		return nil
	}
	shard.Replicas = cloned(shard.Replicas)
	delete(shard.Replicas, c.Replica)
	whole := 0
	for _, other := range shard.Replicas {
		if !other.Joining {
			whole++
		}
	}
	if whole == 0 {
		return spec.Errorf(spec.CodeConflict, "replica %d is the last one with the data of shard %d", c.Replica, c.Shard).
			WithField("replica").WithHint("add another and wait until it has joined")
	}
	s.putShard(c.Shard, shard, r)
	return nil
}

func (s *State) shard(id spec.ShardID) (Shard, error) {
	shard, ok := s.Placement.Shards[id]
	if !ok {
		return Shard{}, spec.Errorf(spec.CodeNotFound, "there is no shard %d", id).WithField("shard")
	}
	return shard, nil
}

func (s *State) putShard(id spec.ShardID, shard Shard, r *Result) {
	s.Placement.Shards = cloned(s.Placement.Shards)
	s.Placement.Shards[id] = shard
	r.Changed = true
}
