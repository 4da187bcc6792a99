package shard_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkPropose is one batch of 100 bytes at a time: from Propose to done.
func BenchmarkPropose(b *testing.B) {
	n := newNode(b, "")
	term := lead(b, sole(n))
	batch := body(1, make([]byte, 100))
	took := make([]time.Duration, 0, b.N)
	done := make(chan error, 1)
	report := func(err error) { done <- err }
	for b.Loop() {
		began := time.Now()
		if err := term.Propose(batch, report); err != nil {
			b.Fatal(err)
		}
		if err := <-done; err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(began))
	}
	reportQuantiles(b, took)
}

// BenchmarkProposePipelined keeps 64 batches in flight.
func BenchmarkProposePipelined(b *testing.B) {
	n := newNode(b, "")
	term := lead(b, sole(n))
	batch := body(1, make([]byte, 100))
	window := make(chan struct{}, 64)
	for b.Loop() {
		window <- struct{}{}
		if err := term.Propose(batch, func(error) { <-window }); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReadIndex is one barrier at a time on the leader.
func BenchmarkReadIndex(b *testing.B) {
	n := newNode(b, "")
	s := sole(n)
	lead(b, s)
	ctx := withTimeout(b)
	for b.Loop() {
		if err := s.ReadIndex(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkSync is what the disk takes: append 300 bytes, about what a batch of
// 100 bytes is in the log, and wait for them.
func BenchmarkSync(b *testing.B) {
	for _, c := range []struct {
		name   string
		filled int
	}{{"append", 0}, {"overwrite", 16 << 20}} {
		b.Run(c.name, func(b *testing.B) {
			f, err := os.Create(filepath.Join(b.TempDir(), "log"))
			if err != nil {
				b.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt(make([]byte, c.filled), 0); err != nil {
				b.Fatal(err)
			}
			if err := f.Sync(); err != nil {
				b.Fatal(err)
			}
			entry := make([]byte, 300)
			took := make([]time.Duration, 0, b.N)
			for b.Loop() {
				began := time.Now()
				if _, err := f.Write(entry); err != nil {
					b.Fatal(err)
				}
				if err := unix.Fdatasync(int(f.Fd())); err != nil {
					b.Fatal(err)
				}
				took = append(took, time.Since(began))
			}
			reportQuantiles(b, took)
		})
	}
}

func reportQuantiles(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}
