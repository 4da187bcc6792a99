package form_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/spec"
)

// ahead has a node's clock go wrong.
func (n *node) ahead(d time.Duration) *node {
	n.cfg.Now = func() time.Time { return time.Now().Add(d) }
	return n
}

func refuses(t *testing.T, err *spec.Error, code spec.Code, says, hint string) {
	t.Helper()
	if err.Code != code || !contains(err.Error(), says) || !contains(err.Hint, hint) {
		t.Errorf("error %s: %v\nhint: %s\nwant %s that says %q and hints at %q", err.Code, err, err.Hint, code, says, hint)
	}
}

func TestTheNodeThatComesLaterGivesUpForWhatIsWrong(t *testing.T) {
	for name, c := range map[string]struct {
		later      func(w *world) *node
		code       spec.Code
		says, hint string
	}{
		"another number of nodes": {
			func(w *world) *node { return w.add("n3", "h3:1", 5, three...) },
			spec.CodeConflict, "this node expects 5 nodes to found the cluster, node n", "--bootstrap-expect",
		},
		"a name twice": {
			func(w *world) *node { return w.add("n2", "h3:1", 3, three...) },
			spec.CodeConflict, `at h2:1 refuses this one: both nodes are named "n2"`, "--name",
		},
		"a clock that is far off": {
			func(w *world) *node { return w.add("n3", "h3:1", 3, three...).ahead(11 * time.Minute) },
			spec.CodePrecondition, " apart", "NTP",
		},
		"a clock that is far behind": {
			func(w *world) *node { return w.add("n3", "h3:1", 3, three...).ahead(-11 * time.Minute) },
			spec.CodePrecondition, " apart", "NTP",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			a := w.add("n1", "h1:1", 3, three...).start()
			b := w.add("n2", "h2:1", 3, three...).start()
			defer w.end(a, b)
			a.waits("2 of 3 nodes are there")
			b.waits("founds the cluster once 3 nodes are there")
			later := c.later(w).start()
			defer w.end(later)
			refuses(t, later.fails(), c.code, c.says, c.hint)
			if name == "a name twice" {
				return // who is refused by name can't be asked when it came, and both are new
			}
			right := w.add("n3", "h3:1", 3, three...)
			w.end(later)
			defer w.end(right.start())
			if a.finds() != right.finds() {
				t.Error("the one that was right is in another cluster")
			}
		})
	}
}

// A node that would give up if it heard of the others does not count meanwhile.
func TestNoClusterIsFoundedWithANodeWhoseClockIsFarOff(t *testing.T) {
	w := newWorld(t)
	w.deaf = "n3"
	a := w.add("n1", "h1:1", 3, three...).start()
	b := w.add("n2", "h2:1", 3, three...).start()
	defer w.end(a, b)
	a.waits("2 of 3 nodes are there")
	odd := w.add("n3", "h3:1", 3, three...).ahead(11 * time.Minute).start()
	defer w.end(odd)
	a.waits("2 of 3 nodes are there; the clocks of node n1 and of node n3 at h3:1 are 11m0s apart")
	w.mu.Lock()
	w.deaf = ""
	w.mu.Unlock()
	refuses(t, odd.fails(), spec.CodePrecondition, " apart", "NTP")
}

// Of three nodes the one with another token gives up, not those that take each other.
func TestTheOneThatNobodyTakesGivesUp(t *testing.T) {
	w := newWorld(t)
	w.tokens = map[string]string{"n3": "another"}
	a := w.add("n1", "h1:1", 3, three...).start()
	b := w.add("n2", "h2:1", 3, three...).start()
	c := w.add("n3", "h3:1", 3, three...).start()
	defer w.end(a, b, c)
	refuses(t, c.fails(), spec.CodeConflict, "another join token", "--join-token")
	a.waits("2 of 3 nodes are there; nobody to talk to at h3:1")
}

