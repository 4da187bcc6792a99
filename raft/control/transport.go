package control

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// stream is the network as raft uses it. Raft calls a server by its name here,
// and stream looks up where it is at each new connection: it may have moved.
//
// A connection begins with the name of the server that is meant, which answers
// with a byte. Raft itself would take the answers of a node that has the address
// of another now for those of the other, and count its copy twice.
//
// It remembers its connections to close them: raft's transport leaves those that
// it accepted and those in its pool open when it is closed, each with a goroutine
// that reads.
type stream struct {
	net.Listener
	cfg    Config
	find   func(server string) []string // where a server may be, likeliest first
	ctx    context.Context              // ends when the stream is closed
	cancel context.CancelFunc

	mu struct {
		sync.Mutex
		open   map[net.Conn]struct{}
		heard  map[string]time.Time // when a server last answered
		closed bool
	}
}

var (
	_ raft.StreamLayer           = (*stream)(nil)
	_ raft.ServerAddressProvider = (*stream)(nil)
)

func openStream(cfg Config, find func(string) []string) *stream {
	s := &stream{Listener: cfg.Listener, cfg: cfg, find: find}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.mu.open, s.mu.heard = make(map[net.Conn]struct{}), make(map[string]time.Time)
	return s
}

func (s *stream) transport() *transport {
	return &transport{NetworkTransport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		ServerAddressProvider: s,
		Logger:                hashicorpLog(s.cfg.Log, false),
		Stream:                s,
		MaxPool:               connections,
		// No pipelines: a leader that stops while a follower goes away may wait for ever
		// to hand a request to one whose reader has ended. The group has few entries.
		MaxRPCsInFlight: 1,
		Timeout:         networkTimeout,
	})}
}

// ServerAddr has raft call a server by its name.
func (s *stream) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	return raft.ServerAddress(id), nil
}

// Addr is where others reach this node, which the listener may not know.
func (s *stream) Addr() net.Addr { return advertised(s.cfg.Address) }

type advertised string

func (advertised) Network() string  { return "tcp" }
func (a advertised) String() string { return string(a) }

func (s *stream) Accept() (net.Conn, error) {
	raw, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if err := s.keep(raw); err != nil {
		return nil, err
	}
	return &accepted{Conn: raw, stream: s}, nil
}

const (
	// dialHold is how long a call waits for a server that can't be reached. Raft
	// doubles its own wait with each call that fails, up to 10 s, and a server that
	// is back would be told nothing for so long: here it is tried again soon.
	dialHold  = time.Minute
	dialAgain = 100 * time.Millisecond
)

// Dial connects to a server, given by its name. It waits for one that is down.
func (s *stream) Dial(server raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(s.ctx, dialHold)
	defer cancel()
	for {
		conn, err := s.reach(ctx, string(server), timeout)
		if err == nil {
			return conn, nil
		}
		select {
		case <-time.After(dialAgain):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// reach tries the addresses of a server.
func (s *stream) reach(ctx context.Context, server string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	places := s.find(server)
	if len(places) == 0 {
		return nil, fmt.Errorf("no address is known of node %s", server)
	}
	var errs []error
	for i, address := range places {
		conn, err := s.dial(ctx, server, address, len(places)-i)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// dial tries one address with its part of the time that is left for so many.
func (s *stream) dial(ctx context.Context, server, address string, left int) (net.Conn, error) {
	if end, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(end)/time.Duration(left))
		defer cancel()
	}
	raw, err := s.cfg.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	if err := s.keep(raw); err != nil {
		return nil, err
	}
	conn := &dialled{Conn: raw, stream: s, server: server}
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	err = conn.greet()
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("node %s is not at %s: %w", server, address, err), conn.Close())
	}
	return conn, nil
}

// Close ends the stream and every connection of it.
func (s *stream) Close() error {
	s.cancel()
	s.mu.Lock()
	s.mu.closed = true
	open := s.mu.open
	s.mu.open = nil
	s.mu.Unlock()
	err := s.Listener.Close()
	for c := range open {
		_ = c.Close()
	}
	return err
}

func (s *stream) keep(c net.Conn) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return errors.Join(net.ErrClosed, c.Close())
	}
	s.mu.open[c] = struct{}{}
	return nil
}

func (s *stream) forget(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mu.open, c)
}

func (s *stream) heard(server string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.heard[server] = time.Now()
}

// lastHeard returns when a server last answered this node, zero if it never did.
func (s *stream) lastHeard(server string) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.heard[server]
}

// taken is the answer of the server that is meant.
const taken = 1

// dialled is a connection to a server: what it answers is the sign that it lives.
type dialled struct {
	net.Conn
	stream *stream
	server string
}

func (c *dialled) greet() error {
	if len(c.server) > 255 {
		return fmt.Errorf("the name has %d bytes, 255 are possible", len(c.server))
	}
	if _, err := c.Conn.Write(append([]byte{byte(len(c.server))}, c.server...)); err != nil {
		return err
	}
	var answer [1]byte
	if _, err := io.ReadFull(c.Conn, answer[:]); err != nil {
		return fmt.Errorf("it did not take the connection: %w", err)
	}
	if answer[0] != taken {
		return fmt.Errorf("it answered %d", answer[0])
	}
	return nil
}

func (c *dialled) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.stream.heard(c.server)
	}
	return n, err
}

func (c *dialled) Close() error {
	c.stream.forget(c.Conn)
	return c.Conn.Close()
}

// accepted is a connection from another member. Its greeting is read by the
// first Read, on the goroutine that raft has for it.
type accepted struct {
	net.Conn
	stream *stream
	met    bool
}

func (c *accepted) Read(b []byte) (int, error) {
	if !c.met {
		if err := c.meet(); err != nil {
			return 0, err
		}
		c.met = true
	}
	return c.Conn.Read(b)
}

func (c *accepted) meet() error {
	var size [1]byte
	if _, err := io.ReadFull(c.Conn, size[:]); err != nil {
		return err
	}
	name := make([]byte, size[0])
	if _, err := io.ReadFull(c.Conn, name); err != nil {
		return err
	}
	if string(name) != c.stream.cfg.Node {
		_ = c.Close() // which tells the caller
		return io.EOF // raft logs other errors for each attempt
	}
	_, err := c.Conn.Write([]byte{taken})
	return err
}

func (c *accepted) Close() error {
	c.stream.forget(c.Conn)
	return c.Conn.Close()
}
