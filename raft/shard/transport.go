package shard

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"
)

// Network connects a host to others. Connections are between hosts of the same
// cluster: whoever provides the network sees to that.
type Network interface {
	// Listener is where other hosts' connections come in. The host closes it.
	Listener() net.Listener
	// Dial connects to the host at an address.
	Dial(ctx context.Context, address string) (net.Conn, error)
}

// transport carries dragonboat's messages over a Network, in place of its own TCP
// transport, which listens by itself and can't tell one cluster or version from
// another.
//
// A frame is length (4 bytes), kind (1), CRC-32C of the payload (4), payload.
type transport struct {
	network  Network
	log      *slog.Logger
	batches  raftio.MessageHandler
	chunks   raftio.ChunkHandler
	listener net.Listener
	workers  sync.WaitGroup
	ctx      context.Context // of what works; ended by Close
	end      context.CancelFunc

	host       *Host
	deployment uint64
	asked      goneHosts

	mu struct {
		sync.Mutex
		accepted map[net.Conn]struct{}
		away     map[string]time.Time // hosts that are not reached, and when that was last said
		closed   bool
	}
}

const (
	frameHeader = 9
	frameBatch  = 1
	frameChunk  = 2
	// frameMost bounds a frame: a batch has entries of up to 64 MiB and some more.
	frameMost = 192 << 20
	// frameWait bounds the time between two pieces of a frame, each up to framePiece.
	frameWait  = 10 * time.Second
	framePiece = 256 << 10
	// sayAgain is how often it is said that a host is not reached.
	sayAgain = time.Minute
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type transportFactory struct {
	network Network
	log     *slog.Logger
	host    *Host
}

func (f transportFactory) Create(cfg config.NodeHostConfig, batches raftio.MessageHandler, chunks raftio.ChunkHandler) raftio.ITransport {
	t := &transport{network: f.network, log: f.log, batches: batches, chunks: chunks, host: f.host, deployment: cfg.GetDeploymentID()}
	t.ctx, t.end = context.WithCancel(context.Background())
	t.mu.accepted, t.mu.away = make(map[net.Conn]struct{}), make(map[string]time.Time)
	f.host.transport = t
	return t
}

func (transportFactory) Validate(string) bool { return true }

func (t *transport) Name() string { return "pheromone" }

func (t *transport) Start() error {
	t.listener = t.network.Listener()
	t.workers.Go(func() {
		for {
			conn, err := t.listener.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.log.Error("no more raft messages of other nodes are taken", "error", err)
				}
				return
			}
			t.workers.Go(func() { t.serve(conn) })
		}
	})
	return nil
}

func (t *transport) Close() error {
	t.mu.Lock()
	t.mu.closed = true
	accepted := t.mu.accepted
	t.mu.accepted = nil
	t.mu.Unlock()
	t.end()
	var err error
	if t.listener != nil {
		err = t.listener.Close()
	}
	for conn := range accepted {
		_ = conn.Close()
	}
	t.workers.Wait()
	return err
}

// serve reads the frames of a connection.
func (t *transport) serve(conn net.Conn) {
	t.mu.Lock()
	if t.mu.closed {
		t.mu.Unlock()
		_ = conn.Close()
		return
	}
	t.mu.accepted[conn] = struct{}{}
	t.mu.Unlock()
	from, err := t.read(conn)
	t.mu.Lock()
	delete(t.mu.accepted, conn)
	closed := t.mu.closed
	t.mu.Unlock()
	if address, _, err := t.host.registry.Resolve(from.ShardID, from.ReplicaID); err == nil && !closed {
		t.lost(address)
	}
	_ = conn.Close()
	if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		t.log.Debug("a connection with raft messages ended", "from", conn.RemoteAddr().String(), "error", err)
	}
}

// read takes frames until the connection ends. It returns a replica of the host that
// they are from, if there was a batch among them.
func (t *transport) read(conn net.Conn) (from raftio.NodeInfo, err error) {
	r := bufio.NewReaderSize(conn, 64<<10)
	var header [frameHeader]byte
	var payload []byte
	for {
		// Hosts without a shard in common may be silent for any time.
		if err := conn.SetReadDeadline(time.Time{}); err != nil {
			return from, err
		}
		if _, err := io.ReadFull(r, header[:1]); err != nil {
			return from, err
		}
		if err := conn.SetReadDeadline(time.Now().Add(frameWait)); err != nil {
			return from, err
		}
		if _, err := io.ReadFull(r, header[1:]); err != nil {
			return from, err
		}
		size, kind := binary.BigEndian.Uint32(header[:]), header[4]
		if size > frameMost {
			return from, fmt.Errorf("a frame of %d bytes, at most %d are taken", size, frameMost)
		}
		if payload, err = readPieces(conn, r, payload[:0], int(size)); err != nil {
			return from, err
		}
		if crc32.Checksum(payload, castagnoli) != binary.BigEndian.Uint32(header[5:]) {
			return from, errors.New("a frame with a wrong checksum")
		}
		if err := t.take(kind, payload, &from); err != nil {
			return from, err
		}
		if cap(payload) > 4*framePiece {
			payload = nil
		}
	}
}

