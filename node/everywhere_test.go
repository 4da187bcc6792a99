package node_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/client/fn"
	"github.com/pheromone-run/pheromone/exec/inproc"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

const anywhereManifest = `
apiVersion: pheromone/v1
app: app
functions: {greet: {runtime: inproc}, gather: {runtime: inproc}}
buckets:
  in: {triggers: [{name: t, primitive: immediate, target: greet}]}
  all: {triggers: [{name: t, primitive: by_batch_size, scope: bucket, count: 10, target: gather}]}
`

// cluster is a cluster whose nodes run in this process.
type cluster struct {
	t       *testing.T
	members []*member
}

func newCluster(t *testing.T, count, replicas int) *cluster {
	t.Helper()
	c := &cluster{t: t, members: members(t, count)}
	for _, m := range c.members {
		functions := inproc.New(inproc.Settings{})
		functions.Register("app", "greet", func(c *fn.Context, in []fn.Object) error {
			if err := c.Put("all", in[0].Key, in[0].Bytes()); err != nil {
				return err
			}
			return c.Output([]byte("hello " + string(in[0].Bytes())))
		})
		functions.Register("app", "gather", func(c *fn.Context, in []fn.Object) error {
			return c.Output(fmt.Appendf(nil, "%d", len(in)))
		})
		m.cfg.Inproc, m.cfg.Replicas, m.cfg.Shards = functions, replicas, 4
		m.start()
	}
	c.ready()
	return c
}

func (c *cluster) ready() {
	c.t.Helper()
	for _, m := range c.members {
		if m.node != nil {
			m.ready()
		}
	}
}

// at returns a client of a node.
func (c *cluster) at(i int) *client.Client {
	c.t.Helper()
	x, err := client.New(c.members[i].node.URL())
	if err != nil {
		c.t.Fatal(err)
	}
	return x
}

func (c *cluster) apply(ctx context.Context, i int) {
	c.t.Helper()
	if _, err := c.at(i).Apply(ctx, "app", []byte(anywhereManifest), client.ApplyOptions{}); err != nil {
		c.t.Fatalf("apply at node %d: %v", i, err)
	}
}

func TestEachNodeAnswersWhatIsOnAnother(t *testing.T) {
	for _, replicas := range []int{1, 3} {
		t.Run(fmt.Sprintf("%d replicas", replicas), func(t *testing.T) {
			c := newCluster(t, 3, replicas)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			c.apply(ctx, 0)
			for i := range 20 {
				c.greet(ctx, i%3, (i+1)%3, spec.Key(fmt.Sprint("k", i)))
			}
			list, err := c.at(2).ListPage(ctx, "app", "in", client.ListOptions{})
			if err != nil || len(list.Items) != 20 {
				t.Errorf("the third node lists %d objects of 20, %v", len(list.Items), err)
			}
			c.awaitSessions(ctx, 2, "gather", 2)
		})
	}
}

// greet puts an object at one node, and reads it and what it causes at another.
func (c *cluster) greet(ctx context.Context, at, other int, key spec.Key) {
	c.t.Helper()
	put, err := c.at(at).Put(ctx, "app", "in", key, strings.NewReader(string(key)), client.PutOptions{})
	if err != nil {
		c.t.Fatalf("put %s: %v", key, err)
	}
	got, err := c.at(other).Get(ctx, "app", "in", key, client.GetOptions{})
	if err != nil || got.Revision != put.Revision || string(got.Data) != string(key) {
		c.t.Fatalf("right after the put of %s at revision %d another node reads %+v, %v", key, put.Revision, got, err)
	}
	result, err := c.at(other).Result(ctx, "app", put.Session, client.ResultOptions{Wait: patience})
	if err != nil || result.Status != wire.SessionCompleted || string(result.Outputs[0].Data) != "hello "+string(key) {
		c.t.Fatalf("result of %s at another node: %+v, %v", key, result, err)
	}
}

func TestAWatchAtAnyNodeGetsEveryChangeOnceWhileNodesComeAndGo(t *testing.T) {
	c := newCluster(t, 3, 3)
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	c.apply(ctx, 0)
	const puts = 60
	watched := make(chan error, 1)
	began := make(chan struct{})
	go func() { watched <- c.watch(ctx, 0, puts, began) }()
	put := func(key spec.Key) {
		t.Helper()
		if _, err := c.at(1).Put(ctx, "app", "in", key, strings.NewReader("x"), client.PutOptions{}); err != nil {
			t.Fatalf("put %s: %v", key, err)
		}
	}
	for i := 0; !closed(began); i++ { // until the watch has begun
		put(spec.Key(fmt.Sprint("probe", i)))
	}
	for i := range puts {
		switch i {
		case 20:
			c.members[2].stop()
		case 40:
			c.members[2].start()
		}
		put(spec.Key(fmt.Sprintf("w%02d", i)))
	}
	if err := <-watched; err != nil {
		t.Error(err)
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// watch follows the bucket at a node until so many puts have come, each once.
func (c *cluster) watch(ctx context.Context, i, puts int, began chan struct{}) error {
	seen := map[spec.Key]bool{}
	for e, err := range c.at(i).Watch(ctx, "app", "in", client.WatchOptions{}) {
		if err != nil {
			return fmt.Errorf("after %d events: %w", len(seen), err)
		}
		if !closed(began) {
			close(began)
		}
		if strings.HasPrefix(string(e.Object.Key), "probe") {
			continue
		}
		if seen[e.Object.Key] {
			return fmt.Errorf("%s came twice", e.Object.Key)
		}
		if seen[e.Object.Key] = true; len(seen) == puts {
			return nil
		}
	}
	return fmt.Errorf("the watch ended after %d events", len(seen))
}

// awaitSessions waits until so many sessions in which a function ran are completed.
func (c *cluster) awaitSessions(ctx context.Context, i int, function spec.FunctionName, want int) {
	c.t.Helper()
	for {
		done := 0
		for s, err := range c.at(i).Sessions(ctx, "app", client.SessionsOptions{Function: function, Status: wire.SessionCompleted}) {
			if err != nil {
				c.t.Fatalf("list the sessions of %s: %v", function, err)
			}
			_ = s
			done++
		}
		if done == want {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			c.t.Fatalf("%d sessions of %s are completed, want %d", done, function, want)
		}
	}
}
