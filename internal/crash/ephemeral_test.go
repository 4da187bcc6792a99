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
	work(t, ephemeral, 1, []*nodetest.Node{node}, func(*client.Client) *nodetest.Node { return node })
}

func TestWhatAKilledLeaderHasLostOfAnEphemeralBucketIsMadeAgain(t *testing.T) {
	c := nodetest.StartCluster(t, nodetest.ClusterConfig{Nodes: 3, Args: []string{"--shards", "1"}})
	work(t, ephemeral, 1, c.Nodes(), leads(t, c))
}

// Objects that do not travel in their entries are on their way to the disks when the
// leader is killed.
func TestWhatAKilledLeaderHasLostOfLargeEphemeralObjectsIsMadeAgain(t *testing.T) {
	c := nodetest.StartCluster(t, nodetest.ClusterConfig{Nodes: 3, Args: []string{"--shards", "1"}})
	work(t, ephemeral, 200<<10/16, c.Nodes(), leads(t, c))
}

// notes are objects that one client put, one after the other.
type notes struct {
	mu       sync.Mutex
	accepted []note // in order
	moves    int    // of the lead: odd while it moves
	began    int    // the term of the shard's first leader
}

// note is an object that was accepted, by the leader after so many moves; unclear if
// one was under way.
type note struct {
	key   spec.Key
	moves int
}

const unclear = -1

// move calls what takes the lead from its node.
func (n *notes) move(take func()) {
	for _, f := range []func(){take, func() {}} {
		n.mu.Lock()
		n.moves++
		n.mu.Unlock()
		f()
	}
}

func (n *notes) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.accepted)
}

func (n *notes) put(ctx context.Context, c *client.Client) {
	i, moves := 0, 0
	name := func() spec.Key {
		n.mu.Lock()
		defer n.mu.Unlock()
		i, moves = i+1, n.moves
		return spec.Key(fmt.Sprintf("note-%06d", i))
	}
	putEach(ctx, c, "notes", name, func(key spec.Key, _ wire.PutResult) {
		n.mu.Lock()
		defer n.mu.Unlock()
		if moves != n.moves || moves%2 == 1 {
			moves = unclear
		}
		n.accepted = append(n.accepted, note{key, moves})
	})
}

// check looks for what was accepted. Nothing is lost of a durable bucket, or where leads
// are handed over. A kill takes the last of an ephemeral one: between one kill and the
// next nothing that was put after a lost one is there. So does a term that is lost, as a
// leader's on a machine that starves it: there were as many of those as there were more
// terms than moves.
func (n *notes) check(t *testing.T, c *client.Client, loses, durable bool) {
	t.Helper()
	there := map[spec.Key]bool{}
	for o, err := range c.List(t.Context(), early, "notes", client.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		there[o.Key] = true
	}
	lost, ends := 0, 0
	var before note // the last that was lost, of those that one leader accepted
	for _, at := range n.accepted {
		switch {
		case !there[at.key]:
			lost++
			if at.moves != unclear {
				before = at
			}
		case before.key != "" && before.moves == at.moves:
			ends++
			t.Logf("%s is there, and %s is not, which was accepted before it", at.key, before.key)
			before = note{}
		}
	}
	starved := termOf(t, c) - n.began - n.moves/2
	t.Logf("%d notes, %d lost, %d terms that nobody ended", len(n.accepted), lost, starved)
	if ends > starved {
		t.Errorf("%d times what was put after a lost one is there, which the same leader accepted", ends)
	}
	if lost > 0 && (durable || !loses && starved == 0) {
		t.Errorf("%d accepted notes are lost", lost)
	}
}

// termOf is the raft term in which the only shard is led, which its epoch begins with.
func termOf(t *testing.T, c *client.Client) (term int) {
	t.Helper()
	nodetest.Eventually(t, "the shard is led", func() bool {
		seen, err := c.Cluster(t.Context())
		if err == nil && len(seen.Shards) == 1 {
			term = int(seen.Shards[0].Epoch >> 20)
		}
		return term > 0
	})
	return term
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
	asker := c.Nodes()[0].Client()
	defer asker.Close()
	n := &notes{began: termOf(t, asker)}
	var clients sync.WaitGroup
	clients.Go(func() { n.put(ctx, scribe) })
	leader := leads(t, c)
	for range 3 {
		more := n.count() + 50
		nodetest.Eventually(t, "notes are accepted", func() bool { return n.count() > more })
		node := leader(asker)
		n.move(node.Stop)
		node.Restart()
	}
	more := n.count() + 50
	nodetest.Eventually(t, "notes are accepted", func() bool { return n.count() > more })
	drained := leader(asker)
	n.move(func() {
		c.Nodes()[0].CLI(0, "cluster", "drain", drained.Name())
		nodetest.Eventually(t, "another node leads", func() bool { return leader(asker) != drained })
	})
	stop()
	clients.Wait()
	n.check(t, asker, false, false)
}
