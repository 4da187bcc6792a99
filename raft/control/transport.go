package control

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// stream is the network as raft uses it. It remembers its connections to close
// them: raft's transport leaves those that it accepted and those in its pool
// open when it is closed, each with a goroutine that reads.
type stream struct {
	net.Listener
	mu struct {
		sync.Mutex
		open   map[net.Conn]struct{}
		closed bool
	}
}

var _ raft.StreamLayer = (*stream)(nil)

func openTransport(cfg Config) (raft.Transport, error) {
	if cfg.sole() {
		_, t := raft.NewInmemTransport("local")
		return t, nil
	}
	listener, err := net.Listen("tcp", cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("control group: listen on %s: %w", cfg.Address, err)
	}
	s := &stream{Listener: listener}
	s.mu.open = make(map[net.Conn]struct{})
	return raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		ServerAddressProvider: peers(cfg.Peers),
		Logger:                hashicorpLog(cfg.Log, cfg.sole()),
		Stream:                s,
		MaxPool:               connections,
		Timeout:               networkTimeout,
	}), nil
}

func closeTransport(t raft.Transport) error {
	if c, ok := t.(raft.WithClose); ok {
		return c.Close()
	}
	return nil
}

func (s *stream) Accept() (net.Conn, error) {
	c, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return s.keep(c)
}

func (s *stream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	c, err := net.DialTimeout("tcp", string(address), timeout)
	if err != nil {
		return nil, err
	}
	return s.keep(c)
}

func (s *stream) Close() error {
	s.mu.Lock()
	s.mu.closed = true
	open := s.mu.open
	s.mu.open = nil
	s.mu.Unlock()
	err := s.Listener.Close()
	for c := range open {
		err = errors.Join(err, c.Close())
	}
	return err
}

func (s *stream) keep(c net.Conn) (net.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return nil, errors.Join(net.ErrClosed, c.Close())
	}
	s.mu.open[c] = struct{}{}
	return &connection{Conn: c, stream: s}, nil
}

// connection is forgotten by its stream when it is closed.
type connection struct {
	net.Conn
	stream *stream
}

func (c *connection) Close() error {
	c.stream.mu.Lock()
	delete(c.stream.mu.open, c.Conn)
	c.stream.mu.Unlock()
	return c.Conn.Close()
}

// peers tells where voters are, whatever the log says: they may have moved.
type peers map[string]string

func (p peers) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	if address, ok := p[string(id)]; ok {
		return raft.ServerAddress(address), nil
	}
	return "", fmt.Errorf("no address is known of node %s", id)
}
