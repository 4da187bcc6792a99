package process

import (
	"errors"
	"io"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/pheromone-run/pheromone/client/fn/protocol"
)

const (
	// maxQueued is how many bytes may wait to be taken by a process before it counts
	// as busy.
	maxQueued = 32 << 20
	// maxAnswers is how many bytes of PONG and RELEASE may wait besides. A program makes
	// the node queue them by what it sends; one that reads never has so many.
	maxAnswers = 4 << 20
)

// socket is the node's end of a process's connection. One goroutine reads it;
// sending never blocks the caller.
//
// The reader waits in the runtime's poller, not in a system call: it makes others
// runnable (the sinks of what it read), and they go on with its processor when it
// waits again. A reader blocked in the kernel would keep that processor, and a
// thread on another core would have to be woken for them, which costs more than
// all the rest of a round trip.
type socket struct {
	fd      int
	file    *os.File     // the same descriptor, in the poller
	queued  atomic.Int64 // bytes that wait
	answers atomic.Int64 // those of them that answer what the process sends by itself

	mu struct {
		sync.Mutex
		waiting  []outgoing // what the kernel did not take at once
		draining sync.WaitGroup
		active   bool // a goroutine is sending what waits
		closed   bool
	}
}

// outgoing is a batch, or the rest of one, that waits to be taken by the process.
type outgoing struct {
	parts  [][]byte
	bytes  int64
	answer bool
	taken  chan struct{} // closed when it is, or never will be; nil if nobody waits
}

// newSocket takes over a non-blocking descriptor.
func newSocket(fd int) *socket {
	return &socket{fd: fd, file: os.NewFile(uintptr(fd), "executor")}
}

// send writes a batch, or as much of it as the kernel takes; a goroutine sends
// the rest. It takes the batch over. Errors are left to the reader, which sees
// the end of the connection.
func (s *socket) send(batch *protocol.Batch) { s.queue(batch, outgoing{}) }

// answer sends what the process brings about as often as it likes: it counts for
// maxAnswers.
func (s *socket) answer(batch *protocol.Batch) { s.queue(batch, outgoing{answer: true}) }

// hand sends a batch and waits until the process takes it or has ended.
func (s *socket) hand(batch *protocol.Batch) {
	taken := make(chan struct{})
	if s.queue(batch, outgoing{taken: taken}) {
		<-taken
	}
}

// queue is send; it tells whether something waits.
func (s *socket) queue(batch *protocol.Batch, rest outgoing) bool {
	parts := batch.Parts()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return false
	}
	if !s.mu.active {
		parts = s.sendSome(parts)
		if len(parts) == 0 {
			batch.Reset(true)
			batches.Put(batch)
			return false
		}
	}
	rest.parts = slices.Clone(parts) // parts itself stays off the heap, for the common case
	for _, part := range parts {
		rest.bytes += int64(len(part))
	}
	s.count(rest, rest.bytes)
	s.mu.waiting = append(s.mu.waiting, rest)
	if !s.mu.active {
		s.mu.active = true
		s.mu.draining.Go(s.drain)
	}
	return true
}

func (s *socket) count(o outgoing, bytes int64) {
	s.queued.Add(bytes)
	if o.answer {
		s.answers.Add(bytes)
	}
}

// drain sends what waits until nothing does. After the end of the connection every
// write fails at once.
func (s *socket) drain() {
	for {
		s.mu.Lock()
		waiting := s.mu.waiting
		s.mu.waiting = nil
		if len(waiting) == 0 {
			s.mu.active = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		for _, o := range waiting {
			for _, part := range o.parts {
				if _, err := s.file.Write(part); err != nil {
					break // the reader sees the end of the connection
				}
			}
			s.count(o, -o.bytes)
			if o.taken != nil {
				close(o.taken)
			}
		}
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
	s.mu.Unlock()
	s.mu.draining.Wait()
	_ = s.file.Close()
}
