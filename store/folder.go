package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pheromone-run/pheromone/spec"
)

// Identity says whose folder it is and how it is laid out.
type Identity struct {
	Format  int       `json:"format"`
	Node    string    `json:"node"`
	Created time.Time `json:"created"`
}

const (
	formatVersion = 1

	identityFile = "pheromone.json"
	// unfinishedFile is there while the folder is being made, so that a first start
	// that was cut short is told from a folder of somebody else.
	unfinishedFile   = "pheromone.json.new"
	lockFile         = "LOCK"
	pebbleFolder     = "pebble"
	bytesFolder      = "bytes"
	maxIdentityBytes = 64 << 10
)

// folder is the store's folder on its way to being opened: locked, and either
// known (its identity was read) or to be made.
type folder struct {
	fs       vfs.FS
	dir      string
	lock     io.Closer
	known    bool
	identity Identity
}

// openFolder makes dir if need be, refuses one that is not ours before anything
// is written into it, locks it and reads its identity.
func openFolder(disk vfs.FS, dir string) (*folder, error) {
	f := &folder{fs: disk, dir: dir}
	if err := f.make(); err != nil {
		return nil, err
	}
	if err := f.refuseForeign(); err != nil {
		return nil, err
	}
	lock, err := disk.Lock(f.path(lockFile))
	if err != nil {
		return nil, lockError(dir, err)
	}
	f.lock = lock
	if err := f.read(); err != nil {
		_ = lock.Close()
		return nil, err
	}
	return f, nil
}

func (f *folder) path(name string) string { return f.fs.PathJoin(f.dir, name) }

func (f *folder) pebbleDir() string { return f.path(pebbleFolder) }

func (f *folder) make() error {
	_, err := f.fs.Stat(f.dir)
	if err == nil {
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("open store %s: %w", f.dir, err)
	}
	if err := f.fs.MkdirAll(f.dir, 0o700); err != nil {
		return fmt.Errorf("make the store's folder %s: %w", f.dir, err)
	}
	return f.syncDir(f.fs.PathDir(f.dir))
}

func (f *folder) refuseForeign() error {
	names, err := f.fs.List(f.dir)
	if err != nil {
		return fmt.Errorf("open store %s: %w", f.dir, err)
	}
	if slices.Contains(names, identityFile) || slices.Contains(names, unfinishedFile) {
		return nil
	}
	for _, name := range names {
		if name != lockFile && name != "lost+found" {
			return spec.Errorf(spec.CodeInvalid, "the folder %s is not empty and not a store: it has %q and no %s", f.dir, name, identityFile).
				WithHint("name an empty folder, or the one that this node used before")
		}
	}
	return nil
}

func lockError(dir string, err error) error {
	// The text is pebble's, for a lock that this very process holds.
	if errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EACCES) && !errors.Is(err, fs.ErrPermission) || err.Error() == "lock held by current process" {
		return spec.Errorf(spec.CodeConflict, "another process uses the store in %s: %w", dir, err).
			WithHint("stop the other node, or give this one a folder of its own")
	}
	return fmt.Errorf("lock the store in %s: %w", dir, err)
}

func (f *folder) read() error {
	file, err := f.fs.Open(f.path(identityFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open store %s: %w", f.dir, err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxIdentityBytes))
	if err != nil {
		return fmt.Errorf("read %s: %w", f.path(identityFile), err)
	}
	if err := json.Unmarshal(text, &f.identity); err != nil {
		return damaged(f.dir, fmt.Errorf("%s: %w", identityFile, err))
	}
	f.known = true
	return nil
}

// check refuses a folder of another version or another node; of a new one it
// leaves the note that it is being made.
func (f *folder) check(node string) error {
	if !f.known {
		return f.write(unfinishedFile, Identity{Format: formatVersion, Node: node})
	}
	if f.identity.Format != formatVersion {
		return spec.Errorf(spec.CodeInvalid, "the store in %s has format %d, this version of pheromone knows format %d", f.dir, f.identity.Format, formatVersion).
			WithHint("start the version of pheromone that wrote it, or a newer one")
	}
	if f.identity.Node != node {
		return spec.Errorf(spec.CodeConflict, "the store in %s belongs to node %q, this is node %q", f.dir, f.identity.Node, node).
			WithHint("start it under its own name, or give this node a folder of its own")
	}
	return nil
}

// finish makes the folder known, once the database in it is there.
func (f *folder) finish(identity Identity) error {
	if err := f.write(unfinishedFile, identity); err != nil {
		return err
	}
	if err := f.fs.Rename(f.path(unfinishedFile), f.path(identityFile)); err != nil {
		return fmt.Errorf("write %s: %w", f.path(identityFile), err)
	}
	f.known, f.identity = true, identity
	return f.syncDir(f.dir)
}

func (f *folder) write(name string, identity Identity) (err error) {
	text, err := json.MarshalIndent(identity, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", f.path(name), err)
	}
	file, err := f.fs.Create(f.path(name), vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("write %s: %w", f.path(name), err)
	}
	_, err = file.Write(append(text, '\n'))
	if err == nil {
		err = file.Sync()
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return fmt.Errorf("write %s: %w", f.path(name), err)
	}
	return f.syncDir(f.dir)
}

func (f *folder) syncDir(dir string) error {
	d, err := f.fs.OpenDir(dir)
	if err != nil {
		return fmt.Errorf("sync folder %s: %w", dir, err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync folder %s: %w", dir, err)
	}
	return nil
}

// sweepTables removes tables of blobs that versions before the log of bytes have left
// half written in the database's folder.
func sweepTables(disk vfs.FS, dir string) error {
	names, err := disk.List(dir)
	if err != nil {
		return fmt.Errorf("list %s: %w", dir, err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, "chunks-") && strings.HasSuffix(name, ".making") {
			if err := disk.Remove(disk.PathJoin(dir, name)); err != nil {
				return fmt.Errorf("remove %s: %w", name, err)
			}
		}
	}
	return nil
}

// pebbleError tells damage from a disk that has no room or can't be read just now.
func pebbleError(dir string, err error) error {
	if pebble.IsCorruptionError(err) || errors.Is(err, pebble.ErrDBDoesNotExist) || errors.Is(err, fs.ErrNotExist) {
		return damaged(dir, err)
	}
	return fmt.Errorf("open store %s: %w", dir, err)
}

func damaged(dir string, err error) error {
	return spec.Errorf(spec.CodeInternal, "the store in %s is damaged: %w", dir, err).
		WithHint("move the folder away, remove this node from the cluster and join it again with an empty one; a single node is restored from a backup")
}
