package process

import (
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/pheromone-run/pheromone/client/fn/protocol"
)

// maxQueued is how many bytes may wait to be taken by a process before it counts
// as busy.
const maxQueued = 32 << 20

// socket is the node's end of a process's connection. One goroutine reads it;
// sending never blocks the caller.
//
// The reader waits in the runtime's poller, not in a system call: it makes others
// runnable (the sinks of what it read), and they go on with its processor when it
// waits again. A reader blocked in the kernel would keep that processor, and a
// thread on another core would have to be woken for them, which costs more than
// all the rest of a round trip.
type socket struct {
	fd     int
	file   *os.File     // the same descriptor, in the poller
	queued atomic.Int64 // bytes that wait

	mu struct {
		sync.Mutex
		waiting  [][]byte // bytes that the kernel did not take at once
		draining sync.WaitGroup
		active   bool // a goroutine is sending what waits
		closed   bool
	}
}

// newSocket takes over a non-blocking descriptor.
func newSocket(fd int) *socket {
	return &socket{fd: fd, file: os.NewFile(uintptr(fd), "executor")}
}

// send writes a batch, or as much of it as the kernel takes; a goroutine sends
// the rest. It takes the batch over. Errors are left to the reader, which sees
// the end of the connection.
func (s *socket) send(batch *protocol.Batch) {
	parts := batch.Parts()
	s.mu.Lock()
	if s.mu.closed {
		s.mu.Unlock()
		return
	}
	if !s.mu.active {
		parts = s.sendSome(parts)
		if len(parts) == 0 {
			s.mu.Unlock()
			batch.Reset(true)
			batches.Put(batch)
			return
		}
	}
	for _, part := range parts {
		s.queued.Add(int64(len(part)))
	}
	s.mu.waiting = append(s.mu.waiting, parts...)
	if !s.mu.active {
		s.mu.active = true
		s.mu.draining.Go(s.drain)
	}
	s.mu.Unlock()
}

// drain sends what waits until nothing does or the connection ends.
func (s *socket) drain() {
	for {
		s.mu.Lock()
		parts := s.mu.waiting
		s.mu.waiting = nil
		if len(parts) == 0 || s.mu.closed {
			s.mu.active = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		size := int64(0)
		for _, part := range parts {
			size += int64(len(part))
		}
		for _, part := range parts {
			if _, err := s.file.Write(part); err != nil {
				break // the reader sees the end of the connection
			}
		}
		s.queued.Add(-size)
	}
}

// sendSome sends parts and returns what the kernel did not take.
func (s *socket) sendSome(parts [][]byte) [][]byte {
	for len(parts) > 0 {
		// 1024 is the kernel's bound on the parts of one call.
		n, err := unix.SendmsgBuffers(s.fd, parts[:min(len(parts), 1024)], nil, nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
		if err == unix.EINTR {
			continue
		}
		if err == unix.EAGAIN {
			return parts
		}
		if err != nil {
			return nil
		}
		for n > 0 || len(parts) > 0 && len(parts[0]) == 0 {
			if n < len(parts[0]) {
				parts[0] = parts[0][n:]
				break
			}
			n -= len(parts[0])
			parts = parts[1:]
		}
	}
	return nil
}

// pass sends a short message with descriptors. There must be room for it: nothing
// else may wait to be sent.
func (s *socket) pass(message []byte, files []*os.File) error {
	numbers := make([]int, len(files))
	for i, file := range files {
		numbers[i] = int(file.Fd())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return os.ErrClosed
	}
	n, err := unix.SendmsgN(s.fd, message, unix.UnixRights(numbers...), nil, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT)
	if err != nil {
		return os.NewSyscallError("sendmsg", err)
	}
	if n < len(message) {
		return io.ErrShortWrite
	}
	return nil
}

// read reads at least one byte. With wait false it returns EAGAIN when there is
// nothing.
func (s *socket) read(b []byte, wait bool) (int, error) {
	for {
		var n int
		var err error
		if wait {
			n, err = s.file.Read(b)
		} else if n, err = unix.Read(s.fd, b); n == 0 && err == nil {
			err = io.EOF
		}
		switch {
		case err == unix.EINTR:
		case errors.Is(err, unix.ECONNRESET):
			return 0, io.EOF // the process ended with unread bytes of ours
		default:
			return max(n, 0), err
		}
	}
}

// shut ends the connection: the reader gets what has come, then the end. Once the
// socket is closed its number may be that of another file.
func (s *socket) shut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.mu.closed {
		_ = unix.Shutdown(s.fd, unix.SHUT_RDWR)
	}
}

// close frees the descriptor. Whoever reads it calls it last. If a process was started,
// shut was called before it counted as ended: no write waits for anybody.
func (s *socket) close() {
	s.mu.Lock()
	s.mu.closed = true
	s.mu.waiting = nil
	s.mu.Unlock()
	s.mu.draining.Wait()
	_ = s.file.Close()
}
