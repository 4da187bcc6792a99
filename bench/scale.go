package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/pheromone-run/pheromone/bench/report"
)

// waiter is something of which a node has a great many that wait.
type waiter struct {
	what     string
	triggers string // of the bucket that is put into
	query    string // of the put
}

var waiters = []waiter{
	{report.WhatPending, "{name: each, primitive: immediate, target: held}", ""},
	{report.WhatDelayed, "{name: each, primitive: immediate, target: nothing}", "?deliver_after=24h"},
	{report.WhatWindows, "{name: each, primitive: by_time, every: 24h, scope: session, target: nothing}", ""},
	{report.WhatSets, "{name: both, primitive: by_set, keys: [left, right], target: nothing}", ""},
	{report.WhatFirstOf, "{name: some, primitive: redundant, k: 2, n: 3, target: nothing}", ""},
}

// scale has a node hold a great many of each thing that waits, tells what that takes of
// its memory and disk, kills the node, and tells how long it takes to come back.
func scale(ctx context.Context, o options, r *recorder, binary string) error {
	for _, w := range waiters {
		if strings.Contains(w.what, o.waiting) {
			if err := scaleOne(ctx, o, r, binary, w); err != nil {
				return fmt.Errorf("%s: %w", w.what, err)
			}
		}
	}
	return nil
}

func scaleOne(ctx context.Context, o options, r *recorder, binary string, w waiter) (err error) {
	s, err := startProcess(o, binary)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	how := "runtime: process, command: [./functions]"
	manifest := fmt.Sprintf("apiVersion: pheromone/v1\napp: scale\nretention: 24h\nlimits: {max_pending: %d}\nfunctions:\n  nothing: {%s}\n  held: {%s, concurrency: 1, timeout: 24h}\nbuckets:\n  in: {triggers: [%s]}\n",
		2*o.scale+1000, how, how, w.triggers)
	if err := s.deployText(ctx, o, binary, "scale", manifest); err != nil {
		return err
	}
	if _, err := s.first(); err != nil {
		return err
	}
	before, _, err := s.settledMemory()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := s.putWaiting(o.scale, w); err != nil {
		return err
	}
	elapsed := time.Since(began)
	after, live, err := s.settledMemory()
	if err != nil {
		return err
	}
	first, err := s.first()
	if err != nil {
		return err
	}
	peak, disk := s.memory("VmHWM"), float64(folderBytes(s.data))
	s.processes[0].kill()
	began = time.Now()
	if err := s.again(); err != nil {
		return err
	}
	ready := time.Since(began)
	if _, err := s.first(); err != nil {
		return err
	}
	returned := time.Since(began)
	again, _, err := s.settledMemory()
	if err != nil {
		return err
	}
	n := float64(o.scale)
	r.add(figure{Workload: "scale", Runtime: "go", What: fmt.Sprintf("%d × %s", o.scale, w.what), N: o.scale, Rate: n / elapsed.Seconds()})
	for _, f := range []figure{
		{What: report.WhatResident, Value: after, Unit: "MiB"},
		{What: "at its highest", Value: peak, Unit: "MiB"},
		{What: "alive in the heap", Value: live, Unit: "MiB"},
		{What: "of memory for each", Value: (after - before) * (1 << 20) / n, Unit: "bytes"},
		{What: "of disk for each", Value: disk / n, Unit: "bytes"},
		{What: "a session beside them", Value: float64(first.Microseconds()) / 1000, Unit: "ms"},
		{What: "killed, until ready", Value: ready.Seconds(), Unit: "s"},
		{What: report.WhatReturned, Value: returned.Seconds(), Unit: "s"},
		{What: "resident after that", Value: again, Unit: "MiB"},
	} {
		f.Workload, f.Runtime, f.What = "scale", "go", w.what+": "+f.What
		r.add(f)
	}
	return nil
}

// putWaiting puts n objects, each of which starts a session, from many clients.
func (s *server) putWaiting(n int, w waiter) error {
	value := bytes.Repeat([]byte("x"), 100)
	return fromManyClients(n, func(i int64) error {
		path := "/v1/apps/scale/buckets/in/objects/k" + strconv.FormatInt(i, 10) + w.query
		status, _, body, err := s.send("PUT", path, value)
		if err == nil && status >= fasthttp.StatusMultipleChoices {
			err = fmt.Errorf("put: status %d: %s", status, body)
		}
		return err
	})
}

// first runs a session of a function that has room, and tells how long it took.
func (s *server) first() (time.Duration, error) {
	began := time.Now()
	_, err := s.call("POST", "/v1/apps/scale/functions/nothing/invoke?wait=1m", []byte("x"))
	return time.Since(began), err
}

// again starts a node that was killed on the data that it had.
func (s *server) again() error {
	p := s.processes[0]
	if err := p.start(); err != nil {
		return err
	}
	url, err := p.url()
	s.urls[0] = url
	return err
}

// settledMemory is what is resident of the node, and alive in its heap, in MiB, once it
// has collected its garbage and given back what it does not need.
func (s *server) settledMemory() (resident, live float64, err error) {
	const quiet, near = 5, 0.01
	resident = s.memory("VmRSS")
	for same := 0; same < quiet; {
		heap, err := s.call("GET", "/debug/pprof/heap?debug=1", nil)
		if err != nil {
			return 0, 0, err
		}
		for line := range strings.Lines(string(heap)) {
			if rest, ok := strings.CutPrefix(line, "# HeapAlloc = "); ok {
				live, _ = strconv.ParseFloat(strings.TrimSpace(rest), 64)
			}
		}
		time.Sleep(time.Second)
		now := s.memory("VmRSS")
		if same++; now < resident*(1-near) {
			same = 0
		}
		resident = now
	}
	return resident, live / (1 << 20), nil
}
