package node_test

import (
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/node"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

func TestSettingsOfAClusterThatCannotWorkAreRefused(t *testing.T) {
	for says, change := range map[string]func(*node.Config){
		"peer-listen: \"here\" is not host:port":            func(c *node.Config) { c.PeerListen = "here" },
		"peer-listen: \"127.0.0.1:0\" is not host:port":     func(c *node.Config) { c.PeerListen = "127.0.0.1:0" },
		"join: \"n2\" is not host:port":                     func(c *node.Config) { c.Join = append(c.Join, "n2") },
		"name the one that other nodes reach":               func(c *node.Config) { c.PeerListen = "0.0.0.0:7170"; c.Insecure = true },
		"set join-token, or say --insecure":                 func(c *node.Config) { c.PeerListen = "10.0.0.1:7170" },
		"join-token: it has 5 bytes":                        func(c *node.Config) { c.JoinToken = "short" },
		"bootstrap-expect: 4 nodes are expected and join":   func(c *node.Config) { c.Expect = 4 },
		"can't find each other without the peer addresses":  func(c *node.Config) { c.Join = nil },
		"bootstrap-expect: -1":                              func(c *node.Config) { c.Expect = -1 },
		"replicas: 8 is not between":                        func(c *node.Config) { c.Replicas = 8 },
		"raft-rtt: 2s is not between":                       func(c *node.Config) { c.RaftRTT = 2 * time.Second },
		"raft-election: 4 ticks":                            func(c *node.Config) { c.RaftElection = 4 },
		"rebuild-after: 1ms is less":                        func(c *node.Config) { c.RebuildAfter = time.Millisecond },
		"peer-advertise: \":7170\" is not host:port with a": func(c *node.Config) { c.PeerAdvertise = ":7170" },
	} {
		cfg := node.Config{DataDir: "data", PeerListen: "127.0.0.1:7170", Expect: 3, Join: []string{"127.0.0.1:7170", "127.0.0.1:7171", "127.0.0.1:7172"}}
		change(&cfg)
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v, want one that says %q", err, says)
		}
		if _, err := node.Start(t.Context(), cfg); spec.CodeOf(err) != spec.CodeInvalid {
			t.Errorf("the node's start: %v, code %s", err, spec.CodeOf(err))
		}
	}
	for name, cfg := range map[string]node.Config{
		"a token beyond this machine":     {DataDir: "data", PeerListen: "10.0.0.1:7170", JoinToken: "0123456789abcdef", Expect: 1},
		"insecure beyond this machine":    {DataDir: "data", PeerListen: ":7170", PeerAdvertise: "n1.example.org:7170", Insecure: true, Expect: 1},
		"the node's own address left out": {DataDir: "data", PeerListen: "127.0.0.1:7170", Expect: 3, Join: []string{"127.0.0.1:7171", "127.0.0.1:7172"}},
	} {
		if err := cfg.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDataStaysWithTheKindOfNodeThatMadeIt(t *testing.T) {
	refused := func(cfg node.Config, says string) {
		t.Helper()
		n, err := node.Start(t.Context(), cfg)
		if err == nil {
			_ = n.Close()
		}
		if spec.CodeOf(err) != spec.CodeConflict || !strings.Contains(err.Error(), says) {
			t.Errorf("error %v, want one that says %q", err, says)
		}
	}
	alone := node.Config{DataDir: filepath.Join(t.TempDir(), "data"), Listen: "127.0.0.1:0"}
	n, err := node.Start(t.Context(), alone)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	asked := alone
	asked.PeerListen, asked.Expect = nodetest.FreeAddress(t), 1
	refused(asked, "is that of a node alone")

	m := members(t, 1)[0]
	form(m)
	m.stop()
	dev := node.Config{Name: "n1", DataDir: m.cfg.DataDir, Listen: "127.0.0.1:0", Alone: true}
	refused(dev, "is that of a node of cluster c")
	other := m.cfg
	other.Name = "n9"
	refused(other, `belongs to node "n1", this is node "n9"`)
}

func TestANodeThatNeverFoundAClusterCanBeOneAlone(t *testing.T) {
	m := members(t, 2)[0]
	m.start() // and nobody comes
	m.stop()
	m.cfg.Join, m.cfg.Expect, m.cfg.PeerListen = nil, 0, ""
	form(m)
	m.stop()
	m.cfg.PeerListen, m.cfg.Expect = nodetest.FreeAddress(t), 1
	if _, err := node.Start(t.Context(), m.cfg); spec.CodeOf(err) != spec.CodeConflict {
		t.Errorf("it was a node alone: %v", err)
	}
}

func TestANodeThatCannotListenForOthersSaysSo(t *testing.T) {
	all := members(t, 2)
	all[0].start()
	all[1].cfg.PeerListen = all[0].cfg.PeerListen
	_, err := node.Start(t.Context(), all[1].cfg)
	if spec.CodeOf(err) != spec.CodeUnavailable || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("error %v", err)
	}
}

func TestANodeWithAnotherTokenEndsAndSaysWhy(t *testing.T) {
	all := members(t, 3)
	for _, m := range all {
		m.cfg.JoinToken = "the same for all three"
	}
	form(all...)
	fourth := joins(t, "n4", all)
	fourth.cfg.JoinToken = "something else for one"
	fourth.start()
	if err := fourth.ends(); spec.CodeOf(err) != spec.CodeConflict || !strings.Contains(err.Error(), "the join token of node n4 is not that of node n") {
		t.Errorf("the node ended with %v", err)
	}
	fourth.node = nil
	fourth.cfg.JoinToken = all[0].cfg.JoinToken
	form(fourth)
}

func TestANodeWhoseClockIsFarOffIsRefused(t *testing.T) {
	first := members(t, 1)[0]
	form(first)
	second := joins(t, "n2", []*member{first})
	second.cfg.Now = func() time.Time { return time.Now().Add(-15 * time.Minute) }
	second.start()
	if err := second.ends(); spec.CodeOf(err) != spec.CodePrecondition || !strings.Contains(err.Error(), " apart") {
		t.Errorf("the node ended with %v", err)
	}
	second.node = nil
}

func TestANodeAloneSaysThatItListensForNobody(t *testing.T) {
	var log strings.Builder
	n, err := node.Start(t.Context(), node.Config{DataDir: filepath.Join(t.TempDir(), "data"), Listen: "127.0.0.1:0", PeerListen: nodetest.FreeAddress(t),
		Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(log.String(), "a node alone listens for no others") {
		t.Errorf("it says nothing of it:\n%s", log.String())
	}
}

func TestANodeWithoutMostOfItsClusterNamesItsShardsInOneLine(t *testing.T) {
	all := members(t, 3)
	form(all...)
	all[0].stop()
	all[1].stop()
	all[2].shows("all shards without a leader", func(c wire.Cluster) bool {
		return c.Waiting == "shards 1, 2 have no leader just now"
	})
}
