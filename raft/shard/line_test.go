package shard

import (
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftpb"
)

// plain is a network without greetings.
type plain struct{ at net.Listener }

func (p plain) Listener() net.Listener { return p.at }

func (plain) Dial(ctx context.Context, address string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", address)
}

// holes is a network whose first connection swallows what is written to it, as one
// does over a network that lost packets for long.
type holes struct {
	plain
	dials atomic.Int32
}

func (h *holes) Dial(ctx context.Context, address string) (net.Conn, error) {
	conn, err := h.plain.Dial(ctx, address)
	if err != nil || h.dials.Add(1) > 1 {
		return conn, err
	}
	return hole{conn}, nil
}

type hole struct{ net.Conn }

func (hole) Write(p []byte) (int, error) { return len(p), nil }

// twoEnds is a line to a host that the test plays.
func twoEnds(t *testing.T) (*line, net.Listener) {
	t.Helper()
	return twoEndsOf(t, func(p plain) Network { return p })
}

func twoEndsOf(t *testing.T, over func(plain) Network) (*line, net.Listener) {
	t.Helper()
	there, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	here, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tr := transportFactory{network: over(plain{here}), host: &Host{registry: newRegistry()}, log: slog.New(slog.DiscardHandler)}.
		Create(config.NodeHostConfig{}, nil, nil)
	conn, err := tr.GetConnection(t.Context(), there.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		if err := tr.Close(); err != nil {
			t.Error(err)
		}
		_, _ = there.Close(), here.Close()
	})
	return conn.(*line), there
}

// frame takes connections until one brings a frame: others only ask whether somebody
// is there.
func frame(t *testing.T, l net.Listener) (net.Conn, raftpb.MessageBatch) {
	t.Helper()
	_ = l.(*net.TCPListener).SetDeadline(time.Now().Add(time.Minute))
	for {
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
		var header [frameHeader]byte
		if _, err := io.ReadFull(conn, header[:]); err != nil {
			continue
		}
		payload := make([]byte, binary.BigEndian.Uint32(header[:]))
		if _, err := io.ReadFull(conn, payload); err != nil {
			t.Fatal(err)
		}
		var batch raftpb.MessageBatch
		if err := batch.Unmarshal(payload); err != nil {
			t.Fatal(err)
		}
		return conn, batch
	}
}

func TestTheFirstBatchAfterAHostsRestartArrives(t *testing.T) {
	l, there := twoEnds(t)
	for term := range uint64(3) {
		if err := l.SendMessageBatch(raftpb.MessageBatch{Requests: []raftpb.Message{{Term: term}}}); err != nil {
			t.Fatal(err)
		}
		conn, got := frame(t, there)
		if len(got.Requests) != 1 || got.Requests[0].Term != term {
			t.Fatalf("batch %v arrives, want the one of term %d", got, term)
		}
		_ = conn.Close() // as the end of the host's process does
		<-l.ended
	}
}

func TestBatchesToAHostThatIsAwayAreDroppedWithoutAnError(t *testing.T) {
	l, there := twoEnds(t)
	_ = there.Close()
	for range 100 {
		if err := l.SendMessageBatch(raftpb.MessageBatch{Requests: []raftpb.Message{{Term: 1}}}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestALineWhoseConnectionSwallowsEverythingGoesOverToANewOne(t *testing.T) {
	l, there := twoEndsOf(t, func(p plain) Network { return &holes{plain: p} })
	l.t.silence = 10 * time.Millisecond
	arrived := make(chan struct{})
	var sending sync.WaitGroup
	defer sending.Wait()
	defer close(arrived)
	sending.Go(func() {
		for !isClosed(arrived) {
			_ = l.SendMessageBatch(raftpb.MessageBatch{Requests: []raftpb.Message{{Term: 7}}})
			runtime.Gosched()
		}
	})
	if _, got := frame(t, there); len(got.Requests) != 1 || got.Requests[0].Term != 7 {
		t.Errorf("batch %v arrives", got)
	}
}

func TestOnlyAHostThatSaysNothingIsDialedAnew(t *testing.T) {
	l, there := twoEnds(t)
	now := time.Now()
	if l.silent(now.Add(time.Hour)) {
		t.Error("without a connection there is nothing to go over from")
	}
	if err := l.SendMessageBatch(raftpb.MessageBatch{}); err != nil {
		t.Fatal(err)
	}
	_, _ = frame(t, there)
	if late := l.since.Add(l.t.silence + 1); !l.silent(late) || l.silent(late.Add(-1)) {
		t.Error("it has the same time from the beginning of its connection on")
	}
	l.t.heardOf(l.target).Store(l.since.Add(time.Minute).UnixNano())
	if late := l.since.Add(time.Minute + l.t.silence); !l.silent(late.Add(time.Millisecond)) || l.silent(late.Add(-time.Millisecond)) {
		t.Error("what it says counts, over whatever connection")
	}
}

func TestABatchTellsThatItsHostIsThere(t *testing.T) {
	here, there := net.Pipe()
	host := &Host{registry: newRegistry()}
	host.registry.set(1, 2, "there:1")
	taken := make(chan struct{})
	tr := transportFactory{host: host, log: slog.New(slog.DiscardHandler)}.
		Create(config.NodeHostConfig{}, func(raftpb.MessageBatch) { taken <- struct{}{} }, nil).(*transport)
	var reading sync.WaitGroup
	reading.Go(func() { _, _ = tr.read(here) })
	s := sender{conn: there}
	for range 2 { // the first one is done with when the second is taken
		if err := s.SendMessageBatch(raftpb.MessageBatch{Requests: []raftpb.Message{{ShardID: 1, From: 2}}}); err != nil {
			t.Fatal(err)
		}
		<-taken
	}
	s.Close()
	reading.Wait()
	if tr.heardOf("there:1").Load() == 0 || tr.heardOf("elsewhere:1").Load() != 0 {
		t.Error("it does not")
	}
}
