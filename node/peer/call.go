package peer

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/spec"
)

// Caller asks other nodes. It keeps connections for the next request; one
// connection carries one request at a time. It is safe for concurrent use.
type Caller struct {
	network *Network

	mu struct {
		sync.Mutex
		idle map[string][]*line // by address, the last used last
	}
}

const idleMost = 64 // connections kept to one node

// line is a connection on which requests follow each other.
type line struct {
	conn net.Conn
	r    *bufio.Reader
	w    *bufio.Writer
	gone chan error  // of one that is kept: gets the error that ends the wait for its end
	end  *time.Timer // of one that is kept
}

func newLine(conn net.Conn) *line {
	return &line{conn: conn, r: bufio.NewReaderSize(conn, 32<<10), w: bufio.NewWriterSize(conn, 32<<10)}
}

// NewCaller makes a Caller. Its connections end with the network.
func NewCaller(n *Network) *Caller {
	c := &Caller{network: n}
	c.mu.idle = make(map[string][]*line)
	return c
}

// ErrNotSent says that a request did not reach the other node: asking again, or
// another one, can't do anything twice.
var ErrNotSent = errors.New("the request was not sent")

// Call asks the node at an address. args and result are JSON; body, if it is not
// nil, is streamed after the arguments. The answer's body is nil if there is none;
// otherwise the caller closes it.
//
// Errors of the other side are *spec.Error as it made them. ErrNotSent wraps those
// that happened before anything was sent; every other one is CodeUnavailable or
// CodeTimeout and leaves open whether the request was handled.
func (c *Caller) Call(ctx context.Context, address, method string, args any, body io.Reader, result any) (io.ReadCloser, error) {
	raw, err := json.Marshal(args)
	if err != nil {
		return nil, fmt.Errorf("%w: encode the arguments of %s: %w", ErrNotSent, method, err)
	}
	l, err := c.line(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotSent, err)
	}
	x := &exchange{caller: c, address: address, line: l}
	x.unwatch = context.AfterFunc(ctx, func() { _ = l.conn.SetDeadline(time.Unix(1, 0)) })
	x.send(&requestHeader{Method: method, Args: raw, Body: body != nil}, body)
	var header answerHeader
	err = readHeader(l.r, &header)
	if err != nil {
		_ = l.conn.Close() // ends the sending, too
		if broken := <-x.sent; broken != nil && !errors.Is(broken, net.ErrClosed) {
			err = broken
		}
		x.unwatch()
		return nil, c.unknown(ctx, address, method, err)
	}
	if header.Error != nil {
		x.finish(true)
		return nil, header.Error.error()
	}
	if result != nil {
		if err := json.Unmarshal(header.Result, result); err != nil {
			x.finish(false)
			return nil, spec.Errorf(spec.CodeInternal, "the answer to %s can't be read: %w", method, err)
		}
	}
	if !header.Body {
		x.finish(true)
		return nil, nil
	}
	x.body = &bodyReader{from: l.r}
	return x, nil
}

// unknown is the error for a request whose outcome is not known.
func (c *Caller) unknown(ctx context.Context, address, method string, err error) error {
	var known *spec.Error
	switch {
	case ctx.Err() != nil:
		return spec.Errorf(spec.CodeTimeout, "the node at %s did not answer %s in time: %w", address, method, ctx.Err())
	case errors.As(err, &known):
		return err // the body of the request had a fault
	}
	return spec.Errorf(spec.CodeUnavailable, "the connection to the node at %s broke, the outcome of %s is not known: %w", address, method, err)
}

// exchange is a request under way; it is the body of its answer.
type exchange struct {
	caller  *Caller
	address string
	line    *line
	unwatch func() bool
	sent    chan error // how the sending of the request ended; capacity 1
	body    *bodyReader
	once    sync.Once
}

// send writes the request. A body is sent beside the reading of the answer, which
// may come before its end; its sending ends when its source does, or the connection.
func (x *exchange) send(header *requestHeader, body io.Reader) {
	x.sent = make(chan error, 1)
	err := writeHeader(x.line.w, header)
	if err == nil {
		err = x.line.w.Flush()
	}
	if err != nil {
		_ = x.line.conn.Close() // there will be no answer to wait for
	}
	if err != nil || body == nil {
		x.sent <- err
		return
	}
	go func() {
		readErr, err := writeBody(x.line.w, body)
		x.sent <- errors.Join(readErr, err)
	}()
}

// sentWhole tells whether the request is sent, so that another may follow.
func (x *exchange) sentWhole() bool {
	select {
	case err := <-x.sent:
		return err == nil
	case <-time.After(x.caller.network.cfg.SendLag):
		return false // it was answered before its end, by who needs no more
	}
}

func (x *exchange) Read(p []byte) (int, error) { return x.body.Read(p) }

// Close gives the connection back, or ends it if the answer was not read whole.
func (x *exchange) Close() error {
	x.finish(x.body.whole())
	return nil
}

// finish keeps the connection for the next request if this one has left it clean.
func (x *exchange) finish(clean bool) {
	x.once.Do(func() {
		if x.unwatch() && clean && x.sentWhole() {
			x.caller.keep(x.address, x.line)
			return
		}
		_ = x.line.conn.Close()
	})
}

// line returns a connection to a node: one that is kept, or a new one.
func (c *Caller) line(ctx context.Context, address string) (*line, error) {
	for {
		c.mu.Lock()
		kept := c.mu.idle[address]
		if len(kept) == 0 {
			c.mu.Unlock()
			break
		}
		l := kept[len(kept)-1]
		c.mu.idle[address] = kept[:len(kept)-1]
		l.end.Stop()
		c.mu.Unlock()
		if l.wake() {
			return l, nil
		}
		_ = l.conn.Close()
	}
	conn, err := c.network.Dial(ctx, Calls, address)
	if err != nil {
		return nil, err
	}
	return newLine(conn), nil
}

// rest watches a connection that is kept: there is nothing to read on it, unless
// the other side ends it.
func (l *line) rest() {
	l.gone = make(chan error, 1)
	go func() {
		_, err := l.r.Peek(1)
		l.gone <- err
	}()
}

// wake ends the rest, and tells whether the other side has left the connection open.
func (l *line) wake() bool {
	select {
	case <-l.gone:
		return false
	default:
	}
	if l.conn.SetReadDeadline(time.Unix(1, 0)) != nil {
		return false
	}
	err := <-l.gone
	return errors.Is(err, os.ErrDeadlineExceeded) && l.conn.SetReadDeadline(time.Time{}) == nil
}

// keep has a connection carry the next request, if that comes soon.
func (c *Caller) keep(address string, l *line) {
	l.rest()
	c.mu.Lock()
	defer c.mu.Unlock()
	kept := c.mu.idle[address]
	if len(kept) >= idleMost {
		kept[0].end.Stop()
		_ = kept[0].conn.Close()
		kept = append(kept[:0], kept[1:]...)
	}
	c.mu.idle[address] = append(kept, l)
	l.end = time.AfterFunc(c.network.cfg.IdleFor, func() { c.expire(address, l) })
}

// expire ends a connection that was not used again: its node may have left.
func (c *Caller) expire(address string, l *line) {
	c.mu.Lock()
	kept := c.mu.idle[address]
	i := slices.Index(kept, l)
	if i >= 0 {
		c.mu.idle[address] = slices.Delete(kept, i, i+1)
	}
	if len(c.mu.idle[address]) == 0 {
		delete(c.mu.idle, address)
	}
	c.mu.Unlock()
	if i >= 0 {
		_ = l.conn.Close()
	}
}
