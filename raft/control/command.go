package control

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"github.com/pheromone-run/pheromone/spec"
)

// Command is a change of the State: one of the types below. Times are the
// proposer's, so that all nodes write the same.
type Command interface{ kind() string }

// ApplyApp makes a new version of an app, unless Spec and Artifact are those of
// the newest one.
type ApplyApp struct {
	Name spec.AppName `json:"name"`
	// Expected, if set, is the version that must be the newest; 0 says that the
	// app must not be deployed.
	Expected *uint64   `json:"expected,omitempty"`
	Manifest []byte    `json:"manifest"`
	Spec     []byte    `json:"spec"` // canonical JSON: (*spec.App).Manifest
	Artifact string    `json:"artifact,omitempty"`
	At       time.Time `json:"at"`
}

// DeleteApp ends the deployment of an app.
type DeleteApp struct {
	Name     spec.AppName `json:"name"`
	Expected *uint64      `json:"expected,omitempty"`
	At       time.Time    `json:"at"`
}

// RollbackApp makes a new version with the content of an old one that is kept.
type RollbackApp struct {
	Name     spec.AppName `json:"name"`
	Version  uint64       `json:"version"`
	Expected *uint64      `json:"expected,omitempty"`
	At       time.Time    `json:"at"`
}

// PutArtifact records that an artifact is there.
type PutArtifact struct {
	Sum  string    `json:"sum"` // SHA-256, hex
	Size int64     `json:"size"`
	At   time.Time `json:"at"`
}

// DeleteArtifact forgets an artifact that no kept version of an app uses.
type DeleteArtifact struct {
	Sum string `json:"sum"`
}

// Set changes a setting; an empty value removes it.
type Set struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// InitPlacement spreads the slots evenly over new shards, in contiguous ranges,
// and puts each shard's replicas on different nodes: as many as asked for, or one
// on every node if there are fewer. The first replicas are spread evenly. It does
// nothing if there is a placement.
type InitPlacement struct {
	Shards   int      `json:"shards"`
	Nodes    []string `json:"nodes"`
	Replicas int      `json:"replicas,omitempty"` // default 3
}

// SetCluster gives the cluster its id, once.
type SetCluster struct {
	ID string `json:"id"`
}

// PutMember makes a node a member, or updates what is known of it. A member keeps
// its JoinedAt and Draining. A node with another Install than the member of its
// name is refused.
type PutMember struct {
	Member Member `json:"member"`
}

// RemoveMember makes a node a member no more. It is refused while shards have
// replicas there, unless Force says so: then they stay in the placement, and who
// forces it moves them.
type RemoveMember struct {
	Name  string `json:"name"`
	Force bool   `json:"force,omitempty"`
}

// SetDraining says whether a member is to be rid of its replicas.
type SetDraining struct {
	Name     string `json:"name"`
	Draining bool   `json:"draining"`
}

// AddReplica gives a shard one more replica, which joins: its number is in the
// Result. If one on that node joins already, that is it.
type AddReplica struct {
	Shard spec.ShardID `json:"shard"`
	Node  string       `json:"node"`
}

// ReplicaJoined says that a replica has all of its shard's data.
type ReplicaJoined struct {
	Shard   spec.ShardID `json:"shard"`
	Replica uint64       `json:"replica"`
}

// RemoveReplica takes a replica out of the placement, but never the last one that
// has the data.
type RemoveReplica struct {
	Shard   spec.ShardID `json:"shard"`
	Replica uint64       `json:"replica"`
}

// readBarrier asks the leader for its State's index once it is sure to lead. It
// is a request of one node to another and never in the log.
type readBarrier struct{}