func TestAnAddressThatIsAnothersIsRefused(t *testing.T) {
	w := newWorld(t)
	a := w.add("n1", "h1:1", 3, three...).start()
	b := w.add("n2", "h2:1", 3, three...)
	b.at, b.cfg.Self.Address = "h2:1", "h1:1"
	defer w.end(a, b.start())
	refuses(t, b.fails(), spec.CodeConflict, "node n1 is at h1:1, which is the address that this node tells others", "--peer-advertise")
}

func TestAFounderThatIsNotWhereItSaysIsWaitedFor(t *testing.T) {
	for name, alias := range map[string]string{"the one that decides": "a:1", "another one": "z:1"} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			a := w.add("n1", "h1:1", 2, "h1:1", alias).start()
			b := w.add("n2", "wrong:1", 2, "h1:1", alias)
			b.at = alias
			b.start()
			defer w.end(a, b)
			decides := a
			if alias == "a:1" {
				decides = b
			}
			decides.waits("node n2 is not reached at wrong:1, where it says it is")
		})
	}
}

func TestANodeWhoseNameWasTakenIsRefused(t *testing.T) {
	w := newWorld(t)
	a := w.add("n1", "h1:1", 2, "h1:1", "h2:1").start()
	b := w.add("n2", "h2:1", 2, "h1:1", "h2:1").start()
	defer w.end(a)
	a.finds()
	b.finds()
	w.end(b)
	again := w.add("n2", "h2:1", 2, "h1:1", "h2:1").start() // with another disk
	defer w.end(again)
	refuses(t, again.fails(), spec.CodeConflict, "has a node n2 with another data folder", "pheromone cluster remove n2")
}

func TestAddressesOfTwoClustersAreRefused(t *testing.T) {
	w := newWorld(t)
	a, b := w.add("n1", "h1:1", 1).start(), w.add("n2", "h2:1", 1).start()
	defer w.end(a, b)
	a.finds()
	b.finds()
	c := w.add("n3", "h3:1", 0, "h1:1", "h2:1").start()
	defer w.end(c)
	refuses(t, c.fails(), spec.CodeConflict, "the addresses to join are those of two clusters: node n1 at h1:1", "--join")
}

func TestDataOfAnotherClusterIsRefused(t *testing.T) {
	w := newWorld(t)
	a, b := w.add("n1", "h1:1", 1).start(), w.add("n2", "h2:1", 1).start()
	defer w.end(a, b)
	a.finds()
	b.finds()
	b.cfg.Join = []string{"h1:1"}
	w.end(b)
	b.start()
	b.finds()
	err := b.former.Verify(t.Context())
	if spec.CodeOf(err) != spec.CodeConflict || !contains(err.Error(), "different clusters") {
		t.Errorf("the other cluster's node was met: %v", err)
	}
	if err := a.former.Verify(t.Context()); err != nil {
		t.Errorf("without addresses: %v", err)
	}
}

func TestAClockThatIsOddIsTold(t *testing.T) {
	w := newWorld(t)
	log := &lines{}
	a := w.add("n1", "h1:1", 2, "h1:1", "h2:1")
	a.cfg.Log = slog.New(slog.NewTextHandler(log, nil))
	b := w.add("n2", "h2:1", 2, "h1:1", "h2:1").ahead(2 * time.Minute)
	defer w.end(a.start(), b.start())
	if a.finds() != b.finds() {
		t.Error("they are in different clusters")
	}
	if !contains(log.String(), `"the clocks of two nodes are apart" node=n1 other=n2 apart=`) {
		t.Errorf("the log is\n%s", log)
	}
}

func TestWhatIsSaidOfTheOtherNodesIsBounded(t *testing.T) {
	w := newWorld(t)
	a := w.add("n1", "h1:1", 0).start()
	defer w.end(a)
	var seeds []string
	for i := range 2000 {
		seeds = append(seeds, fmt.Sprint("h", i, ":1"))
	}
	b := w.add("n2", "h2:1", 0)
	defer w.end(b.start())
	b.waits("none of the nodes")
	hello := map[string]any{"seeds": seeds}
	var answer any
	if err := b.cfg.Ask(t.Context(), "h1:1", "hello", hello, &answer); spec.CodeOf(err) != spec.CodeInvalid {
		t.Errorf("error %v", err)
	}
}

// lines is a log.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
