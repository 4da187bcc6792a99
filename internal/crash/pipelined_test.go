package crash

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// early is an app with buckets that are not durable and a durable one behind them.
// Each run of a function leaves a line in a file, as an effect outside does. No two
// runs of draft put the same, so that what a lost one has made can be told.
const early spec.AppName = "early"

const functions = `apiVersion: pheromone/v1
app: early
functions:
  draft: {runtime: process, command: [python3, app.py], env: {EFFECTS: %[1]q, TIMES: "%[2]d"}, retry: {max_attempts: 10, backoff: 20ms}}
  check: {runtime: process, command: [python3, app.py], env: {EFFECTS: %[1]q, TIMES: "%[2]d"}, retry: {max_attempts: 10, backoff: 20ms}}
  seal: {runtime: process, command: [python3, app.py], env: {EFFECTS: %[1]q, TIMES: "%[2]d"}, retry: {max_attempts: 10, backoff: 20ms}}
`

const pipelined = functions + `buckets:
  drafts: {durability: pipelined, triggers: [{name: go, primitive: immediate, target: draft}]}
  checked: {durability: pipelined, triggers: [{name: go, primitive: immediate, target: check}]}
  sealed: {triggers: [{name: go, primitive: immediate, target: seal}]}
  notes: {}
`

const program = `import os

from pheromone import function, main

TIMES = int(os.environ["TIMES"])


def note(*words):
    fd = os.open(os.environ["EFFECTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, (" ".join(words) + "\n").encode())
    os.close(fd)


@function
def draft(ctx, objects):
    nonce = os.urandom(8).hex()
    note("draft", ctx.session, nonce)
    ctx.put("checked", objects[0].key, nonce.encode() * TIMES)


@function
def check(ctx, objects):
    drafted = bytes(objects[0].data)
    if drafted != drafted[:16] * TIMES:
        raise ValueError("the draft is damaged")
    ctx.put("sealed", objects[0].key, drafted[:16])


@function
def seal(ctx, objects):
    nonce = bytes(objects[0].data).decode()
    note("seal", ctx.session, nonce)
    ctx.output(nonce.encode())


main()
`

func TestOnlyPipelinedFunctionsRunOnWhatAKilledNodeHasLost(t *testing.T) {
	node := nodetest.Start(t)
	work(t, pipelined, 1, []*nodetest.Node{node}, func(*client.Client) *nodetest.Node { return node })
}

func TestOnlyPipelinedFunctionsRunOnWhatAKilledLeaderHasLost(t *testing.T) {
	c := nodetest.StartCluster(t, nodetest.ClusterConfig{Nodes: 3, Args: []string{"--shards", "1"}})
	work(t, pipelined, 1, c.Nodes(), leads(t, c))
}

// leads finds the node of a cluster with one shard that leads it.
func leads(t *testing.T, c *nodetest.Cluster) func(*client.Client) *nodetest.Node {
	return func(ask *client.Client) *nodetest.Node {
		var leader *nodetest.Node
		nodetest.Eventually(t, "the shard has a leader", func() bool {
			seen, err := ask.Cluster(t.Context())
			for _, n := range c.Nodes() {
				if err == nil && len(seen.Shards) == 1 && seen.Shards[0].Leader == n.Name() && n.Running() {
					leader = n
				}
			}
			return leader != nil
		})
		return leader
	}
}

// drafts is what was put while nodes were killed.
type drafts struct {
	mu       sync.Mutex
	accepted map[spec.SessionID]bool
	n        int
}

func (d *drafts) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.accepted)
}

