package conductor

import (
	"cmp"
	"slices"

	"github.com/pheromone-run/pheromone/raft/control"
	"github.com/pheromone-run/pheromone/spec"
)

// step takes the next step of each shard towards its target.
func (p *planner) step() {
	for _, id := range p.ids {
		if !p.free(id) {
			continue
		}
		if a, ok := p.stepOf(id); ok {
			a.Shard = id
			p.add(a)
			if a.Kind == AddReplica {
				p.joins++
			}
		}
	}
}

// stepOf returns a shard's next step: first what brings the placement and the raft
// group into line, then what takes away what does no good, then what adds, and at
// last what removes what is replaced.
func (p *planner) stepOf(id spec.ShardID) (Action, bool) {
	for _, next := range []func(spec.ShardID) (Action, bool){
		p.catchUp, p.replaceLost, p.removeStray, p.join, p.giveUpJoin, p.extend, p.reduce,
	} {
		if a, ok := next(id); ok {
			return a, a.Kind != ""
		}
	}
	return Action{}, false
}

// wait stands for a step that can't be taken yet, and that others must not overtake.
var wait = Action{}

// catchUp writes into the placement what is so in the raft group already.
func (p *planner) catchUp(id spec.ShardID) (Action, bool) {
	s, m := p.placed(id), p.v.Shards[id].Members
	for _, n := range sorted(s.Replicas) {
		r := s.Replicas[n]
		voter, learner := slices.Contains(m.Voters, n), slices.Contains(m.Learners, n)
		switch {
		case slices.Contains(m.Removed, n), !r.Joining && !voter && !learner:
			if othersWhole(s, n) {
				return Action{Kind: ForgetReplica, Replica: n}, true
			}
		case r.Joining && voter && !p.v.lost(id, n, r.Node):
			return Action{Kind: MarkJoined, Replica: n}, true
		}
	}
	return Action{}, false
}

// othersWhole tells whether a replica is not the last one with the data.
func othersWhole(s control.Shard, number uint64) bool {
	for n, r := range s.Replicas {
		if n != number && !r.Joining {
			return true
		}
	}
	return false
}

// replaceLost takes replicas away whose data is lost: a new one takes their place,
// on their node if no other has fewer.
func (p *planner) replaceLost(id spec.ShardID) (Action, bool) {
	s, m := p.placed(id), p.v.Shards[id].Members
	for _, n := range sorted(s.Replicas) {
		r := s.Replicas[n]
		if !p.v.lost(id, n, r.Node) {
			continue
		}
		if !slices.Contains(m.Voters, n) && !slices.Contains(m.Learners, n) {
			if r.Joining || othersWhole(s, n) {
				return Action{Kind: ForgetReplica, Replica: n}, true
			}
			continue
		}
		if p.bearsRemoval(id, n) {
			return Action{Kind: RemoveReplica, Replica: n}, true
		}
	}
	return Action{}, false
}

// removeStray takes replicas out of the raft group that are not in the placement
// any more. One with a number that the placement has not given out yet is newer.
func (p *planner) removeStray(id spec.ShardID) (Action, bool) {
	s, m := p.placed(id), p.v.Shards[id].Members
	for _, n := range slices.Concat(m.Voters, m.Learners) {
		if _, ok := s.Replicas[n]; ok || n >= s.Next {
			continue
		}
		if n == p.v.Shards[id].Leader {
			return p.leave(id, n)
		}
		if p.bearsRemoval(id, n) {
			return Action{Kind: RemoveReplica, Replica: n}, true
		}
	}
	return Action{}, false
}

// join brings a replica that joins on. While there is one, nothing else changes.
func (p *planner) join(id spec.ShardID) (Action, bool) {
	s, m := p.placed(id), p.v.Shards[id].Members
	for _, n := range sorted(s.Replicas) {
		r := s.Replicas[n]
		switch {
		case !r.Joining || !p.target[id][r.Node] || slices.Contains(m.Voters, n):
			continue
		case !slices.Contains(m.Learners, n):
			if !p.v.live(r.Node) {
				return wait, true
			}
			return Action{Kind: AddLearner, Replica: n, Node: r.Node}, true
		case p.v.level(id, n, r.Node) && !p.awaitsBytes(id, n, r.Node):
			return Action{Kind: Promote, Replica: n, Node: r.Node}, true
		}
		return wait, true
	}
	return Action{}, false
}

