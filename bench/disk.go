package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/pheromone-run/pheromone/raft/shard"
	"github.com/pheromone-run/pheromone/store"
)

// measureDisk appends 4 KiB and syncs, again and again.
func measureDisk(o options) (figure, error) {
	f, err := os.Create(filepath.Join(o.dir, "fdatasync"))
	if err != nil {
		return figure{}, err
	}
	defer func() { _ = f.Close() }()
	block := make([]byte, 4096)
	took, err := repeat(min(o.span, 2*time.Second), func() error {
		if _, err := f.Write(block); err != nil {
			return err
		}
		return syscall.Fdatasync(int(f.Fd()))
	})
	return timed("", "", "fdatasync after an append of 4 KiB", took), err
}

// measureCommit proposes 100 bytes to a shard of one replica and waits until they
// are applied: what a durable step can't be cheaper than.
func measureCommit(o options) (figure, error) {
	db, err := store.Open(filepath.Join(o.dir, "commit", "store"), store.Options{Node: "bench"})
	if err != nil {
		return figure{}, err
	}
	defer func() { _ = db.Close() }()
	host, err := shard.Open(shard.HostConfig{Dir: filepath.Join(o.dir, "commit", "raft")}, db)
	if err != nil {
		return figure{}, err
	}
	defer func() { _ = host.Close() }()
	s, err := host.Start(1, 1, map[uint64]string{1: ""})
	if err != nil {
		return figure{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	term, err := s.Lead(ctx)
	if err != nil {
		return figure{}, err
	}
	value := make([]byte, 100)
	done := make(chan error, 1)
	n := 0
	took, err := repeat(min(o.span, 3*time.Second), func() error {
		n++
		b := db.NewBatch()
		b.Set(store.AppendKVKey(nil, 1, "bench", "b", "k"), fmt.Appendf(value[:0], "%099d", n))
		if err := term.Propose(b.Repr(), func(err error) { done <- err }); err != nil {
			return err
		}
		return <-done
	})
	return timed("", "", "bare commit of 100 bytes", took), err
}
