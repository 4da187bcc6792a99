package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pheromone-run/pheromone/bench/report"
)

// fair has one app put as fast as it can while another one does modest work.
func fair(ctx context.Context, o options, r *recorder, binary string) (err error) {
	s, err := startProcess(o, binary)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.stop()) }()
	for _, app := range []string{"greedy", "modest"} {
		manifest := pressureManifest(app, "{name: each, primitive: immediate, target: nothing}", "retention: 5s\n")
		if err := s.deployText(ctx, o, binary, app, manifest); err != nil {
			return err
		}
	}
	for _, clients := range []int{4, 64} {
		alone, err := s.beside(o.span, clients, 0)
		if err != nil {
			return err
		}
		r.add(alone.figure(fmt.Sprintf("modest app alone, %d clients", clients)))
		for _, greedy := range []int{64, 512} {
			both, err := s.beside(o.span, clients, greedy)
			if err != nil {
				return err
			}
			f := both.figure(fmt.Sprintf("beside %d greedy clients", greedy))
			r.add(f)
			r.add(figure{Workload: "fair", Runtime: "go", What: "… the greedy app's puts", Rate: both.greedy, N: greedy})
			r.add(figure{Workload: "fair", Runtime: "go", What: "… modest app's rate, to that alone", Value: both.rate / alone.rate, Unit: "times"})
			r.add(figure{Workload: "fair", Runtime: "go", What: "… its share of what both did", Value: 100 * both.rate / (both.rate + both.greedy), Unit: "%"})
		}
	}
	return nil
}

// shares is what two apps got done at the same time.
type shares struct {
	took   []time.Duration // of the modest app's invocations
	rate   float64
	greedy float64
}

func (b shares) figure(what string) figure {
	f := report.Timed("fair", "go", what, b.took)
	f.Rate = b.rate
	return f
}

// beside has modest clients invoke a function and wait for its end while greedy
// ones put.
func (s *server) beside(span time.Duration, modest, greedy int) (b shares, err error) {
	var puts atomic.Int64
	value := bytes.Repeat([]byte("x"), 100)
	end := func() error { return nil }
	if greedy > 0 {
		if end, err = startGreedy(s.url(), greedy, &puts); err != nil {
			return b, err
		}
		time.Sleep(span / 4) // until they are at full speed
	}
	before, began := puts.Load(), time.Now()
	took, elapsed, _, err := loaded(span, modest, s, func() error {
		_, err := s.call("POST", "/v1/apps/modest/functions/nothing/invoke?wait=1m", value)
		return err
	})
	b = shares{took: took, rate: float64(len(took)) / elapsed.Seconds(), greedy: float64(puts.Load()-before) / time.Since(began).Seconds()}
	err = errors.Join(err, end())
	if err == nil && greedy > 0 {
		err = s.drained(time.Minute)
	}
	return b, err
}

// startGreedy runs greedy clients in a process of their own, so that the modest
// ones don't wait for them in this one. It counts their puts until end is called.
func startGreedy(url string, clients int, puts *atomic.Int64) (end func() error, err error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, "-greedy", url, "-clients", strconv.Itoa(clients))
	cmd.Stderr = os.Stderr
	stop, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if n, err := strconv.ParseInt(lines.Text(), 10, 64); err == nil {
				puts.Store(n)
			}
		}
	})
	return func() error {
		err := stop.Close()
		reading.Wait()
		return errors.Join(err, cmd.Wait())
	}, nil
}

// greedy puts from many clients until its input ends, and tells how often.
func greedy(url string, clients int) error {
	s := &server{urls: []string{url}, http: newHTTP()}
	s.http.MaxConnsPerHost = clients
	var puts, refused atomic.Int64
	var stop atomic.Bool
	var failed atomic.Pointer[error]
	var running sync.WaitGroup
	value := bytes.Repeat([]byte("x"), 100)
	for range clients {
		running.Go(func() {
			for !stop.Load() {
				if err := s.putOne("greedy", puts.Load()%1_000_000, value, &refused); err != nil {
					failed.CompareAndSwap(nil, &err)
					return
				}
				puts.Add(1)
			}
		})
	}
	running.Go(func() {
		for ; !stop.Load(); time.Sleep(50 * time.Millisecond) {
			fmt.Println(puts.Load())
		}
	})
	_, err := io.Copy(io.Discard, os.Stdin)
	stop.Store(true)
	running.Wait()
	if e := failed.Load(); e != nil {
		err = errors.Join(err, *e)
	}
	return err
}
