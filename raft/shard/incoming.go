package shard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/lni/dragonboat/v4/raftpb"
)

const (
	// streamsMost bounds the streams that come in. One that has no connection makes
	// way for a new one.
	streamsMost = 64
	// streamKept is how long a stream without a connection is kept. It is more than
	// the sender tries to come back for.
	streamKept = 2 * time.Minute
)

// incoming is the receiver's side of a stream. Chunks are handed to dragonboat as
// they become whole, each once, by the connection whose turn it is.
type incoming struct {
	id     streamID
	leave  func()      // ends the connection; nil while there is none; guarded by transport.mu
	left   time.Time   // when the last one ended; guarded by transport.mu
	expire *time.Timer // runs while there is none; guarded by transport.mu

	turn  chan struct{} // capacity 1: holds a token while a connection has what follows
	at    uint64        // the byte that is wanted next
	chunk []byte        // what has come of a chunk
	whole bool          // the snapshot's last chunk was taken
	over  bool          // a chunk was refused
}

// receive serves a connection that began with frameOpen.
func (t *transport) receive(conn net.Conn, frames *frameReader, open []byte) error {
	say := sayer{conn: conn}
	var id streamID
	if len(open) != len(id)+1 {
		return fmt.Errorf("a stream is opened with %d bytes", len(open))
	}
	copy(id[:], open)
	gone := make(chan struct{})
	leave := sync.OnceFunc(func() {
		close(gone)
		_ = conn.Close()
	})
	s, err := t.attach(id, open[len(id)] == 1, leave)
	if err != nil {
		return errors.Join(err, say.send(frameOver, []byte(err.Error())))
	}
	var pulse sync.WaitGroup
	pulse.Go(func() { say.pulse(gone) })
	defer pulse.Wait()
	defer t.detach(s, gone, leave)
	select {
	case s.turn <- struct{}{}:
	case <-gone:
		return net.ErrClosed
	}
	defer func() { <-s.turn }()
	err = s.serve(t, frames, &say)
	if errors.Is(err, errStreamOver) {
		s.over, s.chunk = true, nil
		return errors.Join(err, say.send(frameOver, []byte(err.Error())))
	}
	return err
}

// attach gives a stream a connection and ends the one that it had: the sender has
// given that one up.
func (t *transport) attach(id streamID, fresh bool, leave func()) (*incoming, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.mu.incoming[id]
	switch {
	case t.mu.closed:
		return nil, errClosed
	case fresh && s != nil:
		return nil, errors.New("the stream is there already")
	case !fresh && s == nil:
		return nil, errors.New("the stream is not known")
	case fresh:
		if !t.roomLocked() {
			return nil, fmt.Errorf("%d streams come in already", streamsMost)
		}
		s = &incoming{id: id, turn: make(chan struct{}, 1)}
		t.mu.incoming[id] = s
	case s.leave != nil:
		s.leave()
	}
	if s.expire != nil {
		s.expire.Stop()
	}
	s.leave, s.expire = leave, nil
	return s, nil
}

// roomLocked makes room for a stream, if one can go that has lost its connection.
func (t *transport) roomLocked() bool {
	if len(t.mu.incoming) < streamsMost {
		return true
	}
	var oldest *incoming
	for _, s := range t.mu.incoming {
		if s.leave == nil && (oldest == nil || s.left.Before(oldest.left)) {
			oldest = s
		}
	}
	if oldest == nil {
		return false
	}
	t.forgetLocked(oldest.id)
	return true
}

// detach ends a connection, and keeps its stream for a while if no other has taken
// it over.
func (t *transport) detach(s *incoming, gone <-chan struct{}, leave func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !isClosed(gone) && t.mu.incoming[s.id] == s {
		s.leave, s.left = nil, time.Now()
		s.expire = time.AfterFunc(streamKept, func() {
			t.mu.Lock()
			defer t.mu.Unlock()
			if t.mu.incoming[s.id] == s && s.leave == nil {
				t.forgetLocked(s.id)
			}
		})
	}
	leave()
}

func (t *transport) forgetLocked(id streamID) {
	s := t.mu.incoming[id]
	if s == nil {
		return
	}
	if s.expire != nil {
		s.expire.Stop()
	}
	delete(t.mu.incoming, id)
}

// serve tells the sender where the stream goes on and takes what comes.
func (s *incoming) serve(t *transport, frames *frameReader, say *sayer) error {
	if s.over {
		return fmt.Errorf("%w: it was refused", errStreamOver)
	}
	for tell := true; ; {
		if tell {
			if err := say.send(frameTaken, binary.BigEndian.AppendUint64(nil, s.at)); err != nil {
				return err
			}
		}
		kind, payload, err := frames.next(streamSilence, partHeader+partBytes)
		if err != nil {
			return err
		}
		tell = false
		switch kind {
		case frameAlive:
		case framePart:
			if tell, err = s.take(payload, t.chunks); err != nil {
				return err
			}
		case frameEnd:
			t.mu.Lock()
			t.forgetLocked(s.id)
			t.mu.Unlock()
			return nil
		default:
			return fmt.Errorf("a frame of kind %d on a stream", kind)
		}
	}
}

// take takes a part of a chunk, and hands the chunk on when it is whole. A part
// that is not the next one costs the connection, a chunk that is wrong or refused
// the stream.
func (s *incoming) take(payload []byte, chunks func(raftpb.Chunk) bool) (whole bool, err error) {
	if len(payload) <= partHeader {
		return false, errors.New("an empty part of a chunk")
	}
	at, left, part := binary.BigEndian.Uint64(payload), binary.BigEndian.Uint32(payload[8:]), payload[partHeader:]
	switch {
	case at != s.at:
		return false, fmt.Errorf("a part of a stream at %d, wanted is %d", at, s.at)
	case s.whole:
		return false, fmt.Errorf("%w: more comes behind the last chunk", errStreamOver)
	case int64(len(s.chunk))+int64(len(part))+int64(left) > chunkMost:
		return false, fmt.Errorf("%w: a chunk of more than %d bytes", errStreamOver, chunkMost)
	}
	s.chunk = append(s.chunk, part...)
	if left > 0 {
		s.at += uint64(len(part))
		return false, nil
	}
	var chunk raftpb.Chunk
	if err := chunk.Unmarshal(s.chunk); err != nil { // which copies the data
		return false, fmt.Errorf("%w: a chunk that can't be read: %s", errStreamOver, err)
	}
	if !chunks(chunk) {
		return false, fmt.Errorf("%w: a chunk of the snapshot is not taken", errStreamOver)
	}
	s.at += uint64(len(part))
	s.chunk = s.chunk[:0]
	if s.whole = chunk.IsLastChunk(); s.whole {
		s.chunk = nil
	}
	return true, nil
}

// sayer sends the receiver's frames.
type sayer struct {
	mu   sync.Mutex
	conn net.Conn
}

func (s *sayer) send(kind byte, payload []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return sendSmall(s.conn, kind, payload)
}

// pulse says that this host is there, also while it waits for its disk.
func (s *sayer) pulse(until <-chan struct{}) {
	tick := time.NewTicker(streamPulse)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if s.send(frameAlive, nil) != nil {
				return
			}
		case <-until:
			return
		}
	}
}
