package fn

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"time"
	"unsafe"

	"github.com/pheromone-run/pheromone/client/fn/protocol"
)

// The imports of a module (docs/wasm.md). While one of them waits, nothing of the
// module runs.

//go:wasmimport pheromone_v1 recv
func hostRecv(frame unsafe.Pointer, room uint32) uint32

//go:wasmimport pheromone_v1 send
func hostSend(parts unsafe.Pointer, count uint32)

//go:wasmimport pheromone_v1 waiting
func hostWaiting() uint32

// Main runs the registered functions for the node that hosts the module. It does
// not return.
func Main() {
	names, handlers := registered()
	c := newConnection(context.Background(), noConn{}, nil, names, handlers)
	c.reader = &moduleReader{buf: make([]byte, 16<<10)}
	err := c.hello()
	if err == nil {
		err = c.serve()
	}
	fmt.Fprintln(os.Stderr, "pheromone:", err)
	os.Exit(1)
}

// noConn stands for the connection, which a module has not.
type noConn struct{ net.Conn }

func (noConn) Close() error                    { return nil }
func (noConn) SetReadDeadline(time.Time) error { return nil }

// moduleReader takes frames from the host.
type moduleReader struct{ buf []byte }

// Next waits for a frame.
func (r *moduleReader) Next() (protocol.Frame, error) {
	buf, owned := r.buf, false
	size := hostRecv(unsafe.Pointer(&buf[0]), uint32(len(buf)))
	if int(size) > len(buf) {
		buf, owned = make([]byte, size), true
		size = hostRecv(unsafe.Pointer(&buf[0]), size)
	}
	h, err := protocol.ParseHeader(buf)
	if err != nil {
		return protocol.Frame{}, err
	}
	body := buf[protocol.HeaderBytes:size:size]
	return protocol.Frame{Header: h, Fields: body[:h.FieldBytes:h.FieldBytes], Payload: body[h.FieldBytes:], Owned: owned}, nil
}

// begin runs an attempt to its end: a module has one at a time. After a panic
// nobody knows what state it is in, so that the next attempt gets another instance.
func (c *connection) begin(a *attempt, h Handler, in []Object) {
	var panicked *PanicError
	if err := a.run(h, in); errors.As(err, &panicked) {
		os.Exit(0)
	}
}

// readUntil reads until there is a reply.
func (c *connection) readUntil(reply chan getReply) error {
	for len(reply) == 0 {
		f, err := c.reader.Next()
		if err != nil {
			return err
		}
		if err := c.take(f); err != nil {
			return err
		}
	}
	return nil
}

// poll takes what the node has said, and lets timers run, which nothing else does
// while a handler computes.
func (c *connection) poll() {
	for hostWaiting() > 0 {
		f, err := c.reader.Next()
		if err == nil {
			err = c.take(f)
		}
		if err != nil {
			c.cancel(err)
			return
		}
	}
	runtime.Gosched()
}

// part is where some bytes of what is sent are.
type part struct{ address, size uint32 }

func (c *connection) writeParts(parts [][]byte) error {
	where := make([]part, 0, len(parts))
	for _, p := range parts {
		if len(p) > 0 {
			where = append(where, part{uint32(uintptr(unsafe.Pointer(&p[0]))), uint32(len(p))})
		}
	}
	hostSend(unsafe.Pointer(&where[0]), uint32(len(where)))
	runtime.KeepAlive(parts)
	return nil
}
