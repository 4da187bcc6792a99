package api

import (
	"io"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// conn is a TCP connection that can be closed without losing the answer on its
// way, and that can tell when its client has gone.
type conn struct {
	*net.TCPConn
	// unread says that the client may still be sending what nobody will read.
	unread atomic.Bool
	// ended says that a read has met the end of what the client sends.
	ended atomic.Bool
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.TCPConn.Read(p)
	if err == io.EOF {
		c.ended.Store(true)
	}
	return n, err
}

// listener wraps what it accepts into conns. A connection that is not plain TCP
// stays as it is and goes without what a conn can do.
type listener struct{ net.Listener }

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if tcp, ok := c.(*net.TCPConn); ok && err == nil {
		return &conn{TCPConn: tcp}, nil
	}
	return c, err
}

// How long and how much a refused client may go on sending.
const (
	lingerTime  = time.Second
	lingerBytes = 8 << 20
)

// Close closes the connection. Where the client's bytes are still unread, the
// kernel would reset the connection and drop the answer that is on its way
// along with them, so these are first read and thrown away, within bounds.
func (c *conn) Close() error {
	if c.unread.CompareAndSwap(true, false) {
		if c.CloseWrite() == nil && c.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
			_, _ = io.CopyN(io.Discard, c.TCPConn, lingerBytes)
		}
	}
	return c.TCPConn.Close()
}

// whenGone calls f if the client closes its side, and until stop is called.
// Nobody else may read from the connection in between. A request that the client
// sends ahead shows that it is alive and ends the watch.
func (c *conn) whenGone(f func()) (stop func()) {
	raw, err := c.SyscallConn()
	if err != nil || c.SetReadDeadline(time.Time{}) != nil {
		return func() {}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		gone := false
		_ = raw.Read(func(fd uintptr) bool {
			var b [1]byte
			n, _, err := unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
			if err == unix.EAGAIN || err == unix.EINTR {
				return false
			}
			gone = err != nil || n <= 0
			return true
		})
		if gone {
			f()
		}
	}()
	return func() {
		_ = c.SetReadDeadline(time.Unix(1, 0)) // wakes the watcher
		<-done
		_ = c.SetReadDeadline(time.Now().Add(lingerTime)) // until fasthttp sets its own for the next request
	}
}
