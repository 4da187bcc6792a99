package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/internal/linear"
	"github.com/pheromone-run/pheromone/spec"
)

// Settings say what is broken, and how much is asked of it.
type Settings struct {
	Nodes  int // 1: a node alone
	Shards int // 0: the nodes' default
	Kinds  []Kind
	Time   time.Duration // of all rounds
	Seed   uint64
	// Recovery is how soon after a fault all shards have to take writes again, once
	// every node is ready.
	Recovery time.Duration
	// Probe is how often each shard is written to through each node.
	Probe time.Duration
}

const (
	// roundTime is about how long faults go on before everything is looked at.
	roundTime = 90 * time.Second
	// slowest is how many times as long the faults may take: nodes have to come back.
	slowest = 4
	// checkTime bounds what comes after the faults of a round.
	checkTime = 4 * time.Minute

	kvClients  = 4
	jobWorkers = 6
	jobPause   = 20 * time.Millisecond
)

// round is one round and what was seen in it.
type round struct {
	world  *world
	cfg    Settings
	app    spec.AppName
	report *Report

	probe *probe
	jobs  *jobs
	load  *linear.Load
}

// Run breaks a cluster in rounds until the time is over, and reports. What does not
// hold fails the test.
func Run(t testing.TB, cfg Settings) *Report {
	t.Helper()
	report := &Report{Seed: cfg.Seed}
	defer func() { t.Logf("chaos.seed %d\n%v", cfg.Seed, report) }()
	for _, k := range cfg.Kinds {
		if (k == SlowDisk || k == FailDisk) && !hasStrace() {
			t.Fatalf("the fault %s needs strace, which is not here: install it, or leave the faults of disks out", k)
		}
	}
	args := []string{}
	if cfg.Shards > 0 {
		args = append(args, "--shards", fmt.Sprint(cfg.Shards))
	}
	w := newWorld(t, cfg.Nodes, args...)
	random := rand.New(rand.NewPCG(cfg.Seed, 0))
	for left, n := cfg.Time, 1; left > 0 && !t.Failed(); n++ {
		lasts := min(left, roundTime)
		left -= lasts
		r := &round{world: w, cfg: cfg, app: spec.AppName(fmt.Sprintf("chaos-%d", n)), report: report}
		r.run(Schedule(random, cfg.Kinds, cfg.Nodes, lasts))
	}
	return report
}

func hasStrace() bool {
	for _, dir := range filepath.SplitList(os.Getenv("PATH")) {
		if info, err := os.Stat(filepath.Join(dir, "strace")); err == nil && info.Mode()&0o111 != 0 {
			return true
		}
	}
	return false
}

func (r *round) run(schedule []Step) {
	t := r.world.t
	r.deploy()
	urls := r.world.cluster.URLs()
	shards := r.shards()
	lasts := time.Duration(0)
	for _, s := range schedule {
		lasts += s.Lasts + s.Rest
	}
	most := slowest * lasts
	ctx, cancel := context.WithTimeout(context.Background(), most+checkTime)
	defer cancel()

	r.load = linear.NewLoad(linear.Config{Servers: urls, App: r.app, Bucket: "objects", Clients: kvClients, Lasts: most, Seed: r.cfg.Seed})
	watches, err := r.load.Watch(ctx)
	if err != nil {
		t.Fatalf("watch: %v", err)
	}
	r.probe = &probe{urls: urls, app: r.app, shards: shards, pause: r.cfg.Probe}
	r.jobs = &jobs{urls: urls, app: r.app, wait: checkTime / 3}
	stop := make(chan struct{})
	var loads sync.WaitGroup
	loads.Go(func() { r.load.Run(stop) })
	loads.Go(func() { r.probe.run(stop) })
	loads.Go(func() { r.jobs.run(jobWorkers, jobPause, stop) })
	func() {
		defer loads.Wait()
		defer close(stop) // also if a step ends the test
		for _, s := range schedule {
			r.step(s)
		}
	}()
	r.verify(ctx, watches, urls, shards)
}

