package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pheromone-run/pheromone/client"
)

// measureAll starts a node for each runtime and runs the workloads on it.
func measureAll(o options, r *report) error {
	ctx := context.Background()
	binary := filepath.Join(o.dir, "pheromone")
	if err := build(ctx, binary, "./cmd/pheromone"); err != nil {
		return err
	}
	if o.wants("E") {
		if err := start(ctx, o, r, binary); err != nil {
			return fmt.Errorf("workload E: %w", err)
		}
	}
	for _, w := range []struct {
		name string
		run  func(context.Context, options, *report, string) error
	}{
		{"G", failures},
		{"flood", flood},
		{"fair", fair},
		{"primitives", primitives},
	} {
		if o.wants(w.name) {
			if err := w.run(ctx, o, r, binary); err != nil {
				return fmt.Errorf("workload %s: %w", w.name, err)
			}
		}
	}
	if !slices.ContainsFunc([]string{"A", "B", "C", "D", "K"}, o.wants) {
		return nil
	}
	for _, runtime := range o.runtimes {
		if err := measure(ctx, o, r, binary, runtime); err != nil {
			return fmt.Errorf("runtime %s: %w", runtime, err)
		}
	}
	return nil
}

func measure(ctx context.Context, o options, r *report, binary, runtime string) (err error) {
	var s *server
	if runtime == "inproc" {
		s, err = startInproc(o)
	} else {
		s, err = startProcess(o, binary, runtime)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	if err := s.deploy(ctx, o, binary, runtime); err != nil {
		return err
	}
	small := bytes.Repeat([]byte("x"), 100)
	for _, w := range []struct {
		name string
		run  func() error
	}{
		{"A", func() error { return chainAlone(o, r, s, runtime, small) }},
		{"B", func() error { return chainLoaded(o, r, s, runtime, small) }},
		{"C", func() error { return fanOut(o, r, s, runtime, small) }},
		{"D", func() error { return large(o, r, s, runtime) }},
		{"K", func() error { return keyValue(ctx, o, r, s, runtime) }},
	} {
		if o.wants(w.name) {
			if err := w.run(); err != nil {
				return fmt.Errorf("workload %s: %w", w.name, err)
			}
		}
	}
	if s.process != nil {
		r.add(figure{Workload: "E", Runtime: runtime, What: "peak resident memory of the node", Value: s.memory("VmHWM"), Unit: "MiB"})
	}
	return nil
}

// deploy applies the app, and runs it once so that its executors are warm.
func (s *server) deploy(ctx context.Context, o options, binary, runtime string) error {
	dir, err := folder(ctx, o, runtime)
	if err != nil {
		return err
	}
	if err := s.apply(ctx, binary, dir); err != nil {
		return err
	}
	_, err = s.invoke("f0", []byte("warm"))
	return err
}

func (s *server) apply(ctx context.Context, binary, dir string) error {
	cmd := exec.CommandContext(ctx, binary, "apply", "-f", filepath.Join(dir, "app.yaml"), "--server", s.url)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apply the app: %w\n%s", err, out)
	}
	return nil
}

// chainAlone is workload A: a chain of ten functions, one session at a time.
func chainAlone(o options, r *report, s *server, runtime string, input []byte) error {
	took, err := repeat(o.span, func() error {
		_, err := s.invoke("f0", input)
		return err
	})
	if err == nil {
		r.add(timed("A", runtime, "chain of 10, one session at a time", took))
	}
	return err
}

// chainLoaded is workload B: the same chain with 64 sessions in flight.
func chainLoaded(o options, r *report, s *server, runtime string, input []byte) error {
	took, elapsed, cpu, err := loaded(o.span, 64, s, func() error {
		_, err := s.invoke("f0", input)
		return err
	})
	if err != nil {
		return err
	}
	f := timed("B", runtime, "chain of 10, 64 sessions in flight, steps", took)
	f.Rate = float64(10*len(took)) / elapsed.Seconds()
	f.CPU = float64(cpu.Microseconds()) / float64(10*len(took))
	r.add(f)
	return nil
}

// loaded runs f from many clients at once.
func loaded(span time.Duration, clients int, s *server, f func() error) (took []time.Duration, elapsed, cpu time.Duration, err error) {
	var mu sync.Mutex
	var failed atomic.Pointer[error]
	var running sync.WaitGroup
	began, used := time.Now(), s.cpu()
	end := began.Add(span)
	for range clients {
		running.Go(func() {
			var mine []time.Duration
			for time.Now().Before(end) && failed.Load() == nil {
				start := time.Now()
				if err := f(); err != nil {
					failed.CompareAndSwap(nil, &err)
					return
				}
				mine = append(mine, time.Since(start))
			}
			mu.Lock()
			took = append(took, mine...)
			mu.Unlock()
		})
	}
	running.Wait()
	if e := failed.Load(); e != nil {
		return nil, 0, 0, *e
	}
	return took, time.Since(began), s.cpu() - used, nil
}

