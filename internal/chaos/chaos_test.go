package chaos_test

import (
	"flag"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/internal/chaos"
	"github.com/pheromone-run/pheromone/internal/nodetest"
)

var (
	nodes    = flag.String("chaos.nodes", "1,3", "how many nodes there are; several numbers are so many clusters, one after the other")
	lasts    = flag.Duration("chaos.time", 25*time.Second, "how long faults go on, for each test")
	seed     = flag.Uint64("chaos.seed", someOfAll, "seed of the faults and of the loads; 0 takes a new one")
	faults   = flag.String("chaos.faults", "", "kinds of faults, as in kill,partition; all that need nothing of the machine if it is empty")
	recovery = flag.Duration("chaos.recovery", time.Minute, "how soon after a fault all shards have to take writes again")
	shards   = flag.Int("chaos.shards", 0, "shards of the cluster; 0: the default")
	probe    = flag.Duration("chaos.probe", 200*time.Millisecond, "how often each shard is written to through each node")
)

// someOfAll is a seed whose first faults, within the default time, are of all sorts:
// processes that end, one and all; a network that parts; time that jumps or stops.
const someOfAll = 7

func TestMain(m *testing.M) {
	flag.Parse()
	if *seed == 0 {
		*seed = uint64(time.Now().UnixNano())
	}
	nodetest.Main(m)
}

func settings(t *testing.T, size int, kinds []chaos.Kind) chaos.Settings {
	t.Helper()
	if *faults != "" {
		var err error
		if kinds, err = chaos.ParseKinds(*faults); err != nil {
			t.Fatal(err)
		}
	}
	return chaos.Settings{Nodes: size, Shards: *shards, Kinds: kinds, Time: *lasts, Seed: *seed, Recovery: *recovery, Probe: *probe}
}

// TestPromisesAreKeptWhateverBreaks: nodes are killed, paused, cut off from each
// other and have wrong clocks, and nothing of what was accepted is lost or done
// twice.
func TestPromisesAreKeptWhateverBreaks(t *testing.T) {
	for size := range strings.SplitSeq(*nodes, ",") {
		n, err := strconv.Atoi(size)
		if err != nil || n < 1 {
			t.Fatalf("-chaos.nodes %q: %q is not a number of nodes", *nodes, size)
		}
		t.Run(size+" nodes", func(t *testing.T) {
			kinds := chaos.AloneKinds
			if n > 1 {
				kinds = chaos.ClusterKinds
			}
			chaos.Run(t, settings(t, n, kinds))
		})
	}
}
