package spread_test

import (
	"testing"

	"github.com/pheromone-run/pheromone/client/fn"
	"github.com/pheromone-run/pheromone/exec"
)

// What an attempt takes from Submit to Done: here, and on another node that has its
// inputs, or has to read them from here.
func BenchmarkAttempt(b *testing.B) {
	for _, c := range []struct{ name, on string }{{"here", "n1"}, {"replica", "n2"}, {"other", "n3"}} {
		for _, size := range []int{100, 1 << 20} {
			b.Run(c.name+map[int]string{100: "/100B", 1 << 20: "/1MiB"}[size], func(b *testing.B) {
				w := newCluster(b, map[string]int{"n1": 64, "n2": 64, "n3": 64})
				w.register("f", func(_ string, ctx *fn.Context, in []fn.Object) error { return ctx.Put("out", "k", []byte("done")) }, c.on)
				in := exec.Input{Bucket: "in", Key: "k", Session: "s", Data: make([]byte, size)}
				w.submit("f", in).end("")
				for b.Loop() {
					w.submit("f", in).end("")
				}
			})
		}
	}
}
