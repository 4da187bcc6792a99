package faultnet

import (
	"fmt"
	"net"
	"sync"
	"time"
)

// Fault is what is wrong with the way from one node to another. The zero value is
// a sound one; the parts add up.
type Fault struct {
	// Cut holds every byte back until the fault is gone, as a network does that
	// drops all packets: the senders' systems go on trying.
	Cut bool
	// Refuse breaks connections and takes no new ones, as a firewall does that
	// answers with resets.
	Refuse bool
	// Delay is how late bytes come, Jitter what a random part of is added.
	Delay, Jitter time.Duration
	// Loss is the share of packets, from 0 to 1, that have to be sent again: what
	// comes behind them waits. A few such losses break the connection.
	Loss float64
	// BytesPerSecond is the width of the way; 0: any.
	BytesPerSecond int
}

// Network is the proxies in front of nodes, and the rules between them. It is safe
// for concurrent use.
type Network struct {
	tasks sync.WaitGroup

	mu struct {
		sync.Mutex
		faults  map[pair]Fault
		changed chan struct{} // closed, and made anew, when a rule changes
		fronts  map[string]*front
		open    map[net.Conn]struct{}
		closed  bool
	}
}

// pair is a way between two nodes.
type pair struct{ from, to string }

// front is the proxy in front of a node.
type front struct {
	network  *Network
	node     string
	target   string
	listener net.Listener
}

// New makes a sound network without nodes.
func New() *Network {
	n := &Network{}
	n.mu.faults = map[pair]Fault{}
	n.mu.changed = make(chan struct{})
	n.mu.fronts = map[string]*front{}
	n.mu.open = map[net.Conn]struct{}{}
	return n
}

// Front puts a proxy in front of the node that listens, or will, at target, and
// returns the address that the others are to know it by.
func (n *Network) Front(node, target string) (address string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("listen in front of node %s: %w", node, err)
	}
	f := &front{network: n, node: node, target: target, listener: l}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mu.closed || n.mu.fronts[node] != nil {
		_ = l.Close()
		return "", fmt.Errorf("node %s has a proxy already, or the network is closed", node)
	}
	n.mu.fronts[node] = f
	n.tasks.Go(f.accept)
	return l.Addr().String(), nil
}

// Set sets what is wrong with the way from a node to another.
func (n *Network) Set(from, to string, f Fault) {
	n.change(func() {
		if f == (Fault{}) {
			delete(n.mu.faults, pair{from, to})
		} else {
			n.mu.faults[pair{from, to}] = f
		}
	})
}

// Between sets the same in both directions.
func (n *Network) Between(a, b string, f Fault) {
	n.Set(a, b, f)
	n.Set(b, a, f)
}

// Heal makes all ways sound. What was held back arrives.
func (n *Network) Heal() { n.change(func() { clear(n.mu.faults) }) }

func (n *Network) change(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
	close(n.mu.changed)
	n.mu.changed = make(chan struct{})
}

// fault returns what is wrong with a way now, and what is closed when that changes.
func (n *Network) fault(way pair) (Fault, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.mu.faults[way], n.mu.changed
}

// keep takes a connection into those that Close ends.
func (n *Network) keep(conn net.Conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.mu.closed {
		n.mu.open[conn] = struct{}{}
	}
	return !n.mu.closed
}

// drop ends a connection the hard way: its other end sees a reset.
func (n *Network) drop(conn net.Conn) {
	n.mu.Lock()
	delete(n.mu.open, conn)
	n.mu.Unlock()
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// Close ends all proxies and their connections.
func (n *Network) Close() {
	n.mu.Lock()
	n.mu.closed = true
	for _, f := range n.mu.fronts {
		_ = f.listener.Close()
	}
	for conn := range n.mu.open {
		_ = conn.Close()
	}
	n.mu.Unlock()
	n.tasks.Wait()
}
