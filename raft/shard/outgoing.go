package shard

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/lni/dragonboat/v4/raftpb"

	"github.com/pheromone-run/pheromone/spec"
)

// streamID names the stream of a snapshot. Only the two hosts know it.
type streamID [16]byte

const (
	// partBytes is the most that a frame has of a chunk, and so the most that a
	// connection must last for to bring a stream further.
	partBytes  = 64 << 10
	partHeader = 12
	// chunkMost bounds a chunk: dragonboat makes them of 2 MiB and a little around it.
	chunkMost = 2<<20 + 128<<10
	// streamWindow is how many chunks are kept until the receiver has taken them, so
	// that a connection with long round trips is kept busy.
	streamWindow = 4

	// streamPulse is how often either side says that it is there, streamSilence how
	// long a connection may be silent until it counts as broken.
	streamPulse   = 2 * time.Second
	streamSilence = 10 * time.Second
	// streamAway is how long the receiver may not be heard of until the sender gives
	// up. Until then the store's snapshot is held, and with it what it sees on disk.
	streamAway = 90 * time.Second
	// streamStuck bounds the time for one chunk, however often the receiver says that
	// it is there. Dragonboat drops a snapshot of which no chunk came for 15 minutes.
	streamStuck = 10 * time.Minute
	// What is waited before the next connection.
	retryLeast = 50 * time.Millisecond
	retryMost  = 2 * time.Second
	// streamGoodbye bounds how long the end of a stream waits to be told.
	streamGoodbye = time.Second
)

var (
	errStreamEnded = errors.New("the stream is ended")
	errStreamOver  = errors.New("the receiver does not go on with the stream")
)

// outgoing is the sender's side of the stream of one snapshot: a sequence of bytes,
// the chunks one behind the other, which outlives its connections. What is not
// known to be with the receiver is kept, and each connection begins with the
// receiver telling which byte it wants next.
//
// One goroutine (run) has the connection; it lives until Close.
type outgoing struct {
	t      *transport
	target string
	id     streamID
	ctx    context.Context
	end    context.CancelCauseFunc
	ended  chan struct{} // closed when run has returned

	mu struct {
		sync.Mutex
		changed chan struct{} // closed and replaced whenever what follows changes
		shard   spec.ShardID  // 0 until the first chunk
		chunks  [][]byte      // encoded, from the first that is not taken
		from    uint64        // where chunks begin in the stream
		taken   uint64        // what the receiver has, as it said last
		moved   time.Time     // when that changed last, or had no need to
		heard   time.Time     // when a frame of the receiver came last
	}
}

// openStream connects to a host for a snapshot. The first connection must succeed
// at once: nothing is lost yet.
func (t *transport) openStream(ctx context.Context, target string) (*outgoing, error) {
	s := &outgoing{t: t, target: target, ended: make(chan struct{})}
	_, _ = rand.Read(s.id[:])
	s.mu.changed, s.mu.moved, s.mu.heard = make(chan struct{}), time.Now(), time.Now()
	s.ctx, s.end = context.WithCancelCause(ctx)
	link, err := s.connect(true)
	if err != nil {
		s.end(err)
		return nil, err
	}
	t.mu.Lock()
	t.mu.outgoing[s] = struct{}{}
	t.mu.Unlock()
	go s.run(link)
	return s, nil
}

// endStreams ends the streams of a shard, whose replica here stops. A host without
// an address has no transport.
func (t *transport) endStreams(id spec.ShardID) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for s := range t.mu.outgoing {
		s.mu.Lock()
		if s.mu.shard == id {
			s.end(errClosed)
		}
		s.mu.Unlock()
	}
}

// Close ends the stream. The receiver is told if it can be reached, and forgets it.
func (s *outgoing) Close() {
	s.end(errStreamEnded)
	<-s.ended
	s.t.mu.Lock()
	delete(s.t.mu.outgoing, s)
	s.t.mu.Unlock()
}

