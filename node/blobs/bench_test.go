package blobs_test

import (
	"bytes"
	"context"
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// BenchmarkSpread stages a blob, and with three stores has a majority hold it: on
// the one disk of this machine, and in memory, which leaves what the copying costs.
func BenchmarkSpread(b *testing.B) {
	for _, where := range []string{"disk", "memory"} {
		for _, names := range [][]string{{"n1"}, {"n1", "n2", "n3"}} {
			for _, size := range []int{100 << 10, mib, 64 * mib} {
				b.Run(fmt.Sprintf("%s/%d stores/%dKiB", where, len(names), size>>10), func(b *testing.B) {
					benchmarkSpread(b, where == "disk", names, size)
				})
			}
		}
	}
}

func benchmarkSpread(b *testing.B, onDisk bool, names []string, size int) {
	c := newCluster(b, names...)
	if onDisk {
		for _, n := range c.nodes {
			n.close()
			n.fs, n.dir = vfs.Default, b.TempDir()+"/data"
			n.start()
			b.Cleanup(n.close)
		}
	}
	n1 := c.nodes["n1"]
	data := noise(1, size)
	b.SetBytes(int64(size))
	for b.Loop() {
		blob, err := n1.db.StageBlob(context.Background(), 1, "a", bytes.NewReader(data), 1<<30)
		if err == nil {
			err = n1.spread(blob)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
