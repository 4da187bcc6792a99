package cli

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	settleTime = 150 * time.Millisecond // editors write a file in several steps
	maxFolders = 2000
)

// unwatched are folders whose changes don't call for a deployment by themselves.
var unwatched = []string{".git", ".hg", ".svn", "__pycache__", "node_modules", ".venv"}

// folderWatch tells when something in a folder has changed and come to rest. Its
// goroutine ends with close.
type folderWatch struct {
	watcher *fsnotify.Watcher // nil: nothing is watched
	skip    string            // the node's data
	settled chan struct{}
	stopped chan struct{}
	broken  chan error
	folders int
}

func (r *devRun) watchFolder() (*folderWatch, error) {
	w := &folderWatch{skip: r.data, settled: make(chan struct{}, 1), broken: make(chan error, 1), stopped: make(chan struct{})}
	if r.manifest == "" {
		close(w.stopped)
		return w, nil
	}
	m, err := r.c.openManifest(r.manifest)
	if err != nil {
		return nil, err
	}
	if w.watcher, err = fsnotify.NewWatcher(); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(m.dir)
	if err == nil {
		err = w.add(dir)
	}
	if err != nil {
		return nil, errors.Join(err, w.watcher.Close())
	}
	go w.run()
	return w, nil
}

func (w *folderWatch) changed() <-chan struct{} { return w.settled }
func (w *folderWatch) failed() <-chan error     { return w.broken }

func (w *folderWatch) close() {
	if w.watcher != nil {
		_ = w.watcher.Close() // it only holds descriptors
	}
	<-w.stopped
}

// add watches dir and the folders in it.
func (w *folderWatch) add(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist): // gone meanwhile
			return nil
		case err != nil:
			return err
		case !entry.IsDir():
			return nil
		case w.skips(path):
			return fs.SkipDir
		}
		if w.folders++; w.folders > maxFolders {
			return usage("%s holds more than %d folders, too many to watch", dir, maxFolders).
				WithHint("give the app a folder of its own")
		}
		return w.watcher.Add(path)
	})
}

func (w *folderWatch) skips(path string) bool {
	return path == w.skip || strings.HasPrefix(path, w.skip+string(filepath.Separator)) ||
		slices.Contains(unwatched, filepath.Base(path))
}

func (w *folderWatch) run() {
	defer close(w.stopped)
	rest := time.NewTimer(settleTime)
	rest.Stop()
	defer rest.Stop()
	for {
		select {
		case e, ok := <-w.watcher.Events:
			switch {
			case !ok:
				return
			case w.skips(e.Name) || e.Op == fsnotify.Chmod && !isExecutable(e.Name):
				continue
			case e.Op&fsnotify.Create != 0:
				if info, err := os.Lstat(e.Name); err == nil && info.IsDir() {
					w.report(w.add(e.Name))
				}
			}
			rest.Reset(settleTime)
		case err, ok := <-w.watcher.Errors:
			if !ok {
				return
			}
			w.report(err)
			rest.Reset(settleTime) // what was lost may have been a change
		case <-rest.C:
			select {
			case w.settled <- struct{}{}:
			default: // one is told already
			}
		}
	}
}

func (w *folderWatch) report(err error) {
	if err == nil {
		return
	}
	select {
	case w.broken <- err:
	default:
	}
}

func isExecutable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().Perm()&0o111 != 0
}
