package api

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/valyala/fasthttp"
)

// inlineBytes is up to where an object is read before its answer begins, so
// that a failure on the way still becomes an error.
const inlineBytes = 64 << 10

// sendBody answers an object's bytes, or the range of them that was asked for.
func (r *request) sendBody(o Object) error {
	piece := byteRange{0, o.Size}
	if header, _ := r.header(fasthttp.HeaderRange); header != "" && r.rangeHolds(o.Revision) {
		if asked, ok := parseRange(header, o.Size); ok {
			piece = asked
			r.fh.SetStatusCode(http.StatusPartialContent)
			r.setHeader(fasthttp.HeaderContentRange, fmt.Sprintf("bytes %d-%d/%d", piece.first, piece.first+piece.length-1, o.Size))
		}
	}
	if err := skip(o.Body, piece.first); err != nil {
		closeBody(o.Body)
		return fmt.Errorf("read object: %w", err)
	}
	if piece.length <= inlineBytes {
		defer closeBody(o.Body)
		bytes := make([]byte, piece.length)
		if _, err := io.ReadFull(o.Body, bytes); err != nil {
			return fmt.Errorf("read object: %w", err)
		}
		r.fh.Response.SetBodyRaw(bytes)
		return nil
	}
	_, cancel := r.keep()
	r.fh.SetBodyStream(&transfer{
		body: o.Body, left: piece.length, cancel: cancel, conn: r.fh.Conn(), patience: r.s.cfg.WriteTimeout,
	}, int(piece.length))
	return nil
}

// rangeHolds says whether a client that resumes has the revision that is there.
func (r *request) rangeHolds(current spec.Revision) bool {
	ifRange, err := r.header(fasthttp.HeaderIfRange)
	if err != nil {
		return false
	}
	revision, ok := parseETag(ifRange)
	return ifRange == "" || ok && revision == current
}

func skip(body io.Reader, n int64) error {
	if n == 0 {
		return nil
	}
	if seeker, ok := body.(io.Seeker); ok {
		_, err := seeker.Seek(n, io.SeekCurrent)
		return err
	}
	_, err := io.CopyN(io.Discard, body, n)
	return err
}

// transfer is an object's bytes on their way out, read as the client takes
// them. A client that takes none for the length of patience is given up, and so
// is the object when the client has gone: fasthttp closes the transfer then. Where
// the object breaks off, fasthttp breaks the connection: half must not look whole.
type transfer struct {
	body     io.ReadCloser
	left     int64
	cancel   context.CancelFunc
	conn     net.Conn
	patience time.Duration
	close    sync.Once
}

func (t *transfer) Read(p []byte) (int, error) {
	if t.left == 0 {
		return 0, io.EOF
	}
	if int64(len(p)) > t.left {
		p = p[:t.left]
	}
	_ = t.conn.SetWriteDeadline(time.Now().Add(t.patience))
	n, err := t.body.Read(p)
	t.left -= int64(n)
	return n, err
}

func (t *transfer) Close() error {
	t.close.Do(func() {
		closeBody(t.body)
		t.cancel()
	})
	return nil
}
