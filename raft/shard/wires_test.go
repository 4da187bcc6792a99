package shard_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"
)

// wires are the ways from each node of a cluster to each other one, by their
// addresses. All are sound until a test does something to them.
type wires struct {
	sync.Mutex
	all map[[2]string]*wire
}

// wired has a node's connections go over the cluster's wires.
func (c *cluster) wired(n *node) {
	n.dial = func(ctx context.Context, address string) (net.Conn, error) {
		return c.wires.of(n.cfg.Address, address).dial(ctx, address)
	}
}

func (ws *wires) of(from, to string) *wire {
	ws.Lock()
	defer ws.Unlock()
	if ws.all == nil {
		ws.all = make(map[[2]string]*wire)
	}
	w := ws.all[[2]string{from, to}]
	if w == nil {
		w = &wire{changed: make(chan struct{}), conns: map[*wireConn]struct{}{}}
		ws.all[[2]string{from, to}] = w
	}
	return w
}

// around changes all wires to and from a node.
func (c *cluster) around(replica uint64, change func(*wire)) {
	for _, other := range c.members {
		if own := c.members[replica]; other != own {
			change(c.wires.of(own, other))
			change(c.wires.of(other, own))
		}
	}
}

// wire is one way.
type wire struct {
	sync.Mutex
	changed     chan struct{} // closed and replaced whenever what follows changes
	cut         bool          // connections break, and there are no new ones
	stalled     bool          // nothing gets through, and nobody is told
	bytesPerSec int           // 0: any
	breakAfter  int           // connections break after up to twice so many bytes; 0: never
	broken      int           // connections that did
	sent        int           // bytes that got through
	conns       map[*wireConn]struct{}
}

func (w *wire) set(change func(w *wire)) {
	w.Lock()
	change(w)
	close(w.changed)
	w.changed = make(chan struct{})
	var broken []*wireConn
	if w.cut {
		for conn := range w.conns {
			broken = append(broken, conn)
		}
	}
	w.Unlock()
	for _, conn := range broken {
		_ = conn.Close()
	}
}

func cutWire(w *wire)   { w.set(func(w *wire) { w.cut = true }) }
func stallWire(w *wire) { w.set(func(w *wire) { w.stalled = true }) }
func mendWire(w *wire) {
	w.set(func(w *wire) { w.cut, w.stalled, w.bytesPerSec, w.breakAfter = false, false, 0, 0 })
}

var errCut = errors.New("the wire is cut")

func (w *wire) dial(ctx context.Context, address string) (net.Conn, error) {
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	conn := &wireConn{Conn: raw, wire: w, closed: make(chan struct{}), moved: make(chan struct{})}
	w.Lock()
	defer w.Unlock()
	if w.cut {
		return nil, errors.Join(errCut, raw.Close())
	}
	w.conns[conn] = struct{}{}
	if w.breakAfter > 0 {
		conn.left = 1 + rand.IntN(2*w.breakAfter)
	}
	return conn, nil
}

// wireConn is a connection over a wire.
type wireConn struct {
	net.Conn
	wire   *wire
	left   int // bytes until it breaks; 0: it does not
	once   sync.Once
	closed chan struct{}

	mu       sync.Mutex
	deadline time.Time
	moved    chan struct{} // closed and replaced when the deadline is set
}

func (c *wireConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	c.wire.Lock()
	delete(c.wire.conns, c)
	c.wire.Unlock()
	return c.Conn.Close()
}

func (c *wireConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	c.deadline = t
	close(c.moved)
	c.moved = make(chan struct{})
	c.mu.Unlock()
	return c.Conn.SetWriteDeadline(t)
}

func (c *wireConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetWriteDeadline(t), c.SetReadDeadline(t))
}

func (c *wireConn) Write(p []byte) (int, error) {
	if err := c.pass(len(p)); err != nil {
		return 0, errors.Join(err, c.Close())
	}
	n, err := c.Conn.Write(p)
	c.wire.Lock()
	c.wire.sent += n
	c.wire.Unlock()
	return n, err
}

// pass waits until the wire lets n bytes through.
func (c *wireConn) pass(n int) error {
	late := time.NewTimer(0)
	defer late.Stop()
	var slow <-chan time.Time // set while bytes are on their way
	for {
		c.mu.Lock()
		deadline, moved := c.deadline, c.moved
		c.mu.Unlock()
		if late.Stop(); !deadline.IsZero() {
			late.Reset(time.Until(deadline))
		}
		c.wire.Lock()
		changed, stalled, rate := c.wire.changed, c.wire.stalled, c.wire.bytesPerSec
		if c.left > 0 && !stalled {
			if c.left -= n; c.left <= 0 {
				c.wire.broken++
				c.wire.Unlock()
				return errCut
			}
		}
		c.wire.Unlock()
		if !stalled && rate == 0 {
			return nil
		}
		if rate > 0 && slow == nil {
			slow = time.After(time.Duration(n) * time.Second / time.Duration(rate))
		}
		select {
		case <-slow:
			if !stalled {
				return nil
			}
			slow = nil
		case <-changed:
		case <-moved:
		case <-c.closed:
			return net.ErrClosed
		case <-late.C:
			return os.ErrDeadlineExceeded
		}
	}
}
