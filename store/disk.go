package store

import (
	"errors"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pheromone-run/pheromone/spec"
)

const (
	defaultReserveBytes = 256 << 20
	// smallDiskShare is the part of a small disk that is kept free.
	smallDiskShare = 10
	diskCheckEvery = time.Second
)

// disk watches how much of the disk is free. Pebble can't go on after a log write
// that met a full disk, so commands are refused before it is full: what is
// reserved is for the log, for compactions and for deletions, which free space.
type disk struct {
	fs      vfs.FS
	dir     string
	reserve int64

	mu struct {
		sync.Mutex
		checked time.Time
		err     error
	}
}

// Writable returns nil while there is room on the disk, else an error with
// CodeUnavailable; and why the store has failed, if it has. It is cheap: the disk
// is asked at most once a second.
func (db *DB) Writable() error {
	if err := db.Err(); err != nil {
		return err
	}
	return db.disk.writable(time.Now())
}

func (d *disk) writable(now time.Time) error {
	if d.reserve < 0 {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mu.checked.IsZero() || now.Sub(d.mu.checked) >= diskCheckEvery {
		d.mu.checked, d.mu.err = now, d.check()
	}
	return d.mu.err
}

func (d *disk) check() error {
	usage, err := d.fs.GetDiskUsage(d.dir)
	if errors.Is(err, vfs.ErrUnsupported) {
		return nil // a file system in memory
	}
	if err != nil {
		return spec.Errorf(spec.CodeUnavailable, "the free space of the disk under %s can't be read: %w", d.dir, err)
	}
	reserve := uint64(d.reserve)
	if reserve == 0 {
		reserve = min(defaultReserveBytes, usage.TotalBytes/smallDiskShare)
	}
	if usage.AvailBytes < reserve {
		return spec.Errorf(spec.CodeUnavailable, "the disk is full: %d MiB are free under %s and %d MiB are reserved", usage.AvailBytes>>20, d.dir, reserve>>20).
			WithHint("free space on the node's disk; writes are taken again by themselves")
	}
	return nil
}
