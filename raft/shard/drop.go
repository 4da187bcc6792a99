package shard

import (
	"errors"
	"fmt"
	"time"

	"github.com/lni/dragonboat/v4"

	"github.com/pheromone-run/pheromone/spec"
)

// Drop stops a replica if it runs and removes all that this node has of it: its
// raft log, and the shard's range in the store. Its number can't be started here
// again. It must have been removed from the shard, or have lost what it promised.
//
// Drop may be repeated, and one that was cut short, by the end of the process
// too, is ended by the next one or by the next Open. If the range belongs to
// another replica by now, only the raft log is removed.
func (h *Host) Drop(id spec.ShardID, replica uint64) error {
	if id == 0 || replica == 0 {
		return spec.Errorf(spec.CodeInvalid, "drop replica %d of shard %d: both are counted from 1", replica, id)
	}
	h.mu.Lock()
	running := h.mu.shards[id]
	h.mu.Unlock()
	if running != nil && running.replica == replica {
		if err := running.Close(); err != nil {
			return err
		}
	}
	defer h.lockShard(id)()
	r, err := h.record(id)
	if err != nil {
		return err
	}
	switch {
	case r.Replica > replica:
		return h.removeLog(id, replica)
	case r.Replica == replica && r.State == stateDropped:
		return nil
	case r.Replica != replica && r.State == stateHeld:
		return spec.Errorf(spec.CodeConflict, "drop replica %d of shard %d: this node holds replica %d", replica, id, r.Replica)
	}
	if err := h.writeRecord(id, record{Replica: replica, State: stateDropping}); err != nil {
		return err
	}
	return h.finishDrop(id, replica)
}

// finishDrop does the work once the record says that it is to be done.
func (h *Host) finishDrop(id spec.ShardID, replica uint64) error {
	if err := h.removeLog(id, replica); err != nil {
		return err
	}
	b := h.db.NewBatch()
	if err := (record{Replica: replica, State: stateDropped}).put(b, id); err != nil {
		return err
	}
	if err := h.db.DropShardWith(id, b); err != nil {
		return fmt.Errorf("drop the range of shard %d: %w", id, err)
	}
	return nil
}

// finishDrops ends what was cut short before this start.
func (h *Host) finishDrops() error {
	records, err := h.records()
	if err != nil {
		return err
	}
	for id, r := range records {
		if r.State != stateDropping {
			continue
		}
		if err := h.finishDrop(id, r.Replica); err != nil {
			return err
		}
	}
	return nil
}

// unloadWait bounds how long a replica that was stopped may take to end what it
// was doing, a snapshot say.
const unloadWait = time.Minute

// removeLog removes what dragonboat keeps of a replica, and has it remember that
// the number is used up. Dragonboat panics when its files can't be written.
func (h *Host) removeLog(id spec.ShardID, replica uint64) error {
	const wait = 2 * time.Millisecond
	for until := time.Now().Add(unloadWait); ; time.Sleep(wait) {
		err := guarded(func() error { return h.node.RemoveData(uint64(id), replica) })
		if err == nil {
			return nil
		}
		if !errors.Is(err, dragonboat.ErrShardNotStopped) || time.Now().After(until) {
			return fmt.Errorf("remove the raft log of replica %d of shard %d: %w", replica, id, err)
		}
	}
}