// work has an app at work while the node that victim names is killed, three times, and
// checks what is left. times is how often a draft repeats what is in it, 16 bytes.
func work(t *testing.T, manifest string, times int, nodes []*nodetest.Node, victim func(*client.Client) *nodetest.Node) {
	dir := t.TempDir()
	effects := filepath.Join(dir, "effects")
	for name, text := range map[string]string{"app.yaml": fmt.Sprintf(manifest, effects, times), "app.py": program} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	nodes[0].CLI(0, "apply", "-f", filepath.Join(dir, "app.yaml"))

	d := &drafts{accepted: map[spec.SessionID]bool{}}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var clients sync.WaitGroup
	for i := range 12 {
		c, err := client.New(nodes[i%len(nodes)].URL(), client.WithoutDiscovery(), client.WithRetry(client.Retry{MaxAttempts: 1}))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		clients.Go(func() { d.put(ctx, c) })
	}
	scribe, err := client.New(nodes[0].URL(), client.WithRetry(client.Retry{MaxAttempts: 1}))
	if err != nil {
		t.Fatal(err)
	}
	defer scribe.Close()
	asker := nodes[0].Client()
	defer asker.Close()
	n := &notes{began: termOf(t, asker)}
	clients.Go(func() { n.put(ctx, scribe) })
	for range 3 {
		more := d.count() + 40
		nodetest.Eventually(t, "puts are accepted", func() bool { return d.count() > more })
		node := victim(asker)
		n.move(node.Kill)
		node.Restart()
	}
	stop()
	clients.Wait()
	d.check(t, asker, effects)
	n.check(t, asker, true, !strings.Contains(manifest, string(spec.Ephemeral)))
}

func (d *drafts) put(ctx context.Context, c *client.Client) {
	name := func() spec.Key {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.n++
		return spec.Key(fmt.Sprint("draft-", d.n))
	}
	putEach(ctx, c, "drafts", name, func(_ spec.Key, res wire.PutResult) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.accepted[res.Session] = true
	})
}

// putEach puts one object after the other. What is not accepted is not asked for again.
func putEach(ctx context.Context, c *client.Client, bucket spec.BucketName, name func() spec.Key, accepted func(spec.Key, wire.PutResult)) {
	for ctx.Err() == nil {
		key := name()
		try, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		res, err := c.Put(try, early, bucket, key, strings.NewReader("x"), client.PutOptions{})
		cancel()
		if err == nil {
			accepted(key, res)
			continue
		}
		select {
		case <-time.After(5 * time.Millisecond): // the node is away: ask it less often
		case <-ctx.Done():
		}
	}
}

// check compares what the functions have left outside with what is stored.
func (d *drafts) check(t *testing.T, c *client.Client, effects string) {
	t.Helper()
	stored := map[spec.SessionID]string{}
	// How many there are depends on the machine, and so does how long they take.
	for running, before := math.MaxInt, 0; running > 0; {
		before = running
		nodetest.Eventually(t, "fewer sessions run than before", func() bool {
			clear(stored)
			running = 0
			for s, err := range c.Sessions(t.Context(), early, client.SessionsOptions{}) {
				if err != nil {
					return false
				}
				if s.Status == wire.SessionRunning {
					running++
				}
				stored[s.Session] = string(s.Status)
			}
			return running < before
		})
	}
	for id, status := range stored {
		res, err := c.Result(t.Context(), early, id, client.ResultOptions{})
		if err != nil || status != string(wire.SessionCompleted) || len(res.Outputs) != 1 {
			t.Fatalf("session %s is %s: %+v, %v", id, status, res, err)
		}
		stored[id] = string(res.Outputs[0].Data)
	}
	for id := range d.accepted {
		if stored[id] == "" {
			t.Errorf("session %s was accepted, and is lost", id)
		}
	}
	drafted, lost, err := readEffects(effects, stored)
	if err != nil {
		t.Error(err)
	}
	for id, nonce := range stored {
		if !drafted[nonce] {
			t.Errorf("session %s has %s, which no run has made", id, nonce)
		}
	}
	t.Logf("%d sessions, %d accepted; %d runs of the early function were lost", len(stored), len(d.accepted), lost)
}

// readEffects tells what the early function has made, and how much of it was
// lost. It is an error if the durable one was run on any of that.
func readEffects(file string, stored map[spec.SessionID]string) (drafted map[string]bool, lost int, err error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, 0, err
	}
	drafted = map[string]bool{}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) != 3 {
			return nil, 0, fmt.Errorf("line %q", line)
		}
		session, nonce := spec.SessionID(words[1]), words[2]
		switch {
		case words[0] == "draft":
			if drafted[nonce] = true; stored[session] != nonce {
				lost++
			}
		case stored[session] != nonce:
			err = errors.Join(err, fmt.Errorf("the durable function was run on %s in session %s, which has %q", nonce, session, stored[session]))
		}
	}
	return drafted, lost, err
}
