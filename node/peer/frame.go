package peer

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/pheromone-run/pheromone/spec"
)

// A request is a header and, if the header says so, a body; so is an answer. A
// header is JSON with four bytes for its length before it, a body chunks with four
// bytes for their lengths, ended by an empty one or broken off by chunkAborted.

const (
	headerMost = 64 << 20 // bytes of a header
	chunkMost  = 256 << 10
	// chunkAborted stands for a length: the body broke off.
	chunkAborted = 1<<32 - 1
)

type requestHeader struct {
	Method string          `json:"method"`
	Args   json.RawMessage `json:"args,omitempty"`
	Body   bool            `json:"body,omitempty"`
}

type answerHeader struct {
	Error  *fault          `json:"error,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	Body   bool            `json:"body,omitempty"`
}

// fault is a spec.Error on its way.
type fault struct {
	Code    spec.Code    `json:"code"`
	Message string       `json:"message"`
	Field   string       `json:"field,omitempty"`
	Hint    string       `json:"hint,omitempty"`
	Faults  []spec.Fault `json:"faults,omitempty"`
}

func faultOf(err error) *fault {
	var known *spec.Error
	if !errors.As(err, &known) {
		return &fault{Code: spec.CodeInternal, Message: err.Error()}
	}
	return &fault{Code: known.Code, Message: err.Error(), Field: known.Field, Hint: known.Hint, Faults: known.Faults}
}

func (f *fault) error() error {
	return &spec.Error{Code: f.Code, Message: f.Message, Field: f.Field, Hint: f.Hint, Faults: f.Faults}
}

func writeHeader(w *bufio.Writer, header any) error {
	raw, err := json.Marshal(header)
	if err != nil {
		return fmt.Errorf("encode a message to another node: %w", err)
	}
	if len(raw) > headerMost {
		return spec.Errorf(spec.CodeTooLarge, "a message to another node has %d bytes, at most %d are sent", len(raw), headerMost)
	}
	if err := writeSize(w, uint32(len(raw))); err != nil {
		return err
	}
	_, err = w.Write(raw)
	return err
}

func readHeader(r *bufio.Reader, header any) error {
	size, err := readSize(r)
	if err != nil {
		return err
	}
	if size > headerMost {
		return fmt.Errorf("a message of %d bytes came, at most %d are taken", size, headerMost)
	}
	// Memory grows as the bytes come.
	raw, err := io.ReadAll(io.LimitReader(r, int64(size)))
	if err == nil && len(raw) < int(size) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, header)
}

func writeSize(w *bufio.Writer, size uint32) error {
	var raw [4]byte
	binary.BigEndian.PutUint32(raw[:], size)
	_, err := w.Write(raw[:])
	return err
}

func readSize(r io.Reader) (uint32, error) {
	var raw [4]byte
	if _, err := io.ReadFull(r, raw[:]); err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint32(raw[:]), nil
}

// writeBody copies a body. readErr is a fault of the body's source, which the
// other side is told of; err one of the connection.
func writeBody(w *bufio.Writer, body io.Reader) (readErr, err error) {
	chunk := make([]byte, 32<<10)
	for {
		n, readErr := body.Read(chunk)
		if n > 0 {
			if err := writeSize(w, uint32(n)); err != nil {
				return nil, err
			}
			if _, err := w.Write(chunk[:n]); err != nil {
				return nil, err
			}
			if err := w.Flush(); err != nil { // a body may be a stream that goes on later
				return nil, err
			}
		}
		switch {
		case errors.Is(readErr, io.EOF):
			return nil, errors.Join(writeSize(w, 0), w.Flush())
		case readErr != nil:
			return readErr, errors.Join(writeSize(w, chunkAborted), w.Flush())
		}
	}
}

// errAborted is what the reader of a body gets that its sender could not read.
var errAborted = errors.New("the other node broke the body off")

// bodyReader reads a body from a connection.
type bodyReader struct {
	from *bufio.Reader
	left uint32 // of the present chunk
	err  error  // sticks; io.EOF once the body is whole
}

func (b *bodyReader) Read(p []byte) (int, error) {
	for b.left == 0 && b.err == nil {
		size, err := readSize(b.from)
		switch {
		case errors.Is(err, io.EOF):
			b.err = io.ErrUnexpectedEOF
		case err != nil:
			b.err = err
		case size == 0:
			b.err = io.EOF
		case size == chunkAborted:
			b.err = errAborted
		case size > chunkMost:
			b.err = fmt.Errorf("a chunk of %d bytes came, at most %d are taken", size, chunkMost)
		default:
			b.left = size
		}
	}
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.from.Read(p[:min(len(p), int(b.left))])
	b.left -= uint32(n)
	if err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		b.err = err
	}
	return n, err
}

// whole tells whether the body was read to its end.
func (b *bodyReader) whole() bool { return errors.Is(b.err, io.EOF) }
