package logs

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/spec"
)

// Settings of Logs. A zero value means the default.
type Settings struct {
	// FileBytes is the size at which a file is put aside, in the place of the one
	// put aside before: an app's log takes at most twice as much; default 4 MiB.
	FileBytes int64
	// Files bounds the files that are open at once; default 256.
	Files  int
	Logger *slog.Logger // default: slog.Default()
}

// maxTail bounds what Tail returns.
const maxTail = 10_000

// followBuffer is how many records a follower may lag behind.
const followBuffer = 1024

// Logs keeps the logs of all apps of a node under one folder.
type Logs struct {
	s   Settings
	dir string

	mu struct {
		sync.Mutex
		closed    bool
		files     map[spec.AppName]*appFile
		followers map[*follower]struct{}
	}
}

// appFile is an app's open file. It is guarded by the mutex of Logs: an append
// is one write into the page cache.
type appFile struct {
	file   *os.File
	bytes  int64
	used   time.Time
	failed bool // reported
}

type follower struct {
	app      spec.AppName
	function spec.FunctionName
	records  chan exec.LogRecord // capacity followBuffer: what a follower may lag behind
	missed   int                 // since the last record that fitted; guarded by the mutex of Logs
}

// Open opens the logs under dir, which is made if it is not there.
func Open(dir string, s Settings) (*Logs, error) {
	if s.FileBytes <= 0 {
		s.FileBytes = 4 << 20
	}
	if s.Files <= 0 {
		s.Files = 256
	}
	if s.Logger == nil {
		s.Logger = slog.Default()
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("open function logs: %w", err)
	}
	l := &Logs{s: s, dir: dir}
	l.mu.files = make(map[spec.AppName]*appFile)
	l.mu.followers = make(map[*follower]struct{})
	return l, nil
}

