package shard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
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
// transport, which listens by itself, can't tell one cluster or version from
// another, and begins a snapshot again whenever its connection breaks.
//
// A connection is for batches of messages, one frame each (line.go), or for a
// snapshot's stream (outgoing.go, incoming.go), which begins with frameOpen.
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
	silence    time.Duration // of a host, before a line to it is dialed anew

	mu struct {
		sync.Mutex
		accepted map[net.Conn]struct{}
		away     map[string]time.Time     // hosts that are not reached, and when that was last said
		heard    map[string]*atomic.Int64 // when a batch of a host came last, in Unix nanoseconds
		incoming map[streamID]*incoming
		outgoing map[*outgoing]struct{}
		closed   bool
	}
}

// sayAgain is how often it is said that a host is not reached.
const sayAgain = time.Minute

type transportFactory struct {
	network Network
	log     *slog.Logger
	host    *Host
}

func (f transportFactory) Create(cfg config.NodeHostConfig, batches raftio.MessageHandler, chunks raftio.ChunkHandler) raftio.ITransport {
	t := &transport{network: f.network, log: f.log, batches: batches, chunks: chunks, host: f.host, deployment: cfg.GetDeploymentID()}
	t.ctx, t.end = context.WithCancel(context.Background())
	// Answers come as seldom as heartbeats.
	t.silence = max(lineSilence, 4*heartbeatTicks*f.host.cfg.RTT)
	t.mu.accepted, t.mu.away = make(map[net.Conn]struct{}), make(map[string]time.Time)
	t.mu.heard = make(map[string]*atomic.Int64)
	t.mu.incoming, t.mu.outgoing = make(map[streamID]*incoming), make(map[*outgoing]struct{})
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
	for id := range t.mu.incoming {
		t.forgetLocked(id)
	}
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
	frames := newFrameReader(conn)
	var heard *atomic.Int64
	for {
		// Hosts without a shard in common may be silent for any time.
		kind, payload, err := frames.next(0, frameMost)
		if err != nil {
			return from, err
		}
		switch kind {
		case frameBatch:
			var batch raftpb.MessageBatch
			if err := batch.Unmarshal(payload); err != nil {
				return from, fmt.Errorf("a batch that can't be read: %w", err)
			}
			t.batches(batch) // which copies what it keeps
			for _, m := range batch.Requests {
				from = raftio.GetNodeInfo(m.ShardID, m.From)
			}
			if heard == nil {
				if address, _, err := t.host.registry.Resolve(from.ShardID, from.ReplicaID); err == nil {
					heard = t.heardOf(address)
				}
			}
			if heard != nil {
				heard.Store(time.Now().UnixNano())
			}
		case frameOpen:
			return from, t.receive(conn, frames, payload)
		default:
			return from, fmt.Errorf("a frame of kind %d", kind)
		}
	}
}

func (t *transport) GetConnection(ctx context.Context, target string) (raftio.IConnection, error) {
	ctx, end := context.WithCancel(ctx)
	return &line{ctx: ctx, end: end, t: t, target: target, heard: t.heardOf(target), anew: make(chan net.Conn)}, nil
}

// heardOf returns when the host at an address was last heard of. Addresses are few.
func (t *transport) heardOf(address string) *atomic.Int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := t.mu.heard[address]
	if at == nil {
		at = &atomic.Int64{}
		t.mu.heard[address] = at
	}
	return at
}

func (t *transport) GetSnapshotConnection(ctx context.Context, target string) (raftio.ISnapshotConnection, error) {
	return t.openStream(ctx, target)
}

func (t *transport) dial(ctx context.Context, target string) (net.Conn, error) {
	conn, err := t.network.Dial(ctx, target)
	if !errors.Is(ctx.Err(), context.Canceled) {
		t.say(target, err)
	}
	return conn, err
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

// sender sends batches of messages to another host.
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
	return sendFrame(s.conn, frameBatch, buf[:frameHeader+n])
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