// SendChunk returns when the chunk is on its way, and for the last one when the
// receiver has all of the snapshot.
func (s *outgoing) SendChunk(chunk raftpb.Chunk) error {
	encoded, err := chunk.Marshal()
	if err != nil {
		return err
	}
	if len(encoded) > chunkMost {
		return fmt.Errorf("a chunk of %d bytes, at most %d are sent", len(encoded), chunkMost)
	}
	if err := s.belong(spec.ShardID(chunk.ShardID)); err != nil {
		return err
	}
	if err := s.wait(func() bool { return len(s.mu.chunks) < streamWindow }, func() {
		if len(s.mu.chunks) == 0 {
			s.mu.moved = time.Now()
		}
		s.mu.chunks = append(s.mu.chunks, encoded)
		s.changeLocked()
	}); err != nil || !chunk.IsLastChunk() {
		return err
	}
	return s.wait(func() bool { return len(s.mu.chunks) == 0 }, func() {})
}

// belong notes of which shard the stream is, so that it ends with the replica here.
func (s *outgoing) belong(id spec.ShardID) error {
	s.mu.Lock()
	s.mu.shard = id
	s.mu.Unlock()
	if !s.t.host.has(id) { // it has stopped before that was known
		s.end(errClosed)
		return errClosed
	}
	return nil
}

// wait does something under the mutex once that is possible.
func (s *outgoing) wait(possible func() bool, do func()) error {
	for {
		s.mu.Lock()
		if possible() {
			do()
			s.mu.Unlock()
			return nil
		}
		changed := s.mu.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-s.ctx.Done():
			return fmt.Errorf("the stream of a snapshot to %s: %w", s.target, context.Cause(s.ctx))
		}
	}
}

func (s *outgoing) changeLocked() {
	close(s.mu.changed)
	s.mu.changed = make(chan struct{})
}

// link is a connection of a stream.
type link struct {
	conn   net.Conn
	frames *frameReader
	at     uint64 // the byte that is to be sent next
}

// run sends over one connection after the other.
func (s *outgoing) run(l *link) {
	defer close(s.ended)
	wait, got, told := retryLeast, uint64(0), false
	for {
		err := s.serve(l)
		for l = nil; l == nil; {
			if at := s.position(); at != got {
				got, wait = at, retryLeast
			}
			if err = s.hopeless(err); err != nil {
				s.giveUp(err)
				return
			}
			select {
			case <-time.After(wait):
			case <-s.ctx.Done():
			}
			wait = min(2*wait, retryMost)
			l, err = s.connect(false)
		}
		if !told {
			told = true
			s.t.log.Info("the snapshot of a shard goes on where its connection broke",
				"shard", s.shard(), "address", s.target, "bytes", l.at)
		}
	}
}

// hopeless returns why the stream can't go on after an error, or nil.
func (s *outgoing) hopeless(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ctx.Err() != nil:
		return context.Cause(s.ctx)
	case errors.Is(err, errStreamOver):
		return err
	case time.Since(s.mu.heard) > streamAway:
		return fmt.Errorf("not heard of for %v: %w", streamAway, err)
	}
	return s.stuckLocked()
}

func (s *outgoing) stuckLocked() error {
	if len(s.mu.chunks) > 0 && time.Since(s.mu.moved) > streamStuck {
		return fmt.Errorf("%w: it has taken nothing for %v", errStreamOver, streamStuck)
	}
	return nil
}

func (s *outgoing) giveUp(err error) {
	if s.ctx.Err() == nil {
		s.t.log.Warn("the snapshot of a shard does not reach a node, a new one will be sent",
			"shard", s.shard(), "address", s.target, "error", err)
	}
	s.end(err)
}

func (s *outgoing) shard() spec.ShardID {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.shard
}

func (s *outgoing) position() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.taken
}

// connect opens a connection and learns where the stream goes on.
func (s *outgoing) connect(fresh bool) (*link, error) {
	conn, err := s.t.dial(s.ctx, s.target)
	if err != nil {
		return nil, err
	}
	l := &link{conn: conn, frames: newFrameReader(conn)}
	defer context.AfterFunc(s.ctx, func() { _ = conn.Close() })()
	open := append(s.id[:], 0)
	if fresh {
		open[len(s.id)] = 1
	}
	if err = sendSmall(conn, frameOpen, open); err == nil {
		// From here on it is the receiver's silence that ends a write which waits.
		err = conn.SetWriteDeadline(time.Time{})
	}
	for since, known := time.Now(), false; err == nil && !known; {
		known, err = s.hear(l)
		if err == nil && time.Since(since) > streamStuck {
			err = fmt.Errorf("%w: it does not say where for %v", errStreamOver, streamStuck)
		}
	}
	l.at = s.position()
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return l, nil
}

