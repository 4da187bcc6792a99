package conductor

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/pheromone-run/pheromone/raft/control"
	"github.com/pheromone-run/pheromone/raft/shard"
	"github.com/pheromone-run/pheromone/spec"
)

// View is what a plan is made of: the cluster at one moment. What is known of
// shards may be newer than State, never older.
type View struct {
	Now   time.Time
	State *control.State
	Nodes map[string]Node // by name; a member that is not there was never seen
	// Shards are those whose leader has answered, and has a quorum.
	Shards  map[spec.ShardID]Shard
	Servers []Server // of the control group's raft
	Self    string   // the node that leads the control group
	// Moved is when the lead of a shard was last moved, and Resting until when a
	// shard is left alone because a step of it failed; 0 stands for the control
	// group's servers. MovedAny is the newest of all
	// the moves: a conductor that has just begun takes that moment.
	Moved    map[spec.ShardID]time.Time
	MovedAny time.Time
	Resting  map[spec.ShardID]time.Time
	Settings Settings
}

// Settings say what is wanted.
type Settings struct {
	// Replicas of each shard, if there are as many nodes and the cluster has not said
	// otherwise (ReplicasKey). Default 3.
	Replicas int
	// RebuildAfter is how long a node may be dead until its replicas are made anew
	// elsewhere. Default 5 m.
	RebuildAfter time.Duration
	// DeadAfter is how long a node may be silent until it counts as dead. Default 3 s,
	// or RebuildAfter if that is less.
	DeadAfter time.Duration
}

// withDefaults returns the settings with defaults where there is nothing.
func (s Settings) withDefaults() Settings {
	s.Replicas = cmp.Or(s.Replicas, 3)
	s.RebuildAfter = cmp.Or(s.RebuildAfter, 5*time.Minute)
	s.DeadAfter = cmp.Or(s.DeadAfter, min(3*time.Second, s.RebuildAfter))
	return s
}

// Validate reports the first setting that is out of bounds.
func (s Settings) Validate() error {
	s = s.withDefaults()
	switch {
	case s.Replicas < 1 || s.Replicas > replicasMost:
		return fmt.Errorf("%d replicas of a shard: 1 to %d are possible", s.Replicas, replicasMost)
	case s.DeadAfter < 100*time.Millisecond || s.DeadAfter > time.Hour:
		return fmt.Errorf("dead after %v: 100ms to 1h are possible", s.DeadAfter)
	case s.RebuildAfter < s.DeadAfter:
		return fmt.Errorf("rebuild after %v: a node is not known to be dead before %v", s.RebuildAfter, s.DeadAfter)
	}
	return nil
}

// Node is what is known of a member.
type Node struct {
	// Seen is when it last answered, or since when it was asked in vain.
	Seen time.Time
	// Since is since when it answers: zero while it is dead.
	Since time.Time
	// Replicas that the node says it has: nil if it did not answer the last time.
	Replicas map[spec.ShardID]Replica
}

// Replica is what its node says of a replica.
type Replica struct {
	Number  uint64
	Applied uint64 // index of the last entry
	// Lost says that the node can't run it: what it had is gone.
	Lost bool
	// Lacks says that it has entries whose large objects it does not have yet.
	Lacks bool
}

// Shard is what its leader says of a shard.
type Shard struct {
	Leader  uint64 // the replica
	Applied uint64 // by the leader
	Members shard.Members
	Load    float64 // how much there is to do, in units that all shards share
}

// Server is a server of the control group's raft.
type Server struct {
	control.Server
	Seen time.Time // when its leader last heard of it
	// Stray is since when it is no member of the cluster; zero if it is one.
	Stray time.Time
}

// Times that settings do not change.
const (
	// leadPause lies between two moves of leaders for the sake of balance, and after
	// a node came before leaders are moved to it.
	leadPause = 5 * time.Second
	// joinPatience is how long a replica that joins may be on a dead node: nothing is
	// lost when another one joins instead.
	joinPatience = 30 * time.Second
	// strayPatience is how long a server may be no member: what is known of the servers
	// may be newer than what is known of the members.
	strayPatience = 5 * time.Second
)