// readPieces reads size bytes. Memory grows as they come.
func readPieces(conn net.Conn, r io.Reader, to []byte, size int) ([]byte, error) {
	for len(to) < size {
		if err := conn.SetReadDeadline(time.Now().Add(frameWait)); err != nil {
			return nil, err
		}
		n := min(size-len(to), framePiece)
		at := len(to)
		to = append(to, make([]byte, n)...)
		if _, err := io.ReadFull(r, to[at:]); err != nil {
			return nil, err
		}
	}
	return to, nil
}

// take hands a message to dragonboat, which copies what it keeps, and sets the
// replica that it is from.
func (t *transport) take(kind byte, payload []byte, from *raftio.NodeInfo) error {
	switch kind {
	case frameBatch:
		var batch raftpb.MessageBatch
		if err := batch.Unmarshal(payload); err != nil {
			return fmt.Errorf("a batch that can't be read: %w", err)
		}
		t.batches(batch)
		for _, m := range batch.Requests {
			*from = raftio.GetNodeInfo(m.ShardID, m.From)
		}
		return nil
	case frameChunk:
		var chunk raftpb.Chunk
		if err := chunk.Unmarshal(payload); err != nil {
			return fmt.Errorf("a chunk that can't be read: %w", err)
		}
		if !t.chunks(chunk) {
			return errors.New("a chunk of a snapshot that is not taken")
		}
		return nil
	}
	return fmt.Errorf("a frame of kind %d", kind)
}

func (t *transport) GetConnection(ctx context.Context, target string) (raftio.IConnection, error) {
	return &line{ctx: ctx, t: t, target: target}, nil
}

func (t *transport) GetSnapshotConnection(ctx context.Context, target string) (raftio.ISnapshotConnection, error) {
	return t.connect(ctx, target)
}

func (t *transport) connect(ctx context.Context, target string) (*sender, error) {
	conn, err := t.network.Dial(ctx, target)
	t.say(target, err)
	if err != nil {
		return nil, err
	}
	return &sender{conn: conn}, nil
}

// say tells once in a while that a host is not reached, and when it is again.
func (t *transport) say(target string, err error) {
	t.mu.Lock()
	last, away := t.mu.away[target]
	silent := err == nil && !away || err != nil && away && time.Since(last) < sayAgain || t.mu.closed
	switch {
	case err == nil:
		delete(t.mu.away, target)
	case !silent:
		t.mu.away[target] = time.Now()
	}
	t.mu.Unlock()
	switch {
	case silent:
	case err == nil:
		t.log.Info("raft messages of shards reach a node again", "address", target)
	default:
		t.log.Warn("raft messages of shards do not reach a node", "address", target, "error", err)
	}
}

// sender sends frames to another host.
type sender struct {
	conn net.Conn
	buf  []byte
}

func (s *sender) Close() { _ = s.conn.Close() }

func (s *sender) SendMessageBatch(batch raftpb.MessageBatch) error {
	buf := s.frame(batch.SizeUpperLimit())
	n, err := batch.MarshalTo(buf[frameHeader:])
	if err != nil {
		return err
	}
	return s.send(frameBatch, buf[:frameHeader+n])
}

func (s *sender) SendChunk(chunk raftpb.Chunk) error {
	buf := s.frame(chunk.Size())
	n, err := chunk.MarshalTo(buf[frameHeader:])
	if err != nil {
		return err
	}
	return s.send(frameChunk, buf[:frameHeader+n])
}

// frame returns a buffer for a frame with a payload of up to size bytes.
func (s *sender) frame(size int) []byte {
	if size += frameHeader; size > framePiece {
		return make([]byte, size)
	}
	if len(s.buf) < size {
		s.buf = make([]byte, framePiece)
	}
	return s.buf
}

func (s *sender) send(kind byte, frame []byte) error {
	payload := frame[frameHeader:]
	if len(payload) > frameMost {
		return fmt.Errorf("a frame of %d bytes, at most %d are sent", len(payload), frameMost)
	}
	binary.BigEndian.PutUint32(frame, uint32(len(payload)))
	frame[4] = kind
	binary.BigEndian.PutUint32(frame[5:], crc32.Checksum(payload, castagnoli))
	for len(frame) > 0 {
		if err := s.conn.SetWriteDeadline(time.Now().Add(frameWait)); err != nil {
			return err
		}
		n := min(len(frame), framePiece)
		if _, err := s.conn.Write(frame[:n]); err != nil {
			return err
		}
		frame = frame[n:]
	}
	return nil
}
