package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pheromone-run/pheromone/bench/report"
)

// measureAll runs the workloads: those that all systems have in rounds, so that
// what else the machine does hits all of them alike; the others once.
func measureAll(o options, r *recorder) error {
	ctx := context.Background()
	binary := filepath.Join(o.dir, "pheromone")
	if err := build(ctx, binary, "./cmd/pheromone"); err != nil {
		return err
	}
	others := buildPeers(ctx, o)
	for round := range o.rounds {
		fmt.Printf("\nround %d of %d\n", round+1, o.rounds)
		if err := measureFloor(o, r); err != nil {
			return fmt.Errorf("the machine's own figures: %w", err)
		}
		if err := measureRound(ctx, o, r, binary); err != nil {
			return err
		}
		if err := others.measure(ctx, o, r); err != nil {
			return err
		}
	}
	o.span *= time.Duration(o.rounds)
	for _, w := range []struct {
		name string
		run  func(context.Context, options, *recorder, string) error
	}{
		{"L", lost},
		{"G", failures},
		{"flood", flood},
		{"fair", fair},
		{"primitives", primitives},
		{"scale", scale},
		{"retention", retention},
	} {
		if o.wants(w.name) {
			if err := w.run(ctx, o, r, binary); err != nil {
				return fmt.Errorf("workload %s: %w", w.name, err)
			}
		}
	}
	return nil
}

// measureRound measures ours: start and memory, each runtime with each durability,
// and clusters.
func measureRound(ctx context.Context, o options, r *recorder, binary string) error {
	if o.wants("E") {
		if err := start(ctx, o, r, binary); err != nil {
			return fmt.Errorf("workload E: %w", err)
		}
	}
	if o.wantsAny("A", "B", "C", "D", "F", "K") {
		for _, durability := range o.durabilities {
			r.durability = durability
			for _, runtime := range o.runtimes {
				if err := measure(ctx, o, r, binary, runtime, durability); err != nil {
					return fmt.Errorf("runtime %s, %s: %w", runtime, durability, err)
				}
			}
		}
		r.durability = ""
	}
	if o.wants("L") {
		if err := shards(ctx, o, r, binary); err != nil {
			return fmt.Errorf("workload L: %w", err)
		}
	}
	return nil
}

// measure runs the workloads on one node with functions of one runtime.
func measure(ctx context.Context, o options, r *recorder, binary, runtime, durability string) (err error) {
	small := bytes.Repeat([]byte("x"), 100)
	var s *server
	all := []struct {
		name  string
		whats []string // what it has no figures of if it is refused
		run   func() error
	}{
		{"A", []string{report.WhatChain}, func() error { return chainAlone(o, r, s, runtime, small) }},
		{"B", []string{report.WhatLoaded}, func() error { return chainLoaded(o, r, s, runtime, small) }},
		{"C", []string{report.WhatFan}, func() error { return fanOut(o, r, s, runtime, small) }},
		{"E", nil, func() error {
			if len(s.processes) > 0 && o.wants("A") && o.wants("B") && o.wants("C") {
				r.add(figure{Workload: "E", Runtime: runtime, What: report.WhatPeak, Value: s.memory("VmHWM"), Unit: "MiB"})
			}
			return nil
		}},
		{"K", keyValueWhats(o, runtime), func() error { return keyValue(ctx, o, r, s, runtime) }},
		{"F", []string{whatLong, whatSleepers(min(o.sleepers, room(runtime)))}, func() error { return long(o, r, s, runtime) }},
		{"D", []string{report.WhatPass(1 << 20), report.WhatPass(64 << 20)}, func() error { return large(o, r, s, runtime) }},
	}
	why := refusal(runtime, durability)
	if why == "" {
		if s, err = startWith(ctx, o, binary, runtime, durability); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, s.stop()) }()
	}
	for _, w := range all {
		switch {
		case !o.wants(w.name):
		case why != "":
			for _, what := range w.whats {
				r.add(figure{Workload: w.name, Runtime: runtime, What: what, Refused: why})
			}
		default:
			if err := w.run(); err != nil {
				return fmt.Errorf("workload %s: %w", w.name, err)
			}
		}
	}
	return nil
}

// startWith starts a node with an empty folder and deploys the app.
func startWith(ctx context.Context, o options, binary, runtime, durability string) (s *server, err error) {
	if runtime == "inproc" {
		s, err = startInproc(o)
	} else {
		s, err = startProcess(o, binary)
	}
	if err != nil {
		return nil, err
	}
	if err := s.deploy(ctx, o, binary, runtime, durability); err != nil {
		return nil, errors.Join(err, s.stop())
	}
	return s, nil
}

