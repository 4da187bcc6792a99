package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"
)

const floodClients = 64

// flood puts small objects as fast as many clients can, and tells what that
// takes of the node's memory and disk.
func flood(ctx context.Context, o options, r *recorder, binary string) error {
	for _, v := range []struct{ name, what, manifest string }{
		{"immediate", "an immediate trigger", pressureManifest("flood", "{name: each, primitive: immediate, target: nothing}", "")},
		{"timed", "a by_time trigger, windows of 1 s", pressureManifest("flood", "{name: each, primitive: by_time, every: 1s, target: nothing}", "")},
		{"slow", "a function that cannot keep up", pressureManifest("flood", "{name: each, primitive: immediate, target: slow}", "limits: {max_pending: 10000}\n")},
	} {
		if err := floodOne(ctx, o, r, binary, v.name, v.what, v.manifest); err != nil {
			return fmt.Errorf("%s: %w", v.name, err)
		}
	}
	return nil
}

// pressureManifest is an app with one trigger on one bucket. Its slow function
// runs at most 16 attempts at once.
func pressureManifest(app, trigger, limits string) string {
	how := "runtime: process, command: [./functions]"
	return fmt.Sprintf("apiVersion: pheromone/v1\napp: %s\n%sfunctions:\n  nothing: {%s}\n  slow: {%s, concurrency: 16}\nbuckets:\n  in: {triggers: [%s]}\n", app, limits, how, how, trigger)
}

// deployText applies an app with the Go functions.
func (s *server) deployText(ctx context.Context, o options, binary, app, manifest string) error {
	dir := filepath.Join(o.dir, "app-"+app)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "app.yaml"), []byte(manifest), 0o644); err != nil {
		return err
	}
	if err := build(ctx, filepath.Join(dir, "functions"), "./bench/functions"); err != nil {
		return err
	}
	return s.apply(ctx, binary, dir)
}

func floodOne(ctx context.Context, o options, r *recorder, binary, name, what, manifest string) (err error) {
	s, err := startProcess(o, binary)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	if err := s.deployText(ctx, o, binary, "flood", manifest); err != nil {
		return err
	}
	puts := o.flood
	if name == "slow" { // as long as its queue takes to fill, and again
		puts = min(puts, 20_000)
	}
	var pending atomic.Int64
	watched, stopWatch := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() { s.watchPending(watched, &pending) })
	var refused atomic.Int64
	began := time.Now()
	err = s.putMany(puts, "flood", &refused)
	elapsed := time.Since(began)
	if err == nil {
		err = s.drained(10 * time.Minute)
	}
	stopWatch()
	watching.Wait()
	if err != nil {
		return err
	}
	f := figure{Workload: "flood", Runtime: "go", What: fmt.Sprintf("%d puts of 100 bytes, %s", puts, what), N: puts, Rate: float64(puts) / elapsed.Seconds()}
	r.add(f)
	for _, f := range []figure{
		{What: "peak resident memory of the node", Value: s.memory("VmHWM"), Unit: "MiB"},
		{What: "most invocations pending", Value: float64(pending.Load()), Unit: ""},
		{What: "answers 429", Value: float64(refused.Load()), Unit: ""},
		{What: "disk", Value: float64(folderBytes(s.data)) / (1 << 20), Unit: "MiB"},
		{What: "until the last function had run", Value: time.Since(began).Seconds(), Unit: "s"},
	} {
		f.Workload, f.Runtime, f.What = "flood", "go", "… "+f.What
		if f.Unit == "" {
			f.Unit = "in all"
		}
		r.add(f)
	}
	return nil
}

// putMany puts n objects from many clients. One that is told to come again does.
func (s *server) putMany(n int, app string, refused *atomic.Int64) error {
	value := bytes.Repeat([]byte("x"), 100)
	return fromManyClients(n, func(i int64) error { return s.putOne(app, i, value, refused) })
}

// fromManyClients puts n objects, up to the first error.
func fromManyClients(n int, put func(i int64) error) error {
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var running sync.WaitGroup
	for range floodClients {
		running.Go(func() {
			for failed.Load() == nil {
				i := next.Add(1)
				if i > int64(n) {
					return
				}
				if err := put(i); err != nil {
					failed.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	running.Wait()
	if err := failed.Load(); err != nil {
		return *err
	}
	return nil
}

func (s *server) putOne(app string, i int64, value []byte, refused *atomic.Int64) error {
	path := "/v1/apps/" + app + "/buckets/in/objects/k" + strconv.FormatInt(i, 10)
	for {
		status, _, body, err := s.send("PUT", path, value)
		switch {
		case err != nil:
			return err
		case status < 300:
			return nil
		case status != fasthttp.StatusTooManyRequests:
			return fmt.Errorf("put: status %d: %s", status, body)
		}
		refused.Add(1)
		time.Sleep(time.Second) // as Retry-After says
	}
}

// watchPending notes the most invocations that were pending.
func (s *server) watchPending(ctx context.Context, most *atomic.Int64) {
	for ctx.Err() == nil {
		if c, err := s.cluster(); err == nil {
			var n int64
			for _, shard := range c.Shards {
				n += int64(shard.PendingInvocations)
			}
			most.Store(max(most.Load(), n))
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// drained waits until nothing is pending. Windows that are open close meanwhile.
func (s *server) drained(limit time.Duration) error {
	quiet := 0
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		c, err := s.cluster()
		if err != nil {
			return err
		}
		pending := 0
		for _, shard := range c.Shards {
			pending += int(shard.PendingInvocations)
		}
		if quiet++; pending > 0 {
			quiet = 0
		}
		if quiet == 8 {
			return nil
		}
	}
	return fmt.Errorf("there is still something pending after %s", limit)
}

func folderBytes(dir string) (n int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // files come and go
		}
		if info, err := d.Info(); err == nil {
			n += info.Size()
		}
		return nil
	})
	return n
}
