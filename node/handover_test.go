package node_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"slices"
	"sync"
	"testing"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// A node that stops would wait for a lead to be taken over by one that is gone.
func TestANodeThatStopsHandsNothingOverToOneThatIsGone(t *testing.T) {
	all := members(t, 3)
	var log syncBuffer
	for _, m := range all {
		m.cfg.Shards = 8
		m.cfg.Log = slog.New(slog.NewJSONHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})).With("of", m.cfg.Name)
	}
	form(all...)
	all[0].shows("all shards", func(c wire.Cluster) bool { return len(c.Shards) == 8 })
	all[2].stop()
	c := all[0].shows("leaders of all shards on two nodes", func(c wire.Cluster) bool {
		led := true
		for _, s := range c.Shards {
			led = led && (s.Leader == "n1" || s.Leader == "n2")
		}
		return led && c.Nodes[0].Leading > 1
	})
	gone := map[spec.ShardID]uint64{}
	for _, s := range c.Shards {
		gone[s.Shard] = s.Replicas[slices.IndexFunc(s.Replicas, func(r wire.Replica) bool { return r.Node == "n3" })].Replica
	}
	log.take()
	all[0].stop()
	for line := range bytes.Lines(log.take()) {
		if !bytes.Contains(line, []byte("was not taken over")) {
			continue
		}
		var said struct {
			Of      string
			Shard   spec.ShardID
			Replica uint64
		}
		if err := json.Unmarshal(line, &said); err != nil {
			t.Fatal(err)
		}
		if said.Of == "n1" && said.Replica == gone[said.Shard] {
			t.Errorf("the lead of shard %d was to go to node n3, which is gone", said.Shard)
		}
	}
}

// syncBuffer is a log that several nodes write.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

// take returns what was written since the last one.
func (s *syncBuffer) take() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.b.Reset()
	return bytes.Clone(s.b.Bytes())
}