// fanOut is workload C: one function, 16 functions, a join of what they put.
func fanOut(o options, r *report, s *server, runtime string, input []byte) error {
	took, err := repeat(o.span, func() error {
		out, err := s.invoke("fan", input)
		if err == nil && string(out) != "16" {
			err = fmt.Errorf("the join got %s objects, want 16", out)
		}
		return err
	})
	if err == nil {
		r.add(timed("C", runtime, "fan-out to 16 and a join", took))
	}
	return err
}

// large is workload D: two functions that pass a large object.
func large(o options, r *report, s *server, runtime string) error {
	for _, size := range []int{1 << 20, 64 << 20, 100 << 20} {
		took, err := repeat(o.span, func() error {
			_, err := s.invoke("make", []byte(strconv.Itoa(size)))
			return err
		})
		if err != nil {
			return err
		}
		r.add(timed("D", runtime, fmt.Sprintf("two functions that pass %d MiB", size>>20), took))
	}
	return nil
}

// start is workload E: how soon a node is ready and has finished a session, and
// what it takes when idle.
func start(ctx context.Context, o options, r *report, binary string) (err error) {
	var ready, first []time.Duration
	for i := range 5 {
		began := time.Now()
		s, err := startProcess(o, binary, fmt.Sprint("start-", i))
		if err != nil {
			return err
		}
		ready = append(ready, s.ready)
		if err = s.deploy(ctx, o, binary, "python"); err == nil {
			first = append(first, time.Since(began))
			if i == 4 {
				err = idle(o, r, s)
			}
		}
		if err = errors.Join(err, s.stop()); err != nil {
			return err
		}
	}
	r.add(timed("E", "", "start to ready", ready))
	r.add(timed("E", "python", "start to deployed and first session finished", first))
	return nil
}

func idle(o options, r *report, s *server) error {
	used, began := s.cpu(), time.Now()
	time.Sleep(o.span)
	share := 100 * (s.cpu() - used).Seconds() / time.Since(began).Seconds()
	r.add(figure{Workload: "E", What: "idle node and executor", Value: share, Unit: "% of a core"})
	r.add(figure{Workload: "E", What: "idle node, resident", Value: s.memory("VmRSS"), Unit: "MiB"})
	return nil
}

// keyValue is workload K: puts, linearizable gets, and how soon a watch tells.
func keyValue(ctx context.Context, o options, r *report, s *server, runtime string) error {
	if runtime != o.runtimes[0] {
		return nil // no function takes part
	}
	var n atomic.Int64
	path := func() string {
		return "/v1/apps/bench/buckets/plain/objects/k" + strconv.FormatInt(n.Add(1)%10_000, 10)
	}
	for _, size := range []int{100, 1024} {
		value := bytes.Repeat([]byte("v"), size)
		for _, op := range []struct {
			name string
			call func() error
		}{
			{"put", func() error { _, err := s.call("PUT", path(), value); return err }},
			{"keyed put", func() error { _, err := s.callWith("PUT", path(), rand.Text(), value); return err }},
			{"get", func() error {
				_, err := s.call("GET", "/v1/apps/bench/buckets/plain/objects/k1", nil)
				return err
			}},
		} {
			for _, clients := range []int{1, 64} {
				took, elapsed, _, err := loaded(o.span/2, clients, s, op.call)
				if err != nil {
					return err
				}
				f := timed("K", "", fmt.Sprintf("%s of %d bytes, %d clients", op.name, size, clients), took)
				f.Rate = float64(len(took)) / elapsed.Seconds()
				r.add(f)
			}
		}
	}
	return watchLatency(ctx, o, r, s)
}

// watchLatency measures from before a put to the watch's event of it.
func watchLatency(ctx context.Context, o options, r *report, s *server) error {
	c, err := client.New(s.url)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	seen := make(chan struct{}, 1)
	broken := make(chan error, 1)
	go func() {
		for event, err := range c.Watch(ctx, "bench", "plain", client.WatchOptions{Prefix: "watched"}) {
			if err != nil {
				broken <- err
				return
			}
			if event.Object.Key != "" {
				seen <- struct{}{}
			}
		}
	}()
	put := func() error {
		if _, err := s.call("PUT", "/v1/apps/bench/buckets/plain/objects/watched", []byte("x")); err != nil {
			return err
		}
		select {
		case <-seen:
			return nil
		case err := <-broken:
			return err
		case <-time.After(5 * time.Second):
			return errors.New("the watch does not tell of a put")
		}
	}
	for first := true; ; first = false { // until the watch is there
		err := put()
		if err == nil {
			break
		}
		if !first {
			return err
		}
	}
	took, err := repeat(o.span/2, put)
	if err == nil {
		r.add(timed("K", "", "put until the watch tells of it", took))
	}
	return err
}
