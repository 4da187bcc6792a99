package shard

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// ErrLost says that a replica can't be started: its raft log or its part of the
// store is gone, damaged, or behind what it has promised to the others. It is
// dropped, and a replica with a new number takes its place.
var ErrLost = errors.New("the replica's data is lost")

func lost(id spec.ShardID, replica uint64, why string, args ...any) error {
	return spec.Errorf(spec.CodeUnavailable, "start replica %d of shard %d: %w: %s", replica, id, ErrLost, fmt.Sprintf(why, args...)).
		WithHint("drop the replica and add one with a new number; a node alone is restored from a backup")
}

// record says which replica the range of a shard in the store is of, and whether
// it is whole. It is kept in the store, outside of the range: a raft log that is
// gone is told by it from one that never was, and a drop that was cut short is
// ended by the next start. There is none before the first replica has started.
type record struct {
	Replica uint64 `json:"replica"`
	// Joined says that the replica was added to a shard that ran already: its log
	// has its time as a learner.
	Joined bool        `json:"joined,omitempty"`
	State  recordState `json:"state"`
}

type recordState string

const (
	stateHeld     recordState = "held"
	stateDropping recordState = "dropping"
	stateDropped  recordState = "dropped"
)

const recordSpace = "raft/shard/replica"

func recordKey(id spec.ShardID) []byte {
	return store.AppendNodeKey(nil, recordSpace, binary.BigEndian.AppendUint32(nil, uint32(id)))
}

func (h *Host) record(id spec.ShardID) (r record, err error) {
	raw, err := getValue(h.db, recordKey(id))
	if err == nil && raw != nil {
		err = json.Unmarshal(raw, &r)
	}
	if err != nil {
		return record{}, fmt.Errorf("read which replica of shard %d is here: %w", id, err)
	}
	return r, nil
}

// put adds the record to a batch.
func (r record) put(b *store.Batch, id spec.ShardID) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode which replica of shard %d is here: %w", id, err)
	}
	b.Set(recordKey(id), raw)
	return nil
}

func (h *Host) writeRecord(id spec.ShardID, r record) error {
	b := h.db.NewBatch()
	if err := r.put(b, id); err != nil {
		return err
	}
	if err := h.db.Commit(b, true); err != nil {
		return fmt.Errorf("write which replica of shard %d is here: %w", id, err)
	}
	return nil
}

// records lists the records of all shards.
func (h *Host) records() (map[spec.ShardID]record, error) {
	all := make(map[spec.ShardID]record)
	prefix := store.AppendNodeKey(nil, recordSpace, nil)
	lower, upper := store.Bounds(prefix)
	var damaged error
	err := h.db.Scan(lower, upper, func(key, value []byte) bool {
		var r record
		if len(key) != len(prefix)+4 {
			damaged = fmt.Errorf("a key of %d bytes", len(key))
			return false
		}
		if damaged = json.Unmarshal(value, &r); damaged != nil {
			return false
		}
		all[spec.ShardID(binary.BigEndian.Uint32(key[len(prefix):]))] = r
		return true
	})
	if err = errors.Join(err, damaged); err != nil {
		return nil, fmt.Errorf("read which replicas are here: %w", err)
	}
	return all, nil
}

// Held tells which replica of each shard has its data on this node, whether it runs
// or not.
func (h *Host) Held() (map[spec.ShardID]uint64, error) {
	records, err := h.records()
	if err != nil {
		return nil, err
	}
	held := make(map[spec.ShardID]uint64)
	for id, r := range records {
		if r.State == stateHeld {
			held[id] = r.Replica
		}
	}
	return held, nil
}

// admit tells what is here of a replica that is to be started, known if it has a
// raft log, and refuses one that has lost what it had.
func (h *Host) admit(id spec.ShardID, replica uint64) (r record, known bool, err error) {
	if r, err = h.record(id); err != nil {
		return record{}, false, err
	}
	meta, err := h.db.Meta(id)
	restoring := errors.Is(err, store.ErrRestoring)
	if err != nil && !restoring {
		return record{}, false, fmt.Errorf("start shard %d: %w", id, err)
	}
	known = h.node.HasNodeInfo(uint64(id), replica)
	switch {
	case r.Replica > replica:
		err = lost(id, replica, "replica %d has taken its place on this node", r.Replica)
	case r.Replica == replica && r.State != stateHeld:
		err = lost(id, replica, "it was dropped from this node")
	case r.Replica == replica && !known:
		err = lost(id, replica, "its raft log is not there any more")
	case r.Replica != replica && r.State == stateHeld:
		err = spec.Errorf(spec.CodeConflict, "start replica %d of shard %d: this node holds replica %d", replica, id, r.Replica).
			WithHint("drop the one before")
	case !known && (meta.Applied > 0 || restoring):
		err = lost(id, replica, "the store has entries up to %d and there is no raft log of it", meta.Applied)
	default:
		err = nil
	}
	return r, known, err
}
