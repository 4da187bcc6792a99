package spread

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"time"
)

// A stream is frames: a byte for the kind, four for the length of the head, eight
// for the length of the data, then the head in JSON and the data.
const (
	frameStart = 1 + 4 + 8
	headMost   = 64 << 20
	// dataMost bounds the data of a frame: what an attempt emits at once, or an
	// object.
	dataMost = 2 << 30
	// atOnce is up to which size memory for data is taken before it has come.
	atOnce = 1 << 20
)

type kind byte

const (
	beat kind = iota + 1 // says that the sender lives

	// Of the node that runs an attempt.
	started
	emitted
	wanted   // an object of the session is asked for
	done     // the attempt has ended
	returned // no executor has taken the attempt: it is as if it had not been sent

	// Of the leader's node.
	taken  // what was emitted has been handed on
	object // answers wanted
	cancelled

	// Of inputs.
	input
	inputsEnd
)

type frame struct {
	kind kind
	head []byte
	data []byte
}

// parse reads the frame's head.
func (f *frame) parse(into any) error {
	if err := json.Unmarshal(f.head, into); err != nil {
		return fmt.Errorf("frame %d: %w", f.kind, err)
	}
	return nil
}

// startOf returns the beginning of a frame up to its data.
func startOf(k kind, head any, data int64) ([]byte, error) {
	var raw []byte
	if head != nil {
		var err error
		if raw, err = json.Marshal(head); err != nil {
			return nil, fmt.Errorf("encode frame %d: %w", k, err)
		}
	}
	out := make([]byte, frameStart, frameStart+len(raw))
	out[0] = byte(k)
	binary.BigEndian.PutUint32(out[1:], uint32(len(raw)))
	binary.BigEndian.PutUint64(out[5:], uint64(data))
	return append(out, raw...), nil
}

// incoming reads frames.
type incoming struct {
	r        *bufio.Reader
	reserved int64 // memory that is set apart for data
}

// next returns the next frame; io.EOF if the stream has ended between two.
func (in incoming) next() (f frame, err error) {
	var start [frameStart]byte
	if _, err := io.ReadFull(in.r, start[:]); err != nil {
		return f, err
	}
	f.kind = kind(start[0])
	head, data := int64(binary.BigEndian.Uint32(start[1:])), binary.BigEndian.Uint64(start[5:])
	if head > headMost || data > dataMost {
		return f, fmt.Errorf("a frame of %d and %d bytes came, at most %d and %d are taken", head, data, headMost, int64(dataMost))
	}
	if f.head, err = in.read(head); err == nil {
		f.data, err = in.read(int64(data))
	}
	return f, err
}

// read reads n bytes. Memory grows as they come.
func (in incoming) read(n int64) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	if n <= max(atOnce, in.reserved) {
		out := make([]byte, n)
		_, err := io.ReadFull(in.r, out)
		return out, unexpected(err)
	}
	var out bytes.Buffer
	if _, err := io.CopyN(&out, in.r, n); err != nil {
		return nil, unexpected(err)
	}
	return out.Bytes(), nil
}

func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// watched is a reader that calls lost if a Read gets nothing for too long. Between
// two Reads nothing is expected.
type watched struct {
	r       io.Reader
	silence time.Duration
	timer   *time.Timer
}

func watch(r io.Reader, silence time.Duration, lost func()) *watched {
	w := &watched{r: r, silence: silence, timer: time.AfterFunc(silence, lost)}
	w.timer.Stop()
	return w
}

func (w *watched) Read(p []byte) (int, error) {
	w.timer.Reset(w.silence)
	n, err := w.r.Read(p)
	w.timer.Stop()
	return n, err
}

// outgoing is a stream of frames as the network reads it. While there is nothing
// to send it beats. What waits in it is bounded by what its users send: they wait
// for answers, but for a few frames.
type outgoing struct {
	beat time.Duration
	more chan struct{} // capacity 1
	rest []byte        // of what is being read
	mu   struct {
		sync.Mutex
		queue [][]byte
		err   error // io.EOF once the stream is to end in good order
	}
}

func newOutgoing(beat time.Duration) *outgoing {
	return &outgoing{beat: beat, more: make(chan struct{}, 1)}
}

// send queues a frame.
func (o *outgoing) send(k kind, head any, data ...[]byte) error {
	var size int64
	for _, d := range data {
		size += int64(len(d))
	}
	start, err := startOf(k, head, size)
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.mu.err != nil {
		return nil // who reads has gone, and hears of it in another way
	}
	o.mu.queue = append(o.mu.queue, start)
	for _, d := range data {
		if len(d) > 0 {
			o.mu.queue = append(o.mu.queue, d)
		}
	}
	o.signal()
	return nil
}

// end ends the stream: after what is queued with io.EOF, at once with another
// error.
func (o *outgoing) end(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.mu.err == nil || err != io.EOF {
		o.mu.err = err
	}
	if err != io.EOF {
		o.mu.queue = nil
	}
	o.signal()
}

func (o *outgoing) signal() {
	select {
	case o.more <- struct{}{}:
	default:
	}
}

var beatFrame, _ = startOf(beat, nil, 0)

// Read implements io.Reader.
func (o *outgoing) Read(p []byte) (n int, err error) {
	for {
		n, err = o.fill(p)
		if n > 0 || err != nil {
			return n, err
		}
		select {
		case <-o.more:
		case <-time.After(o.beat):
			o.rest = beatFrame
		}
	}
}

// fill copies what is there.
func (o *outgoing) fill(p []byte) (n int, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.mu.err != nil && o.mu.err != io.EOF {
		return 0, o.mu.err
	}
	for n < len(p) {
		if len(o.rest) == 0 {
			if len(o.mu.queue) == 0 {
				break
			}
			o.rest = o.mu.queue[0]
			o.mu.queue[0] = nil
			o.mu.queue = o.mu.queue[1:]
		}
		c := copy(p[n:], o.rest)
		n, o.rest = n+c, o.rest[c:]
	}
	if n == 0 {
		err = o.mu.err
	}
	return n, err
}

// Close implements io.Closer: nobody reads any more.
func (o *outgoing) Close() error {
	o.end(io.ErrClosedPipe)
	return nil
}
