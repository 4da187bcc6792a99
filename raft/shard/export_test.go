package shard

import (
	"os"

	"github.com/lni/dragonboat/v4/raftpb"
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
