package fn

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/client/fn/protocol"
)

const (
	// sdkName is sent in HELLO.
	sdkName = "go/1"
	// maxConcurrency is how many attempts a program takes at once.
	maxConcurrency = 1024
	// flushBytes is how much is collected before it leaves unasked. Puts below it
	// travel with the result of a short function.
	flushBytes = 1 << 20
	// flushAfter is how long a put waits for company.
	flushAfter = time.Millisecond
)

// connection is the program's end of the executor protocol: one goroutine reads,
// attempts run on goroutines of their own, and whoever has something to say adds
// it to out and flushes.
type connection struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	conn   net.Conn
	reader interface {
		Next() (protocol.Frame, error)
	}
	limits   protocol.NodeHello
	memory   *memory // nil if none is shared with the node
	names    []string
	handlers []Handler

	out struct {
		sync.Mutex
		batch protocol.Batch
		armed bool // timer runs
		timer *time.Timer
		err   error // of a write; sticky
	}
	write struct {
		sync.Mutex // held while writing; taken before out's
		spare      protocol.Batch
	}
	mu struct {
		sync.Mutex
		attempts map[uint64]*attempt
		gets     map[uint32]chan getReply
		lastGet  uint32
		leaving  bool
	}
}

func newConnection(ctx context.Context, conn net.Conn, m *memory, names []string, handlers []Handler) *connection {
	c := &connection{conn: conn, memory: m, names: names, handlers: handlers}
	c.ctx, c.cancel = context.WithCancelCause(ctx)
	c.reader = protocol.NewReader(conn, math.MaxUint32) // the node is trusted with the size of inputs
	c.mu.attempts = make(map[uint64]*attempt)
	c.mu.gets = make(map[uint32]chan getReply)
	c.out.timer = time.AfterFunc(time.Hour, c.flushLate)
	c.out.timer.Stop()
	return c
}

// close ends what is left of attempts and waits for nothing: handlers that do
// not listen end with the process.
func (c *connection) close() {
	c.out.timer.Stop()
	c.cancel(errors.New("the connection to the node has ended"))
	_ = c.conn.Close()
}

func (c *connection) hello() error {
	text, err := json.Marshal(protocol.ProcessHello{
		Versions: []int{protocol.Version}, SDK: sdkName, Functions: c.names, Concurrency: maxConcurrency, Memory: c.memory != nil,
	})
	if err != nil {
		return fmt.Errorf("encode hello: %w", err)
	}
	c.add(protocol.Header{Type: protocol.Hello}, nil, text)
	if err := c.flush(); err != nil {
		return fmt.Errorf("send hello: %w", err)
	}
	f, err := c.reader.Next()
	if err != nil {
		return fmt.Errorf("wait for the node's hello: %w", err)
	}
	switch f.Type {
	case protocol.Hello:
		if err := json.Unmarshal(f.Payload, &c.limits); err != nil {
			return fmt.Errorf("the node's hello: %w", err)
		}
		if c.limits.Version != protocol.Version {
			return fmt.Errorf("the node chose protocol version %d, this SDK speaks %d", c.limits.Version, protocol.Version)
		}
		if c.limits.InputMemory == 0 || c.limits.OutputMemory == 0 {
			c.memory = nil
		}
		return nil
	case protocol.Goodbye:
		return fmt.Errorf("the node refused this program: %s", f.Payload)
	default:
		return fmt.Errorf("the node began with %s instead of HELLO", f.Type)
	}
}

