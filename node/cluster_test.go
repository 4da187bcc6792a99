package node_test

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/node"
)

// member is a node of a cluster that tests start in this process.
type member struct {
	t    *testing.T
	cfg  node.Config
	node *node.Node
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// members makes the configurations of nodes that are to found a cluster together.
func members(t *testing.T, count int) []*member {
	t.Helper()
	var all []*member
	var join []string
	for i := range count {
		m := &member{t: t, cfg: node.Config{
			Name: fmt.Sprintf("n%d", i+1), DataDir: filepath.Join(t.TempDir(), "data"),
			Listen: "127.0.0.1:0", PeerListen: freeAddress(t), Expect: count, Shards: 2,
			Fatal: func(err error) { panic(err) },
		}}
		join = append(join, m.cfg.PeerListen)
		all = append(all, m)
	}
	for _, m := range all {
		m.cfg.Join = join
	}
	return all
}

func (m *member) start() {
	m.t.Helper()
	n, err := node.Start(m.t.Context(), m.cfg)
	if err != nil {
		m.t.Fatalf("start node %s: %v", m.cfg.Name, err)
	}
	m.node = n
	m.t.Cleanup(m.stop)
}

func (m *member) stop() {
	m.t.Helper()
	if m.node == nil {
		return
	}
	if err := m.node.Close(); err != nil {
		m.t.Errorf("close node %s: %v", m.cfg.Name, err)
	}
	m.node = nil
}

const patience = time.Minute

func (m *member) ready() {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	for {
		err := m.node.Ready()
		if err == nil {
			return
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			m.t.Fatalf("node %s does not get ready: %v", m.cfg.Name, err)
		}
	}
}

func TestThreeNodesWithTheSameAddressesFormACluster(t *testing.T) {
	all := members(t, 3)
	for _, m := range all {
		m.start()
	}
	for _, m := range all {
		m.ready()
	}
}
