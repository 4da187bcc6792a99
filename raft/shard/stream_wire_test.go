package shard

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
	"github.com/lni/dragonboat/v4/raftpb"

	"github.com/pheromone-run/pheromone/spec"
)

// cable is the network between a sender and a receiver of streams, in the time of
// synctest.
type cable struct {
	receiver *transport
	accept   chan net.Conn

	mu     sync.Mutex
	dark   bool // nothing gets through, and nobody is told
	cut    int  // connections break after up to twice so many bytes of the sender; 0: never
	sent   int  // bytes of the sender
	dialed int
	conns  []*cableConn
}

func (l *cable) Listener() net.Listener { return l }
func (l *cable) Addr() net.Addr         { return nil }

func (l *cable) Accept() (net.Conn, error) {
	if conn, ok := <-l.accept; ok {
		return conn, nil
	}
	return nil, net.ErrClosed
}

func (l *cable) Close() error {
	close(l.accept)
	return nil
}

func (l *cable) Dial(ctx context.Context, _ string) (net.Conn, error) {
	l.mu.Lock()
	l.dialed++
	dark, accept, budget := l.dark, l.accept, -1
	if l.cut > 0 {
		budget = 1 + rand.IntN(2*l.cut)
	}
	l.mu.Unlock()
	if dark {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	}
	near, far := net.Pipe()
	ends := []*cableConn{{Conn: near, cable: l, sender: true, budget: budget}, {Conn: far, cable: l}}
	l.mu.Lock()
	l.conns = append(l.conns, ends...)
	l.mu.Unlock()
	select {
	case accept <- ends[1]:
		return ends[0], nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// set changes the cable. Connections that were there while it was dark are lost.
func (l *cable) set(change func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
	for _, conn := range l.conns {
		conn.lost = conn.lost || l.dark
	}
}

// breakAll closes all connections.
func (l *cable) breakAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, conn := range l.conns {
		_ = conn.Conn.Close()
	}
}

type cableConn struct {
	net.Conn
	cable  *cable
	sender bool
	budget int
	lost   bool
}

func (c *cableConn) Write(p []byte) (int, error) {
	c.cable.mu.Lock()
	n, lost := len(p), c.lost
	if c.sender && !lost {
		if c.budget >= 0 {
			n = min(n, c.budget)
			c.budget -= n
		}
		c.cable.sent += n
	}
	c.cable.mu.Unlock()
	if lost {
		return len(p), nil
	}
	if n, err := c.Conn.Write(p[:n]); err != nil || n == len(p) {
		return n, err
	}
	return n, errors.Join(os.ErrClosed, c.Close())
}

// SetReadDeadline is no error when the other side has closed, as with TCP.
func (c *cableConn) SetReadDeadline(t time.Time) error {
	_ = c.Conn.SetReadDeadline(t)
	return nil
}

// taker is what dragonboat is to a transport that receives.
type taker struct {
	mu     sync.Mutex
	chunks []raftpb.Chunk
	refuse uint64        // the chunk that is not taken; 0: none
	slow   time.Duration // for each chunk
}

func (k *taker) take(chunk raftpb.Chunk) bool {
	<-time.After(k.slow)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.chunks = append(k.chunks, chunk)
	return chunk.ChunkId == 0 || chunk.ChunkId != k.refuse
}

func (k *taker) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.chunks)
}

// streamed is the shard whose snapshots are sent.
const streamed = 7

func newTransport(network Network) *transport {
	host := &Host{registry: newRegistry()}
	host.mu.shards = map[spec.ShardID]*Shard{streamed: {}}
	f := transportFactory{network: network, host: host, log: slog.New(slog.DiscardHandler)}
	return f.Create(config.NodeHostConfig{}, nil, nil).(*transport)
}

// newCable starts the receiver of a cable; it ends with the test.
func newCable(t *testing.T, k *taker) *cable {
	t.Helper()
	l := &cable{}
	l.start(t, k)
	t.Cleanup(func() { _ = l.receiver.Close() })
	return l
}

func (l *cable) start(t *testing.T, k *taker) {
	t.Helper()
	l.accept = make(chan net.Conn)
	l.receiver = newTransport(l)
	l.receiver.chunks = k.take
	if err := l.receiver.Start(); err != nil {
		t.Fatal(err)
	}
}

// open opens a stream over the cable, which is closed with the test.
func (l *cable) open(t *testing.T) (*transport, raftio.ISnapshotConnection) {
	t.Helper()
	from := newTransport(l)
	s, err := from.GetSnapshotConnection(t.Context(), "receiver:1")
	if err != nil {
		t.Fatal(err)
	}
	return from, s
}

// chunksOf makes a snapshot of shard 7 in so many chunks.
func chunksOf(chunks, bytesEach int) []raftpb.Chunk {
	random := rand.NewChaCha8([32]byte{7})
	all := make([]raftpb.Chunk, chunks)
	for i := range all {
		data := make([]byte, bytesEach+i)
		_, _ = random.Read(data)
		all[i] = raftpb.Chunk{ShardID: streamed, ReplicaID: 2, From: 1, ChunkId: uint64(i), ChunkCount: uint64(chunks), Data: data, ChunkSize: uint64(len(data))}
	}
	return all
}

func sendAll(s raftio.ISnapshotConnection, chunks []raftpb.Chunk) error {
	for _, chunk := range chunks {
		if err := s.SendChunk(chunk); err != nil {
			return err
		}
	}
	return nil
}

// check compares what was taken with what was sent.
func (k *taker) check(t *testing.T, want []raftpb.Chunk) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.chunks) != len(want) {
		t.Errorf("%d chunks were taken, want %d", len(k.chunks), len(want))
	}
	for i, chunk := range k.chunks[:min(len(k.chunks), len(want))] {
		if chunk.ChunkId != want[i].ChunkId || !bytes.Equal(chunk.Data, want[i].Data) {
			t.Errorf("chunk %d that was taken is not the one that was sent", i)
		}
	}
}

// raw is a connection of which a test writes the frames.
type raw struct {
	t      *testing.T
	conn   net.Conn
	frames *frameReader
}

func (l *cable) raw(t *testing.T) *raw {
	t.Helper()
	conn, err := l.Dial(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	return &raw{t, conn, newFrameReader(conn)}
}

func (r *raw) opened(id byte, fresh byte) *raw {
	r.t.Helper()
	r.send(frameOpen, append(bytes.Repeat([]byte{id}, 16), fresh)...)
	return r
}

func (r *raw) send(kind byte, payload ...byte) {
	r.t.Helper()
	if err := sendSmall(r.conn, kind, payload); err != nil {
		r.t.Fatal(err)
	}
}

func (r *raw) part(at, left int, bytes []byte) {
	r.t.Helper()
	payload := binary.BigEndian.AppendUint64(nil, uint64(at))
	r.send(framePart, append(binary.BigEndian.AppendUint32(payload, uint32(left)), bytes...)...)
}

// answer describes what comes next.
func (r *raw) answer() string {
	kind, payload, err := r.frames.next(time.Minute, 1<<10)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrClosedPipe):
		return "closed"
	case err != nil:
		return err.Error()
	case kind == frameTaken:
		return fmt.Sprint("taken ", binary.BigEndian.Uint64(payload))
	case kind == frameOver:
		return "over: " + string(payload)
	case kind == frameAlive:
		return r.answer()
	}
	return fmt.Sprint("kind ", kind)
}

func (r *raw) expect(want string) {
	r.t.Helper()
	if got := r.answer(); !strings.HasPrefix(got, want) {
		r.t.Errorf("answer %q, want %q", got, want)
	}
}
