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
// and puts a replica of each shard on every node. It does nothing if there is a
// placement.
type InitPlacement struct {
	Shards int      `json:"shards"`
	Nodes  []string `json:"nodes"`
}

func (*ApplyApp) kind() string       { return "apply_app" }
func (*DeleteApp) kind() string      { return "delete_app" }
func (*RollbackApp) kind() string    { return "rollback_app" }
func (*PutArtifact) kind() string    { return "put_artifact" }
func (*DeleteArtifact) kind() string { return "delete_artifact" }
func (*Set) kind() string            { return "set" }
func (*InitPlacement) kind() string  { return "init_placement" }

// Result is what a change did.
type Result struct {
	Index   uint64 // of the State after it, on any node
	Version uint64 // of the app
	Changed bool   // false if all was so already
}

// A command in the log is one byte of version and a JSON object of kind and
// body. A node refuses a version or kind that it does not know, so a new one is
// proposed only once all nodes know it.
const commandVersion = 1

// maxCommandBytes bounds a command: a manifest twice, in base64, and some room.
const maxCommandBytes = 4 << 20

type envelope struct {
	Kind string          `json:"kind"`
	Body json.RawMessage `json:"body"`
}

func encodeCommand(c Command) ([]byte, error) {
	body, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode command %s: %w", c.kind(), err)
	}
	wrapped, err := json.Marshal(envelope{Kind: c.kind(), Body: body})
	if err != nil {
		return nil, fmt.Errorf("encode command %s: %w", c.kind(), err)
	}
	if len(wrapped) > maxCommandBytes {
		return nil, spec.Errorf(spec.CodeTooLarge, "command %s has %d bytes, %d are allowed", c.kind(), len(wrapped), maxCommandBytes)
	}
	return append([]byte{commandVersion}, wrapped...), nil
}

func decodeCommand(b []byte) (Command, error) {
	if len(b) == 0 || b[0] != commandVersion {
		return nil, fmt.Errorf("a command of a version that is not known here: %.1x", b)
	}
	var e envelope
	if err := decodeStrict(b[1:], &e); err != nil {
		return nil, fmt.Errorf("a command that can't be read: %w", err)
	}
	for _, c := range []Command{
		new(ApplyApp), new(DeleteApp), new(RollbackApp), new(PutArtifact), new(DeleteArtifact), new(Set), new(InitPlacement),
	} {
		if c.kind() != e.Kind {
			continue
		}
		if err := decodeStrict(e.Body, c); err != nil {
			return nil, fmt.Errorf("a command %s that can't be read: %w", e.Kind, err)
		}
		return c, nil
	}
	return nil, fmt.Errorf("a command of a kind that is not known here: %q", e.Kind)
}

// decodeStrict refuses what it does not know: it would be lost on this node.
func decodeStrict(b []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	return d.Decode(into)
}