// deploy applies the app, and runs it once so that its executors are warm.
func (s *server) deploy(ctx context.Context, o options, binary, runtime, durability string) error {
	dir, err := folder(ctx, o, runtime, durability)
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
	cmd := exec.CommandContext(ctx, binary, "apply", "-f", filepath.Join(dir, "app.yaml"), "--server", strings.Join(s.urls, ","))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apply the app: %w\n%s", err, out)
	}
	return nil
}

// chainAlone is workload A: a chain of ten functions, one session at a time.
func chainAlone(o options, r *recorder, s *server, runtime string, input []byte) error {
	took, err := repeat(o.span, func() error {
		_, err := s.invoke("f0", input)
		return err
	})
	if err == nil {
		r.add(report.Timed("A", runtime, report.WhatChain, took))
	}
	return err
}

// chainLoaded is workload B: the same chain with 64 sessions in flight.
func chainLoaded(o options, r *recorder, s *server, runtime string, input []byte) error {
	took, elapsed, cpu, err := loaded(o.span, 64, s, func() error {
		_, err := s.invoke("f0", input)
		return err
	})
	if err != nil {
		return err
	}
	f := report.Timed("B", runtime, report.WhatLoaded, took)
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
			for failed.Load() == nil && (len(mine) == 0 || time.Now().Before(end)) {
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
func fanOut(o options, r *recorder, s *server, runtime string, input []byte) error {
	took, err := repeat(o.span, func() error {
		out, err := s.invoke("fan", input)
		if err == nil && string(out) != "16" {
			err = fmt.Errorf("the join got %s objects, want 16", out)
		}
		return err
	})
	if err == nil {
		r.add(report.Timed("C", runtime, report.WhatFan, took))
	}
	return err
}

// large is workload D: two functions that pass a large object.
func large(o options, r *recorder, s *server, runtime string) error {
	for _, size := range []int{1 << 20, 64 << 20, 100 << 20} {
		took, err := repeat(o.span, func() error {
			_, err := s.invoke("make", []byte(strconv.Itoa(size)))
			return err
		})
		if err != nil {
			return err
		}
		r.add(report.Timed("D", runtime, report.WhatPass(size), took))
	}
	return nil
}

// starts is how often a node is started for workload E, in a round and for each runtime.
const starts = 3

// start is workload E: how soon a node is ready, and has finished the first session of
// an app; how long that session takes for which an executor is started; and what a node
// takes when idle. Functions of runtime inproc start with the program that they are in.
func start(ctx context.Context, o options, r *recorder, binary string) (err error) {
	var ready []time.Duration
	runtimes := slices.DeleteFunc(slices.Clone(o.runtimes), func(runtime string) bool { return runtime == "inproc" })
	if len(runtimes) == 0 {
		runtimes = []string{"go"} // a node starts as soon whatever is run on it
	}
	for i, runtime := range runtimes {
		dir, err := folder(ctx, o, runtime, "durable")
		if err != nil {
			return err
		}
		var first, cold []time.Duration
		for n := range starts {
			began := time.Now()
			s, err := startProcess(o, binary)
			if err != nil {
				return err
			}
			ready = append(ready, s.ready)
			if err = s.apply(ctx, binary, dir); err == nil {
				deployed := time.Now()
				_, err = s.invoke("f0", []byte("cold"))
				first, cold = append(first, time.Since(began)), append(cold, time.Since(deployed))
			}
			if err == nil && i == 0 && n == 0 {
				err = idle(o, r, s)
			}
			if err = errors.Join(err, s.stop()); err != nil {
				return err
			}
		}
		r.add(report.Timed("E", runtime, "start to deployed and first session finished", first))
		r.add(report.Timed("E", runtime, "the first session of an app, with the start of its executor", cold))
	}
	r.add(report.Timed("E", "", report.WhatReady, ready))
	return nil
}

func idle(o options, r *recorder, s *server) error {
	used, began := s.cpu(), time.Now()
	time.Sleep(o.span)
	share := 100 * (s.cpu() - used).Seconds() / time.Since(began).Seconds()
	r.add(figure{Workload: "E", What: "idle node and executor", Value: share, Unit: "% of a core"})
	r.add(figure{Workload: "E", What: report.WhatIdle, Value: s.memory("VmRSS"), Unit: "MiB"})
	return nil
}

// repeat runs f for a while, after a warm-up of a tenth of it, and returns how
// long each run took.
func repeat(span time.Duration, f func() error) ([]time.Duration, error) {
	if _, err := atLeastOnce(span/10, f); err != nil {
		return nil, err
	}
	return atLeastOnce(span, f)
}
