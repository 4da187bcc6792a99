package leader_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/pheromone-run/pheromone/spec"
)

// chainManifest is a chain of no-op functions f0 … f9.
func chainManifest(n int, durability spec.Durability) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: pheromone/v1\napp: demo\ndurability: %s\nfunctions:\n", durability)
	for i := range n {
		fmt.Fprintf(&b, "  f%d: {runtime: inproc}\n", i)
	}
	b.WriteString("buckets:\n")
	for i := range n {
		fmt.Fprintf(&b, "  b%d: {durability: %s, triggers: [{name: t, primitive: immediate, target: f%d}]}\n", i, durability, i)
	}
	return b.String()
}

func chainFunctions(n int) map[string]function {
	fs := map[string]function{}
	for i := range n {
		fs[fmt.Sprint("f", i)] = func(c *call) error {
			if i == n-1 {
				c.output("out", string(c.in[0].Data))
				return nil
			}
			c.put(fmt.Sprint("b", i+1), "x", string(c.in[0].Data))
			return nil
		}
	}
	return fs
}

func BenchmarkChainOf10(b *testing.B) {
	for _, durability := range []spec.Durability{spec.Durable, spec.Pipelined, spec.Ephemeral} {
		b.Run(string(durability), func(b *testing.B) {
			w := newWorld(b, 1, chainManifest(10, durability), chainFunctions(10))
			payload := strings.Repeat("x", 100)
			for i := 0; b.Loop(); i++ {
				w.result(w.put("b0", fmt.Sprint("k", i), payload))
			}
		})
	}
}

func BenchmarkChainOf10With64InFlight(b *testing.B) {
	for _, durability := range []spec.Durability{spec.Durable, spec.Pipelined, spec.Ephemeral} {
		b.Run(string(durability), func(b *testing.B) {
			w := newWorld(b, 1, chainManifest(10, durability), chainFunctions(10))
			payload := strings.Repeat("x", 100)
			var next atomic.Int64
			var clients sync.WaitGroup
			b.ResetTimer()
			for range 64 {
				clients.Go(func() {
					for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
						w.result(w.put("b0", fmt.Sprint("k", i), payload))
					}
				})
			}
			clients.Wait()
			b.ReportMetric(float64(10*b.N)/b.Elapsed().Seconds(), "steps/s")
		})
	}
}

// BenchmarkMail takes an object to a trigger on another shard and back to a
// session that has ended.
func BenchmarkMail(b *testing.B) {
	for _, clients := range []int{1, 256} {
		b.Run(fmt.Sprint(clients, " in flight"), func(b *testing.B) {
			w := newWorld(b, 2, oneTrigger("{name: x, primitive: by_batch_size, count: 100, target: fire}"), map[string]function{"fire": fired})
			away := 3 - w.ShardOf(spec.BucketSlot("demo", "in"))
			var next atomic.Int64
			var all sync.WaitGroup
			b.ResetTimer()
			for range clients {
				all.Go(func() {
					for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
						id := w.sessionOn(away, int(i))
						w.into(string(id), "in", fmt.Sprint("k", i), "v")
						w.result(id)
					}
				})
			}
			all.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "messages/s")
		})
	}
}
