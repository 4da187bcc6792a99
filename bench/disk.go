package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/pheromone-run/pheromone/bench/report"
	"github.com/pheromone-run/pheromone/raft/shard"
	"github.com/pheromone-run/pheromone/store"
)

// measureFloor measures what no durable system can be faster than, once a round.
func measureFloor(o options, r *recorder) error {
	o.span = min(o.span, time.Second)
	sync, err := measureDisk(o, 4096)
	if err != nil {
		return err
	}
	write, err := measureDisk(o, 64<<20)
	if err != nil {
		return err
	}
	commit, err := measureCommit(o)
	if err != nil {
		return err
	}
	r.sync = append(r.sync, report.Timed("", "", "fdatasync after an append of 4 KiB", sync))
	r.write = append(r.write, report.Timed("", "", "64 MiB written once, and fdatasync", write))
	r.commit = append(r.commit, report.Timed("", "", "bare commit of 100 bytes", commit))
	return nil
}

// measureDisk appends to a file and syncs it, again and again.
func measureDisk(o options, size int) ([]time.Duration, error) {
	f, err := os.Create(filepath.Join(o.dir, "fdatasync"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	block := make([]byte, size)
	return repeat(o.span, func() error {
		if _, err := f.Write(block); err != nil {
			return err
		}
		return syscall.Fdatasync(int(f.Fd()))
	})
}

// measureCommit proposes 100 bytes to a shard of one replica and waits until they
// are applied: what a durable step can't be cheaper than.
func measureCommit(o options) ([]time.Duration, error) {
	o.dir = filepath.Join(o.dir, "commit")
	defer func() { _ = os.RemoveAll(o.dir) }()
	db, err := store.Open(filepath.Join(o.dir, "store"), store.Options{Node: "bench"})
	if err != nil {
		return nil, err
	}
	defer func() { _ = db.Close() }()
	host, err := shard.Open(shard.HostConfig{Dir: filepath.Join(o.dir, "raft")}, db)
	if err != nil {
		return nil, err
	}
	defer func() { _ = host.Close() }()
	s, err := host.Start(1, 1, map[uint64]string{1: ""})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	term, err := s.Lead(ctx)
	if err != nil {
		return nil, err
	}
	value := make([]byte, 100)
	done := make(chan error, 1)
	n := 0
	return repeat(o.span, func() error {
		n++
		b := db.NewBatch()
		b.Set(store.AppendKVKey(nil, 1, "bench", "b", "k"), fmt.Appendf(value[:0], "%099d", n))
		if err := term.Propose(b.Repr(), func(err error) { done <- err }); err != nil {
			return err
		}
		return <-done
	})
}
