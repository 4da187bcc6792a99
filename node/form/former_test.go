package form_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/node/form"
	"github.com/pheromone-run/pheromone/spec"
)

func TestMain(m *testing.M) { nodetest.MainWithoutLeaks(m) }

func contains(text, part string) bool { return strings.Contains(text, part) }

var three = []string{"h1:1", "h2:1", "h3:1"}

func TestNodesWithTheSameAddressesFoundOneCluster(t *testing.T) {
	w := newWorld(t)
	var nodes []*node
	for i, address := range three {
		nodes = append(nodes, w.add(fmt.Sprintf("n%d", i+1), address, 3, three...).start())
	}
	defer w.end(nodes...)
	id := nodes[0].finds()
	for _, n := range nodes {
		if got := n.finds(); got != id {
			t.Errorf("node %s is in cluster %s, node n1 in %s", n.cfg.Self.Name, got, id)
		}
		if voters := n.record.Identity().Voters(n.cfg.Self.Name); len(voters) != 3 || voters["n2"] != "h2:1" {
			t.Errorf("node %s knows the voters %v", n.cfg.Self.Name, voters)
		}
	}
}

func TestAnAddressThatIsNotNamedInJoinCountsLikeOneThatIs(t *testing.T) {
	w := newWorld(t)
	a := w.add("n1", "h1:1", 3, "h2:1", "h3:1").start()
	b := w.add("n2", "h2:1", 3, "h1:1", "h3:1").start()
	c := w.add("n3", "h3:1", 3, three...).start()
	defer w.end(a, b, c)
	if a.finds() != b.finds() || b.finds() != c.finds() {
		t.Error("they are in different clusters")
	}
}

func TestOneNodeCanFoundAClusterThatOthersJoin(t *testing.T) {
	w := newWorld(t)
	a := w.add("n1", "h1:1", 1).start()
	defer w.end(a)
	id := a.finds()
	b := w.add("n2", "h2:1", 0, "h1:1").start()
	defer w.end(b)
	if got := b.finds(); got != id || len(b.record.Identity().Voters("n2")) > 0 {
		t.Errorf("the second one is in cluster %s with the voters %v", got, b.record.Identity().Voters("n2"))
	}
}

func TestOfSixFoundersFiveVote(t *testing.T) {
	w := newWorld(t)
	var nodes []*node
	var join []string
	for i := range 6 {
		join = append(join, fmt.Sprintf("h%d:1", i))
	}
	for i, address := range join {
		nodes = append(nodes, w.add(fmt.Sprintf("n%d", i), address, 6, join...).start())
	}
	defer w.end(nodes...)
	for i, n := range nodes {
		n.finds()
		if voters := n.record.Identity().Voters(n.cfg.Self.Name); (i < 5) != (len(voters) == 5) {
			t.Errorf("node %s knows the voters %v", n.cfg.Self.Name, voters)
		}
	}
}

func TestANodeSaysWhoIsMissing(t *testing.T) {
	w := newWorld(t)
	a := w.add("n1", "h1:1", 3, three...).start()
	b := w.add("n2", "h2:1", 3, three...).start()
	defer w.end(a, b)
	a.waits("2 of 3 nodes are there; nobody to talk to at h3:1")
	b.waits("the node at h1:1, the first of the addresses to join, founds the cluster")
}

func TestNodesWithDifferentAddressesWaitAndSaySo(t *testing.T) {
	w := newWorld(t)
	a := w.add("n1", "h1:1", 2, "h1:1", "h2:1").start()
	b := w.add("n2", "h2:1", 2, three...).start()
	defer w.end(a, b)
	a.waits("node n2 has other addresses to join: h1:1, h2:1, h3:1, not h1:1, h2:1")
}

func TestWithoutExpectANodeWaitsForInit(t *testing.T) {
	w := newWorld(t)
	a := w.add("n1", "h1:1", 0, three...).start()
	b := w.add("n2", "h2:1", 0, three...).start()
	c := w.add("n3", "h3:1", 0, three...).start()
	defer w.end(a, b, c)
	c.waits("pheromone cluster init")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := b.former.Init(ctx, []string{"n4"}); spec.CodeOf(err) != spec.CodeInvalid || !contains(err.Error(), "these are: n1, n2, n3") && !contains(err.Error(), "these are: n2, n1, n3") {
		t.Fatalf("an unknown voter: %v", err)
	}
	if err := b.former.Init(ctx, []string{"n2", "n3"}); err != nil {
		t.Fatal(err)
	}
	if a.finds() != b.finds() || b.finds() != c.finds() {
		t.Error("they are in different clusters")
	}
	if voters := c.record.Identity().Voters("n3"); len(voters) != 2 || len(a.record.Identity().Voters("n1")) > 0 {
		t.Errorf("the voters are %v", voters)
	}
	if err := a.former.Init(ctx, nil); spec.CodeOf(err) != spec.CodeConflict {
		t.Errorf("a second time: %v", err)
	}
}

func TestANodeJoinsWhereItIsTold(t *testing.T) {
	w := newWorld(t)
	a := w.add("n1", "h1:1", 1).start()
	defer w.end(a)
	a.finds()
	b := w.add("n2", "h2:1", 0).start()
	c := w.add("n3", "h3:1", 0).start()
	defer w.end(b, c)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := b.former.JoinAt(ctx, "h4:1"); spec.CodeOf(err) != spec.CodeUnavailable {
		t.Errorf("at nobody: %v", err)
	}
	if err := b.former.JoinAt(ctx, "h3:1"); spec.CodeOf(err) != spec.CodePrecondition || !contains(err.Error(), "belongs to no cluster itself") {
		t.Errorf("at one without a cluster: %v", err)
	}
	if err := b.former.JoinAt(ctx, "h1:1"); err != nil || b.finds() != a.finds() {
		t.Errorf("at one with a cluster: %v", err)
	}
}

// Whatever is killed when, and whatever is lost on the way: there is one cluster,
// and all come to it.
func TestNodesKilledWhileTheyFormAClusterComeToTheSame(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			chance := rand.New(rand.NewPCG(seed, 1))
			w := newWorld(t)
			w.lossy = rand.New(rand.NewPCG(seed, 2))
			count := 2 + chance.IntN(4)
			expect := 1 + chance.IntN(count)
			var join []string
			for i := range count {
				join = append(join, fmt.Sprintf("h%d:1", i+1))
			}
			var nodes []*node
			for _, i := range chance.Perm(count) {
				nodes = append(nodes, w.add(fmt.Sprintf("n%d", 9-i), join[i], expect, join...))
			}
			for range 8 {
				for _, n := range nodes {
					if chance.IntN(3) > 0 {
						n.stop(chance)
						n.start()
					}
				}
				<-time.After(time.Duration(chance.IntN(6)) * time.Millisecond) // the test's subject: kills at any moment
			}
			clusters := map[string]bool{}
			for _, n := range nodes {
				if n.cancel == nil {
					n.start()
				}
			}
			defer w.end(nodes...)
			founders := 0
			for _, n := range nodes {
				clusters[n.finds()] = true
				if f := n.record.Identity().Founding; f != nil {
					if len(f.Nodes) != expect || !slices.ContainsFunc(f.Nodes, func(o form.Node) bool { return o.Name == n.cfg.Self.Name }) {
						t.Errorf("node %s has a founding of %v", n.cfg.Self.Name, f.Nodes)
					}
					founders++
				}
			}
			if len(clusters) != 1 || founders != expect {
				t.Errorf("%d clusters, %d founders of %d nodes, %d expected", len(clusters), founders, count, expect)
			}
		})
	}
}