func (*ApplyApp) kind() string       { return "apply_app" }
func (*DeleteApp) kind() string      { return "delete_app" }
func (*RollbackApp) kind() string    { return "rollback_app" }
func (*PutArtifact) kind() string    { return "put_artifact" }
func (*DeleteArtifact) kind() string { return "delete_artifact" }
func (*Set) kind() string            { return "set" }
func (*InitPlacement) kind() string  { return "init_placement" }
func (*SetCluster) kind() string     { return "set_cluster" }
func (*PutMember) kind() string      { return "put_member" }
func (*RemoveMember) kind() string   { return "remove_member" }
func (*SetDraining) kind() string    { return "set_draining" }
func (*AddReplica) kind() string     { return "add_replica" }
func (*ReplicaJoined) kind() string  { return "replica_joined" }
func (*RemoveReplica) kind() string  { return "remove_replica" }
func (*readBarrier) kind() string    { return "read_barrier" }

// Result is what a change did.
type Result struct {
	Index   uint64 `json:"index"`             // of the State after it, on any node
	Version uint64 `json:"version,omitempty"` // of the app
	Replica uint64 `json:"replica,omitempty"` // its number
	Changed bool   `json:"changed"`           // false if all was so already
}

// A command in the log is one byte of version and a JSON object of kind, id and
// body. A node refuses a version or kind that it does not know, so a new one is
// proposed only once all nodes know it.
const commandVersion = 1

// maxCommandBytes bounds a command: a manifest twice, in base64, and some room.
const maxCommandBytes = 4 << 20

type envelope struct {
	Kind string `json:"kind"`
	// ID, if set, is drawn for each change, and the same when that is tried again.
	ID   string          `json:"id,omitempty"`
	Body json.RawMessage `json:"body"`
}

// commands makes an empty command of each kind.
var commands = map[string]func() Command{
	"apply_app":       func() Command { return new(ApplyApp) },
	"delete_app":      func() Command { return new(DeleteApp) },
	"rollback_app":    func() Command { return new(RollbackApp) },
	"put_artifact":    func() Command { return new(PutArtifact) },
	"delete_artifact": func() Command { return new(DeleteArtifact) },
	"set":             func() Command { return new(Set) },
	"init_placement":  func() Command { return new(InitPlacement) },
	"set_cluster":     func() Command { return new(SetCluster) },
	"put_member":      func() Command { return new(PutMember) },
	"remove_member":   func() Command { return new(RemoveMember) },
	"set_draining":    func() Command { return new(SetDraining) },
	"add_replica":     func() Command { return new(AddReplica) },
	"replica_joined":  func() Command { return new(ReplicaJoined) },
	"remove_replica":  func() Command { return new(RemoveReplica) },
	"read_barrier":    func() Command { return new(readBarrier) },
}

func encodeCommand(c Command, id string) ([]byte, error) {
	body, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode command %s: %w", c.kind(), err)
	}
	wrapped, err := json.Marshal(envelope{Kind: c.kind(), ID: id, Body: body})
	if err != nil {
		return nil, fmt.Errorf("encode command %s: %w", c.kind(), err)
	}
	if len(wrapped) > maxCommandBytes {
		return nil, spec.Errorf(spec.CodeTooLarge, "command %s has %d bytes, %d are allowed", c.kind(), len(wrapped), maxCommandBytes)
	}
	return append([]byte{commandVersion}, wrapped...), nil
}

func decodeCommand(b []byte) (c Command, id string, err error) {
	if len(b) == 0 || b[0] != commandVersion {
		return nil, "", fmt.Errorf("a command of a version that is not known here: %.1x", b)
	}
	var e envelope
	if err := decodeStrict(b[1:], &e); err != nil {
		return nil, "", fmt.Errorf("a command that can't be read: %w", err)
	}
	if len(e.ID) > maxIDBytes {
		return nil, "", fmt.Errorf("a command with an id of %d bytes, %d are allowed", len(e.ID), maxIDBytes)
	}
	empty, ok := commands[e.Kind]
	if !ok {
		return nil, "", fmt.Errorf("a command of a kind that is not known here: %q", e.Kind)
	}
	c = empty()
	if err := decodeStrict(e.Body, c); err != nil {
		return nil, "", fmt.Errorf("a command %s that can't be read: %w", e.Kind, err)
	}
	return c, e.ID, nil
}

// decodeStrict refuses what it does not know: it would be lost on this node.
func decodeStrict(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	return d.Decode(into)
}