// hear reads a frame of the receiver, which may tell what it has taken.
func (s *outgoing) hear(l *link) (told bool, err error) {
	kind, payload, err := l.frames.next(streamSilence, partHeader+partBytes)
	if err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.heard = time.Now()
	switch kind {
	case frameAlive:
		return false, s.stuckLocked()
	case frameTaken:
		if len(payload) == 8 {
			return true, s.takenLocked(binary.BigEndian.Uint64(payload))
		}
	case frameOver:
		return false, fmt.Errorf("%w: %s", errStreamOver, payload[:min(len(payload), 200)])
	}
	return false, fmt.Errorf("%w: it sent a frame of kind %d with %d bytes", errStreamOver, kind, len(payload))
}

// takenLocked lets go of the chunks that the receiver has.
func (s *outgoing) takenLocked(at uint64) error {
	end := s.mu.from
	for _, chunk := range s.mu.chunks {
		end += uint64(len(chunk))
	}
	if at < s.mu.taken || at > end {
		return fmt.Errorf("%w: it says that it has %d bytes of it, it had %d and there are %d", errStreamOver, at, s.mu.taken, end)
	}
	if at > s.mu.taken {
		s.mu.taken, s.mu.moved = at, time.Now()
	}
	for len(s.mu.chunks) > 0 && s.mu.from+uint64(len(s.mu.chunks[0])) <= at {
		s.mu.from += uint64(len(s.mu.chunks[0]))
		s.mu.chunks[0] = nil
		s.mu.chunks = s.mu.chunks[1:]
	}
	s.changeLocked()
	return nil
}

// serve sends over a connection until it breaks, or the stream ends.
func (s *outgoing) serve(l *link) error {
	broken := make(chan struct{})
	var heard error
	go func() {
		defer close(broken)
		for heard == nil {
			_, heard = s.hear(l)
		}
		_ = l.conn.Close() // a write that waits ends with it
	}()
	stop := context.AfterFunc(s.ctx, func() {
		time.AfterFunc(streamGoodbye, func() { _ = l.conn.Close() })
	})
	err := s.send(l, broken)
	stop()
	_ = l.conn.Close()
	<-broken
	if errors.Is(heard, errStreamOver) || err == nil {
		return heard
	}
	return err
}

func (s *outgoing) send(l *link, broken <-chan struct{}) error {
	pulse := time.NewTicker(streamPulse)
	defer pulse.Stop()
	frame := make([]byte, frameHeader, frameHeader+partHeader+partBytes)
	write := func(kind byte) error {
		sealFrame(kind, frame)
		_, err := l.conn.Write(frame)
		return err
	}
	for {
		part, left, changed := s.part(l.at)
		if s.ctx.Err() != nil {
			frame = frame[:frameHeader]
			return write(frameEnd)
		}
		if len(part) > 0 {
			frame = binary.BigEndian.AppendUint64(frame[:frameHeader], l.at)
			frame = append(binary.BigEndian.AppendUint32(frame, uint32(left)), part...)
			if err := write(framePart); err != nil {
				return err
			}
			l.at += uint64(len(part))
			continue
		}
		select {
		case <-changed:
		case <-s.ctx.Done():
		case <-broken:
			return nil
		case <-pulse.C:
			frame = frame[:frameHeader]
			if err := write(frameAlive); err != nil {
				return err
			}
		}
	}
}

// part returns what is to be sent at a position, and how much of the chunk is left
// behind it. If there is nothing, it comes when changed is closed.
func (s *outgoing) part(at uint64) (part []byte, left int, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := s.mu.from
	for _, chunk := range s.mu.chunks {
		if end := from + uint64(len(chunk)); at < end {
			rest := chunk[at-from:]
			part = rest[:min(len(rest), partBytes)]
			return part, len(rest) - len(part), nil
		}
		from += uint64(len(chunk))
	}
	return nil, 0, s.mu.changed
}
