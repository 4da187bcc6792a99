package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pheromone-run/pheromone/bench/report"
	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/spec"
)

// Workload L: nodes of a cluster, all of them on this machine and its one disk, so
// that a commit costs a sync on each.
const (
	clusterNodes  = 3
	localityNodes = 5
	replicas      = 3
)

// shards is workloads A, B and K again on three nodes, as shards grow. Requests go
// to the nodes in turn, and those pass on what they don't lead.
func shards(ctx context.Context, o options, r *recorder, binary string) error {
	runtime, durability := o.runtimes[0], o.durabilities[0]
	r.workload, r.durability = "L", durability
	defer func() { r.workload, r.setup, r.durability = "", "", "" }()
	if why := clusterRefusal(runtime, durability); why != "" {
		r.add(figure{Runtime: runtime, What: report.WhatChain, Refused: why})
		return nil
	}
	for _, n := range []int{1, 2, 4, 8} {
		r.setup = fmt.Sprintf("%d nodes, %s", clusterNodes, counted(n, "shard"))
		o.shards = n
		err := onCluster(ctx, o, binary, clusterNodes, func(s *server) error {
			small := bytes.Repeat([]byte("x"), 100)
			return errors.Join(chainAlone(o, r, s, runtime, small), chainLoaded(o, r, s, runtime, small), keyValueOps(o, r, s), watchLatency(ctx, o, r, s))
		})
		if err != nil {
			return fmt.Errorf("%d shards: %w", n, err)
		}
	}
	return nil
}

func counted(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprint(n, " ", what, "s")
}

// clusterRefusal is why no cluster can run such an app: refusal, or that the nodes
// are processes, which have no functions of this one.
func clusterRefusal(runtime, durability string) string {
	if runtime == "inproc" {
		return "the nodes of a cluster are processes of their own, without the functions of this one"
	}
	return refusal(runtime, durability)
}

// onCluster runs f on a new cluster that has the app.
func onCluster(ctx context.Context, o options, binary string, nodes int, f func(*server) error) (err error) {
	s, err := startCluster(o, binary, nodes)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	if err := s.deploy(ctx, o, binary, o.runtimes[0], o.durabilities[0]); err != nil {
		return err
	}
	return f(s)
}

// lost is what workload L measures once: leaders that are killed, and how many
// attempts find their inputs where they run.
func lost(ctx context.Context, o options, r *recorder, binary string) error {
	if clusterRefusal(o.runtimes[0], o.durabilities[0]) != "" {
		return nil // shards has told
	}
	r.durability = o.durabilities[0]
	defer func() { r.durability = "" }()
	o.shards = 1
	err := onCluster(ctx, o, binary, clusterNodes, func(s *server) error { return leadersKilled(ctx, o, r, s) })
	if err != nil {
		return fmt.Errorf("leaders killed: %w", err)
	}
	o.shards = 8
	err = onCluster(ctx, o, binary, localityNodes, func(s *server) error { return locality(o, r, s) })
	if err != nil {
		return fmt.Errorf("locality: %w", err)
	}
	return nil
}

// pulse is a load whose successes are watched for the longest time without one.
type pulse struct {
	mu      sync.Mutex
	last    time.Time
	longest time.Duration
	beats   int
}

func (p *pulse) beat() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.longest, p.last = max(p.longest, now.Sub(p.last)), now
	p.beats++
}

// reset begins anew; what was so far does not count.
func (p *pulse) reset() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last, p.longest, p.beats = time.Now(), 0, 0
}

func (p *pulse) read() (longest time.Duration, beats int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.longest, p.beats
}

// leadersKilled kills the leader of the only shard under load, again and again, and
// tells for how long nothing succeeded, of puts and of sessions. The clients are
// those of package client, which find the next leader by themselves.
func leadersKilled(ctx context.Context, o options, r *recorder, s *server) error {
	c, err := client.New(strings.Join(s.urls, ","))
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	var failed atomic.Pointer[error]
	var puts, sessions pulse
	for i := range 16 {
		run, p := putOnce, &puts
		if i%2 == 1 {
			run, p = chainOnce, &sessions
		}
		running.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				if err := run(ctx, c, fmt.Sprint(i, "-", n%1000)); err != nil {
					if ctx.Err() == nil {
						failed.CompareAndSwap(nil, &err)
					}
					return
				}
				p.beat()
			}
		})
	}
	var ofPuts, ofSessions []time.Duration
	for range o.kills {
		if err = s.killLeader(&puts, &sessions, &failed); err != nil {
			break
		}
		gap, _ := puts.read()
		ofPuts = append(ofPuts, gap)
		gap, _ = sessions.read()
		ofSessions = append(ofSessions, gap)
		if err = s.settled(clusterNodes); err != nil {
			break
		}
	}
	cancel()
	running.Wait()
	if err != nil {
		return err
	}
	for _, of := range []struct {
		what string
		gaps []time.Duration
	}{{"put", ofPuts}, {"finished chain of 10", ofSessions}} {
		f := report.Timed("L", o.runtimes[0], "leader killed under load: longest time without a "+of.what+" (p99: of all kills)", of.gaps)
		f.Setup = fmt.Sprintf("%d nodes, 1 shard", clusterNodes)
		r.add(f)
	}
	return nil
}

func putOnce(ctx context.Context, c *client.Client, key string) error {
	_, err := c.Put(ctx, "bench", "plain", spec.Key(key), strings.NewReader(key), client.PutOptions{})
	return err
}

func chainOnce(ctx context.Context, c *client.Client, input string) error {
	_, err := c.Invoke(ctx, "bench", "f0", strings.NewReader(input), client.InvokeOptions{Wait: time.Minute})
	return err
}

// afterKill is how many of each load must have succeeded after a kill before it
// counts as over.
const afterKill = 200

// killLeader kills the leader, waits until the load goes on, and starts it again.
func (s *server) killLeader(puts, sessions *pulse, failed *atomic.Pointer[error]) error {
	cluster, err := s.cluster()
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(strings.TrimPrefix(cluster.Shards[0].Leader, "n"))
	if err != nil {
		return fmt.Errorf("the leader is %q: %w", cluster.Shards[0].Leader, err)
	}
	leader := s.processes[n-1]
	puts.reset()
	sessions.reset()
	leader.kill()
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		_, a := puts.read()
		_, b := sessions.read()
		if a >= afterKill && b >= afterKill {
			break
		}
		if e := failed.Load(); e != nil {
			return *e
		}
		if time.Now().After(end) {
			return fmt.Errorf("a minute after its leader was killed the load has not gone on: %d puts, %d sessions", a, b)
		}
	}
	if err := leader.start(); err != nil {
		return err
	}
	_, err = leader.url()
	return err
}
