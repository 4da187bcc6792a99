package shard

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftpb"
)

// lonely is a network on which hosts are reached or not, as a test says.
type lonely struct{ reached bool }

func (*lonely) Listener() net.Listener { return nil }

func (l *lonely) Dial(context.Context, string) (net.Conn, error) {
	if !l.reached {
		return nil, errors.New("nobody is there")
	}
	conn, other := net.Pipe()
	return conn, other.Close()
}

func TestAHostThatIsAwayIsToldOfOnceInAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		network := &lonely{}
		tr := transportFactory{network: network, host: &Host{}, log: slog.New(slog.NewTextHandler(&out, nil))}.Create(config.NodeHostConfig{}, nil, nil)
		lines := func(text string) int { return strings.Count(out.String(), text) }
		connect := func() {
			conn, err := tr.GetConnection(t.Context(), "host:1")
			if err == nil {
				err = conn.SendMessageBatch(raftpb.MessageBatch{})
				conn.Close()
			}
			if err != nil {
				t.Error(err)
			}
		}
		for range 100 {
			connect()
			<-time.After(time.Second)
		}
		if n := lines("do not reach"); n != 2 {
			t.Errorf("said %d times in 100 seconds", n)
		}
		synctest.Wait() // for whoever looks whether the host is there
		network.reached = true
		for range 10 {
			connect()
		}
		if n := lines("reach a node again"); n != 1 {
			t.Errorf("said %d times that it is back", n)
		}
		synctest.Wait() // for whoever looks whether the host is there
		network.reached = false
		connect()
		if n := lines("do not reach"); n != 3 {
			t.Errorf("said %d times after it was back", n)
		}
	})
}

func TestOnlyTheTransportsErrorsAreNotErrorsOfTheNode(t *testing.T) {
	var out bytes.Buffer
	before := raftLog.Load()
	raftLog.Store(slog.New(slog.NewTextHandler(&out, nil)))
	defer raftLog.Store(before)
	lineLogger{"transport"}.Errorf("failed to get a connection")
	lineLogger{"logdb"}.Errorf("a write failed")
	if got := out.String(); strings.Contains(got, "connection") || !strings.Contains(got, "level=ERROR") || !strings.Contains(got, "a write failed") {
		t.Errorf("logged: %s", got)
	}
}

func TestWhatDragonboatCanNotGoOnWithEndsTheProcessWithItsReason(t *testing.T) {
	before := raftLog.Load()
	raftLog.Store(slog.New(slog.DiscardHandler))
	defer raftLog.Store(before)
	var reason error
	fatal := func(err error) { reason = err }
	raftFatal.Store(&fatal)
	defer raftFatal.Store(nil)
	give := func() error { lineLogger{"logdb"}.Panicf("entry %d is missing", 7); return nil }

	if err := guarded(give); err == nil || !strings.Contains(err.Error(), "entry 7 is missing") || reason != nil {
		t.Errorf("while it opens: error %v, and the process ends because: %v", err, reason)
	}
	func() {
		defer func() { _ = recover() }()
		_ = give()
	}()
	if reason == nil || !strings.Contains(reason.Error(), "entry 7 is missing") {
		t.Errorf("the process ends because: %v", reason)
	}
}
