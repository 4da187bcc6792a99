package shard_test

import (
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/raft/shard"
	"github.com/pheromone-run/pheromone/store"
)

// fillBig writes values that do not get smaller when they are packed, and cuts the
// log behind them.
func (c *cluster) fillBig(values, bytesEach int) (keys int) {
	c.t.Helper()
	term := lead(c.t, c.shards[1])
	random := rand.NewChaCha8([32]byte{1})
	small := 1500
	done := make(chan error, values+small)
	for i := range values + small {
		value := []byte("small")
		if i < values {
			value = make([]byte, bytesEach)
			_, _ = random.Read(value)
		}
		must(c.t, term.Propose(body(i, value), func(err error) { done <- err }))
	}
	for range values + small {
		must(c.t, <-done)
	}
	return values + small
}

// servesPart tells whether a replica serves a part of the shard as if it were all.
func (c *cluster) servesPart(replica uint64, keys int) bool {
	c.t.Helper()
	meta, err := c.nodes[replica].db.Meta(1)
	return err == nil && meta.Applied > 0 && count(c.t, c.nodes[replica].db) < keys
}

// whole waits until a replica has what a snapshot brings.
func (c *cluster) whole(replica uint64, keys int) {
	c.t.Helper()
	eventually(c.t, "all is there", func() bool {
		if c.servesPart(replica, keys) {
			c.t.Fatal("a part of the snapshot is served")
		}
		meta, err := c.nodes[replica].db.Meta(1)
		return err == nil && meta.Applied > 0
	})
}

func TestASnapshotIsSentOnceThoughItsConnectionsBreakAgainAndAgain(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.addFirst(1000)
	const size = 100 * 64 << 10
	keys := c.fillBig(100, 64<<10)
	c.members[2] = nodetest.FreeAddress(t)
	way := c.wires.of(c.members[1], c.members[2])
	way.set(func(w *wire) { w.breakAfter = 160 << 10 })
	c.addLearnerAt(1, 2)
	_, term := leadAny(t, map[uint64]*shard.Shard{1: c.shards[1]})
	stop, wrote := make(chan struct{}), make(chan int)
	go func() {
		n := 0
		defer func() { wrote <- n }()
		for ; ; n++ {
			select {
			case <-stop:
				return
			default:
				if err := propose(t, term, body(keys+n, []byte("meanwhile"))); err != nil {
					t.Errorf("batch %d while the snapshot is sent: %v", n, err)
					return
				}
			}
		}
	}()
	c.whole(2, keys)
	way.Lock()
	broken, sent := way.broken, way.sent
	way.Unlock()
	close(stop)
	if n := <-wrote; n == 0 {
		t.Error("nothing was written while the snapshot was sent")
	}
	t.Logf("%d connections broke, %d bytes were sent for %d", broken, sent, size)
	if broken < 20 || sent > size*3/2 {
		t.Errorf("%d connections broke, %d bytes were sent for a snapshot of %d", broken, sent, size)
	}
	mendWire(way)
	c.waitEqual()
}

func TestAReplicaIsDroppedWhileItsSnapshotWaitsForAReceiverThatIsCutOff(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.addFirst(1000)
	c.fillBig(400, 64<<10) // more than is held for a stream
	c.members[2] = nodetest.FreeAddress(t)
	way := c.wires.of(c.members[1], c.members[2])
	way.set(func(w *wire) { w.bytesPerSec = 4 << 20 })
	c.addLearnerAt(1, 2)
	eventually(t, "a part of the snapshot is sent", func() bool {
		way.Lock()
		defer way.Unlock()
		return way.sent > 1<<20
	})
	stallWire(way)
	must(t, c.nodes[1].host.Drop(1, 1))
	c.nodes[1].close() // which finds whatever is held of the store
}

func TestASnapshotWhoseReceiverStartsAgainBeginsAnew(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.addFirst(1000)
	keys := c.fillBig(100, 64<<10)
	c.members[2] = nodetest.FreeAddress(t)
	way := c.wires.of(c.members[1], c.members[2])
	way.set(func(w *wire) { w.bytesPerSec = 4 << 20 })
	c.addLearnerAt(1, 2)
	eventually(t, "a part of the snapshot is sent", func() bool {
		way.Lock()
		defer way.Unlock()
		return way.sent > 3<<20
	})
	stallWire(way)
	c.nodes[2].close()
	c.nodes[2].open()
	if n := count(t, c.nodes[2].db); n != 0 {
		t.Errorf("%d keys of a part of the snapshot", n)
	}
	s, err := c.nodes[2].host.Join(1, 2, c.members)
	must(t, err)
	c.shards[2] = s
	mendWire(way)
	c.whole(2, keys)
	must(t, c.shards[1].At(0).Promote(withTimeout(t), 2))
	_, term := c.leadAny()
	mustPropose(t, term, keys)
	c.waitEqual()
}

func TestASnapshotWhoseConnectionsBreakIsNeverServedInPart(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.addFirst(1000)
	keys := c.fillBig(200, 64<<10)
	c.members[2] = nodetest.FreeAddress(t)
	way := c.wires.of(c.members[1], c.members[2])
	way.set(func(w *wire) { w.breakAfter = 1 << 20 }) // of 13 MiB
	var receiver *node
	halfRestored := func() bool {
		_, err := receiver.db.Meta(1)
		return errors.Is(err, store.ErrRestoring)
	}
	c.addLearnerAt(1, 2, func(n *node) {
		receiver = n
		shard.HoldRestores(&n.cfg, halfRestored)
	})
	eventually(t, "connections have broken", func() bool {
		way.Lock()
		defer way.Unlock()
		return way.broken >= 2
	})
	if c.servesPart(2, keys) {
		t.Error("a part of the snapshot is served")
	}
	mendWire(way)

	// The node ends while it puts the snapshot into its store.
	eventually(t, "the snapshot is restored", halfRestored)
	receiver.close()
	shard.HoldRestores(&receiver.cfg, nil)
	receiver.open()
	if !halfRestored() {
		t.Error("the range that was half restored passes for a whole one")
	}
	s, err := c.nodes[2].host.Join(1, 2, c.members)
	must(t, err)
	c.shards[2] = s
	c.whole(2, keys)
	must(t, c.shards[1].At(0).Promote(withTimeout(t), 2))
	_, term := c.leadAny()
	mustPropose(t, term, keys)
	c.waitEqual()

	// What is restored does not need the snapshot any more.
	c.nodes[2].close()
	c.nodes[2].open()
	c.shards[2] = c.nodes[2].start(1, 2, c.members)
	c.waitEqual()
	c.nodes[2].close()
	c.nodes[2].open()
	must(t, c.nodes[2].db.DropShard(1))
	mustBeLost(t, c.nodes[2], 1, 2)
	delete(c.shards, 2)
}
