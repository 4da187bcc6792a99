package conductor

import (
	"cmp"
	"slices"

	"github.com/pheromone-run/pheromone/raft/control"
	"github.com/pheromone-run/pheromone/spec"
)

// aim finds the nodes that each shard is to be on, from where it is. What is on its
// way already, a replica that joins or one too many, is part of where it is, so the
// aim of the next plan is the same.
func (p *planner) aim() {
	for _, id := range p.ids {
		p.target[id] = map[string]bool{}
		for _, r := range p.placed(id).Replicas {
			if p.keeps(r) {
				p.target[id][r.Node] = true
				p.counts[r.Node]++
			}
		}
	}
	for _, id := range p.ids {
		for len(p.target[id]) > p.wanted {
			p.drop(id)
		}
	}
	for _, id := range p.ids {
		for len(p.target[id]) < p.wanted && p.fill(id) {
		}
	}
	if p.v.State.Settings[RebalanceKey] != "" {
		p.rebalance()
	}
}

// keeps tells whether a replica may stay where it is.
func (p *planner) keeps(r control.Replica) bool {
	return p.good(r.Node) && (!r.Joining || p.v.live(r.Node) || p.v.silent(r.Node) < joinPatience)
}

// drop takes a node off a shard that has too many: one that does not live, or the
// one with the most replicas. Of equal ones it is one that joins, and does not lead.
func (p *planner) drop(id spec.ShardID) {
	leader, _ := p.leader(id)
	joining := map[string]bool{}
	for _, r := range p.placed(id).Replicas {
		joining[r.Node] = r.Joining
	}
	node := least(sorted(p.target[id]), func(a, b string) int {
		return cmp.Or(
			first(!p.v.live(a), !p.v.live(b)),
			cmp.Compare(p.counts[b], p.counts[a]),
			first(joining[a], joining[b]),
			first(a != leader, b != leader),
		)
	})
	delete(p.target[id], node)
	p.counts[node]--
}

// first orders what is so before what is not.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

// fill adds the node with the fewest replicas to a shard that has too few.
func (p *planner) fill(id spec.ShardID) bool {
	var candidates []string
	for _, node := range p.takers() {
		_, there := replicaOn(p.placed(id), node)
		if !there && !p.target[id][node] {
			candidates = append(candidates, node)
		}
	}
	if len(candidates) == 0 {
		return false
	}
	node := least(candidates, func(a, b string) int { return cmp.Compare(p.counts[a], p.counts[b]) })
	p.target[id][node] = true
	p.counts[node]++
	return true
}

// takers are the nodes that replicas may be added to.
func (p *planner) takers() []string {
	var nodes []string
	for _, node := range sorted(p.v.State.Members) {
		if p.good(node) && p.v.live(node) {
			nodes = append(nodes, node)
		}
	}
	return nodes
}

func replicaOn(s control.Shard, node string) (number uint64, ok bool) {
	for n, r := range s.Replicas {
		if r.Node == node {
			return n, true
		}
	}
	return 0, false
}

// rebalance evens replicas out. It ends when no node has two more than another.
func (p *planner) rebalance() {
	nodes := p.takers()
	if len(nodes) == 0 {
		return
	}
	for {
		count := func(a, b string) int { return cmp.Compare(p.counts[a], p.counts[b]) }
		from, to := least(nodes, func(a, b string) int { return count(b, a) }), least(nodes, count)
		if p.counts[from]-p.counts[to] < 2 {
			break
		}
		if !p.move(from, to) {
			return
		}
	}
	p.rebalanced = true
	for node, m := range p.v.State.Members {
		p.rebalanced = p.rebalanced && (m.Draining || slices.Contains(nodes, node))
	}
	for _, id := range p.ids {
		p.rebalanced = p.rebalanced && p.settled(id)
	}
}

// move has a shard go from one node to another, rather one that the first does not
// lead.
func (p *planner) move(from, to string) bool {
	var best spec.ShardID
	for _, id := range p.ids {
		_, there := replicaOn(p.placed(id), to)
		if !p.target[id][from] || there || p.target[id][to] || !p.settled(id) {
			continue
		}
		leader, _ := p.leader(id)
		if leader != from {
			best = id
			break
		}
		best = cmp.Or(best, id)
	}
	if best == 0 {
		return false
	}
	delete(p.target[best], from)
	p.target[best][to] = true
	p.counts[from]--
	p.counts[to]++
	return true
}

// settled tells whether a shard is where it is wanted, whole and alive.
func (p *planner) settled(id spec.ShardID) bool {
	_, known := p.v.Shards[id]
	s := p.placed(id)
	for n, r := range s.Replicas {
		known = known && !r.Joining && p.v.runs(id, n, r.Node)
	}
	return known && len(s.Replicas) == p.wanted
}
