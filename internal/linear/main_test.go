package linear

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

var (
	seconds = flag.Int("linear.seconds", 5, "how long each load lasts")
	clients = flag.Int("linear.clients", 8, "clients of each load")
	seed    = flag.Uint64("linear.seed", 0, "seed of the operations and of the moments of the kills; 0 takes a new one")
	changes = flag.Int("linear.changes", 0, "put this many objects to have the change log cut, 300000 or so; 0 has the test age the data")
)

const (
	app     spec.AppName    = "linear"
	objects spec.BucketName = "objects" // drives nothing
	driven  spec.BucketName = "driven"  // each object fires note
	leaving spec.BucketName = "leaving" // each object that is deleted, or expires, does
)

func TestMain(m *testing.M) {
	flag.Parse()
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	fmt.Printf("linear.seed %d\n", *seed)
	nodetest.Main(m)
}

// random returns the random numbers of one part of a test.
func random(part uint64) *rand.Rand { return rand.New(rand.NewPCG(*seed, part)) }

// start starts a node with the app deployed.
func start(t *testing.T, shards int, args ...string) *nodetest.Node {
	t.Helper()
	t.Logf("linear.seed %d", *seed)
	node := nodetest.Start(t, append([]string{"--shards", fmt.Sprint(shards)}, args...)...)
	node.CLI(0, "apply", "-f", "testdata/app/app.yaml")
	return node
}

// patient returns a client that asks again until it has an answer.
func patient(t *testing.T, node *nodetest.Node) *client.Client {
	t.Helper()
	c := node.Client()
	t.Cleanup(c.Close)
	return c
}

// bounded ends what hangs.
func bounded(t *testing.T, wait time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	t.Cleanup(cancel)
	return ctx
}

// put puts an object and fails the test if that fails.
func put(ctx context.Context, t *testing.T, c *client.Client, bucket spec.BucketName, key spec.Key, value string, o client.PutOptions) wire.PutResult {
	t.Helper()
	r, err := c.Put(ctx, app, bucket, key, strings.NewReader(value), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// fewKills is how often a node is killed under sessions that have to end: far less
// often than an attempt may end with its node. On a slow machine no executor might ever
// start between two kills.
const fewKills = 8

// bounce ends the node at random moments, mostly without warning, and starts it
// again, until done is closed: at most so many times, and then it waits for that.
func bounce(node *nodetest.Node, moments *rand.Rand, between time.Duration, most int, done <-chan struct{}) (times int) {
	for ; times < most; times++ {
		select {
		case <-done:
			return times
		case <-time.After(between/2 + time.Duration(moments.Int64N(int64(between)))): // a moment, not a wait for something
		}
		if moments.IntN(4) == 0 {
			node.Stop()
		} else {
			node.Kill()
		}
		node.Restart()
	}
	<-done
	return times
}

// positionNow returns the position of a change that is made for that.
func positionNow(t *testing.T, c *client.Client, bucket spec.BucketName) string {
	t.Helper()
	position, err := PositionNow(bounded(t, time.Minute), Config{Servers: []string{c.URL()}, App: app, Bucket: bucket})
	if err != nil {
		t.Fatal(err)
	}
	return position
}
