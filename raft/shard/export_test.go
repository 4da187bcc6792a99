package shard

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/lni/dragonboat/v4/raftpb"

	"github.com/pheromone-run/pheromone/spec"
)

// RewriteFlag changes dragonboat's description of its folder.
func RewriteFlag(path string, change func(*raftpb.RaftDataStatus)) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	status, err := decodeFlag(raw)
	if err != nil {
		return err
	}
	change(&status)
	encoded, err := encodeFlag(status)
	if err != nil {
		return err
	}
	return writeFileSynced(path, encoded)
}

// BeginDrop does the part of Drop that a crash may leave: the note, and then, if
// logToo, the removal of the raft log.
func BeginDrop(h *Host, id spec.ShardID, replica uint64, logToo bool) error {
	err := h.writeRecord(id, record{Replica: replica, State: stateDropping})
	if err == nil && logToo {
		err = h.removeLog(id, replica)
	}
	return err
}

// LoseLog removes a replica's raft log as a failing disk does: without a word.
func LoseLog(h *Host, id spec.ShardID, replica uint64) error {
	if err := h.removeLog(id, replica); err != nil {
		return err
	}
	dirs, err := filepath.Glob(filepath.Join(h.cfg.Dir, "*", "*", "*", fmt.Sprintf("snapshot-%d-%d", id, replica)))
	for _, dir := range dirs {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// ForgetRecord makes the store one of a version that kept no record of replicas.
func ForgetRecord(h *Host, id spec.ShardID) error {
	b := h.db.NewBatch()
	b.Delete(recordKey(id))
	return h.db.Commit(b, true)
}

// StandForElection has a replica do so, without a leader that is gone.
func StandForElection(h *Host, s *Shard) { h.transport.campaign(s, s.replica) }

// HoldRestores has each restore of a host that is opened with a configuration wait,
// once it has come so far, until its replica stops. Without far it undoes that.
func HoldRestores(c *HostConfig, far func() bool) {
	c.held = nil
	if far != nil {
		c.held = func(stopped <-chan struct{}) {
			if far() {
				<-stopped
			}
		}
	}
}