const (
	// joinsMost bounds the replicas that join at a time, and actionsMost the steps of
	// one plan.
	joinsMost   = 4
	actionsMost = 4
	// lagMost is how many entries a replica may be behind its leader and be counted on
	// as if it were not: under load some always lie between two answers.
	lagMost = 1000
	// replicasMost leaves the placement room for those that join.
	replicasMost = 7
)

// live tells whether a node is to be counted on: it answers, but for moments.
func (v *View) live(node string) bool {
	n, ok := v.Nodes[node]
	return ok && !n.Since.IsZero() && v.Now.Sub(n.Seen) < v.Settings.DeadAfter
}

// silent is how long nothing was heard of a node.
func (v *View) silent(node string) time.Duration {
	n, ok := v.Nodes[node]
	if !ok {
		return 0
	}
	return v.Now.Sub(n.Seen)
}

// replica returns what a node said just now of a replica.
func (v *View) replica(id spec.ShardID, number uint64, node string) (Replica, bool) {
	r, ok := v.Nodes[node].Replicas[id]
	return r, ok && r.Number == number
}

// runs tells whether a replica takes part: the shard can count on it now.
func (v *View) runs(id spec.ShardID, number uint64, node string) bool {
	r, ok := v.replica(id, number, node)
	return ok && !r.Lost
}

// lost tells whether a replica's data is gone.
func (v *View) lost(id spec.ShardID, number uint64, node string) bool {
	r, ok := v.replica(id, number, node)
	return ok && r.Lost
}

// level tells whether a replica that runs has about what its leader has.
func (v *View) level(id spec.ShardID, number uint64, node string) bool {
	r, ok := v.replica(id, number, node)
	return ok && !r.Lost && r.Applied > 0 && r.Applied+lagMost >= v.Shards[id].Applied
}

// Kind is what an action does.
type Kind string

// The actions. Those on the control group's state are commands of raft/control;
// those on a shard's raft go to the node that leads it.
const (
	AddReplica    Kind = "add replica"     // Shard, Node: gives the shard one more replica
	AddLearner    Kind = "add learner"     // Shard, Replica, Node: makes it a learner of the raft group
	Promote       Kind = "promote"         // Shard, Replica: gives the learner its vote
	MarkJoined    Kind = "mark joined"     // Shard, Replica: it has the data
	TransferLead  Kind = "transfer lead"   // Shard, Replica, Node: hands the lead to it
	RemoveReplica Kind = "remove replica"  // Shard, Replica: takes it out of the raft group
	ForgetReplica Kind = "forget replica"  // Shard, Replica: takes it out of the placement
	AddServer     Kind = "add server"      // Node: makes the member a server of the control group
	PromoteVoter  Kind = "promote voter"   // Node: gives the server a vote
	DemoteVoter   Kind = "demote voter"    // Node: takes its vote
	RemoveServer  Kind = "remove server"   // Node: takes it out of the control group
	HandOver      Kind = "hand over"       // lets another voter lead the control group
	EndRebalance  Kind = "end rebalancing" // the request is fulfilled
)

// Action is one step.
type Action struct {
	Kind    Kind         `json:"kind"`
	Shard   spec.ShardID `json:"shard,omitempty"`
	Replica uint64       `json:"replica,omitempty"`
	Node    string       `json:"node,omitempty"`
	Leader  string       `json:"leader,omitempty"` // the node that leads the shard
	// Version is that of the members that a step of a raft group was planned on.
	Version uint64 `json:"version,omitempty"`
}

func (a Action) String() string {
	s := string(a.Kind)
	if a.Shard != 0 {
		s += fmt.Sprintf(" shard=%d", a.Shard)
	}
	if a.Replica != 0 {
		s += fmt.Sprintf(" replica=%d", a.Replica)
	}
	if a.Node != "" {
		s += " node=" + a.Node
	}
	return s
}

func sorted[K ~uint32 | ~uint64 | ~string, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