// deploy applies the app under a name of this round's own.
func (r *round) deploy() {
	t := r.world.t
	dir := t.TempDir()
	for _, file := range []string{"app.yaml", "app.py"} {
		text, err := os.ReadFile(filepath.Join("testdata", "app", file))
		if err != nil {
			t.Fatal(err)
		}
		text = []byte(strings.Replace(string(text), "\napp: chaos\n", "\napp: "+string(r.app)+"\n", 1))
		if err := os.WriteFile(filepath.Join(dir, file), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r.world.cluster.Nodes()[0].CLI(0, "apply", "-f", filepath.Join(dir, "app.yaml"))
}

// shards asks which shards there are and which slots they own.
func (r *round) shards() map[spec.ShardID]func(spec.Slot) bool {
	t := r.world.t
	var cluster struct {
		Shards []struct {
			Shard  spec.ShardID `json:"shard"`
			Ranges []struct {
				From spec.Slot `json:"from"`
				To   spec.Slot `json:"to"`
			} `json:"ranges"`
		} `json:"shards"`
	}
	status, err := getJSON(context.Background(), r.world.cluster.Nodes()[0].URL()+"/v1/cluster", &cluster)
	if err != nil || len(cluster.Shards) == 0 {
		t.Fatalf("ask for the shards: %d, %v", status, err)
	}
	owns := map[spec.ShardID]func(spec.Slot) bool{}
	for _, s := range cluster.Shards {
		owns[s.Shard] = func(slot spec.Slot) bool {
			for _, part := range s.Ranges {
				if part.From <= slot && slot <= part.To {
					return true
				}
			}
			return false
		}
	}
	return owns
}

// step makes one fault, takes it back, and waits until the cluster has recovered.
func (r *round) step(s Step) {
	t := r.world.t
	t.Helper()
	t.Logf("%s  %s: %v", time.Now().Format("15:04:05.000"), r.app, s)
	began := time.Now()
	end := r.world.begin(s)
	r.world.during(s)
	end()
	ended := time.Now()
	r.world.settle()
	ready := time.Now()
	took, ok := r.probe.recovery(ready)
	for ; !ok && took < r.cfg.Recovery; took, ok = r.probe.recovery(ready) {
		<-time.After(20 * time.Millisecond) // look again
	}
	if !ok {
		t.Errorf("%v: %v after all nodes were ready, a shard has taken no write", s, took)
	}
	<-time.After(s.Rest) // the load goes on for a while
	until := ended
	if s.Lasts == 0 || r.cfg.Nodes == 1 {
		until = time.Now()
	}
	gap, recovered := r.probe.gap(began, until), ready.Sub(ended)+took
	t.Logf("no write for %v, recovered in %v", gap.Round(time.Millisecond), recovered.Round(time.Millisecond))
	r.report.step(s, gap, recovered)
}

// verify looks at everything that was promised.
func (r *round) verify(ctx context.Context, watches *linear.Watches, urls []string, shards map[spec.ShardID]func(spec.Slot) bool) {
	t := r.world.t
	counts, faults := r.jobs.verify(ctx)
	summary, found := r.load.Verify(ctx, watches)
	faults = append(faults, found...)
	faults = append(faults, r.probe.verify(ctx)...)
	var ids []spec.ShardID
	for id := range shards {
		ids = append(ids, id)
	}
	compared, found := replicas(ctx, urls, ids)
	faults = append(faults, found...)
	r.report.round(r.app, counts, summary, r.probe, compared)
	for _, w := range workflows {
		if counts[w.name] == 0 {
			faults = append(faults, fmt.Errorf("no %s was run: the round proves little", w.name))
		}
	}
	for i, err := range faults {
		if i == faultsShown {
			t.Errorf("and %d more", len(faults)-faultsShown)
			break
		}
		t.Errorf("%s: %v", r.app, err)
	}
}

// faultsShown bounds what is told of a round.
const faultsShown = 30
