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
	// fullFor is how long a disk counts as full after background work has met its
	// end, and fullPause how long that work waits before it is tried again.
	fullFor   = 3 * time.Second
	fullPause = 200 * time.Millisecond
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
		full    time.Time // when background work last met a full disk
	}
}

// metEnd notes that background work has met a full disk.
func (d *disk) metEnd(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.full = now
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
	if !d.mu.full.IsZero() && now.Sub(d.mu.full) < fullFor {
		return spec.Errorf(spec.CodeUnavailable, "the disk under %s is full", d.dir).WithHint(freeSpaceHint)
	}
	if d.mu.checked.IsZero() || now.Sub(d.mu.checked) >= diskCheckEvery {
		d.mu.checked, d.mu.err = now, d.check()
	}
	return d.mu.err
}

const freeSpaceHint = "free space on the node's disk; writes are taken again by themselves"

// tight tells whether little more is free than is reserved, so that garbage is worth any
// effort.
func (d *disk) tight() bool {
	usage, err := d.fs.GetDiskUsage(d.dir)
	return err == nil && d.reserve >= 0 && usage.AvailBytes < 2*d.reserved(usage)
}

func (d *disk) reserved(usage vfs.DiskUsage) uint64 {
	if d.reserve > 0 {
		return uint64(d.reserve)
	}
	return min(defaultReserveBytes, usage.TotalBytes/smallDiskShare)
}

func (d *disk) check() error {
	usage, err := d.fs.GetDiskUsage(d.dir)
	if errors.Is(err, vfs.ErrUnsupported) {
		return nil // a file system in memory
	}
	if err != nil {
		return spec.Errorf(spec.CodeUnavailable, "the free space of the disk under %s can't be read: %w", d.dir, err)
	}
	reserve := d.reserved(usage)
	if usage.AvailBytes < reserve {
		return spec.Errorf(spec.CodeUnavailable, "the disk is full: %d MiB are free under %s and %d MiB are reserved", usage.AvailBytes>>20, d.dir, reserve>>20).
			WithHint(freeSpaceHint)
	}
	return nil
}
