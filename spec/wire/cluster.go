package wire

import (
	"time"

	"github.com/pheromone-run/pheromone/spec"
)

// Cluster describes the cluster as the answering node sees it.
type Cluster struct {
	// ID is empty for a node alone, and while the node belongs to no cluster.
	ID        string    `json:"id,omitempty"`
	Node      string    `json:"node"`
	Version   string    `json:"version"`
	Ready     bool      `json:"ready"`
	StartedAt time.Time `json:"started_at"`
	// Waiting tells what the node waits for before it takes requests.
	Waiting string `json:"waiting,omitempty"`
	// ControlLeader is the node that leads the control group, if one does.
	ControlLeader string  `json:"control_leader,omitempty"`
	Nodes         []Node  `json:"nodes"`
	Shards        []Shard `json:"shards"`
}

// Node is one member of the cluster.
type Node struct {
	Name    string `json:"name"`
	Address string `json:"address,omitempty"` // host:port that other nodes reach it at
	API     string `json:"api,omitempty"`     // URL of its API
	Version string `json:"version"`
	// Live says that the leader of the control group has heard from it just now.
	Live     bool      `json:"live"`
	Voter    bool      `json:"voter"` // has a vote in the control group
	Draining bool      `json:"draining,omitempty"`
	Capacity int       `json:"capacity,omitempty"`
	JoinedAt time.Time `json:"joined_at,omitzero"`
	Replicas int       `json:"replicas"` // of shards, those that join included
	Leading  int       `json:"leading"`  // shards that it leads, as far as is known
}

// NodeList answers GET /v1/cluster/nodes.
type NodeList struct {
	Items []Node `json:"items"`
}

// ShardList answers GET /v1/cluster/shards.
type ShardList struct {
	Items []Shard `json:"items"`
}

// Shard is one raft group. What only its leader or a replica knows is missing on a
// node that has neither.
type Shard struct {
	Shard              spec.ShardID `json:"shard"`
	Leader             string       `json:"leader"` // the node; empty if none is known
	Epoch              uint64       `json:"epoch"`
	Applied            uint64       `json:"applied"`
	PendingInvocations int          `json:"pending_invocations"`
	Slots              int          `json:"slots"`            // how many it owns
	Ranges             []SlotRange  `json:"ranges,omitempty"` // which
	Replicas           []Replica    `json:"replicas,omitempty"`
	// Stalled lists triggers of scope bucket that wait for a program that can go on
	// with them; at most 100 of them.
	Stalled []StalledTrigger `json:"stalled,omitempty"`
}

// SlotRange is a run of slots, both ends included.
type SlotRange struct {
	From spec.Slot `json:"from"`
	To   spec.Slot `json:"to"`
}

// Replica is one copy of a shard.
type Replica struct {
	Replica uint64 `json:"replica"` // its number in the shard
	Node    string `json:"node"`
	Joining bool   `json:"joining,omitempty"` // it may not have all data yet
}

// InitCluster is the body of POST /v1/cluster/init.
type InitCluster struct {
	// Voters are the nodes that make the control group. Default: three of the nodes
	// that are there, five if there are at least five.
	Voters []string `json:"voters,omitempty"`
}

// JoinCluster is the body of POST /v1/cluster/join.
type JoinCluster struct {
	Address string `json:"address"` // host:port at which a node of the cluster is reached by others
}

// ShardHash answers GET /v1/cluster/shards/{shard}/hash: two replicas that have
// applied the same entries have the same hash.
type ShardHash struct {
	Shard   spec.ShardID `json:"shard"`
	Node    string       `json:"node"` // that holds the replica
	Replica uint64       `json:"replica"`
	Applied uint64       `json:"applied"` // index of the last entry applied
	Hash    string       `json:"hash"`    // of what the entries decide
	// Blobs is the hash of the bytes of large objects, the same for two such replicas
	// of which none is Lacking any: they come to replicas outside of the log.
	Blobs   string `json:"blobs"`
	Lacking int    `json:"lacking"` // large objects that are to come from other replicas
}
