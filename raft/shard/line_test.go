package shard

import (
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
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

// twoEnds is a line to a host that the test plays.
func twoEnds(t *testing.T) (*line, net.Listener) {
	t.Helper()
	there, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	here, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tr := transportFactory{network: plain{here}, host: &Host{registry: newRegistry()}, log: slog.New(slog.DiscardHandler)}.
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
