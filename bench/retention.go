package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pheromone-run/pheromone/bench/report"
)

const (
	parts       = 20   // of the sessions of workload retention, that are told of one by one
	mayDiffer   = 0.10 // the last steady slices from the first ones
	compared    = 3    // how many of the first, and of the last
	keptClients = 64
)

// slice is a part of the sessions of workload retention.
type slice struct {
	figure
	steady bool    // as many sessions were deleted in it as ran
	disk   float64 // of the data folder, in MiB: the mean over the slice
	memory float64 // resident at its end, in MiB
}

// retention runs sessions of one step, which are deleted after a short retention, for
// as long as it takes that what a node keeps has been replaced many times over. It tells
// whether that makes the node slower or larger, and, to know what else the machine did
// meanwhile, measures a fresh node right after.
func retention(ctx context.Context, o options, r *recorder, binary string) error {
	each := max(1, o.sessions/parts)
	used, err := keepUp(ctx, o, binary, func(s *server, began time.Time) ([]slice, error) {
		var all []slice
		for i := range parts {
			what := fmt.Sprintf("sessions of one step, %d %% to %d %% of %d", 100*i/parts, 100*(i+1)/parts, o.sessions)
			one, err := s.slice(o, what, each, began)
			if err != nil {
				return nil, err
			}
			r.tellSlice(one)
			all = append(all, one)
		}
		return all, nil
	})
	if err != nil {
		return err
	}
	r.compare(used)
	fresh, err := keepUp(ctx, o, binary, func(s *server, began time.Time) ([]slice, error) {
		for {
			one, err := s.slice(o, "the same on a fresh node afterwards", each, began)
			if err != nil || one.steady {
				return []slice{one}, err
			}
		}
	})
	if err != nil {
		return err
	}
	r.tellSlice(fresh[0])
	return nil
}

// keepUp has f run sessions on a node of its own.
func keepUp(ctx context.Context, o options, binary string, f func(*server, time.Time) ([]slice, error)) (all []slice, err error) {
	s, err := startProcess(o, binary)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	manifest := fmt.Sprintf("apiVersion: pheromone/v1\napp: keep\nretention: %s\nfunctions:\n  nothing: {runtime: process, command: [./functions]}\n", o.retention)
	if err := s.deployText(ctx, o, binary, "keep", manifest); err != nil {
		return nil, err
	}
	return f(s, time.Now())
}

// slice runs n sessions, some at once.
func (s *server) slice(o options, what string, n int, began time.Time) (slice, error) {
	input := []byte(strings.Repeat("x", 100))
	out := slice{steady: time.Since(began) > 2*o.retention}
	var next atomic.Int64
	var failed atomic.Pointer[error]
	var running sync.WaitGroup
	times := make([][]time.Duration, keptClients)
	start, used := time.Now(), s.cpu()
	for c := range times {
		running.Go(func() {
			for failed.Load() == nil && next.Add(1) <= int64(n) {
				began := time.Now()
				if _, err := s.call("POST", "/v1/apps/keep/functions/nothing/invoke?wait=1m", input); err != nil {
					failed.CompareAndSwap(nil, &err)
				}
				times[c] = append(times[c], time.Since(began))
			}
		})
	}
	done := make(chan struct{})
	go func() {
		running.Wait()
		close(done)
	}()
	out.disk = float64(s.meanDisk(done)) / (1 << 20)
	if err := failed.Load(); err != nil {
		return slice{}, *err
	}
	var took []time.Duration
	for _, t := range times {
		took = append(took, t...)
	}
	elapsed, cpu := time.Since(start), s.cpu()-used
	out.figure = report.Timed("retention", "go", what, took)
	out.Rate = float64(n) / elapsed.Seconds()
	out.CPU = float64(cpu.Microseconds()) / float64(n)
	out.memory = s.memory("VmRSS")
	return out, nil
}

// meanDisk looks at the data folder every second until done is closed.
func (s *server) meanDisk(done <-chan struct{}) int64 {
	sum, looks := folderBytes(s.data), int64(1)
	for tick := time.NewTicker(time.Second); ; {
		select {
		case <-tick.C:
			sum += folderBytes(s.data)
			looks++
		case <-done:
			tick.Stop()
			return sum / looks
		}
	}
}

func (r *recorder) tellSlice(s slice) {
	r.add(s.figure)
	r.add(figure{Workload: "retention", Runtime: "go", What: s.What + ": disk", Value: s.disk, Unit: "MiB"})
	r.add(figure{Workload: "retention", Runtime: "go", What: s.What + ": resident", Value: s.memory, Unit: "MiB"})
}

// compare holds the last slices against the first ones in which as much was deleted as
// was made.
func (r *recorder) compare(all []slice) {
	first := 0
	for first < len(all) && !all[first].steady {
		first++
	}
	if len(all)-first < 2*compared {
		r.add(figure{Workload: "retention", Runtime: "go", What: "the end against the beginning", Refused: "too few sessions: ask for more, or for a shorter retention"})
		return
	}
	begin, end := all[first:first+compared], all[len(all)-compared:]
	for _, c := range []struct {
		what string
		of   func(*slice) float64
	}{
		{"sessions/s", func(s *slice) float64 { return s.Rate }},
		{"processor time a session", func(s *slice) float64 { return s.CPU }},
		{"disk", func(s *slice) float64 { return s.disk }},
		{"memory", func(s *slice) float64 { return s.memory }},
	} {
		ratio := mean(end, c.of) / mean(begin, c.of)
		r.add(figure{Workload: "retention", Runtime: "go", What: "the end against the beginning, " + c.what, Value: ratio, Unit: verdict(ratio)})
	}
}

func mean(all []slice, of func(*slice) float64) (sum float64) {
	for i := range all {
		sum += of(&all[i])
	}
	return sum / float64(len(all))
}

func verdict(ratio float64) string {
	if ratio < 1-mayDiffer || ratio > 1+mayDiffer {
		return "×, more than 10 % apart"
	}
	return "×, within 10 %"
}
