package shard

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/lni/dragonboat/v4"
	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftpb"
	"github.com/lni/dragonboat/v4/statemachine"

	"github.com/pheromone-run/pheromone/store"
)

func (s *Shard) raftConfig() config.Config {
	c := config.Config{
		ShardID:   uint64(s.id),
		ReplicaID: s.replica,
		// A leader cut off from the others steps down, and a replica that was cut
		// off does not bring its higher term to a leader that works.
		CheckQuorum:         true,
		PreVote:             true,
		ElectionRTT:         uint64(s.host.cfg.ElectionTicks),
		HeartbeatRTT:        heartbeatTicks,
		SnapshotEntries:     uint64(s.host.cfg.SnapshotEntries),
		CompactionOverhead:  uint64(s.host.cfg.SnapshotEntries / 4),
		OrderedConfigChange: true,
		MaxInMemLogSize:     maxInMemLogBytes,
		IsNonVoting:         s.learner,
	}
	if s.sole {
		c.ElectionRTT, c.HeartbeatRTT = soleElectionTicks, soleHeartbeatTicks
	}
	return c
}

// launch starts the replica in dragonboat. It takes no part in the shard before
// its log is seen to fit the store. One that was stopped a moment ago may not be
// gone yet.
func (s *Shard) launch(initial map[uint64]dragonboat.Target, join bool) error {
	const tries, wait = 500, 2 * time.Millisecond
	s.fits = make(chan struct{})
	for try := 1; ; try++ {
		err := s.host.node.StartOnDiskReplica(initial, join, s.newMachine, s.raftConfig())
		switch {
		case err == nil:
			return s.checkLog()
		case errors.Is(err, dragonboat.ErrReplicaRemoved):
			return lost(s.id, s.replica, "its raft log was removed")
		case !errors.Is(err, dragonboat.ErrShardAlreadyExist) || try == tries:
			return fmt.Errorf("start shard %d: %w", s.id, err)
		}
		time.Sleep(wait)
	}
}

// checkLog lets the replica go on if its raft log fits the store: dragonboat would
// end the process later, or forget what it promised.
func (s *Shard) checkLog() error {
	reader, err := s.host.node.GetLogReader(uint64(s.id))
	if err == nil {
		err = s.compare(reader)
	}
	if err != nil {
		return errors.Join(err, s.host.node.StopReplica(uint64(s.id), s.replica))
	}
	close(s.fits)
	return nil
}

// emptySnapshotBytes is the size of a snapshot's file that dragonboat has cut down:
// a header, an empty table of sessions, a checksum and the file's end.
const emptySnapshotBytes = 1024 + 16 + 4 + 16

func (s *Shard) compare(reader dragonboat.ReadonlyLogReader) error {
	meta, err := s.host.db.Meta(s.id)
	restoring := errors.Is(err, store.ErrRestoring)
	if err != nil && !restoring {
		return err
	}
	if _, last := reader.GetRange(); last < meta.Applied {
		return lost(s.id, s.replica, "its raft log ends at entry %d and the store has those up to %d", last, meta.Applied)
	}
	snapshot := reader.Snapshot()
	if raftpb.IsEmptySnapshot(snapshot) {
		if restoring {
			return lost(s.id, s.replica, "a snapshot was not restored to its end, and is gone")
		}
		return nil
	}
	defer func() { _ = snapshot.Unref() }()
	if !restoring && snapshot.OnDiskIndex <= meta.Applied {
		return nil
	}
	// A snapshot of another replica that was not restored to its end is restored
	// again. Its file is cut down once it is.
	if size, err := s.snapshotBytes(snapshot); err != nil || snapshot.Dummy || size <= emptySnapshotBytes {
		return lost(s.id, s.replica, "the store has entries up to %d and its raft log begins behind %d", meta.Applied, snapshot.OnDiskIndex)
	}
	return nil
}

// snapshotBytes returns the size of a snapshot's file. The path that the snapshot
// names is of when it came: the folder may have moved since.
func (s *Shard) snapshotBytes(snapshot raftpb.Snapshot) (int64, error) {
	dir := os.DirFS(s.host.cfg.Dir)
	name := path.Join("*", "*", "*", fmt.Sprintf("snapshot-%d-%d", s.id, s.replica),
		filepath.Base(filepath.Dir(snapshot.Filepath)), filepath.Base(snapshot.Filepath))
	found, err := fs.Glob(dir, name)
	if err != nil || len(found) != 1 {
		return 0, errors.Join(err, fs.ErrNotExist)
	}
	info, err := fs.Stat(dir, found[0])
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (s *Shard) newMachine(uint64, uint64) statemachine.IOnDiskStateMachine {
	m := newMachine(s.id, s.host.db, s.host.cfg.Fatal)
	m.tell, m.fits, m.held = s.tellApplied, s.fits, s.host.cfg.held
	s.machine.Store(m)
	return m
}
