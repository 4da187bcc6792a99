package client

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
)

// payload is the body of a request that may be sent several times: what can seek
// is read again from where it stood, anything else only if no byte of it was taken.
type payload struct {
	source io.Reader // nil: no body
	seeker io.Seeker // nil: source can't be read again
	start  int64
	size   int64 // -1: not known

	current *payloadReader
}

// payloadReader is the body of one attempt. The transport may still read it after
// the answer has come, until it calls Close.
type payloadReader struct {
	source  io.Reader
	taken   atomic.Int64
	failure atomic.Pointer[error]
	closed  chan struct{}
	once    atomic.Bool
}

func newPayload(source io.Reader) (*payload, error) {
	p := &payload{source: source, size: -1}
	seeker, ok := source.(io.Seeker)
	if !ok {
		return p, nil
	}
	start, err := seeker.Seek(0, io.SeekCurrent)
	if err != nil { // a pipe has the method and can't
		return p, nil
	}
	end, err := seeker.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	if _, err := seeker.Seek(start, io.SeekStart); err != nil {
		return nil, err
	}
	if end == 0 && start == 0 {
		if _, isFile := source.(interface{ Fd() uintptr }); isFile {
			return p, nil // a device or a file of /proc: its size says nothing
		}
	}
	p.seeker, p.start, p.size = seeker, start, max(0, end-start)
	return p, nil
}

func (p *payload) attach(req *http.Request) {
	if p.source == nil || p.size == 0 {
		req.Body = http.NoBody
		return
	}
	p.current = &payloadReader{source: p.source, closed: make(chan struct{})}
	req.Body = p.current
	req.ContentLength = p.size
}

// rewind makes the payload ready to be sent again and says whether it could.
func (p *payload) rewind(ctx context.Context) bool {
	if p.current == nil {
		return true
	}
	select {
	case <-p.current.closed:
	case <-ctx.Done():
		return false
	}
	if p.seeker == nil {
		return p.current.taken.Load() == 0
	}
	_, err := p.seeker.Seek(p.start, io.SeekStart)
	return err == nil
}

// failed returns the error of the source, if it was that which broke the attempt.
func (p *payload) failed() error {
	if p.current == nil {
		return nil
	}
	if err := p.current.failure.Load(); err != nil {
		return *err
	}
	return nil
}

func (r *payloadReader) Read(b []byte) (int, error) {
	n, err := r.source.Read(b)
	r.taken.Add(int64(n))
	if err != nil && !errors.Is(err, io.EOF) {
		r.failure.Store(&err)
	}
	return n, err
}

func (r *payloadReader) Close() error {
	if r.once.CompareAndSwap(false, true) {
		close(r.closed)
	}
	return nil
}