// Append adds a record to its app's log.
func (l *Logs) Append(r exec.LogRecord) {
	line, err := json.Marshal(r)
	if err != nil {
		panic("exec/logs: " + err.Error()) // a record always encodes
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.closed {
		return
	}
	if err := l.write(r.App, append(line, '\n')); err != nil {
		l.report(r.App, err)
	}
	for f := range l.mu.followers {
		f.offer(r)
	}
}

// write appends a line to the app's file. l.mu is held.
func (l *Logs) write(app spec.AppName, line []byte) error {
	f, err := l.open(app)
	if err != nil {
		return err
	}
	if f.bytes > 0 && f.bytes+int64(len(line)) > l.s.FileBytes {
		if f, err = l.rotate(app); err != nil {
			return err
		}
	}
	n, err := f.file.Write(line)
	f.bytes += int64(n)
	if err == nil {
		f.failed = false
	}
	return err
}

// open returns the app's file, closing the one unused for longest if there are
// too many. l.mu is held.
func (l *Logs) open(app spec.AppName) (*appFile, error) {
	f := l.mu.files[app]
	if f != nil && f.file != nil {
		f.used = time.Now()
		return f, nil
	}
	if len(l.mu.files) >= l.s.Files {
		l.closeOldest()
	}
	file, err := os.OpenFile(l.path(app), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return nil, err
	}
	size, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	f = &appFile{file: file, bytes: size, used: time.Now()}
	l.mu.files[app] = f
	return f, nil
}

func (l *Logs) closeOldest() {
	var oldest spec.AppName
	for app, f := range l.mu.files {
		if oldest == "" || f.used.Before(l.mu.files[oldest].used) {
			oldest = app
		}
	}
	l.drop(oldest)
}

// drop closes the app's file. l.mu is held.
func (l *Logs) drop(app spec.AppName) {
	if f := l.mu.files[app]; f != nil && f.file != nil {
		_ = f.file.Close() // what was written is in the page cache; logs are not synced
	}
	delete(l.mu.files, app)
}

func (l *Logs) rotate(app spec.AppName) (*appFile, error) {
	l.drop(app)
	if err := os.Rename(l.path(app), l.older(app)); err != nil {
		return nil, err
	}
	return l.open(app)
}

// report logs the first of a row of failures. l.mu is held.
func (l *Logs) report(app spec.AppName, err error) {
	f := l.mu.files[app]
	if f == nil {
		f = &appFile{}
		l.mu.files[app] = f
	}
	if !f.failed {
		f.failed = true
		l.s.Logger.Warn("function log can't be written", "app", app, "error", err)
	}
}

// offer passes a record to a follower, or counts it as missed. The mutex of Logs
// is held.
func (f *follower) offer(r exec.LogRecord) {
	if r.App != f.app || f.function != "" && r.Function != f.function {
		return
	}
	if f.missed > 0 {
		gap := exec.LogRecord{Time: r.Time, App: r.App, Stream: exec.StreamNode, Text: fmt.Sprintf("missed %d lines: the reader was too slow", f.missed)}
		select {
		case f.records <- gap:
			f.missed = 0
		default:
			f.missed++
			return
		}
	}
	select {
	case f.records <- r:
	default:
		f.missed++
	}
}

// Tail returns the last n records of an app, or of one of its functions, oldest
// first.
func (l *Logs) Tail(app spec.AppName, function spec.FunctionName, n int) ([]exec.LogRecord, error) {
	n = min(n, maxTail)
	if n <= 0 {
		return nil, nil
	}
	var ring []exec.LogRecord
	next := 0
	for _, path := range []string{l.older(app), l.path(app)} {
		err := scan(path, l.s.FileBytes, func(r exec.LogRecord) {
			if function != "" && r.Function != function {
				return
			}
			if len(ring) < n {
				ring = append(ring, r)
				return
			}
			ring[next] = r
			next = (next + 1) % n
		})
		if err != nil {
			return nil, fmt.Errorf("read the log of %s: %w", app, err)
		}
	}
	return append(ring[next:len(ring):len(ring)], ring[:next]...), nil
}

// scan reads the records of a file; what is not a record (a line cut short by a
// crash) is passed over.
func scan(path string, maxBytes int64, each func(exec.LogRecord)) error {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(io.LimitReader(file, 2*maxBytes))
	lines.Buffer(make([]byte, 64<<10), 1<<20)
	for lines.Scan() {
		var r exec.LogRecord
		if json.Unmarshal(lines.Bytes(), &r) == nil {
			each(r)
		}
	}
	return lines.Err()
}

// Follow yields the records of an app, or of one of its functions, that are
// appended from the call on, until ctx ends or the logs are closed. A follower
// that lags far behind gets a record of stream "node" that says how many it missed.
func (l *Logs) Follow(ctx context.Context, app spec.AppName, function spec.FunctionName) iter.Seq[exec.LogRecord] {
	f := &follower{app: app, function: function, records: make(chan exec.LogRecord, followBuffer)}
	l.mu.Lock()
	if l.mu.closed {
		close(f.records)
	} else {
		l.mu.followers[f] = struct{}{}
	}
	l.mu.Unlock()
	// A sequence that is never ranged over is forgotten with its context.
	context.AfterFunc(ctx, func() { l.unfollow(f) })
	return func(yield func(exec.LogRecord) bool) {
		defer l.unfollow(f)
		for {
			select {
			case r, ok := <-f.records:
				if !ok || !yield(r) {
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}
}

func (l *Logs) unfollow(f *follower) {
	l.mu.Lock()
	delete(l.mu.followers, f)
	l.mu.Unlock()
}

// Remove deletes the log of an app.
func (l *Logs) Remove(app spec.AppName) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drop(app)
	for _, path := range []string{l.path(app), l.older(app)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the log of %s: %w", app, err)
		}
	}
	return nil
}

// Close closes the files and ends the followers.
func (l *Logs) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.mu.closed {
		return nil
	}
	l.mu.closed = true
	for app := range l.mu.files {
		l.drop(app)
	}
	for f := range l.mu.followers {
		close(f.records)
	}
	clear(l.mu.followers)
	return nil
}

func (l *Logs) path(app spec.AppName) string  { return filepath.Join(l.dir, string(app)+".jsonl") }
func (l *Logs) older(app spec.AppName) string { return filepath.Join(l.dir, string(app)+".1.jsonl") }
