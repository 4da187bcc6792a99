package node_test

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/node"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// cluster is what a node shows of its cluster.
func (m *member) cluster() wire.Cluster {
	m.t.Helper()
	c, err := m.node.Cluster(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	return c
}

// until waits for something that a node shows.
func (m *member) until(what string, done func(wire.Cluster) bool) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), 2*patience)
	defer cancel()
	for !done(m.cluster()) {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			m.t.Fatalf("never: %s; the cluster is %+v", what, m.cluster())
		}
	}
}

// untilPlaced waits until each node has that many replicas and nothing is on its way.
func (m *member) untilPlaced(what string, want map[string]int) {
	m.t.Helper()
	m.until(fmt.Sprintf("%s: %v", what, want), func(c wire.Cluster) bool {
		got := map[string]int{}
		for _, s := range c.Shards {
			for _, r := range s.Replicas {
				got[r.Node]++
				if r.Joining {
					return false
				}
			}
		}
		return maps.Equal(got, want)
	})
}

// untilLed waits until nodes lead so many shards each, whichever leads how many, as
// each one says for itself.
func untilLed(all []*member, counts ...int) {
	all[0].t.Helper()
	all[0].until(fmt.Sprintf("nodes lead %v shards", counts), func(wire.Cluster) bool {
		got := []int{}
		for _, m := range all {
			for _, n := range m.cluster().Nodes {
				if n.Name == m.cfg.Name {
					got = append(got, n.Leading)
				}
			}
		}
		slices.Sort(got)
		return slices.Equal(got, counts)
	})
}

func (m *member) do(what string, do func(context.Context) error) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	if err := do(ctx); err != nil {
		m.t.Fatalf("%s: %v", what, err)
	}
}

const thingsApp = `
apiVersion: pheromone/v1
app: keep
buckets: {things: {}}
`

const things = 40

func (m *member) keepThings() {
	m.t.Helper()
	c, err := client.New(m.node.URL())
	if err != nil {
		m.t.Fatal(err)
	}
	m.do("deploy", func(ctx context.Context) error {
		_, err := c.Apply(ctx, "keep", []byte(thingsApp), client.ApplyOptions{})
		return err
	})
	for i := range things {
		m.do("put", func(ctx context.Context) error {
			_, err := c.Put(ctx, "keep", "things", spec.Key(fmt.Sprint(i)), strings.NewReader(fmt.Sprint("thing ", i)), client.PutOptions{})
			return err
		})
	}
}

func (m *member) hasThings() {
	m.t.Helper()
	c, err := client.New(m.node.URL())
	if err != nil {
		m.t.Fatal(err)
	}
	for i := range things {
		m.do("get", func(ctx context.Context) error {
			o, err := c.Get(ctx, "keep", "things", spec.Key(fmt.Sprint(i)), client.GetOptions{})
			if err == nil && string(o.Data) != fmt.Sprint("thing ", i) {
				err = fmt.Errorf("thing %d is %q", i, o.Data)
			}
			return err
		})
	}
}

// rebuildAfter is longer than a busy machine keeps a node that lives from answering.
const rebuildAfter = 10 * time.Second

func TestReplicasAndLeadersFollowTheNodes(t *testing.T) {
	all := members(t, 3)
	for _, m := range all {
		m.cfg.Shards, m.cfg.RebuildAfter = 4, rebuildAfter
		m.start()
	}
	for _, m := range all {
		m.ready()
	}
	a, b, c := all[0], all[1], all[2]
	untilLed(all, 1, 1, 2)
	a.keepThings()

	d := &member{t: t, cfg: node.Config{
		Name: "n4", DataDir: filepath.Join(t.TempDir(), "data"), Listen: "127.0.0.1:0", PeerListen: nodetest.FreeAddress(t),
		Join: a.cfg.Join, RebuildAfter: rebuildAfter, Fatal: func(err error) { panic(err) },
	}}
	d.start()
	d.ready()
	a.untilPlaced("a new node has nothing by itself", map[string]int{"n1": 4, "n2": 4, "n3": 4})
	a.do("rebalance", a.node.Rebalance)
	a.untilPlaced("replicas are evened out", map[string]int{"n1": 3, "n2": 3, "n3": 3, "n4": 3})
	untilLed([]*member{a, b, c, d}, 1, 1, 1, 1)
	a.hasThings()

	b.stop()
	a.untilPlaced("what a dead node had is made anew", map[string]int{"n1": 4, "n3": 4, "n4": 4})
	a.hasThings()
	b.start()
	b.ready()

	a.do("drain", func(ctx context.Context) error { return a.node.DrainNode(ctx, "n3", true) })
	a.untilPlaced("a drained node is empty", map[string]int{"n1": 4, "n2": 4, "n4": 4})
	untilLed([]*member{a, b, c, d}, 0, 1, 1, 2)
	a.do("remove", func(ctx context.Context) error { return a.node.RemoveNode(ctx, "n3", false) })
	c.stop()
	a.until("the three that are left vote", func(c wire.Cluster) bool {
		return len(c.Nodes) == 3 && !slices.ContainsFunc(c.Nodes, func(n wire.Node) bool { return !n.Voter || !n.Live })
	})
	b.hasThings()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestAReplicaWhoseDataIsLostIsMadeAnewOnItsNode(t *testing.T) {
	all := members(t, 3)
	for _, m := range all {
		m.start()
	}
	for _, m := range all {
		m.ready()
	}
	a, b := all[0], all[1]
	b.stop()
	logs, old := filepath.Join(b.cfg.DataDir, "raft"), t.TempDir()
	must(t, os.CopyFS(old, os.DirFS(logs)))
	b.start()
	b.ready()
	a.keepThings()
	b.hasThings()
	b.stop()
	must(t, os.RemoveAll(logs)) // what it had promised since is gone
	must(t, os.CopyFS(logs, os.DirFS(old)))
	b.start()
	a.until("n2 has new replicas of both shards", func(c wire.Cluster) bool {
		anew := 0
		for _, s := range c.Shards {
			for _, r := range s.Replicas {
				if r.Node == "n2" && r.Replica >= 4 && !r.Joining && len(s.Replicas) == 3 {
					anew++
				}
			}
		}
		return anew == 2
	})
	b.ready()
	b.hasThings()
}
