package store

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// logFS tells of a log that could not be made, written or synced, and of a folder
// that could not be synced, before pebble sees the error: pebble may meet it with
// a panic that nothing can recover (rotateWAL leaves a mutex unlocked, and markers
// are moved in the background), and the node is to stop with a reason. Other files
// need no such care: tables are made again, and for a manifest pebble calls its
// logger's Fatalf.
type logFS struct {
	vfs.FS
	failed func(error)
	synced func()
}

func isLog(name string) bool { return strings.HasSuffix(name, ".log") }

func (f logFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.Create(name, category)
	return f.watch(file, name, err)
}

func (f logFS) ReuseForWrite(oldname, newname string, category vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.ReuseForWrite(oldname, newname, category)
	return f.watch(file, newname, err)
}

func (f logFS) OpenDir(name string) (vfs.File, error) {
	dir, err := f.FS.OpenDir(name)
	if err != nil {
		return nil, err
	}
	return &logFile{File: dir, name: name, failed: f.failed, synced: f.synced}, nil
}

func (f logFS) Unwrap() vfs.FS { return f.FS }

func (f logFS) watch(file vfs.File, name string, err error) (vfs.File, error) {
	if !isLog(name) {
		if err != nil {
			pauseIfFull(err)
			return file, err
		}
		return &tableFile{file}, nil
	}
	if err != nil {
		f.failed(fmt.Errorf("make %s: %w", name, err))
		return file, err
	}
	return &logFile{File: file, name: name, failed: f.failed, synced: f.synced}, nil
}

// tableFile is any other file. Pebble tries at once again what has met a full
// disk; a pause keeps that from taking a whole core.
type tableFile struct{ vfs.File }

func (f *tableFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	pauseIfFull(err)
	return n, err
}

func pauseIfFull(err error) {
	if errors.Is(err, syscall.ENOSPC) {
		time.Sleep(fullPause)
	}
}

// logFile is a log or a folder.
type logFile struct {
	vfs.File
	name   string
	failed func(error)
	synced func()
}

func (f *logFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	return n, f.watch("write", err)
}

func (f *logFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.File.WriteAt(p, off)
	return n, f.watch("write", err)
}

func (f *logFile) Sync() error { return f.watch("sync", f.File.Sync()) }

func (f *logFile) SyncData() error { return f.watch("sync", f.File.SyncData()) }

func (f *logFile) SyncTo(length int64) (bool, error) {
	full, err := f.File.SyncTo(length)
	return full, f.watch("sync", err)
}

func (f *logFile) watch(op string, err error) error {
	if err != nil {
		f.failed(fmt.Errorf("%s %s: %w", op, f.name, err))
	} else if op == "sync" {
		f.synced()
	}
	return err
}
