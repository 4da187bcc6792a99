package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/pheromone-run/pheromone/bench/report"
	"github.com/pheromone-run/pheromone/client"
)

const (
	whatPut   = "put of 100 bytes, 64 clients"
	whatWatch = "put until the watch tells of it"
)

// keyValueWhats is for one runtime alone: no function takes part.
func keyValueWhats(o options, runtime string) []string {
	if runtime != o.runtimes[0] {
		return nil
	}
	return []string{whatPut}
}

// keyValue is workload K: puts, linearizable gets, and how soon a watch tells.
func keyValue(ctx context.Context, o options, r *recorder, s *server, runtime string) error {
	if keyValueWhats(o, runtime) == nil {
		return nil
	}
	if err := keyValueOps(o, r, s); err != nil {
		return err
	}
	return watchLatency(ctx, o, r, s)
}

func keyValueOps(o options, r *recorder, s *server) error {
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
				f := report.Timed("K", "", fmt.Sprintf("%s of %d bytes, %s", op.name, size, counted(clients, "client")), took)
				f.Rate = float64(len(took)) / elapsed.Seconds()
				r.add(f)
			}
		}
	}
	return nil
}

// watchLatency measures from before a put to the watch's event of it.
func watchLatency(ctx context.Context, o options, r *recorder, s *server) error {
	c, err := client.New(strings.Join(s.urls, ","))
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
		r.add(report.Timed("K", "", whatWatch, took))
	}
	return err
}
