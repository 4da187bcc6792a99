package protocol

import (
	"fmt"
	"io"
)

// readBuffer is what a Reader takes from its source at once: a frame that fits
// into it is handed out without a copy.
const readBuffer = 64 << 10

// firstGrant is the most that a Reader allocates for a body before any of its
// bytes have come.
const firstGrant = 1 << 20

// Reader takes frames from a stream of bytes.
type Reader struct {
	source     io.Reader
	maxBody    uint32
	buf        []byte
	start, end int
}

// NewReader returns a Reader that refuses bodies over maxBody bytes.
func NewReader(source io.Reader, maxBody uint32) *Reader {
	return &Reader{source: source, maxBody: maxBody, buf: make([]byte, readBuffer)}
}

// Next returns the next frame. Its error is a Violation, io.EOF if the stream
// ended between two frames, or what the source returned.
func (r *Reader) Next() (Frame, error) {
	if err := r.fill(HeaderBytes); err != nil {
		if err == io.ErrUnexpectedEOF && r.start == r.end {
			err = io.EOF
		}
		return Frame{}, err
	}
	h, err := ParseHeader(r.buf[r.start:r.end])
	if err != nil {
		return Frame{}, err
	}
	if h.BodyBytes > r.maxBody {
		return Frame{Header: h}, Violation(fmt.Sprintf("%s frame of %d bytes, at most %d are allowed", h.Type, h.BodyBytes, r.maxBody))
	}
	total := HeaderBytes + int(h.BodyBytes)
	if total > len(r.buf) {
		return r.large(h)
	}
	if err := r.fill(total); err != nil {
		return Frame{}, err
	}
	body := r.buf[r.start+HeaderBytes : r.start+total : r.start+total]
	r.start += total
	return Frame{Header: h, Fields: body[:h.FieldBytes:h.FieldBytes], Payload: body[h.FieldBytes:]}, nil
}

// fill reads until n bytes are buffered; n is at most the buffer's size.
func (r *Reader) fill(n int) error {
	if r.start == r.end {
		r.start, r.end = 0, 0
	}
	if r.start+n > len(r.buf) {
		r.end = copy(r.buf, r.buf[r.start:r.end])
		r.start = 0
	}
	for r.end-r.start < n {
		got, err := r.source.Read(r.buf[r.end:])
		r.end += got
		if err != nil && r.end-r.start < n {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// large reads a body that does not fit into the buffer. The memory doubles as
// the bytes come in: a header alone costs its sender more than us.
func (r *Reader) large(h Header) (Frame, error) {
	total := int(h.BodyBytes)
	body := make([]byte, 0, min(total, firstGrant))
	body = append(body, r.buf[r.start+HeaderBytes:r.end]...)
	r.start, r.end = 0, 0
	for len(body) < total {
		if len(body) == cap(body) {
			grown := make([]byte, len(body), min(total, 2*cap(body)))
			copy(grown, body)
			body = grown
		}
		got, err := r.source.Read(body[len(body):cap(body)])
		body = body[:len(body)+got]
		if err != nil && len(body) < total {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return Frame{}, err
		}
	}
	return Frame{Header: h, Fields: body[:h.FieldBytes:h.FieldBytes], Payload: body[h.FieldBytes:], Owned: true}, nil
}
