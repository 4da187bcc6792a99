package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// cluster is the nodes and where they tell what happens.
type cluster struct {
	cfg   config
	nodes []*node
	peers []string

	mu  sync.Mutex // guards out: a line is one write
	out io.Writer
}

// node is one node, which may be down.
type node struct {
	name string
	url  string
	args []string

	mu      sync.Mutex
	process *os.Process   // nil while it is down
	ended   chan struct{} // closed when the process is gone
}

func newCluster(cfg config, out io.Writer) *cluster {
	c := &cluster{cfg: cfg, out: out}
	address := func(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }
	for i := range cfg.nodes {
		c.peers = append(c.peers, address(cfg.port+100+i))
	}
	for i := range cfg.nodes {
		n := &node{name: fmt.Sprintf("n%d", i+1), url: "http://" + address(cfg.port+i)}
		n.args = []string{"serve", "--name", n.name, "--data", filepath.Join(cfg.data, n.name), "--listen", address(cfg.port + i), "--log-level", "warn", "--log-format", "text"}
		if cfg.nodes > 1 {
			n.args = append(n.args, "--peer-listen", c.peers[i], "--bootstrap-expect", strconv.Itoa(cfg.nodes), "--join", strings.Join(c.peers, ","))
		}
		c.nodes = append(c.nodes, n)
	}
	return c
}

func (c *cluster) urls() string {
	var all []string
	for _, n := range c.nodes {
		all = append(all, n.url)
	}
	return strings.Join(all, ",")
}

func (c *cluster) say(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(c.out, format+"\n", args...)
}

// start starts a node that is down.
func (c *cluster) start(n *node) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.process != nil {
		return fmt.Errorf("%s is running", n.name)
	}
	cmd := exec.Command(c.cfg.binary, n.args...)
	// Ctrl-C in the terminal is for this program, which then ends the nodes.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	read, write := io.Pipe()
	cmd.Stdout, cmd.Stderr = write, write
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", n.name, err)
	}
	n.process, n.ended = cmd.Process, make(chan struct{})
	c.say("%s is started: %s, process %d", n.name, n.url, cmd.Process.Pid)
	go func() {
		for scanner := bufio.NewScanner(read); scanner.Scan(); {
			c.say("%s | %s", n.name, scanner.Text())
		}
		_, _ = io.Copy(io.Discard, read) // behind a line that is too long
	}()
	go func() {
		err := cmd.Wait()
		_ = write.Close()
		n.mu.Lock()
		n.process = nil
		close(n.ended)
		n.mu.Unlock()
		c.say("%s has ended: %v", n.name, describe(err))
	}()
	return nil
}

func describe(err error) string {
	if err == nil {
		return "stopped"
	}
	return err.Error()
}

func (n *node) signal(s syscall.Signal) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.process == nil {
		return fmt.Errorf("%s is down", n.name)
	}
	return n.process.Signal(s)
}

// awaitReady waits until the node takes requests.
func (n *node) awaitReady(ctx context.Context) error {
	n.mu.Lock()
	ended := n.ended
	n.mu.Unlock()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.url+"/readyz", nil)
		if err != nil {
			return err
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-time.After(50 * time.Millisecond): // ask again
		case <-ended:
			return fmt.Errorf("%s ended at its start", n.name)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// stopWait bounds how long a node may take to stop.
const stopWait = 20 * time.Second

// stop ends all nodes: at the same time, as none needs the others for it.
func (c *cluster) stop() {
	deadline := time.After(stopWait)
	for _, n := range c.nodes {
		_ = n.signal(syscall.SIGTERM)
		_ = n.signal(syscall.SIGCONT) // one that is paused has to hear it
	}
	for _, n := range c.nodes {
		n.mu.Lock()
		ended := n.ended
		n.mu.Unlock()
		if ended == nil {
			continue // it was never started
		}
		select {
		case <-ended:
		case <-deadline:
			_ = n.signal(syscall.SIGKILL)
			<-ended
		}
	}
}
