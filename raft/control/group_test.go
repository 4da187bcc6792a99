package control_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/raft/control"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(failingDisk); dir != "" {
		writeUntilTheDiskFails(dir)
	}
	nodetest.MainWithoutLeaks(m)
}

// node is a store and a member of the group in one folder.
type node struct {
	t     testing.TB
	cfg   control.Config
	dir   string
	db    *store.DB
	group *control.Group
}

func newNode(t testing.TB, cfg control.Config) *node {
	t.Helper()
	n := &node{t: t, cfg: cfg, dir: t.TempDir()}
	if n.cfg.Node == "" {
		n.cfg.Node = "n1"
	}
	n.cfg.Dir = filepath.Join(n.dir, "snapshots")
	n.open()
	t.Cleanup(n.close)
	return n
}

func (n *node) open() {
	n.t.Helper()
	db, err := store.Open(filepath.Join(n.dir, "store"), store.Options{
		Node: n.cfg.Node, Fatal: func(err error) { n.t.Errorf("store: %v", err) },
	})
	if err != nil {
		n.t.Fatalf("open store: %v", err)
	}
	n.db, n.cfg.DB = db, db
	if n.cfg.Address != "" {
		if n.cfg.Listener, err = net.Listen("tcp", n.cfg.Address); err != nil {
			n.t.Fatalf("listen: %v", err)
		}
	}
	if n.group, err = control.Open(withTimeout(n.t), n.cfg); err != nil {
		n.t.Fatalf("open group: %v", err)
	}
}

func (n *node) close() {
	n.t.Helper()
	if n.group == nil {
		return
	}
	if err := errors.Join(n.group.Close(), n.db.Close()); err != nil {
		n.t.Errorf("close node: %v", err)
	}
	n.group = nil
}