// awaitsBytes tells whether a replica that joins should get bytes of large objects
// before it votes: with its vote a quorum may be of replicas that lack them. It waits
// for no bytes that may be nowhere any more, as when those that vote lack some, too.
func (p *planner) awaitsBytes(id spec.ShardID, number uint64, node string) bool {
	if said, _ := p.v.replica(id, number, node); !said.Lacks {
		return false
	}
	return slices.ContainsFunc(p.v.Shards[id].Members.Voters, func(n uint64) bool {
		on, _ := p.where(id, n)
		said, ok := p.v.replica(id, n, on)
		return ok && !said.Lost && !said.Lacks
	})
}

// giveUpJoin takes a replica away that joins where it is not wanted any more.
func (p *planner) giveUpJoin(id spec.ShardID) (Action, bool) {
	s, m := p.placed(id), p.v.Shards[id].Members
	for _, n := range sorted(s.Replicas) {
		r := s.Replicas[n]
		switch {
		case !r.Joining || p.target[id][r.Node] || slices.Contains(m.Voters, n):
			continue
		case slices.Contains(m.Learners, n):
			return Action{Kind: RemoveReplica, Replica: n}, true
		}
		return Action{Kind: ForgetReplica, Replica: n}, true
	}
	return Action{}, false
}

// extend adds a replica where one is missing.
func (p *planner) extend(id spec.ShardID) (Action, bool) {
	for _, node := range sorted(p.target[id]) {
		if _, ok := replicaOn(p.placed(id), node); ok {
			continue
		}
		if p.joins >= joinsMost {
			return wait, true
		}
		return Action{Kind: AddReplica, Node: node}, true
	}
	return Action{}, false
}

// reduce removes a replica that is not wanted any more, once enough others have the
// data and run. One on a live node may be the last that has the bytes of a large object
// which others lack, so it stays until they have them.
func (p *planner) reduce(id spec.ShardID) (Action, bool) {
	s, m := p.placed(id), p.v.Shards[id].Members
	sound, lack := 0, false
	for n, r := range s.Replicas {
		if p.target[id][r.Node] && !r.Joining && slices.Contains(m.Voters, n) && p.v.level(id, n, r.Node) {
			sound++
			said, _ := p.v.replica(id, n, r.Node)
			lack = lack || said.Lacks
		}
	}
	if sound < p.wanted {
		return Action{}, false
	}
	for _, n := range sorted(s.Replicas) {
		if p.target[id][s.Replicas[n].Node] {
			continue
		}
		if node := s.Replicas[n].Node; lack && p.v.live(node) && !p.v.lost(id, n, node) {
			continue
		}
		if n == p.v.Shards[id].Leader {
			return p.leave(id, n)
		}
		if p.bearsRemoval(id, n) {
			return Action{Kind: RemoveReplica, Replica: n}, true
		}
	}
	return Action{}, false
}

// bearsRemoval tells whether the raft group has a quorum of live voters without a
// replica.
func (p *planner) bearsRemoval(id spec.ShardID, number uint64) bool {
	voters, live := 0, 0
	for _, n := range p.v.Shards[id].Members.Voters {
		if n == number {
			continue
		}
		voters++
		if node, ok := p.where(id, n); ok && p.v.runs(id, n, node) {
			live++
		}
	}
	return live > voters/2
}

// leave hands the lead of a shard to a replica that stays.
func (p *planner) leave(id spec.ShardID, leader uint64) (Action, bool) {
	if p.v.Now.Sub(p.v.Moved[id]) < leadPause {
		return wait, true
	}
	var nodes []string
	numbers := map[string]uint64{}
	for n, r := range p.placed(id).Replicas {
		if n != leader && p.mayLead(id, n) {
			nodes = append(nodes, r.Node)
			numbers[r.Node] = n
		}
	}
	if len(nodes) == 0 {
		return wait, true
	}
	to := least(nodes, func(a, b string) int {
		return cmp.Or(cmp.Compare(p.leads[a], p.leads[b]), cmp.Compare(p.loads[a], p.loads[b]))
	})
	return p.transfer(id, numbers[to], to), true
}

// transfer hands the lead of a shard over.
func (p *planner) transfer(id spec.ShardID, number uint64, to string) Action {
	if from, ok := p.leader(id); ok {
		p.leads[from]--
		p.loads[from] -= p.v.Shards[id].Load
	}
	p.leads[to]++
	p.loads[to] += p.v.Shards[id].Load
	return Action{Kind: TransferLead, Shard: id, Replica: number, Node: to}
}
