package shard_test

import (
	"errors"
	"math/rand/v2"
	"testing"

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

func TestASnapshotThatBreaksOffStartsAgainAndIsNeverServedInPart(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.addFirst(1000)
	keys := c.fillBig(200, 64<<10)
	c.members[2] = freeAddress(t)
	way := c.wires.of(c.members[1], c.members[2])
	way.set(func(w *wire) { w.breakAfter = 1 << 20 }) // of 13 MiB
	c.addLearnerAt(1, 2)
	part := func() bool { // of the shard is there, and served as if it were all
		meta, err := c.nodes[2].db.Meta(1)
		return err == nil && meta.Applied > 0 && count(t, c.nodes[2].db) < keys
	}
	eventually(t, "the snapshot has broken off", func() bool {
		way.Lock()
		defer way.Unlock()
		return way.broken >= 2
	})
	if part() {
		t.Error("a part of the snapshot is served")
	}
	mendWire(way)

	// The node ends while it puts the snapshot into its store.
	eventually(t, "the snapshot is restored", func() bool {
		_, err := c.nodes[2].db.Meta(1)
		return errors.Is(err, store.ErrRestoring)
	})
	c.nodes[2].close()
	c.nodes[2].open()
	if _, err := c.nodes[2].db.Meta(1); !errors.Is(err, store.ErrRestoring) {
		t.Errorf("the range that was half restored: %v", err)
	}
	s, err := c.nodes[2].host.Join(1, 2, c.members)
	must(t, err)
	c.shards[2] = s
	eventually(t, "all is there", func() bool {
		if part() {
			t.Fatal("a part of the snapshot is served")
		}
		meta, err := c.nodes[2].db.Meta(1)
		return err == nil && meta.Applied > 0
	})
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
