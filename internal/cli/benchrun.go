package cli

import (
	"context"
	"slices"
	"sync"
	"time"
)

// benchReport is what was measured, as programs get it.
type benchReport struct {
	Bytes int         `json:"bytes"` // of each payload
	Work  []benchWork `json:"work"`
}

// benchWork is a kind of request, made again and again by several clients at once.
type benchWork struct {
	Work      string  `json:"work"`
	Clients   int     `json:"clients"`
	Done      int     `json:"done"`
	Failed    int     `json:"failed"`
	PerSecond float64 `json:"per_second"`
	// How long requests took that succeeded, in milliseconds: half of them up to P50.
	P50 float64 `json:"p50_ms"`
	P90 float64 `json:"p90_ms"`
	P99 float64 `json:"p99_ms"`
	Max float64 `json:"max_ms"`
}

// measured is what came of a kind of request.
type measured struct {
	benchWork
	first error // of those that failed
	least int   // how many requests each client has made at least
}

// failPause is how long a client rests after a request that failed.
const failPause = 10 * time.Millisecond

// measure has clients repeat a request for as long as the flags say. do is told which
// client it is of, and how many it has made before.
func measure(ctx context.Context, f benchFlags, work string, do func(ctx context.Context, client, n int) error) measured {
	ends := time.Now().Add(time.Duration(f.lasts))
	var mu sync.Mutex
	var took []time.Duration
	m := measured{benchWork: benchWork{Work: work, Clients: f.clients}, least: -1}
	began := time.Now()
	var clients sync.WaitGroup
	for client := range f.clients {
		clients.Go(func() {
			var own []time.Duration
			failed := 0
			var first error
			n := 0
			for ; ctx.Err() == nil && time.Now().Before(ends); n++ {
				asked := time.Now()
				err := do(ctx, client, n)
				if err == nil {
					own = append(own, time.Since(asked))
					continue
				}
				if failed++; first == nil {
					first = err
				}
				select {
				case <-time.After(failPause):
				case <-ctx.Done():
				}
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, own...)
			m.Failed += failed
			if m.first == nil {
				m.first = first
			}
			if m.least < 0 || n < m.least {
				m.least = n
			}
		})
	}
	clients.Wait()
	seconds := time.Since(began).Seconds()
	slices.Sort(took)
	if m.Done = len(took); m.Done > 0 {
		m.PerSecond = float64(m.Done) / seconds
		m.P50, m.P90, m.P99, m.Max = quantile(took, 0.5), quantile(took, 0.9), quantile(took, 0.99), quantile(took, 1)
	}
	return m
}

// quantile is in milliseconds; sorted is not empty.
func quantile(sorted []time.Duration, q float64) float64 {
	at := min(int(q*float64(len(sorted))), len(sorted)-1)
	return float64(sorted[at].Microseconds()) / 1000
}
