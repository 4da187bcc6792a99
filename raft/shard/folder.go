package shard

import (
	"bytes"
	"crypto/md5" // #nosec G501: the checksum of dragonboat's file, not a protection
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/lni/dragonboat/v4/raftpb"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

const (
	pairFile = "STORE" // holds the id that is also in the store
	flagFile = "dragonboat.ds"
)

// prepareFolder makes sure that the raft logs in dir and the store belong
// together, and that dragonboat accepts them under the host name of today.
func prepareFolder(dir string, db *store.DB) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the folder for raft logs: %w", err)
	}
	if err := pair(dir, db); err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil || host == "" {
		return fmt.Errorf("the host has no name, which the raft logs need: %w", err)
	}
	return adoptHostName(dir, host)
}

// pair refuses a store without its raft logs and raft logs without their store:
// dragonboat would end the process on the one and forget promises to other
// replicas on the other. The store gets the id first, so that a crash in between
// leaves an id in the store and no raft logs at all, which is told apart from
// lost logs by the shards that have applied something.
func pair(dir string, db *store.DB) error {
	key := store.AppendNodeKey(nil, "raft/shard", []byte("pair"))
	inStore, err := getValue(db, key)
	if err != nil {
		return fmt.Errorf("read the id of the raft logs: %w", err)
	}
	inDir, err := os.ReadFile(filepath.Join(dir, pairFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the id of the store: %w", err)
	}
	_, flagErr := os.Stat(filepath.Join(dir, flagFile))
	used := flagErr == nil
	switch {
	case len(inStore) > 0 && bytes.Equal(inStore, inDir):
		return nil
	case len(inDir) > 0 && len(inStore) == 0:
		return fmt.Errorf("the raft logs in %s belong to a store that is not there: bring it back, or start with both folders empty as a new replica", dir)
	case len(inDir) > 0:
		return fmt.Errorf("the raft logs in %s belong to another store: restore both folders from the same place and time", dir)
	case used:
		return fmt.Errorf("the raft logs in %s are used and do not say which store they belong to (%s is missing)", dir, pairFile)
	}
	if len(inStore) > 0 {
		if shard, ok, err := anyApplied(db); err != nil {
			return err
		} else if ok {
			return fmt.Errorf("the store has applied entries of shard %d whose raft log is not in %s: bring the folder back, or start with both empty as a new replica", shard, dir)
		}
	} else {
		inStore = []byte(rand.Text())
		if err := putValue(db, key, inStore); err != nil {
			return fmt.Errorf("write the id of the raft logs: %w", err)
		}
	}
	return writeFileSynced(filepath.Join(dir, pairFile), inStore)
}

// adoptHostName renames what dragonboat keeps under the name that the host had
// when it was last started. Dragonboat makes that name part of its paths and
// refuses another one, but containers get a new name with each start.
func adoptHostName(dir, host string) error {
	path := filepath.Join(dir, flagFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the description of the raft logs: %w", err)
	}
	status, err := decodeFlag(raw)
	if err != nil {
		return fmt.Errorf("%s is damaged: %w", path, err)
	}
	old := strings.TrimSpace(status.Hostname)
	if old == host || old == "" {
		return nil
	}
	if old != filepath.Base(old) || old == "." || old == ".." {
		return fmt.Errorf("%s is damaged: host name %q is not a folder's name", path, old)
	}
	// The folder first: if it is gone, a start before this one has renamed it.
	err = os.Rename(filepath.Join(dir, old), filepath.Join(dir, host))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("take over the raft logs of host %s: %w", old, err)
	}
	status.Hostname = host
	encoded, err := encodeFlag(status)
	if err != nil {
		return err
	}
	return writeFileSynced(path, encoded)
}

// The file is the second half of the MD5 of a protobuf message, then the message.
func decodeFlag(raw []byte) (raftpb.RaftDataStatus, error) {
	var status raftpb.RaftDataStatus
	if len(raw) < 8 {
		return status, fmt.Errorf("%d bytes are too few", len(raw))
	}
	if sum := md5.Sum(raw[8:]); !bytes.Equal(sum[8:], raw[:8]) {
		return status, errors.New("wrong checksum")
	}
	return status, status.Unmarshal(raw[8:])
}

func encodeFlag(status raftpb.RaftDataStatus) ([]byte, error) {
	message, err := status.Marshal()
	if err != nil {
		return nil, fmt.Errorf("describe the raft logs: %w", err)
	}
	sum := md5.Sum(message)
	return append(sum[8:], message...), nil
}

// writeFileSynced replaces a file whole: after a crash it has the old bytes or
// the new ones.
func writeFileSynced(path string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.new")
	if err != nil {
		return fmt.Errorf("replace %s: %w", path, err)
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		_ = os.Remove(f.Name())
		return fmt.Errorf("replace %s: %w", path, err)
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return fmt.Errorf("replace %s: %w", path, err)
	}
	defer folder.Close()
	if err := folder.Sync(); err != nil {
		return fmt.Errorf("replace %s: %w", path, err)
	}
	return nil
}

// getValue returns nil if there is no such key.
func getValue(db *store.DB, key []byte) ([]byte, error) {
	value, err := db.Get(key)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return value, err
}

func putValue(db *store.DB, key, value []byte) error {
	b := db.NewBatch()
	b.Set(key, value)
	return db.Commit(b, true)
}

// anyApplied finds a shard that has keys in the store.
func anyApplied(db *store.DB) (shard spec.ShardID, found bool, err error) {
	err = db.Scan(store.AppendShardPrefix(nil, store.NodeShard+1), nil, func(key, _ []byte) bool {
		shard, found = spec.ShardID(binary.BigEndian.Uint32(key)), true
		return false
	})
	return shard, found, err
}
