package main

import (
	"fmt"
	goruntime "runtime"
	"strconv"
	"time"

	"github.com/pheromone-run/pheromone/bench/report"
)

// Workload F: what lies over the ideal, which for functions that do nothing is no
// time at all, and for any number that sleep at once the time that one sleeps.
const (
	longChain = 1000
	nap       = time.Second
	whatLong  = "chain of 1,000"
)

// roomInproc is how many attempts the node in this process runs at once.
const roomInproc = 4096

// room is how many attempts a runtime runs at once on this machine: more sleepers
// would sleep one after the other.
func room(runtime string) int {
	switch runtime {
	case "python":
		return 64 * goruntime.NumCPU() // threads of a process, processes
	case "go":
		return 1024 * goruntime.NumCPU()
	case "wasm":
		return 8 * goruntime.NumCPU() // instances of a host, hosts
	}
	return roomInproc
}

func long(o options, r *recorder, s *server, runtime string) error {
	took, err := atLeastOnce(o.span, func() error {
		out, err := s.invoke("hop", []byte(strconv.Itoa(longChain)))
		if err == nil && string(out) != "there" {
			err = fmt.Errorf("the chain answers %q", out)
		}
		return err
	})
	if err != nil {
		return err
	}
	r.add(report.Timed("F", runtime, whatLong, took))
	n := min(o.sleepers, room(runtime))
	took, err = atLeastOnce(o.span, func() error {
		out, err := s.invoke("spread", []byte(strconv.Itoa(n)))
		if err == nil && string(out) != strconv.Itoa(n) {
			err = fmt.Errorf("the join got %q objects, want %d", out, n)
		}
		return err
	})
	if err != nil {
		return err
	}
	for i := range took {
		took[i] -= nap
	}
	r.add(report.Timed("F", runtime, whatSleepers(n), took))
	return nil
}

func whatSleepers(n int) string {
	return fmt.Sprintf("fan-out to %d that sleep 1 s, and a join: time over 1 s", n)
}

// atLeastOnce is repeat without a warm-up, for what takes long.
func atLeastOnce(span time.Duration, f func() error) (took []time.Duration, err error) {
	for end := time.Now().Add(span); len(took) == 0 || time.Now().Before(end); {
		began := time.Now()
		if err := f(); err != nil {
			return nil, err
		}
		took = append(took, time.Since(began))
	}
	return took, nil
}