// serve reads until the node has said goodbye and the attempts are done, or the
// connection ends.
func (c *connection) serve() error {
	stop := context.AfterFunc(c.ctx, func() { _ = c.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for {
		f, err := c.reader.Next()
		if err != nil {
			return c.readError(err)
		}
		if err := c.take(f); err != nil {
			return err
		}
		if c.idleAndLeaving() {
			return c.flush()
		}
	}
}

func (c *connection) readError(err error) error {
	c.mu.Lock()
	done := c.mu.leaving && len(c.mu.attempts) == 0
	c.mu.Unlock()
	switch {
	case done:
		return nil
	case c.ctx.Err() != nil:
		return context.Cause(c.ctx)
	case err == io.EOF:
		return errors.New("the node has closed the connection")
	default:
		return fmt.Errorf("read from the node: %w", err)
	}
}

func (c *connection) take(f protocol.Frame) error {
	switch f.Type {
	case protocol.Invoke:
		return c.invoke(f)
	case protocol.GetReply:
		return c.getReply(f)
	case protocol.Cancel:
		c.mu.Lock()
		a := c.mu.attempts[f.ID]
		c.mu.Unlock()
		if a != nil {
			a.cancel(cancelCause(f.Arg))
		}
	case protocol.Ping:
		c.add(protocol.Header{Type: protocol.Pong, ID: f.ID}, nil)
		return c.flush()
	case protocol.Pong:
	case protocol.Release:
		return c.memory.release(f.Fields)
	case protocol.Goodbye:
		c.mu.Lock()
		c.mu.leaving = true
		c.mu.Unlock()
	default:
		return fmt.Errorf("the node sent %s, which a program does not take", f.Type)
	}
	return nil
}

func (c *connection) idleAndLeaving() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.leaving && len(c.mu.attempts) == 0
}

// invoke starts an attempt.
func (c *connection) invoke(f protocol.Frame) error {
	body := f
	if !f.Owned {
		both := slices.Concat(f.Fields, f.Payload)
		body.Fields, body.Payload = both[:len(f.Fields)], both[len(f.Fields):]
	}
	a, in, err := c.parseInvoke(body)
	if err != nil {
		return fmt.Errorf("an INVOKE of the node: %w", err)
	}
	if int(f.Arg) >= len(c.handlers) {
		return fmt.Errorf("an INVOKE of function %d, there are %d", f.Arg, len(c.handlers))
	}
	c.mu.Lock()
	if c.mu.attempts[f.ID] != nil {
		c.mu.Unlock()
		return fmt.Errorf("an INVOKE with id %d, which is running", f.ID)
	}
	c.mu.attempts[f.ID] = a
	c.mu.Unlock()
	c.begin(a, c.handlers[f.Arg], in)
	return nil
}

// finish ends an attempt with its result, in one write with what it has put.
func (c *connection) finish(a *attempt, err error) {
	if err == nil {
		c.add(protocol.Header{Type: protocol.Result, ID: a.id}, nil)
	} else {
		c.add(protocol.Header{Type: protocol.Error, ID: a.id}, nil, encodeFailure(err))
	}
	c.mu.Lock()
	delete(c.mu.attempts, a.id)
	others := len(c.mu.attempts)
	leave := c.mu.leaving && others == 0
	c.mu.Unlock()
	if others > 0 {
		// Other attempts may be about to end: let them add their results to this
		// write.
		runtime.Gosched()
	}
	if err := c.flush(); err != nil {
		return // the reader sees the broken connection too, and ends the program
	}
	if leave {
		_ = c.conn.SetReadDeadline(time.Unix(1, 0))
	}
}

func encodeFailure(err error) []byte {
	kind, message, detail := Failure(err)
	text, jsonErr := json.Marshal(protocol.Failure{Kind: kind, Message: message, Detail: detail})
	if jsonErr != nil {
		panic("fn: encode a failure: " + jsonErr.Error()) // strings always encode
	}
	return text
}

// add puts a frame into the next write.
func (c *connection) add(h protocol.Header, fields []byte, payload ...[]byte) (bytes int) {
	c.out.Lock()
	defer c.out.Unlock()
	c.out.batch.Add(h, fields, payload...)
	return c.out.batch.Bytes()
}

// flushSoon sees to it that what was added leaves within flushAfter.
func (c *connection) flushSoon() {
	c.out.Lock()
	defer c.out.Unlock()
	if !c.out.armed {
		c.out.armed = true
		c.out.timer.Reset(flushAfter)
	}
}

func (c *connection) flushLate() {
	c.out.Lock()
	c.out.armed = false
	c.out.Unlock()
	_ = c.flush() // the error is kept, and returned to the next who emits
}

// flush writes what was added so far. When it returns, all that was added before
// the call has been written, by this goroutine or another.
func (c *connection) flush() error {
	c.write.Lock()
	defer c.write.Unlock()
	c.out.Lock()
	batch := c.out.batch
	c.out.batch, c.write.spare = c.write.spare, protocol.Batch{}
	c.out.Unlock()
	err := c.send(&batch)
	c.write.spare = batch
	return err
}

// sendLog writes lines past what was added: puts keep waiting for their result,
// with which they take one commit.
func (c *connection) sendLog(id uint64, lines [][]byte) {
	c.write.Lock()
	defer c.write.Unlock()
	for _, line := range lines {
		c.write.spare.Add(protocol.Header{Type: protocol.Log, ID: id, Arg: protocol.StreamLog}, nil, line)
	}
	_ = c.send(&c.write.spare) // the error is kept, and returned to the next who emits
}

// send writes batch and empties it. The mutex of write is held.
func (c *connection) send(batch *protocol.Batch) error {
	c.out.Lock()
	err := c.out.err
	c.out.Unlock()
	if batch.Bytes() > 0 && err == nil {
		if err = c.writeParts(batch.Parts()); err != nil {
			c.out.Lock()
			c.out.err = fmt.Errorf("write to the node: %w", err)
			c.out.Unlock()
		}
	}
	batch.Reset(true)
	return err
}
