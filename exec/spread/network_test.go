package spread_test

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"
)

// links is a network whose connections go through proxies that can be stopped.
type links struct {
	t  *testing.T
	mu sync.Mutex
	// allow is asked for each connection how many bytes it carries before it is cut; a
	// negative number is for ever.
	allow func() int64
	held  chan struct{} // while it is open nothing passes between n1 and the others
	cut   bool          // connections are closed and none is opened
	open  map[net.Conn]bool
	wg    sync.WaitGroup
}

func newLinks(t *testing.T) *links {
	l := &links{t: t, allow: func() int64 { return -1 }, held: make(chan struct{}), open: map[net.Conn]bool{}}
	close(l.held)
	return l
}

// dial connects through a proxy.
func (l *links) dial(_, _ string) func(ctx context.Context, address string) (net.Conn, error) {
	return func(ctx context.Context, address string) (net.Conn, error) {
		l.mu.Lock()
		cut := l.cut
		l.mu.Unlock()
		if cut {
			return nil, net.ErrClosed
		}
		proxy, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer func() { _ = proxy.Close() }()
		near, err := (&net.Dialer{}).DialContext(ctx, "tcp", proxy.Addr().String())
		if err != nil {
			return nil, err
		}
		middle, err := proxy.Accept()
		if err != nil {
			return nil, err
		}
		far, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
		if err != nil {
			_ = middle.Close()
			return nil, err
		}
		l.mu.Lock()
		l.open[middle], l.open[far] = true, true
		left := &allowance{left: l.allow()}
		l.mu.Unlock()
		l.wg.Go(func() { l.pass(middle, far, left) })
		l.wg.Go(func() { l.pass(far, middle, left) })
		return near, nil
	}
}

// allowance is how many bytes a connection carries, both ways together.
type allowance struct {
	mu   sync.Mutex
	left int64
}

func (a *allowance) take(n int) (passed int, whole bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.left < 0 || a.left >= int64(n) {
		if a.left > 0 {
			a.left -= int64(n)
		}
		return n, true
	}
	passed, a.left = int(a.left), 0
	return passed, false
}

func (l *links) pass(from, to net.Conn, left *allowance) {
	defer func() {
		_, _ = from.Close(), to.Close()
		l.mu.Lock()
		delete(l.open, from)
		delete(l.open, to)
		l.mu.Unlock()
	}()
	buf := make([]byte, 4096)
	for {
		n, err := from.Read(buf)
		l.mu.Lock()
		held := l.held
		l.mu.Unlock()
		<-held
		n, whole := left.take(n)
		if _, failed := to.Write(buf[:n]); failed != nil || err == io.EOF || err != nil || !whole {
			return
		}
	}
}

// hold stops everything on its way; release lets it go on.
func (l *links) hold() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = make(chan struct{})
}

func (l *links) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	close(l.held)
}

// sever closes all connections, and lets none be opened until it is told so.
func (l *links) sever(cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cut = cut; cut {
		for conn := range l.open {
			_ = conn.Close()
		}
	}
}
