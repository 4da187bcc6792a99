package shard

import (
	"path/filepath"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/vfs"
)

var defaultFS config.IFS = vfs.Default

// logFS makes the log files of dragonboat's database full of zeros before they
// are used. Appending to a file changes its length, which each sync then has to
// write to the file system's journal as well; overwriting does not. Pebble reads
// zeros as the end of the log and reuses old log files, so that this is paid for
// the first few only.
type logFS struct {
	config.IFS
	bytes int
}

func (fs logFS) Create(name string) (vfs.File, error) {
	f, err := fs.IFS.Create(name)
	if err != nil || filepath.Ext(name) != ".log" {
		return f, err
	}
	seeker, ok := f.(interface {
		Seek(offset int64, whence int) (int64, error)
	})
	if !ok {
		return f, nil
	}
	if err := fill(f, fs.bytes); err != nil {
		_ = f.Close()
		return nil, err
	}
	if _, err := seeker.Seek(0, 0); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func fill(f vfs.File, bytes int) error {
	zeros := make([]byte, 1<<20)
	for left := bytes; left > 0; left -= len(zeros) {
		if _, err := f.Write(zeros[:min(left, len(zeros))]); err != nil {
			return err
		}
	}
	return f.Sync()
}
