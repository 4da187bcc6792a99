// Package nodetest runs real nodes, processes of the real binary, for tests: it
// builds the binary once, starts nodes on free ports, alone or as a cluster, kills
// them without warning and starts them again on the same data, and finds what they
// leave behind. It also has what tests of single parts need: addresses that stay
// free, and a look for goroutines that are left.
//
// It may import client; only tests import it.
package nodetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client"
)

var build struct {
	once   sync.Once
	dir    string
	binary string
	err    error
}

// Binary builds cmd/pheromone once for all tests of the package and returns its
// path. Main removes it.
func Binary(t testing.TB) string {
	t.Helper()
	build.once.Do(func() {
		if build.dir, build.err = os.MkdirTemp("", "pheromone-test-"); build.err != nil {
			return
		}
		build.binary = filepath.Join(build.dir, "pheromone")
		out, err := exec.Command("go", "build", "-o", build.binary, "github.com/pheromone-run/pheromone/cmd/pheromone").CombinedOutput()
		if err != nil {
			build.err = fmt.Errorf("build the binary: %w\n%s", err, out)
		}
	})
	if build.err != nil {
		t.Fatal(build.err)
	}
	return build.binary
}

// Main is the TestMain of a package whose tests start nodes: it runs them and then
// removes what Binary built.
func Main(m *testing.M) {
	m.Run()
	_ = os.RemoveAll(build.dir)
}

// Node is a node in a process of its own. Its address stays the same over restarts.
type Node struct {
	t       testing.TB
	name    string
	binary  string
	data    string
	address string
	args    []string
	env     []string
	process *exec.Cmd
	exited  chan struct{}
	log     *logBuffer
}

// Start starts a node on a new data folder and waits until it is ready. The test
// ends it.
func Start(t testing.TB, args ...string) *Node {
	t.Helper()
	n := New(t, args...)
	n.Restart()
	return n
}

// New makes a node on a new data folder, to be started with Launch or Restart. The
// test ends it.
func New(t testing.TB, args ...string) *Node {
	t.Helper()
	n := &Node{t: t, name: "n1", binary: Binary(t), data: filepath.Join(t.TempDir(), "data"), address: FreeAddress(t), args: args, log: &logBuffer{}}
	t.Cleanup(func() {
		n.Stop()
		if t.Failed() {
			t.Logf("the log of node %s ends with:\n%s", n.name, n.log.tail())
		}
	})
	return n
}

// Setenv sets variables ("NAME=value") for the next starts, in place of those set before.
func (n *Node) Setenv(variables ...string) { n.env = variables }

// Launch starts the node on its data and does not wait for anything.
func (n *Node) Launch() { n.LaunchWith() }

// LaunchWith is Launch with more arguments, this time only.
func (n *Node) LaunchWith(more ...string) {
	n.t.Helper()
	args := append([]string{"serve", "--data", n.data, "--listen", n.address, "--log-level", "warn"}, n.args...)
	args = append(args, more...)
	cmd := exec.Command(n.binary, args...)
	cmd.Stdout, cmd.Stderr = n.log, n.log
	cmd.Env = append(os.Environ(), n.env...)
	if err := cmd.Start(); err != nil {
		n.t.Fatalf("start the node: %v", err)
	}
	n.process = cmd
	exited := make(chan struct{})
	n.exited = exited
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
}

// Exited is closed when the process that runs now has ended by itself or is killed.
func (n *Node) Exited() <-chan struct{} { return n.exited }

// Restart starts the node on its data and waits until it is ready.
func (n *Node) Restart() {
	n.t.Helper()
	n.Launch()
	n.WaitReady(clusterWait)
}

// WaitReady waits until the node that was launched is ready.
func (n *Node) WaitReady(wait time.Duration) {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	c := n.Client()
	defer c.Close()
	for {
		if c.Ready(ctx) == nil {
			return
		}
		select {
		case <-n.exited:
			n.t.Fatalf("node %s ended at its start:\n%s", n.name, n.log.tail())
		case <-ctx.Done():
			n.t.Fatalf("node %s does not get ready:\n%s", n.name, n.log.tail())
		case <-time.After(10 * time.Millisecond): // ask again
		}
	}
}

