package crash

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// ephemeral has what is accepted in a durable bucket, all between in an ephemeral one.
const ephemeral = functions + `buckets:
  drafts: {triggers: [{name: go, primitive: immediate, target: draft}]}
  checked: {durability: ephemeral, triggers: [{name: go, primitive: immediate, target: check}]}
  sealed: {triggers: [{name: go, primitive: immediate, target: seal}]}
  notes: {durability: ephemeral}
`

func TestWhatAKilledNodeHasLostOfAnEphemeralBucketIsMadeAgain(t *testing.T) {
	node := nodetest.Start(t, "--shards", "1")
	work(t, ephemeral, []*nodetest.Node{node}, func(*client.Client) *nodetest.Node { return node })
}

func TestWhatAKilledLeaderHasLostOfAnEphemeralBucketIsMadeAgain(t *testing.T) {
	c := nodetest.StartCluster(t, nodetest.ClusterConfig{Nodes: 3, Args: []string{"--shards", "1"}})
	work(t, ephemeral, c.Nodes(), leads(t, c))
}

// notes are objects that one client put, one after the other.
type notes struct {
	mu       sync.Mutex
	accepted []spec.Key // in order; "" is where a node was killed
}

// cut marks that what follows is put to another leader.
func (n *notes) cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.accepted = append(n.accepted, "")
}

func (n *notes) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.accepted)
}

func (n *notes) put(ctx context.Context, c *client.Client) {
	i := 0
	name := func() spec.Key {
		i++
		return spec.Key(fmt.Sprintf("note-%06d", i))
	}
	putEach(ctx, c, "notes", name, func(key spec.Key, _ wire.PutResult) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.accepted = append(n.accepted, key)
	})
}

// check looks for what was accepted. A kill takes nothing of a durable bucket, and of
// an ephemeral one only the last: between one kill and the next nothing that was put
// after a lost one is there.
func (n *notes) check(t *testing.T, c *client.Client, durable bool) {
	t.Helper()
	there := map[spec.Key]bool{}
	for o, err := range c.List(t.Context(), early, "notes", client.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		there[o.Key] = true
	}
	lost := 0
	var before spec.Key // the last that was lost of those that one leader accepted
	for _, key := range n.accepted {
		switch {
		case key == "":
			before = ""
		case !there[key]:
			lost++
			before = key
		case before != "":
			t.Errorf("%s is there, and %s is not, which was accepted before it", key, before)
		}
	}
	if durable && lost > 0 {
		t.Errorf("%d accepted notes are lost, of a durable bucket", lost)
	}
	t.Logf("%d notes, %d lost", len(n.accepted), lost)
}

// A node that stops hands its leads over, and so does one that is drained.
func TestALeaderThatIsReplacedInOrderLosesNothingOfAnEphemeralBucket(t *testing.T) {
	c := nodetest.StartCluster(t, nodetest.ClusterConfig{Nodes: 3, Args: []string{"--shards", "1"}})
	dir := t.TempDir()
	file := filepath.Join(dir, "app.yaml")
	if err := os.WriteFile(file, []byte("apiVersion: pheromone/v1\napp: early\nbuckets: {notes: {durability: ephemeral}}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.Nodes()[0].CLI(0, "apply", "-f", file)
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	scribe, err := client.New(c.Nodes()[0].URL())
	if err != nil {
		t.Fatal(err)
	}
	defer scribe.Close()
	n := &notes{}
	var clients sync.WaitGroup
	clients.Go(func() { n.put(ctx, scribe) })
	asker := c.Nodes()[0].Client()
	defer asker.Close()
	leader := leads(t, c)
	for range 3 {
		more := n.count() + 50
		nodetest.Eventually(t, "notes are accepted", func() bool { return n.count() > more })
		node := leader(asker)
		node.Stop()
		node.Restart()
	}
	more := n.count() + 50
	nodetest.Eventually(t, "notes are accepted", func() bool { return n.count() > more })
	drained := leader(asker)
	c.Nodes()[0].CLI(0, "cluster", "drain", drained.Name())
	nodetest.Eventually(t, "another node leads", func() bool { return leader(asker) != drained })
	stop()
	clients.Wait()
	n.check(t, asker, true)
}
