package chaos

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/internal/failpoint"
	"github.com/pheromone-run/pheromone/internal/faultnet"
	"github.com/pheromone-run/pheromone/internal/nodetest"
)

// world is the cluster under test and what it can be broken with.
type world struct {
	t       testing.TB
	cluster *nodetest.Cluster
	network *faultnet.Network
	clocks  map[*nodetest.Node]string // the file that says how wrong a node's clock is
}

// readyWait bounds how long a node that has come back takes to be ready.
const readyWait = 2 * time.Minute

// newWorld starts a cluster, or one node, that can be broken.
func newWorld(t testing.TB, nodes int, args ...string) *world {
	t.Helper()
	w := &world{t: t, network: faultnet.New(), clocks: map[*nodetest.Node]string{}}
	t.Cleanup(w.network.Close)
	w.cluster = nodetest.NewCluster(t, nodetest.ClusterConfig{Nodes: nodes, Args: args, Front: func(node, address string) string {
		front, err := w.network.Front(node, address)
		if err != nil {
			t.Fatal(err)
		}
		return front
	}})
	for _, n := range w.cluster.Nodes() {
		w.clocks[n] = filepath.Join(t.TempDir(), "clock")
		w.setClock(n, 0)
		n.Setenv(failpoint.ClockVariable + "=" + w.clocks[n])
	}
	w.cluster.Start()
	return w
}

func (w *world) setClock(n *nodetest.Node, ahead time.Duration) {
	w.t.Helper()
	// Renamed, so that the node reads one or the other and never half of it.
	next := w.clocks[n] + ".next"
	if err := os.WriteFile(next, []byte(ahead.String()), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(next, w.clocks[n]); err != nil {
		w.t.Fatal(err)
	}
}

// all are the nodes' names.
func (w *world) all() []string {
	var names []string
	for _, n := range w.cluster.Nodes() {
		names = append(names, n.Name())
	}
	return names
}

// apart sets what is wrong between a node and each of the others.
func (w *world) apart(node string, f faultnet.Fault, outbound, inbound bool) {
	for _, other := range w.all() {
		if other == node {
			continue
		}
		if outbound {
			w.network.Set(node, other, f)
		}
		if inbound {
			w.network.Set(other, node, f)
		}
	}
}

// everywhere sets what is wrong between all nodes.
func (w *world) everywhere(f faultnet.Fault) {
	for _, node := range w.all() {
		w.apart(node, f, true, false)
	}
}

// begin breaks something; end takes it back. Nodes that come back are not waited for.
func (w *world) begin(s Step) (end func()) {
	n := w.cluster.Nodes()[s.Node]
	name := n.Name()
	heal := w.network.Heal
	switch s.Kind {
	case Kill:
		n.Kill()
		return n.Launch
	case Stop:
		n.Stop()
		return n.Launch
	case KillAll:
		return w.killAll()
	case Rolling:
		return func() {} // all of it happens in during
	case Pause:
		n.Pause()
		return n.Resume
	case FullDisk:
		return w.fullDisk(n)
	case Clock:
		w.setClock(n, time.Duration(s.Amount)*time.Second)
		return func() { w.setClock(n, 0) }
	case Partition:
		w.apart(name, faultnet.Fault{Cut: true}, true, true)
	case Refuse:
		w.apart(name, faultnet.Fault{Refuse: true}, true, true)
	case OneWay:
		w.apart(name, faultnet.Fault{Cut: true}, !s.Inbound, s.Inbound)
	case Bridge:
		w.network.Between(name, w.cluster.Nodes()[s.Other].Name(), faultnet.Fault{Cut: true})
	case Loss:
		w.everywhere(faultnet.Fault{Loss: float64(s.Amount) / 100})
	case Latency:
		d := time.Duration(s.Amount) * time.Millisecond
		w.everywhere(faultnet.Fault{Delay: d, Jitter: d})
	case Slow:
		w.apart(name, faultnet.Fault{BytesPerSecond: s.Amount << 10}, true, true)
	case SlowDisk:
		return w.inject(n, fmt.Sprintf("inject=fsync,fdatasync:delay_enter=%d", s.Amount*1000))
	case FailDisk:
		return w.failDisk(n)
	case Member:
		return func() {} // all of it happens in during
	default:
		w.t.Fatalf("nobody knows how to make the fault %q", s.Kind)
	}
	return heal
}

// during is what a fault consists of that is more than a beginning and an end.
func (w *world) during(s Step) {
	switch s.Kind {
	case Rolling:
		for _, n := range w.cluster.Nodes() {
			n.Stop()
			n.Launch()
			n.WaitReady(readyWait)
		}
	case Member:
		w.changeMembers(s)
	default:
		<-time.After(s.Lasts) // the fault, not a wait for something
	}
}

func (w *world) killAll() (end func()) {
	for _, n := range w.cluster.Nodes() {
		_ = syscall.Kill(n.PID(), syscall.SIGKILL)
	}
	for _, n := range w.cluster.Nodes() {
		n.Kill() // waits until it is gone
	}
	return func() {
		for _, n := range w.cluster.Nodes() {
			n.Launch()
		}
	}
}

// fullDisk restarts a node with a reserve that no disk has.
func (w *world) fullDisk(n *nodetest.Node) (end func()) {
	n.Stop()
	n.LaunchWith("--disk-reserve", "1000000GiB")
	return func() {
		n.Stop()
		n.Launch()
	}
}

// inject has system calls of a node fail or linger, until end.
func (w *world) inject(n *nodetest.Node, what string) (end func()) {
	cmd := exec.Command("strace", "-f", "-qq", "-o", "/dev/null", "-p", strconv.Itoa(n.PID()), "-e", "trace=fsync,fdatasync", "-e", what)
	if err := cmd.Start(); err != nil {
		w.t.Fatalf("the faults of disks need strace: %v", err)
	}
	return func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // ends by the signal, or with the node
	}
}

// failDisk fails one sync of a node, upon which it ends itself.
func (w *world) failDisk(n *nodetest.Node) (end func()) {
	let := w.inject(n, "inject=fsync,fdatasync:error=EIO:when=3")
	return func() {
		select {
		case <-n.Exited():
		case <-time.After(readyWait):
			w.t.Errorf("node %s goes on after a sync that failed", n.Name())
		}
		let()
		n.Kill() // it is gone, or has to go
		n.Launch()
	}
}

// settle waits until all nodes are ready.
func (w *world) settle() {
	w.t.Helper()
	for _, n := range w.cluster.Nodes() {
		n.WaitReady(readyWait)
	}
}
