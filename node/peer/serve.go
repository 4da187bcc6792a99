package peer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/spec"
)

// Call is a request of another node, as its handler sees it.
type Call struct {
	Method string
	args   json.RawMessage
	Body   io.Reader // nil if there is none
	pieces *pieces   // what Body reads; nil if there is none
}

// EndBody has reading of the body fail once ctx ends, which is sooner than it does by
// itself when nothing comes. The handler calls undo before it returns.
func (c *Call) EndBody(ctx context.Context) (undo func()) {
	stop := context.AfterFunc(ctx, c.pieces.stop)
	return func() {
		if !stop() {
			c.pieces.stop() // at the latest now
		}
	}
}

// pieces reads the body of a request. Each piece has to come within a while: who sends
// it may hang, with a connection that does not break.
type pieces struct {
	body *bodyReader
	conn net.Conn
	wait time.Duration

	mu      sync.Mutex // orders the deadlines that Read and stop set
	stopped bool
}

func (p *pieces) Read(b []byte) (int, error) {
	p.mu.Lock()
	if p.stopped || p.conn.SetReadDeadline(time.Now().Add(p.wait)) != nil {
		p.mu.Unlock()
		return 0, os.ErrDeadlineExceeded
	}
	p.mu.Unlock()
	n, err := p.body.Read(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = spec.Errorf(spec.CodeTimeout, "the body of the request does not go on: %w", err)
	}
	return n, err
}

// stop ends the reading, for ever.
func (p *pieces) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopped = true
	_ = p.conn.SetReadDeadline(time.Unix(1, 0))
}

// over tells whether the reading was ended before its time.
func (p *pieces) over() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stopped
}

// Args reads the request's arguments.
func (c *Call) Args(into any) error {
	if err := json.Unmarshal(c.args, into); err != nil {
		return spec.Errorf(spec.CodeInvalid, "the arguments of %s can't be read: %w", c.Method, err)
	}
	return nil
}

// Answer is what a handler answers: Result as JSON and, if it is not nil, a body,
// which is closed when it is sent. A body that waits for what is to come must end
// when the handler's ctx does.
type Answer struct {
	Result any
	Body   io.ReadCloser
}

// Handler handles a request. ctx ends when the one who asked does not wait any more.
type Handler func(ctx context.Context, c *Call) (Answer, error)

// Serve handles requests of other nodes until the channel Calls of a network is closed,
// and returns when the last one has been handled.
func Serve(n *Network, handle Handler) error {
	l := n.Channel(Calls)
	ctx, cancel := context.WithCancel(context.Background())
	var lines sync.WaitGroup
	defer lines.Wait()
	defer cancel()
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept a connection of another node: %w", err)
		}
		lines.Go(func() {
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer stop()
			defer func() { _ = conn.Close() }()
			l := newLine(conn)
			for l.serve(ctx, n, handle) == nil {
			}
		})
	}
}

// serve handles one request. An error says that the connection can't carry another.
func (l *line) serve(ctx context.Context, n *Network, handle Handler) error {
	var header requestHeader
	if err := readHeader(l.r, &header); err != nil {
		return err
	}
	call := &Call{Method: header.Method, args: header.Args}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var body *bodyReader
	gone := make(chan struct{})
	if header.Body {
		body = &bodyReader{from: l.r}
		call.pieces = &pieces{body: body, conn: l.conn, wait: n.cfg.PieceWait}
		call.Body = call.pieces
		close(gone) // who sends a body notices by itself that nobody reads it
	} else {
		// Nothing more comes before the answer is sent: what ends the wait early is the
		// end of the connection.
		go func() {
			defer close(gone)
			if _, err := l.r.Peek(1); err != nil {
				cancel()
			}
		}()
	}
	answer, err := handled(ctx, handle, call, n.cfg.Log)
	if answer.Body != nil {
		defer func() { _ = answer.Body.Close() }()
	}
	if err := l.answer(answer, err); err != nil {
		return err
	}
	if body != nil && (call.pieces.over() || !l.drain(body)) {
		return errors.New("the request was not read whole")
	}
	<-gone // the next request has come, or the connection has ended
	return nil
}

// Bounds of what is read of a body that its handler did not want.
const (
	drainWait = 200 * time.Millisecond
	drainMost = 16 << 20
)

// drain reads what a handler has left of a body, and tells whether that was its end.
// The connection is used again by who has sent all of it, and the system would drop
// an answer that is not read yet if it were closed over bytes that nobody has read.
func (l *line) drain(body *bodyReader) bool {
	if !body.whole() && l.conn.SetReadDeadline(time.Now().Add(drainWait)) == nil {
		_, _ = io.CopyN(io.Discard, body, drainMost)
	}
	return body.whole() && l.conn.SetReadDeadline(time.Time{}) == nil
}

// handled calls the handler and turns a panic into an error.
func handled(ctx context.Context, handle Handler, call *Call, log *slog.Logger) (a Answer, err error) {
	defer func() {
		if fault := recover(); fault != nil {
			log.Error("a request of another node made its handler panic", "method", call.Method, "panic", fault, "stack", string(debug.Stack()))
			a, err = Answer{}, spec.Errorf(spec.CodeInternal, "the handler of %s panicked", call.Method)
		}
	}()
	return handle(ctx, call)
}

func (l *line) answer(a Answer, err error) error {
	header := answerHeader{Body: a.Body != nil}
	if err == nil && a.Result != nil {
		header.Result, err = json.Marshal(a.Result)
	}
	if err != nil {
		header = answerHeader{Error: faultOf(err)}
	}
	if err := writeHeader(l.w, &header); err != nil {
		return err
	}
	if err := l.w.Flush(); err != nil || !header.Body {
		return err
	}
	readErr, err := writeBody(l.w, a.Body)
	return errors.Join(readErr, err)
}
