package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/internal/nodetest"
)

func TestMain(m *testing.M) { nodetest.Main(m) }

// screen is what the program has printed.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// freePorts finds a port with which three nodes find theirs free.
func freePorts(t *testing.T) int {
	t.Helper()
	for port := 21000; port < 31000; port += 10 {
		free := true
		for _, p := range []int{port, port + 1, port + 2, port + 100, port + 101, port + 102} {
			l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: p})
			if err != nil {
				free = false
				break
			}
			_ = l.Close()
		}
		if free {
			return port
		}
	}
	t.Fatal("no free ports")
	return 0
}

func TestOneTerminalRunsAClusterAndTakesNodesDownAndUp(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	keys, typed := io.Pipe()
	var out screen
	cfg := config{binary: nodetest.Binary(t), data: t.TempDir(), nodes: 3, port: freePorts(t)}
	ended := make(chan error, 1)
	go func() { ended <- run(ctx, cfg, keys, &out) }()
	says := func(what string) {
		t.Helper()
		deadline := time.Now().Add(2 * time.Minute)
		for !strings.Contains(out.String(), what) {
			select {
			case err := <-ended:
				t.Fatalf("it ended with %v:\n%s", err, &out)
			case <-time.After(10 * time.Millisecond): // look again
			}
			if time.Now().After(deadline) {
				t.Fatalf("it does not say %q:\n%s", what, &out)
			}
		}
	}
	says("3 nodes are ready")
	c := newCluster(cfg, io.Discard)
	var clients []*client.Client
	for _, n := range c.nodes {
		one, err := client.New(n.url, client.WithoutDiscovery())
		if err != nil {
			t.Fatal(err)
		}
		defer one.Close()
		clients = append(clients, one)
	}
	if _, err := clients[0].Apply(ctx, "notes", []byte("apiVersion: pheromone/v1\napp: notes\nbuckets: {in: {}}\n"), client.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(typed, "kill n1\n")
	says("n1 has ended: signal: killed")
	nodetest.Eventually(t, "the others take a put", func() bool {
		_, err := clients[1].Put(ctx, "notes", "in", "k", strings.NewReader("v"), client.PutOptions{})
		return err == nil
	})
	_, _ = io.WriteString(typed, "dance n1\nstart n2\nstart n1\n")
	says("n2 is running")
	says(usage)
	nodetest.Eventually(t, "the first node knows of it", func() bool {
		o, err := clients[0].Get(ctx, "notes", "in", "k", client.GetOptions{})
		return err == nil && string(o.Data) == "v"
	})
	_, _ = io.WriteString(typed, "pause n3\n")
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("it ended with %v", err)
	}
	for _, n := range c.nodes {
		conn, err := net.Dial("tcp", strings.TrimPrefix(n.url, "http://"))
		if err == nil {
			_ = conn.Close()
			t.Errorf("%s is still there", n.name)
		}
	}
}
