package shard

import (
	"context"
	"errors"
	"net"
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
type line struct {
	ctx    context.Context
	t      *transport
	target string

	sender *sender       // nil if there is no connection
	ended  chan struct{} // closed when the other side has closed it
	again  time.Time     // when the host may be dialed again
}

var _ raftio.IConnection = (*line)(nil)

const (
	// dialWait bounds how long a host is dialed; what is to be sent waits meanwhile.
	dialWait = 2 * time.Second
	// dialAgain is how long a host is left alone that was not reached.
	dialAgain = 100 * time.Millisecond
)

// SendMessageBatch sends a batch or drops it.
func (l *line) SendMessageBatch(batch raftpb.MessageBatch) error {
	if l.sender != nil && isClosed(l.ended) {
		l.hangUp()
	}
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
	ended := make(chan struct{})
	l.t.workers.Go(func() {
		// Nothing is ever said on it: a read ends with the connection.
		_, err := conn.Read(make([]byte, 1))
		close(ended)
		if !errors.Is(err, net.ErrClosed) { // not by this side
			l.t.lost(l.target)
		}
	})
	l.sender, l.ended = &sender{conn: conn}, ended
	return true
}

func (l *line) hangUp() {
	l.sender.Close()
	l.sender = nil
}

// Close ends the line.
func (l *line) Close() {
	if l.sender != nil {
		l.hangUp()
	}
}