// Pause stops the node's process as it is, until Resume; its connections stay open.
func (n *Node) Pause() { n.signal(syscall.SIGSTOP) }

// Resume has a paused node go on.
func (n *Node) Resume() { n.signal(syscall.SIGCONT) }

func (n *Node) signal(s syscall.Signal) {
	n.t.Helper()
	if err := n.process.Process.Signal(s); err != nil {
		n.t.Fatalf("signal %v to node %s: %v", s, n.name, err)
	}
}

// Running tells whether the node was launched and has not been ended by Kill or Stop.
func (n *Node) Running() bool { return n.process != nil }

// Kill ends the node with SIGKILL and waits until it is gone.
func (n *Node) Kill() { n.end(syscall.SIGKILL) }

// Stop ends the node with SIGTERM; it is killed if that takes too long.
func (n *Node) Stop() { n.end(syscall.SIGTERM) }

func (n *Node) end(signal syscall.Signal) {
	if n.process == nil {
		return
	}
	_ = n.process.Process.Signal(signal)
	_ = n.process.Process.Signal(syscall.SIGCONT) // one that is paused has to hear it
	select {
	case <-n.exited:
	case <-time.After(20 * time.Second):
		_ = n.process.Process.Signal(syscall.SIGQUIT) // has it log what it is at
		select {
		case <-n.exited:
		case <-time.After(5 * time.Second):
			_ = n.process.Process.Kill()
			<-n.exited
		}
		n.t.Errorf("node %s did not end after %v", n.name, signal)
	}
	n.process = nil
}

// Name is the node's name.
func (n *Node) Name() string { return n.name }

// URL is where the node's API is.
func (n *Node) URL() string { return "http://" + n.address }

// Data is the node's data folder.
func (n *Node) Data() string { return n.data }

// Address is host:port of the API.
func (n *Node) Address() string { return n.address }

// PID is the process of the running node.
func (n *Node) PID() int { return n.process.Process.Pid }

// Client returns a client of this node and no other, that keeps trying while the
// node is away.
func (n *Node) Client() *client.Client {
	n.t.Helper()
	c, err := client.New(n.URL(), client.WithoutDiscovery(),
		client.WithRetry(client.Retry{For: 2 * time.Minute, MaxBackoff: 200 * time.Millisecond}))
	if err != nil {
		n.t.Fatalf("client: %v", err)
	}
	return c
}

// CLI runs a command against the node and returns what it printed. It fails the
// test if the command does not end with code.
func (n *Node) CLI(code int, args ...string) (stdout, stderr string) {
	n.t.Helper()
	cmd := exec.Command(n.binary, args...)
	cmd.Env = append(os.Environ(), "PHEROMONE_SERVER="+n.URL())
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		n.t.Fatalf("run pheromone %s: %v", strings.Join(args, " "), err)
	}
	if got := cmd.ProcessState.ExitCode(); got != code {
		n.t.Fatalf("pheromone %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got, code, &out, &errs)
	}
	return out.String(), errs.String()
}

// Log returns the end of what the node has logged.
func (n *Node) Log() string { return n.log.tail() }

// Executors lists the processes that run functions of this node's data folder:
// they have it in their environment.
func (n *Node) Executors() []int {
	n.t.Helper()
	folders, err := os.ReadDir("/proc")
	if err != nil {
		n.t.Fatalf("list processes: %v", err)
	}
	var pids []int
	for _, f := range folders {
		pid, err := strconv.Atoi(f.Name())
		if err != nil {
			continue
		}
		environ, err := os.ReadFile(filepath.Join("/proc", f.Name(), "environ"))
		if err == nil && bytes.Contains(environ, []byte(n.data)) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Eventually waits until ok says so, and fails the test if that takes too long.
func Eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("never came true: %s", what)
		}
		<-time.After(5 * time.Millisecond)
	}
}

// logBuffer keeps the end of what a node logs.
type logBuffer struct {
	mu   sync.Mutex
	text []byte
}

const logBytes = 256 << 10

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text = append(b.text, p...)
	if extra := len(b.text) - logBytes; extra > 0 {
		b.text = b.text[extra:]
	}
	return len(p), nil
}

func (b *logBuffer) tail() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.text)
}
