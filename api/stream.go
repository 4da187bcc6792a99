package api

import (
	"context"
	"io"
	"net"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/spec"
)

// stream is an answer that goes on: what a producer sends, piece by piece, until
// the producer ends, the client goes or the node stops. The producer runs in a
// goroutine of its own, which the server waits for; fasthttp reads the pieces
// from the other side and closes the stream when the connection fails.
type stream struct {
	ctx    context.Context
	cancel context.CancelFunc

	pieces chan []byte   // not buffered: the client's pace is the producer's
	first  chan struct{} // closed with the first piece
	ended  chan struct{} // closed when the producer has ended, after err is set
	err    error
	once   sync.Once

	rest     []byte
	reported bool
	report   func(error) []byte // the last piece of a stream that breaks
	beat     *time.Ticker
	idle     []byte // sent on each beat, so that a lost client shows

	conn      net.Conn
	patience  time.Duration
	release   func()
	closeOnce sync.Once
}

// firstPieceWait is how long the answer's status waits for the producer: what
// goes wrong until then has a status of its own, what goes wrong later is the
// stream's last piece.
const firstPieceWait = 250 * time.Millisecond

// streamFormat is how a stream's pieces look.
type streamFormat struct {
	contentType string
	report      func(error) []byte
	idle        []byte // nil: nothing is sent while there is nothing to say
}

// startStream answers with what produce sends. Produce must end when its context
// does.
func (r *request) startStream(format streamFormat, produce func(ctx context.Context, send func([]byte) error) error) error {
	st, err := r.openStream(format)
	if err != nil {
		return err
	}
	r.s.producers.Go(func() { st.run(r.s, r.id, produce) })
	timer := time.NewTimer(firstPieceWait)
	defer timer.Stop()
	select {
	case <-st.first:
	case <-timer.C:
	case <-st.ctx.Done():
	case <-st.ended:
		if st.err != nil {
			st.Close()
			return st.err
		}
	}
	r.fh.SetStatusCode(http.StatusOK)
	r.fh.SetContentType(format.contentType)
	r.setHeader("Cache-Control", "no-store")
	r.setHeader("X-Accel-Buffering", "no") // proxies that know it pass pieces on at once
	r.fh.Response.ImmediateHeaderFlush = true
	r.fh.SetBodyStream(st, -1)
	return nil
}

func (r *request) openStream(format streamFormat) (*stream, error) {
	s := r.s
	if s.streams.Add(1) > int64(s.cfg.MaxStreams) {
		s.streams.Add(-1)
		return nil, spec.Errorf(spec.CodeOverloaded, "%d streams are open here already", s.cfg.MaxStreams)
	}
	s.metrics.streams.Inc()
	st := &stream{
		pieces: make(chan []byte), first: make(chan struct{}), ended: make(chan struct{}),
		report: format.report, idle: format.idle, beat: time.NewTicker(s.cfg.Heartbeat),
		conn: r.fh.Conn(), patience: s.cfg.WriteTimeout,
	}
	st.ctx, st.cancel = r.keep()
	stopWatching := func() {}
	if c, ok := st.conn.(*conn); ok {
		stopWatching = c.whenGone(st.cancel)
	}
	st.release = func() {
		stopWatching()
		s.streams.Add(-1)
		s.metrics.streams.Dec()
	}
	return st, nil
}

func (st *stream) run(s *Server, id string, produce func(context.Context, func([]byte) error) error) {
	defer close(st.ended)
	defer func() {
		if p := recover(); p != nil {
			s.log.Error("stream panicked", "request_id", id, "panic", p, "stack", string(debug.Stack()))
			st.err = errPanicked
		}
	}()
	st.err = produce(st.ctx, st.send)
	if st.ctx.Err() != nil {
		st.err = nil // it ended because it was ended
	} else if spec.CodeOf(st.err) == spec.CodeInternal {
		s.log.Error("stream failed", "request_id", id, "error", st.err)
	}
}

func (st *stream) send(piece []byte) error {
	st.once.Do(func() { close(st.first) })
	select {
	case st.pieces <- piece:
		return nil
	case <-st.ctx.Done():
		return st.ctx.Err()
	}
}

// Read waits for the next piece, in the goroutine that writes the answer.
func (st *stream) Read(p []byte) (int, error) {
	if len(st.rest) == 0 {
		if err := st.next(); err != nil {
			return 0, err
		}
		_ = st.conn.SetWriteDeadline(time.Now().Add(st.patience))
	}
	n := copy(p, st.rest)
	st.rest = st.rest[n:]
	return n, nil
}

func (st *stream) next() error {
	beat := st.beat.C
	if st.idle == nil {
		beat = nil
	}
	select {
	case st.rest = <-st.pieces:
	case <-beat:
		st.rest = st.idle
	case <-st.ctx.Done():
		return io.EOF
	case <-st.ended:
		if st.err == nil || st.reported {
			return io.EOF
		}
		st.reported = true
		st.rest = st.report(st.err)
	}
	return nil
}

// Close ends the producer. Fasthttp calls it when the answer is written or can't be.
func (st *stream) Close() error {
	st.closeOnce.Do(func() {
		st.cancel()
		st.beat.Stop()
		st.release()
	})
	return nil
}
