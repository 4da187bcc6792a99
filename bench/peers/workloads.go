package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// figure is one line of a report, as bench/report reads it.
type figure struct {
	Workload   string  `json:"workload"`
	System     string  `json:"system"`
	Durability string  `json:"durability,omitempty"`
	What       string  `json:"what"`
	N          int     `json:"n"`
	P50        float64 `json:"p50_ms,omitempty"`
	P99        float64 `json:"p99_ms,omitempty"`
	Rate       float64 `json:"per_second,omitempty"`
	Value      float64 `json:"value,omitempty"`
	Unit       string  `json:"unit,omitempty"`
	CPU        float64 `json:"cpu_us_per_step,omitempty"`
}

type bench struct {
	system  system
	name    string
	span    time.Duration
	figures []figure
}

func (b *bench) add(f figure) {
	f.System, f.Durability = b.name, "durable"
	if b.name == "nats-default" {
		f.Durability = "unsynced"
	}
	b.figures = append(b.figures, f)
}

func timed(workload, what string, took []time.Duration) figure {
	slices.Sort(took)
	at := func(q float64) float64 {
		if len(took) == 0 {
			return 0
		}
		return float64(took[min(len(took)-1, int(q*float64(len(took))))].Microseconds()) / 1000
	}
	return figure{Workload: workload, What: what, N: len(took), P50: at(0.5), P99: at(0.99)}
}

// all runs the workloads in the order in which Pheromone's are run.
func (b *bench) all(ctx context.Context, only []string) error {
	small := bytes.Repeat([]byte("x"), 100)
	for _, w := range []struct {
		name string
		run  func() error
	}{
		{"A", func() error {
			return b.alone(ctx, "A", "chain of 10, one session at a time", chainFunction, small, string(small))
		}},
		{"B", func() error { return b.loadedChain(ctx, small) }},
		{"C", func() error {
			return b.alone(ctx, "C", "fan-out to 16 and a join", fanFunction, small, strconv.Itoa(fanWidth))
		}},
		{"E", func() error {
			b.add(figure{Workload: "E", What: "peak resident memory in A–C", Value: peakMemory(), Unit: "MiB"})
			return nil
		}},
		{"K", func() error { return b.keyValue(ctx) }},
		{"D", func() error {
			for _, size := range []int{1 << 20, 64 << 20} {
				what, n := fmt.Sprintf("two functions that pass %d MiB", size>>20), strconv.Itoa(size)
				if err := b.alone(ctx, "D", what, passFunction, []byte(n), n); err != nil {
					return err
				}
			}
			return nil
		}},
	} {
		if !slices.Contains(only, w.name) {
			continue
		}
		if err := w.run(); err != nil {
			return fmt.Errorf("workload %s: %w", w.name, err)
		}
	}
	return nil
}

// alone runs one session at a time.
func (b *bench) alone(ctx context.Context, workload, what, function string, input []byte, want string) error {
	once := func() error { return b.session(ctx, function, input, want) }
	if _, _, err := loaded(b.span/10, 1, once); err != nil { // warm
		return err
	}
	took, _, err := loaded(b.span, 1, once)
	if err == nil {
		b.add(timed(workload, what, took))
	}
	return err
}

func (b *bench) session(ctx context.Context, function string, input []byte, want string) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	got, err := b.system.run(ctx, function, input)
	if err == nil && got != want {
		err = fmt.Errorf("%s answers %d bytes that are not its result", function, len(got))
	}
	return err
}

func (b *bench) loadedChain(ctx context.Context, input []byte) error {
	used := processorTime()
	took, elapsed, err := loaded(b.span, 64, func() error { return b.session(ctx, chainFunction, input, string(input)) })
	if err != nil {
		return err
	}
	f := timed("B", "chain of 10, 64 sessions in flight, steps", took)
	steps := float64(chainLength * len(took))
	f.Rate, f.CPU = steps/elapsed.Seconds(), float64((processorTime()-used).Microseconds())/steps
	b.add(f)
	return nil
}

func (b *bench) keyValue(ctx context.Context) error {
	var n atomic.Int64
	for _, size := range []int{100, 1024} {
		value := bytes.Repeat([]byte("v"), size)
		for _, op := range []struct {
			name string
			call func() error
		}{
			{"put", func() error { return b.system.put(ctx, "k"+strconv.FormatInt(n.Add(1)%10_000, 10), value) }},
			{"get", func() error { return b.system.get(ctx, "k1") }},
		} {
			for _, clients := range []int{1, 64} {
				took, elapsed, err := loaded(b.span/2, clients, op.call)
				if err != nil {
					return err
				}
				f := timed("K", fmt.Sprintf("%s of %d bytes, %s", op.name, size, counted(clients)), took)
				f.Rate = float64(len(took)) / elapsed.Seconds()
				b.add(f)
			}
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	seen, err := b.system.watch(ctx, "watched")
	if err != nil {
		return err
	}
	took, _, err := loaded(b.span/2, 1, func() error {
		if err := b.system.put(ctx, "watched", []byte("x")); err != nil {
			return err
		}
		select {
		case <-seen:
			return nil
		case <-time.After(time.Minute):
			return fmt.Errorf("the watch does not tell of a put")
		}
	})
	if err == nil {
		b.add(timed("K", "put until the watch tells of it", took))
	}
	return err
}

func counted(clients int) string {
	if clients == 1 {
		return "1 client"
	}
	return fmt.Sprint(clients, " clients")
}

// loaded runs f from a number of clients for a while.
func loaded(span time.Duration, clients int, f func() error) (took []time.Duration, elapsed time.Duration, err error) {
	var mu sync.Mutex
	var failed atomic.Pointer[error]
	var running sync.WaitGroup
	began := time.Now()
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
		return nil, 0, *e
	}
	return took, time.Since(began), nil
}

// processorTime is what the server, the functions and the clients have used.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// peakMemory is the most memory that the process had resident, in MiB.
func peakMemory() float64 {
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	for l := range strings.Lines(string(raw)) {
		if rest, ok := strings.CutPrefix(l, "VmHWM:"); ok {
			kib, _ := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kib / 1024
		}
	}
	return 0
}

// waiting is the clients' sessions that have not ended.
type waiting struct {
	mu    sync.Mutex
	next  int
	until map[string]chan string // by session
}

func newWaiting() *waiting { return &waiting{until: map[string]chan string{}} }

// session makes a session; forget it when it has ended.
func (w *waiting) session() (id string, result <-chan string, forget func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next++
	id = strconv.Itoa(w.next)
	done := make(chan string, 1) // it ends once
	w.until[id] = done
	return id, done, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.until, id)
	}
}

func (w *waiting) end(id, result string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if done := w.until[id]; done != nil {
		select {
		case done <- result:
		default: // told twice
		}
	}
}

// madeBytes are bytes that don't compress.
func madeBytes(size int) []byte {
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(uint32(i) * 2654435761 >> 13)
	}
	return data
}