func withTimeout(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func (n *node) apply(c control.Command) control.Result {
	n.t.Helper()
	r, err := n.group.Apply(withTimeout(n.t), c)
	if err != nil {
		n.t.Fatalf("apply %+v: %v", c, err)
	}
	return r
}

var at = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// app is a command that applies an app whose content depends on size.
func app(t testing.TB, name spec.AppName, size int) *control.ApplyApp {
	t.Helper()
	manifest := fmt.Sprintf(`{"apiVersion":"pheromone/v1","app":%q,"functions":{"f":{"runtime":"inproc","concurrency":%d}}}`, name, size)
	a, _, err := spec.Parse("test", []byte(manifest), spec.FormatJSON)
	if err != nil {
		t.Fatalf("parse: %v", err)
	}
	return &control.ApplyApp{Name: name, Manifest: []byte(manifest), Spec: a.Manifest(), At: at}
}

func expecting(c *control.ApplyApp, version uint64) *control.ApplyApp {
	c.Expected = &version
	return c
}

func TestAnAppGetsAVersionForEachChangeOfIt(t *testing.T) {
	n := newNode(t, control.Config{})
	first := n.apply(app(t, "shop", 1))
	again := n.apply(app(t, "shop", 1))
	second := n.apply(app(t, "shop", 2))
	if first.Version != 1 || !first.Changed || again.Version != 1 || again.Changed || second.Version != 2 {
		t.Errorf("results %+v, %+v, %+v", first, again, second)
	}
	v, ok := n.group.State().Current("shop")
	if !ok || v.Version != 2 {
		t.Fatalf("current %+v, %v", v, ok)
	}
	parsed, err := v.App()
	if err != nil || parsed.Functions["f"].Concurrency != 2 {
		t.Errorf("parsed %+v, %v", parsed, err)
	}
	if names := n.group.State().Names(); len(names) != 1 || names[0] != "shop" {
		t.Errorf("names %v", names)
	}
}

func TestVersionsAreNotGivenOutTwiceWhenAnAppComesAgain(t *testing.T) {
	n := newNode(t, control.Config{})
	n.apply(app(t, "shop", 1))
	n.apply(app(t, "shop", 2))
	n.apply(&control.DeleteApp{Name: "shop", At: at})
	if _, ok := n.group.State().Current("shop"); ok {
		t.Error("a deleted app is current")
	}
	if v, ok := n.group.State().Version("shop", 2); !ok || v.Version != 2 {
		t.Error("a session that still runs can't find its version")
	}
	if _, err := n.group.Apply(withTimeout(t), &control.DeleteApp{Name: "shop", At: at}); spec.CodeOf(err) != spec.CodeNotFound {
		t.Errorf("delete again: %v", err)
	}
	if r := n.apply(expecting(app(t, "shop", 2), 0)); r.Version != 3 {
		t.Errorf("version %d after the app came again, want 3", r.Version)
	}
	if r := n.apply(&control.RollbackApp{Name: "shop", Version: 1, At: at}); r.Version != 4 {
		t.Errorf("version %d by a rollback, want 4", r.Version)
	}
	v, _ := n.group.State().Current("shop")
	if string(v.Spec) != string(app(t, "shop", 1).Spec) {
		t.Errorf("the rollback made %s", v.Spec)
	}
	if _, err := n.group.Apply(withTimeout(t), &control.RollbackApp{Name: "shop", Version: 77}); spec.CodeOf(err) != spec.CodeNotFound {
		t.Errorf("rollback to nothing: %v", err)
	}
}

func TestOnlyTheNewestVersionsAreKept(t *testing.T) {
	n := newNode(t, control.Config{})
	for i := range control.MaxVersions + 5 {
		n.apply(app(t, "shop", i+1))
	}
	a := n.group.State().Apps["shop"]
	if len(a.Versions) != control.MaxVersions || a.Versions[0].Version != 6 {
		t.Errorf("%d versions from %d", len(a.Versions), a.Versions[0].Version)
	}
	if v, ok := n.group.State().Version("shop", 2); !ok || v.Version != 6 {
		t.Errorf("version 2 is answered with %+v, %v", v, ok)
	}
}

func TestOfConcurrentChangesToOneVersionOneWins(t *testing.T) {
	n := newNode(t, control.Config{})
	n.apply(app(t, "shop", 1))
	const writers = 20
	results := make([]error, writers)
	var all sync.WaitGroup
	for i := range writers {
		all.Go(func() {
			_, results[i] = n.group.Apply(withTimeout(t), expecting(app(t, "shop", 10+i), 1))
		})
	}
	all.Wait()
	won := 0
	for _, err := range results {
		switch {
		case err == nil:
			won++
		case spec.CodeOf(err) != spec.CodeConflict:
			t.Errorf("a loser got %v", err)
		}
	}
	if v, _ := n.group.State().Current("shop"); won != 1 || v.Version != 2 {
		t.Errorf("%d writers won, version %d", won, v.Version)
	}
}

func TestAnAppNeedsItsArtifactAndKeepsIt(t *testing.T) {
	n := newNode(t, control.Config{})
	sum := strings.Repeat("ab", 32)
	c := app(t, "shop", 1)
	c.Artifact = sum
	if _, err := n.group.Apply(withTimeout(t), c); spec.CodeOf(err) != spec.CodePrecondition {
		t.Errorf("apply without the artifact: %v", err)
	}
	n.apply(&control.PutArtifact{Sum: sum, Size: 5, At: at})
	if r := n.apply(&control.PutArtifact{Sum: sum, Size: 5, At: at}); r.Changed {
		t.Error("the same artifact again is a change")
	}
	n.apply(c)
	v, _ := n.group.State().Current("shop")
	if parsed, err := v.App(); err != nil || parsed.Artifact != sum {
		t.Errorf("parsed %+v, %v", parsed, err)
	}
	if _, err := n.group.Apply(withTimeout(t), &control.DeleteArtifact{Sum: sum}); spec.CodeOf(err) != spec.CodeConflict {
		t.Errorf("delete an artifact in use: %v", err)
	}
	if _, err := n.group.Apply(withTimeout(t), &control.PutArtifact{Sum: "../etc"}); spec.CodeOf(err) != spec.CodeInvalid {
		t.Errorf("a sum that is none: %v", err)
	}
}

func TestSlotsAreSpreadEvenlyAndInRanges(t *testing.T) {
	for _, shards := range []int{1, 3, 8, 1000} {
		t.Run(fmt.Sprint(shards, " shards"), func(t *testing.T) {
			n := newNode(t, control.Config{})
			if got := n.group.State().Placement.ShardOf(5); got != 0 {
				t.Errorf("slot 5 is of shard %d before there is a placement", got)
			}
			n.apply(&control.InitPlacement{Shards: shards, Nodes: []string{"n1"}})
			if r := n.apply(&control.InitPlacement{Shards: 2, Nodes: []string{"n1"}}); r.Changed {
				t.Error("placed twice")
			}
			p := n.group.State().Placement
			counts := make(map[spec.ShardID]int)
			for slot := range spec.Slot(spec.Slots) {
				counts[p.ShardOf(slot)]++
				if slot > 0 && p.ShardOf(slot) < p.ShardOf(slot-1) {
					t.Fatalf("slot %d is of shard %d after shard %d", slot, p.ShardOf(slot), p.ShardOf(slot-1))
				}
			}
			if len(counts) != shards || len(p.Shards) != shards {
				t.Errorf("%d shards have slots, %d are placed", len(counts), len(p.Shards))
			}
			for id, slots := range counts {
				if even := spec.Slots / shards; slots < even || slots > even+1 || p.Shards[id].Replicas[1] != (control.Replica{Node: "n1"}) {
					t.Errorf("shard %d has %d slots and replicas %v", id, slots, p.Shards[id].Replicas)
				}
			}
		})
	}
}

func TestARestartKeepsEverything(t *testing.T) {
	for _, c := range []struct {
		name      string
		snapshots int
	}{{"from the log", 0}, {"from snapshots and the log", 8}} {
		t.Run(c.name, func(t *testing.T) {
			n := newNode(t, control.Config{SnapshotEntries: c.snapshots})
			n.apply(&control.InitPlacement{Shards: 2, Nodes: []string{"n1"}})
			for round := range 3 {
				for i := range 30 {
					n.apply(app(t, "shop", 1+round*30+i))
					n.apply(&control.Set{Key: fmt.Sprint("key", i), Value: fmt.Sprint("value", round)})
				}
				if c.snapshots > 0 {
					if err := n.group.Snapshot(); err != nil {
						t.Fatal(err)
					}
				}
				n.apply(&control.Set{Key: "after", Value: fmt.Sprint(round)})
				want := n.group.State()
				n.close()
				n.open()
				got := n.group.State()
				if got.Index != want.Index || len(got.Settings) != 31 || got.Settings["after"] != fmt.Sprint(round) ||
					len(got.Apps["shop"].Versions) != len(want.Apps["shop"].Versions) || got.Apps["shop"].Last != want.Apps["shop"].Last {
					t.Fatalf("round %d: index %d, %d settings, %d versions; want index %d", round,
						got.Index, len(got.Settings), len(got.Apps["shop"].Versions), want.Index)
				}
				if got.Placement.ShardOf(spec.Slots-1) != 2 {
					t.Errorf("round %d: placement lost", round)
				}
			}
		})
	}
}

func TestAWatchSeesTheLastChange(t *testing.T) {
	n := newNode(t, control.Config{})
	const changes = 300
	seen := make(chan error, 1)
	go func() {
		last := uint64(0)
		for {
			changed := n.group.Changed()
			s := n.group.State()
			if s.Index < last {
				seen <- fmt.Errorf("index %d after %d", s.Index, last)
				return
			}
			last = s.Index
			if s.Settings["n"] == fmt.Sprint(changes) {
				seen <- nil
				return
			}
			<-changed
		}
	}()
	for i := range changes {
		n.apply(&control.Set{Key: "n", Value: fmt.Sprint(i + 1)})
	}
	select {
	case err := <-seen:
		if err != nil {
			t.Error(err)
		}
	case <-withTimeout(t).Done():
		t.Error("the watch never saw the last change")
	}
	if r := n.apply(&control.Set{Key: "n", Value: ""}); !r.Changed || len(n.group.State().Settings) != 0 {
		t.Error("an empty value does not remove the setting")
	}
}

func TestBadCommandsAreRefused(t *testing.T) {
	n := newNode(t, control.Config{})
	for _, c := range []struct {
		name    string
		command control.Command
		want    spec.Code
	}{
		{"a spec that can't be read", &control.ApplyApp{Name: "shop", Spec: []byte("{")}, spec.CodeInvalid},
		{"an app without a name", func() control.Command { c := app(t, "shop", 1); c.Name = ""; return c }(), spec.CodeInvalid},
		{"a setting without a key", &control.Set{Value: "x"}, spec.CodeInvalid},
		{"a setting that is too large", &control.Set{Key: "k", Value: strings.Repeat("x", 1<<20)}, spec.CodeInvalid},
		{"a command that is too large", &control.Set{Key: "k", Value: strings.Repeat("x", 5<<20)}, spec.CodeTooLarge},
		{"no shards", &control.InitPlacement{Nodes: []string{"n1"}}, spec.CodeInvalid},
		{"shards on no node", &control.InitPlacement{Shards: 1}, spec.CodeInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := n.group.Apply(withTimeout(t), c.command); spec.CodeOf(err) != c.want {
				t.Errorf("got %v, want code %s", err, c.want)
			}
		})
	}
}

func TestBadConfigurationsAreRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		cfg  control.Config
		want string
	}{
		{"nothing set", control.Config{}, "node is empty"},
		{"an address of no machine", control.Config{Node: "a", Dir: "d", Address: "0.0.0.0:1"}, "stands for every address"},
		{"an address without a port", control.Config{Node: "a", Dir: "d", Address: "host"}, "not host:port"},
		{"an address and no network", control.Config{Node: "a", Dir: "d", Address: "127.0.0.1:1"}, "without a listener"},
		{"voters without this node", control.Config{Node: "a", Dir: "d", Address: "127.0.0.1:1", Voters: map[string]string{"b": "b:1"}}, "not among the voters"},
		{"a voter nowhere", control.Config{Node: "a", Dir: "d", Address: "127.0.0.1:1", Voters: map[string]string{"a": "a:1", "b": "b"}}, "voter \"b\""},
		{"voters of a node alone", control.Config{Node: "a", Dir: "d", Voters: map[string]string{"a": "a:1"}}, "without an address"},
		{"an election that never ends", control.Config{Node: "a", Dir: "d", Election: time.Hour}, "not between"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := control.Open(withTimeout(t), c.cfg); spec.CodeOf(err) != spec.CodeInvalid || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}
