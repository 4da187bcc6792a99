package node_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/node"
	"github.com/pheromone-run/pheromone/spec"
)

func TestWhatExpiresGoesByTheNodesClock(t *testing.T) {
	var ahead atomic.Int64
	clock := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	n := startInproc(t, node.Config{Now: clock}, "shop", "apiVersion: pheromone/v1\napp: shop\nbuckets: {in: {}}\n")
	c, err := client.New(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Put(t.Context(), "shop", "in", "k", strings.NewReader("v"), client.PutOptions{TTL: time.Hour}); err != nil {
		t.Fatal(err)
	}
	ahead.Store(int64(50 * time.Minute))
	if _, err := c.Get(t.Context(), "shop", "in", "k", client.GetOptions{}); err != nil {
		t.Errorf("before it expires: %v", err)
	}
	ahead.Store(int64(70 * time.Minute))
	if _, err := c.Get(t.Context(), "shop", "in", "k", client.GetOptions{}); spec.CodeOf(err) != spec.CodeNotFound {
		t.Errorf("after it has expired: %v", err)
	}
}
