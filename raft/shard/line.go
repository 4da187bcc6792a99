package shard

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"time"

	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"
)

// line carries batches of messages to a host, over one connection after the other.
// Batches are dropped while the host is not reached: raft repeats what matters.
//
// Dragonboat is not told of failures. It would stop sending to the host, over all of
// its connections, for up to 1.5 seconds, and it learns of a connection's end only
// by writing to it: a restart of a host leaves connections that fail one by one long
// after it is back, mostly when an election needs them.
//
// A network that loses packets ends no connection: what is written waits in the
// system, which tries ever more seldom, and after an outage of a minute not again for
// most of another. So a line whose host says nothing, over any connection, dials it
// anew beside the connection that it has, and goes over to the new one.
type line struct {
	ctx    context.Context // ends with Close
	end    context.CancelFunc
	t      *transport
	target string

	sender *sender       // nil if there is no connection
	ended  chan struct{} // closed when the other side has closed it
	since  time.Time     // when it was dialed
	again  time.Time     // when the host may be dialed again

	heard   *atomic.Int64 // when the host was last heard of, in Unix nanoseconds
	anew    chan net.Conn // brings how dialing anew has ended, nil if it failed
	dialing bool          // anew will bring something
}

var _ raftio.IConnection = (*line)(nil)

const (
	// dialWait bounds how long a host is dialed; what is to be sent waits meanwhile.
	dialWait = 2 * time.Second
	// dialAgain is how long a host is left alone that was not reached.
	dialAgain = 100 * time.Millisecond
	// lineSilence is how long a host may say nothing before it is dialed anew. Who is
	// there answers each heartbeat.
	lineSilence = 3 * time.Second
)

// SendMessageBatch sends a batch or drops it.
func (l *line) SendMessageBatch(batch raftpb.MessageBatch) error {
	if l.sender != nil && isClosed(l.ended) {
		l.hangUp()
	}
	l.renew(time.Now())
	for range 2 { // again if a connection that seemed to be well was not
		if l.sender == nil && !l.dial() {
			return nil
		}
		err := l.sender.SendMessageBatch(batch)
		if err == nil {
			return nil
		}
		l.t.log.Debug("raft messages were not sent", "address", l.target, "error", err)
		l.hangUp()
	}
	return nil
}

// dial connects to the host unless that was tried just now.
func (l *line) dial() bool {
	if time.Now().Before(l.again) {
		return false
	}
	ctx, cancel := context.WithTimeout(l.ctx, dialWait)
	defer cancel()
	conn, err := l.t.dial(ctx, l.target)
	if err != nil {
		l.again = time.Now().Add(dialAgain)
		return false
	}
	l.use(conn)
	return true
}

// use sends over a connection from now on.
func (l *line) use(conn net.Conn) {
	ended := make(chan struct{})
	l.t.workers.Go(func() {
		// Nothing is ever said on it: a read ends with the connection.
		_, err := conn.Read(make([]byte, 1))
		close(ended)
		if !errors.Is(err, net.ErrClosed) { // not by this side
			l.t.lost(l.target)
		}
	})
	l.sender, l.ended, l.since = &sender{conn: conn}, ended, time.Now()
}

// renew dials the host anew if it says nothing, and goes over to the new connection
// once that is there. It does not wait for it: a host that only stands still takes
// what it is sent when it goes on.
func (l *line) renew(now time.Time) {
	select {
	case conn := <-l.anew:
		l.dialing = false
		if conn == nil {
			l.again = now.Add(dialAgain)
			break
		}
		if l.sender != nil {
			l.hangUp()
		}
		l.use(conn)
	default:
	}
	if l.dialing || !l.silent(now) || now.Before(l.again) {
		return
	}
	l.dialing = true
	l.t.workers.Go(func() {
		ctx, cancel := context.WithTimeout(l.ctx, dialWait)
		conn, err := l.t.dial(ctx, l.target)
		cancel()
		if err != nil {
			conn = nil
		}
		select {
		case l.anew <- conn:
		case <-l.ctx.Done():
			if conn != nil {
				_ = conn.Close()
			}
		}
	})
}

// silent tells whether there is a connection, for long enough, of whose other side
// nothing is heard.
func (l *line) silent(now time.Time) bool {
	if l.sender == nil {
		return false
	}
	last := l.since
	if heard := time.Unix(0, l.heard.Load()); heard.After(last) {
		last = heard
	}
	return now.Sub(last) > l.t.silence
}

func (l *line) hangUp() {
	l.sender.Close()
	l.sender = nil
}

// Close ends the line.
func (l *line) Close() {
	l.end()
	if l.sender != nil {
		l.hangUp()
	}
}
