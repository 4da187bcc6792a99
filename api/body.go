package api

import (
	"bytes"
	"errors"
	"io"
	"os"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/valyala/fasthttp"
)

// noLength is what fasthttp calls the length of a request without a body.
const noLength = -2

// bodyRule says which bodies a route takes.
type bodyRule uint8

const (
	noBody bodyRule = iota
	manifestBody
	artifactBody
	objectBody
	smallBody // a few settings as JSON
)

const maxSmallBody = 64 << 10

func (c *Config) bodyLimit(rule bodyRule) int64 {
	switch rule {
	case manifestBody:
		return maxManifestBytes
	case artifactBody:
		return maxArtifactBytes
	case objectBody:
		return c.MaxObjectBytes
	case smallBody:
		return maxSmallBody
	}
	return 0
}

// admitBody refuses a body by its headers alone, before any of it is read.
func (c *Config) admitBody(fh *fasthttp.RequestCtx, rule bodyRule) error {
	h := &fh.Request.Header
	size := int64(h.ContentLength())
	// Who forwards such a request and who serves it may disagree where it ends.
	if (size == -1 || h.ConnectionClose()) && hasBothLengths(h.RawHeaders()) {
		return spec.Errorf(spec.CodeInvalid, "both Content-Length and Transfer-Encoding: send one of them")
	}
	if size == 0 || size == noLength {
		return nil
	}
	if rule == noBody {
		return spec.Errorf(spec.CodeInvalid, "%s on this path takes no body: leave it out", h.Method())
	}
	if e := h.ContentEncoding(); len(e) > 0 && string(e) != "identity" {
		return spec.Errorf(spec.CodeUnsupported, "content encoding %q is not taken: send the body as it is", clip(string(e))).
			WithField("Content-Encoding")
	}
	if limit := c.bodyLimit(rule); size > limit {
		return tooLarge(limit)
	}
	return nil
}

func tooLarge(limit int64) *spec.Error {
	return spec.Errorf(spec.CodeTooLarge, "the body has more than %d bytes, the most that is taken here", limit)
}

// hasBothLengths says whether a header block tells the length of the body twice.
func hasBothLengths(headers []byte) bool {
	var length, coding bool
	for line := range bytes.Lines(headers) {
		name, _, _ := bytes.Cut(line, []byte{':'})
		length = length || bytes.EqualFold(name, []byte("Content-Length"))
		coding = coding || bytes.EqualFold(name, []byte("Transfer-Encoding"))
	}
	return length && coding
}

// body reads a request's body and holds its limit. It tells the end of the body
// from the end of the connection, which fasthttp's own stream does not.
type body struct {
	src   io.Reader
	conn  *conn // nil if it is not plain TCP
	limit int64
	size  int64 // -1 if not known
	read  int64
	ended bool
	// fault is what the client did wrong. It goes before whatever the backend
	// makes of a body that could not be read.
	fault error
}

func newBody(fh *fasthttp.RequestCtx, limit int64) body {
	b := body{src: fh.RequestBodyStream(), limit: limit, size: int64(fh.Request.Header.ContentLength())}
	b.conn, _ = fh.Conn().(*conn)
	if b.size == noLength || b.src == nil {
		b.size, b.ended = 0, true
	}
	return b
}

func (b *body) Read(p []byte) (int, error) {
	switch {
	case b.fault != nil:
		return 0, b.fault
	case b.ended:
		return 0, io.EOF
	case len(p) == 0:
		return 0, nil
	}
	if room := b.limit - b.read; int64(len(p)) > room+1 {
		p = p[:room+1] // the one byte more tells a body at its limit from one beyond
	}
	n, err := b.src.Read(p)
	b.read += int64(n)
	switch {
	case b.read > b.limit:
		b.fault = tooLarge(b.limit)
		return 0, b.fault
	case err == io.EOF && b.cutOff(), errors.Is(err, io.ErrUnexpectedEOF):
		b.fault = spec.Errorf(spec.CodeInvalid, "the body broke off after %d bytes", b.read)
		return n, b.fault
	case err == io.EOF:
		b.ended = true
		return n, io.EOF
	case errors.Is(err, os.ErrDeadlineExceeded):
		b.fault = &statusError{fasthttp.StatusRequestTimeout, spec.Errorf(spec.CodeTimeout, "the body came too slowly: %d bytes until time was up", b.read)}
		return n, b.fault
	case err != nil:
		b.fault = spec.Errorf(spec.CodeInvalid, "the body could not be read after %d bytes: its framing is broken or the connection was lost", b.read)
		return n, b.fault
	}
	if b.size >= 0 && b.read == b.size {
		b.ended = true
	}
	return n, nil
}

// cutOff tells, at the end of what there is to read, whether the body has not
// ended. One in chunks may be cut off between two of them, which fasthttp takes
// for its end; but only in search of the next chunk does it come upon the end of
// the connection.
func (b *body) cutOff() bool {
	if b.size >= 0 {
		return b.read < b.size
	}
	return b.conn != nil && b.conn.ended.Load()
}

// all reads the whole body, which the route's limit keeps small.
func (b *body) all() ([]byte, error) {
	if b.size >= 0 {
		out := make([]byte, b.size)
		_, err := io.ReadFull(b, out)
		if errors.Is(err, io.EOF) && b.size == 0 {
			err = nil
		}
		return out, err
	}
	return io.ReadAll(b)
}
