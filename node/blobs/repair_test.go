package blobs_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/pheromone-run/pheromone/node/peer"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

func TestAReplicaThatWasAwayGetsWhatItLacks(t *testing.T) {
	c := newCluster(t, "n1", "n2", "n3")
	n1, n2, n3 := c.nodes["n1"], c.nodes["n2"], c.nodes["n3"]
	c.cut("n3")
	data := [][]byte{noise(1, 2*mib+1), noise(2, 100<<10)}
	var lacking []store.Blob
	for i := range data {
		blob := n1.stage(data[i])
		if err := n1.spread(blob); err != nil {
			t.Fatal(err)
		}
		for _, n := range []*node{n1, n2, n3} {
			n.adopt(blob, uint64(i+1))
		}
		lacking = append(lacking, blob)
	}
	if _, err := n3.db.ReadBlob(1, "a", lacking[0]); spec.CodeOf(err) != spec.CodeUnavailable {
		t.Errorf("read while it is away: %v", err)
	}
	c.mend()
	c.cut("n1") // one of those that have it is enough
	if got, err := n3.db.ReadBlob(1, "a", lacking[0]); err != nil || !bytes.Equal(got, data[0]) {
		t.Errorf("read by who needs it: %d bytes, %v", len(got), err)
	}
	if n3.has(lacking[1]) {
		t.Error("what nobody has read is there")
	}
	n3.blobs.Look()
	eventually(t, "what nobody reads is brought", func() bool { return n3.has(lacking[1]) })
	if n3.marks() != 0 {
		t.Error("what was brought is marked as staged")
	}
}

func TestAReceiverThatCrashesInTheMiddleIsRepaired(t *testing.T) {
	for seed := range uint64(4) {
		c := newCluster(t, "n1", "n2", "n3")
		n1, n2, n3 := c.nodes["n1"], c.nodes["n2"], c.nodes["n3"]
		n3.close()
		disk := vfs.NewCrashableMem()
		n3.fs = disk
		n3.start()
		data := noise(seed, 4*mib)
		blob := n1.stage(data)
		var after *vfs.MemFS
		n3.behave(behavior{take: func(call *peer.Call) {
			if call.Method != "blob.put" {
				return
			}
			call.Body = &cutAt{r: call.Body, left: int(seed)*mib + 1000, cut: func() {
				after = disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 30 * int(seed), RNG: rand.New(rand.NewPCG(seed, 2))})
			}}
		}})
		if err := n1.spread(blob); err != nil {
			t.Fatal(err)
		}
		eventually(t, "it has come to the third", func() bool { return n3.marks() == 1 })
		n1.adopt(blob, 1)
		n2.adopt(blob, 1)
		n3.behave(behavior{})
		n3.crash(after)
		n3.blobs.Sweep(t.Context()) // before the entry comes
		if n := keys(t, n3.db); n != 0 {
			t.Errorf("seed %d: %d keys are left of half a copy", seed, n)
		}
		n3.adopt(blob, 1)
		n3.blobs.Look()
		eventually(t, "it is repaired", func() bool { return n3.has(blob) })
		if got, err := n3.db.ReadBlob(1, "a", blob); err != nil || !bytes.Equal(got, data) {
			t.Errorf("seed %d: %d bytes, %v", seed, len(got), err)
		}
		compare(t, n1, n2, n3)
	}
}

// cutAt calls cut once so many bytes have been read.
type cutAt struct {
	r    io.Reader
	left int
	cut  func()
}

func (c *cutAt) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if before := c.left; before > 0 {
		if c.left -= n; c.left <= 0 {
			c.cut()
		}
	}
	return n, err
}
