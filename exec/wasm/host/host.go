package host

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"slices"
	"sync"

	"github.com/pheromone-run/pheromone/client/fn/protocol"
)

// host stands between the node's connection and the instances: one goroutine reads
// the connection and hands frames to the instances they are for; an instance writes
// what it has to say itself.
type host struct {
	engine *engine
	memory int64
	file   string
	conn   net.Conn
	frames *protocol.Reader
	greets chan greeting // of the first instance; capacity 1

	out sync.Mutex // held while writing to conn

	mu struct {
		sync.Mutex
		names    []string // the functions of the module; nil until it has said HELLO
		welcome  []byte   // the node's HELLO; nil until it has come
		maxBody  uint32   // of a frame to the node
		attempts map[uint64]*instance
		idle     []*instance // the one that was used last is the last
		leaving  bool
	}
}

// greeting is the HELLO of a module, or why there is none.
type greeting struct {
	names []string
	sdk   string
	err   error
}

func newHost(e *engine, conn net.Conn, o options) *host {
	h := &host{engine: e, memory: o.memory, file: o.file, conn: conn, greets: make(chan greeting, 1)}
	h.frames = protocol.NewReader(conn, math.MaxUint32) // the node bounds the inputs by the memory
	h.mu.attempts = make(map[uint64]*instance)
	h.mu.maxBody = math.MaxUint32
	return h
}

// first starts an instance, which says what functions the module has and then
// waits for an attempt.
func (h *host) first() (names []string, sdk string, err error) {
	h.mu.Lock()
	i := h.start()
	h.mu.idle = append(h.mu.idle, i)
	h.mu.Unlock()
	g := <-h.greets
	return g.names, g.sdk, g.err
}

// welcomed takes the node's HELLO: instances get it from now on.
func (h *host) welcomed(frame []byte, limits protocol.NodeHello) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.welcome, h.mu.maxBody = frame, limits.MaxBodyBytes
	for _, i := range h.mu.idle {
		i.push(frame)
	}
}

// serve reads until the node has said goodbye and the attempts are done, or the
// connection ends.
func (h *host) serve() error {
	h.tellCompiled()
	for {
		f, err := h.frames.Next()
		if err != nil {
			if h.done() {
				return nil
			}
			if err == io.EOF {
				return errors.New("the node has closed the connection")
			}
			return fmt.Errorf("read from the node: %w", err)
		}
		if err := h.take(f); err != nil {
			return err
		}
		if h.done() {
			return nil
		}
	}
}

func (h *host) take(f protocol.Frame) error {
	switch f.Type {
	case protocol.Invoke:
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.mu.attempts[f.ID] != nil {
			return fmt.Errorf("an INVOKE of the node with id %d, which is running", f.ID)
		}
		h.assign(f.ID, frame(f.Header, f.Fields, f.Payload))
	case protocol.GetReply, protocol.Cancel:
		h.mu.Lock()
		defer h.mu.Unlock()
		if i := h.mu.attempts[f.ID]; i != nil {
			i.push(frame(f.Header, f.Fields, f.Payload))
		}
	case protocol.Ping:
		h.write(frame(protocol.Header{Type: protocol.Pong, ID: f.ID}, nil, nil))
	case protocol.Pong:
	case protocol.Goodbye:
		h.mu.Lock()
		defer h.mu.Unlock()
		h.mu.leaving = true
	default:
		return fmt.Errorf("the node sent %s, which a program does not take", f.Type)
	}
	return nil
}

// assign gives an attempt to an instance that has none. h.mu is held.
func (h *host) assign(id uint64, invoke []byte) {
	var i *instance
	if last := len(h.mu.idle) - 1; last >= 0 {
		i = h.mu.idle[last]
		h.mu.idle = h.mu.idle[:last]
	} else {
		i = h.start()
	}
	h.mu.attempts[id] = i
	i.attempt = id
	i.push(invoke)
}

// start starts an instance. h.mu is held.
func (h *host) start() *instance {
	i := newInstance(h)
	go func() {
		peak, err := h.engine.run(i)
		h.ended(i, peak, err)
	}()
	return i
}

// free takes the attempt that i has ended off it. h.mu is held.
func (h *host) free(i *instance) {
	delete(h.mu.attempts, i.attempt)
	i.attempt = 0
	h.mu.idle = append(h.mu.idle, i)
}

// ended cleans up after an instance. Its attempt fails, unless it did not begin:
// then it goes to another one.
func (h *host) ended(i *instance, peak uint32, err error) {
	i.stdout.flush()
	i.stderr.flush()
	failure := i.failure(peak, err)
	h.mu.Lock()
	if at := slices.Index(h.mu.idle, i); at >= 0 {
		h.mu.idle = slices.Delete(h.mu.idle, at, at+1)
	}
	id := i.attempt
	delete(h.mu.attempts, id)
	greeted := h.mu.names != nil
	var again []byte
	if i.invoked {
		again = i.unread(protocol.Invoke)
	}
	if again != nil {
		h.assign(id, again)
	}
	h.mu.Unlock()
	switch {
	case !greeted:
		h.greets <- greeting{err: errors.New(failure.Message + "\n" + failure.Detail)}
	case id != 0 && again == nil:
		h.write(frame(protocol.Header{Type: protocol.Error, ID: id}, nil, mustJSON(failure)))
		h.rest()
	}
}

// done tells whether the node has let the process go and nothing runs.
func (h *host) done() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mu.leaving && len(h.mu.attempts) == 0
}

// write sends whole frames. Errors are left to the reader, which sees the end of
// the connection.
func (h *host) write(frames ...[]byte) {
	h.out.Lock()
	defer h.out.Unlock()
	if len(frames) == 1 {
		_, _ = h.conn.Write(frames[0])
		return
	}
	buffers := net.Buffers(frames)
	_, _ = buffers.WriteTo(h.conn)
}

// rest is called when an attempt has ended. If no other one runs, it is the time
// to collect garbage, and to leave if that is what the node wants.
func (h *host) rest() {
	h.mu.Lock()
	idle, leaving := len(h.mu.attempts) == 0, h.mu.leaving
	h.mu.Unlock()
	if !idle {
		return
	}
	if leaving {
		_ = h.conn.(interface{ CloseRead() error }).CloseRead() // the reader sees it
		return
	}
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Uint64() > collectBytes/2 {
		runtime.GC()
		debug.FreeOSMemory()
	}
}

// tellCompiled writes into the function's log that a module was compiled, which is
// what its first attempt has waited for.
func (h *host) tellCompiled() {
	if !h.engine.loaded {
		text := fmt.Sprintf("compiled %s in %s", h.file, h.engine.took)
		h.write(frame(protocol.Header{Type: protocol.Log, Arg: protocol.StreamLog}, nil, bytes.ToValidUTF8([]byte(text), nil)))
	}
}
