package crash

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

var (
	sessions = flag.Int("crash.sessions", 1000, "sessions to run, half of them chains")
	kills    = flag.Int("crash.kills", 20, "how often the node is killed")
	seed     = flag.Uint64("crash.seed", 0, "seed of the moments of the kills; 0 takes a new one")
)

const app spec.AppName = "crash"

const shards = 4

func TestMain(m *testing.M) { nodetest.Main(m) }

// job is a session that was asked for, and what it has to come to.
type job struct {
	number  int
	session spec.SessionID
	result  wire.Result
}

func (j *job) chain() bool { return j.number%2 == 0 }

func (j *job) key() spec.Key { return spec.Key(fmt.Sprintf("job-%04d", j.number)) }

func (j *job) input() string {
	if j.chain() {
		return fmt.Sprint(j.number)
	}
	return strings.TrimSpace(strings.Repeat(fmt.Sprintf("alpha beta beta gamma w%d ", j.number), 5))
}

func (j *job) want() string {
	if j.chain() {
		return fmt.Sprint(j.number + 3)
	}
	return fmt.Sprintf(`{"alpha": 5, "beta": 10, "gamma": 5, "w%d": 5}`, j.number)
}

// TestSessionsSurviveANodeThatIsKilledAgainAndAgain: every accepted session ends
// with the right result, no trigger fires twice, no process is left over, and the
// data opens without repair, however often the node gets SIGKILL.
func TestSessionsSurviveANodeThatIsKilledAgainAndAgain(t *testing.T) {
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	t.Logf("crash.seed %d", *seed)
	node := nodetest.Start(t, "--shards", strconv.Itoa(shards)) // so that tallies go from shard to shard
	node.CLI(0, "apply", "-f", "testdata/app/app.yaml")

	jobs := make([]*job, *sessions)
	for i := range jobs {
		jobs[i] = &job{number: i}
	}
	finished := make(chan error, 1)
	go func() { finished <- runAll(node.Client(), jobs) }()
	killAtRandom(t, node, finished)

	c := node.Client()
	defer c.Close()
	for _, j := range jobs {
		checkJob(t, c, j)
	}
	checkTally(t, c, jobs)
	orphans := node.Executors()
	node.Kill()
	nodetest.Eventually(t, fmt.Sprintf("executors %v end with their node", orphans), func() bool { return len(node.Executors()) == 0 })
	node.Restart()
	for _, j := range jobs[:10] { // what has ended stays as it was
		checkJob(t, c, j)
	}
}

// runAll asks for every session, a few at a time, until it is accepted, and waits
// for its end.
func runAll(c *client.Client, jobs []*job) error {
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	queue := make(chan *job)
	failed := make(chan error, len(jobs))
	var workers sync.WaitGroup
	for range 32 {
		workers.Go(func() {
			for j := range queue {
				if err := runOne(ctx, c, j); err != nil {
					failed <- fmt.Errorf("%s: %w", j.key(), err)
				}
			}
		})
	}
	for _, j := range jobs {
		queue <- j
	}
	close(queue)
	workers.Wait()
	close(failed)
	return <-failed
}

func runOne(ctx context.Context, c *client.Client, j *job) error {
	bucket := spec.BucketName("documents")
	if j.chain() {
		bucket = "one"
	}
	// The key makes asking again safe: the node answers with the session it has.
	put, err := c.Put(ctx, app, bucket, j.key(), strings.NewReader(j.input()), client.PutOptions{IdempotencyKey: string(j.key())})
	if err != nil {
		return fmt.Errorf("put: %w", err)
	}
	j.session = put.Session
	j.result, err = c.Result(ctx, app, put.Session, client.ResultOptions{Wait: 5 * time.Minute})
	if err != nil {
		return fmt.Errorf("result of %s: %w", put.Session, err)
	}
	return nil
}

// killAtRandom kills the node at random moments until it has been killed often
// enough, and then lets the sessions end.
func killAtRandom(t *testing.T, node *nodetest.Node, finished <-chan error) {
	t.Helper()
	moments := rand.New(rand.NewPCG(*seed, 0))
	for n := range *kills {
		select {
		case err := <-finished:
			if err != nil {
				t.Fatal(err)
			}
			t.Fatalf("all sessions ended after %d of %d kills: run more sessions", n, *kills)
		case <-time.After(time.Duration(moments.IntN(200)) * time.Millisecond): // a moment, not a wait for something
		}
		node.Kill()
		node.Restart()
	}
	if err := <-finished; err != nil {
		t.Fatal(err)
	}
}

func checkJob(t *testing.T, c *client.Client, j *job) {
	t.Helper()
	if j.result.Status != wire.SessionCompleted {
		t.Errorf("%s: session %s is %s: %+v", j.key(), j.session, j.result.Status, j.result.Error)
		return
	}
	if len(j.result.Outputs) != 1 || string(j.result.Outputs[0].Data) != j.want() {
		t.Errorf("%s: outputs %+v, want one of %s", j.key(), j.result.Outputs, j.want())
	}
	h, err := c.History(context.Background(), app, j.session, client.HistoryOptions{})
	if err != nil {
		t.Errorf("%s: history: %v", j.key(), err)
		return
	}
	fired := map[string]int{}
	for _, inv := range h.Invocations {
		fired[fmt.Sprintf("%s by %s/%s with %v", inv.Function, inv.Bucket, inv.Trigger, inv.Inputs)]++
		if inv.State != "succeeded" {
			t.Errorf("%s: invocation %s is %s", j.key(), inv.ID, inv.State)
		}
	}
	for what, times := range fired {
		if times > 1 {
			t.Errorf("%s: %s fired %d times", j.key(), what, times)
		}
	}
	want := 3
	if !j.chain() {
		want = 1 + 5 + 1 // 25 words in parts of 6, and what is left over
	}
	if len(h.Invocations) != want {
		t.Errorf("%s: %d invocations, want %d", j.key(), len(h.Invocations), want)
	}
}

// checkTally looks at what was counted across sessions: each chain in exactly one
// batch of ten.
func checkTally(t *testing.T, c *client.Client, jobs []*job) {
	t.Helper()
	chains := 0
	var onShard [shards]int // slots are spread evenly, in order
	for _, j := range jobs {
		if j.chain() {
			chains++
			onShard[int(spec.SessionSlot(app, j.session))*shards/spec.Slots]++
		}
	}
	if slices.Contains(onShard[:], 0) {
		t.Errorf("the chains are spread as %v over the shards: none tallies from afar there", onShard)
	}
	seen := map[string]int{}
	batches := func() int {
		clear(seen)
		n := 0
		for s, err := range c.Sessions(context.Background(), app, client.SessionsOptions{Function: "tally", Status: wire.SessionCompleted}) {
			if err != nil {
				t.Fatalf("list sessions: %v", err)
			}
			res, err := c.Result(context.Background(), app, s.Session, client.ResultOptions{})
			if err != nil || len(res.Outputs) != 1 {
				t.Fatalf("result of %s: %+v, %v", s.Session, res, err)
			}
			var keys []string
			if err := json.Unmarshal(res.Outputs[0].Data, &keys); err != nil {
				t.Fatalf("output of %s: %v", s.Session, err)
			}
			for _, k := range keys {
				seen[k]++
			}
			n++
		}
		return n
	}
	nodetest.Eventually(t, "all full batches are tallied", func() bool { return batches() == chains/10 })
	for key, times := range seen {
		if times > 1 {
			t.Errorf("%s was counted %d times", key, times)
		}
	}
	if len(seen) != chains/10*10 {
		t.Errorf("%d chains were counted, want %d", len(seen), chains/10*10)
	}
}
