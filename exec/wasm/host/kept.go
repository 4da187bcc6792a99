package host

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// maxKeptBytes bounds what a node keeps of compiled modules.
const maxKeptBytes = 1 << 30

// kept is the folder in which the compiled code of one module is kept, locked
// against other hosts. In it, the compiler has a folder for each of its versions.
type kept struct {
	folder string
	lock   *os.File
}

const lockName = "lock"

// openKept locks the folder of a module: of the hosts that start at once, one
// compiles, and the others find what it has made.
func openKept(cache string, data []byte) (*kept, error) {
	sum := sha256.Sum256(data)
	k := &kept{folder: filepath.Join(cache, hex.EncodeToString(sum[:]))}
	for {
		if err := os.MkdirAll(k.folder, 0o700); err != nil {
			return nil, fmt.Errorf("keep what is compiled: %w", err)
		}
		path := filepath.Join(k.folder, lockName)
		lock, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, fmt.Errorf("keep what is compiled: %w", err)
		}
		if err := flock(lock, unix.LOCK_EX); err != nil {
			_ = lock.Close()
			return nil, fmt.Errorf("lock what is compiled: %w", err)
		}
		if same(lock, path) {
			k.lock = lock
			return k, nil
		}
		_ = lock.Close() // it was removed before we had it
	}
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); err != unix.EINTR {
			return err
		}
	}
}

func same(f *os.File, path string) bool {
	mine, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(mine, there)
}

func (k *kept) close() { _ = k.lock.Close() }

// files are what is kept.
func (k *kept) files() []string {
	files, _ := filepath.Glob(filepath.Join(k.folder, "*", "*")) // the pattern is right
	return files
}

// remove removes some of what is kept.
func (k *kept) remove(files []string) error {
	for _, file := range files {
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove what was compiled: %w", err)
		}
	}
	return nil
}

// used notes that it was needed now.
func (k *kept) used() {
	now := time.Now()
	_ = os.Chtimes(k.folder, now, now) // else it looks older than it is
}

// prune removes what was not needed for longest, until at most so many bytes are
// kept. What another host has locked stays, and what can't be removed: the next
// one tries again.
func (k *kept) prune(most int64) {
	type module struct {
		folder string
		used   time.Time
		bytes  int64
	}
	var modules []module
	total := int64(0)
	entries, _ := os.ReadDir(filepath.Dir(k.folder))
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil {
			continue
		}
		m := module{filepath.Join(filepath.Dir(k.folder), entry.Name()), info.ModTime(), 0}
		_ = filepath.WalkDir(m.folder, func(_ string, d fs.DirEntry, err error) error {
			if err != nil {
				return nil // it is going away
			}
			if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
				m.bytes += info.Size()
			}
			return nil
		})
		total += m.bytes
		modules = append(modules, m)
	}
	slices.SortFunc(modules, func(a, b module) int { return a.used.Compare(b.used) })
	for _, m := range modules {
		if total <= most {
			return
		}
		if m.folder != k.folder && removeUnlocked(m.folder) {
			total -= m.bytes
		}
	}
}

func removeUnlocked(folder string) bool {
	lock, err := os.OpenFile(filepath.Join(folder, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return false
	}
	defer lock.Close()
	return flock(lock, unix.LOCK_EX|unix.LOCK_NB) == nil && os.RemoveAll(folder) == nil
}
