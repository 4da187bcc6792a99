package conductor

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/pheromone-run/pheromone/raft/control"
	"github.com/pheromone-run/pheromone/spec"
)

// RebalanceKey is the setting of the control group that asks for replicas to be
// evened out. Its value is when that was asked for.
const RebalanceKey = "rebalance"

// ReplicasKey is the setting of the control group that tells how many replicas a
// shard has: all nodes that come to conduct must want the same.
const ReplicasKey = "replicas"

// Plan returns the next steps: at most one of each shard, and few in all. It
// depends on the view alone. Steps that do not rest on each other may be carried
// out at once, and each one may fail or be lost: the next plan takes what is there.
func Plan(v View) []Action {
	v.Settings = v.Settings.withDefaults()
	if v.State == nil || len(v.State.Members) == 0 {
		return nil
	}
	p := newPlanner(&v)
	p.aim()
	p.step()
	p.evacuate()
	p.spread()
	actions := p.actions
	if a, ok := p.servers(); ok {
		actions = append(actions, a)
	}
	if p.rebalanced && len(actions) == 0 {
		actions = append(actions, Action{Kind: EndRebalance})
	}
	return actions
}

// planner is a plan in the making.
type planner struct {
	v      *View
	ids    []spec.ShardID
	wanted int // replicas of each shard
	joins  int // replicas that join
	// target are the nodes that each shard is to be on.
	target map[spec.ShardID]map[string]bool
	// counts are the replicas that each node has by target, leads the shards that it
	// leads, and loads what these have to do.
	counts, leads map[string]int
	loads         map[string]float64
	rebalanced    bool // was asked for and is done
	busy          map[spec.ShardID]bool
	actions       []Action
}

func newPlanner(v *View) *planner {
	p := &planner{
		v: v, ids: sorted(v.State.Placement.Shards),
		target: map[spec.ShardID]map[string]bool{},
		counts: map[string]int{}, leads: map[string]int{}, loads: map[string]float64{},
		busy: map[spec.ShardID]bool{},
	}
	for _, m := range v.State.Members {
		if !m.Draining {
			p.wanted++
		}
	}
	p.wanted = max(1, min(replicas(v), p.wanted))
	for _, id := range p.ids {
		for _, r := range v.State.Placement.Shards[id].Replicas {
			if r.Joining {
				p.joins++
			}
		}
		if node, ok := p.leader(id); ok {
			p.leads[node]++
			p.loads[node] += v.Shards[id].Load
		}
	}
	return p
}

// replicas is how many a shard has if there are as many nodes.
func replicas(v *View) int {
	if n, err := strconv.Atoi(v.State.Settings[ReplicasKey]); err == nil && n >= 1 && n <= replicasMost {
		return n
	}
	return v.Settings.Replicas
}

// placed is a shard's placement.
func (p *planner) placed(id spec.ShardID) control.Shard { return p.v.State.Placement.Shards[id] }

// leader returns the node that leads a shard.
func (p *planner) leader(id spec.ShardID) (string, bool) {
	s, ok := p.v.Shards[id]
	if !ok {
		return "", false
	}
	return p.where(id, s.Leader)
}

// where returns the node of a replica, of one that is not in the placement, too.
func (p *planner) where(id spec.ShardID, number uint64) (string, bool) {
	if r, ok := p.placed(id).Replicas[number]; ok {
		return r.Node, true
	}
	for _, node := range sorted(p.v.Nodes) {
		if p.v.runs(id, number, node) {
			return node, true
		}
	}
	return "", false
}

// good tells whether a node may keep what it has: a dead one may for a while.
func (p *planner) good(node string) bool {
	m, ok := p.v.State.Members[node]
	return ok && !m.Draining && (p.v.live(node) || p.v.silent(node) < p.v.Settings.RebuildAfter)
}

// free tells whether a shard may be changed by this plan.
func (p *planner) free(id spec.ShardID) bool {
	_, known := p.v.Shards[id]
	return known && !p.busy[id] && len(p.actions) < actionsMost && !p.v.Now.Before(p.v.Resting[id])
}

func (p *planner) add(a Action) {
	if a.Shard != 0 {
		p.busy[a.Shard] = true
		a.Leader, _ = p.leader(a.Shard)
		a.Version = p.v.Shards[a.Shard].Members.Version
	}
	p.actions = append(p.actions, a)
}

// least returns the name with the smallest key, the first one of several.
func least(names []string, key func(a, b string) int) string {
	return slices.MinFunc(names, func(a, b string) int { return cmp.Or(key(a, b), cmp.Compare(a, b)) })
}
