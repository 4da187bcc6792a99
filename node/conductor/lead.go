package conductor

import (
	"cmp"
	"math"
	"slices"

	"github.com/pheromone-run/pheromone/spec"
)

// mayLead tells whether a replica stays and could lead its shard at once.
func (p *planner) mayLead(id spec.ShardID, number uint64) bool {
	r := p.placed(id).Replicas[number]
	return p.target[id][r.Node] && !r.Joining && p.v.live(r.Node) &&
		slices.Contains(p.v.Shards[id].Members.Voters, number) && p.v.level(id, number, r.Node)
}

// evacuate takes the lead from nodes that are drained, before their replicas go.
func (p *planner) evacuate() {
	for _, id := range p.ids {
		node, ok := p.leader(id)
		if !ok || !p.free(id) {
			continue
		}
		if m, member := p.v.State.Members[node]; member && !m.Draining {
			continue
		}
		if a, ok := p.leave(id, p.v.Shards[id].Leader); ok && a.Kind != "" {
			p.add(a)
		}
	}
}

// spread moves the lead of one shard, if a node leads two more than another could.
// Where no shard can go from the one to the other at once, the last of those that
// make room for each other goes first.
func (p *planner) spread() {
	if p.v.Now.Sub(p.v.MovedAny) < leadPause || slices.ContainsFunc(p.actions, func(a Action) bool { return a.Kind == TransferLead }) {
		return
	}
	nodes := p.takers()
	slices.SortStableFunc(nodes, func(a, b string) int {
		return cmp.Or(cmp.Compare(p.leads[b], p.leads[a]), cmp.Compare(p.loads[b], p.loads[a]))
	})
	for _, from := range nodes {
		if via, to, ok := p.path(from); ok {
			p.relieve(via, to)
			return
		}
	}
}

// path finds a way to a node that leads at least two fewer than from, the shortest
// one, and its last two nodes.
func (p *planner) path(from string) (via, to string, ok bool) {
	seen := map[string]bool{from: true}
	for front := []string{from}; len(front) > 0; {
		var next []string
		before := map[string]string{}
		for _, node := range front {
			for _, other := range p.relief(node) {
				if !seen[other] {
					seen[other] = true
					next = append(next, other)
					before[other] = node
				}
			}
		}
		if len(next) > 0 {
			best := least(next, func(a, b string) int {
				return cmp.Or(cmp.Compare(p.leads[a], p.leads[b]), cmp.Compare(p.loads[a], p.loads[b]))
			})
			if p.leads[from]-p.leads[best] >= 2 {
				return before[best], best, true
			}
		}
		front = next
	}
	return "", "", false
}

// relief lists the nodes that could lead one of the shards that a node leads.
func (p *planner) relief(node string) []string {
	var nodes []string
	for _, to := range p.takers() {
		if to != node && len(p.movable(node, to)) > 0 {
			nodes = append(nodes, to)
		}
	}
	return nodes
}

// movable lists the shards whose lead could move from one node to another now.
func (p *planner) movable(from, to string) []spec.ShardID {
	if p.v.Now.Sub(p.v.Nodes[to].Since) < leadPause {
		return nil
	}
	var ids []spec.ShardID
	for _, id := range p.ids {
		leader, ok := p.leader(id)
		if !ok || leader != from || !p.free(id) || p.v.Now.Sub(p.v.Moved[id]) < leadPause {
			continue
		}
		if n, there := replicaOn(p.placed(id), to); there && p.mayLead(id, n) {
			ids = append(ids, id)
		}
	}
	return ids
}

// relieve moves the shard that leaves the two nodes' loads most alike.
func (p *planner) relieve(from, to string) {
	best, least := spec.ShardID(0), math.Inf(1)
	for _, id := range p.movable(from, to) {
		load := p.v.Shards[id].Load
		if apart := math.Abs(p.loads[from] - p.loads[to] - 2*load); best == 0 || apart < least {
			best, least = id, apart
		}
	}
	n, _ := replicaOn(p.placed(best), to)
	p.add(p.transfer(best, n, to))
}
