package peer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Channel is what a connection is for.
type Channel byte

const (
	Control Channel = iota + 1 // the control group's raft
	Shards                     // the data shards' raft
	Calls                      // requests of one node to another
	channels
)

// Config is the configuration of a Network. Address and Node are required.
type Config struct {
	// Address is the host:port that other nodes reach this one at. It listens there.
	Address string
	// Node is this node's name.
	Node string
	// Cluster returns the id of the cluster that the node belongs to, "" while it
	// belongs to none. Nil is always "".
	Cluster func() string
	// Token is a secret that the nodes of the cluster share: each connection begins
	// with both sides proving that they have it. Empty asks for none. It keeps
	// strangers out; it does not encrypt.
	Token string
	// Dialer opens connections; the system's if it is nil.
	Dialer func(ctx context.Context, address string) (net.Conn, error)
	// PieceWait is how long a request's body may bring nothing while it is read: its
	// sender may hang with a connection that does not break. Default 2 min.
	PieceWait time.Duration
	// IdleFor is how long a connection is kept for the next request. Default 1 min.
	IdleFor time.Duration
	// SendLag is how far the end of the sending of a request may be behind an answer
	// that came for the whole of it, for the connection to be kept. Default 5 ms.
	SendLag time.Duration
	Log     *slog.Logger
}

// Network is a node's side of the network. It is safe for concurrent use.
type Network struct {
	cfg      Config
	process  string // drawn at the start: tells this node from another of its name
	listener net.Listener
	incoming [channels]*listener
	workers  sync.WaitGroup

	mu struct {
		sync.Mutex
		open   map[net.Conn]struct{}
		closed bool
	}
}

const (
	// greetingWait bounds how long a greeting may take.
	greetingWait = 5 * time.Second
	// backlog is how many connections of a channel wait to be accepted. More are
	// closed: their callers come again.
	backlog = 64
	// greeting bounds the connections that have not been greeted yet.
	greetings = 256
	keepAlive = 15 * time.Second
	// refusalWait bounds how long a refusal waits to be read.
	refusalWait = 200 * time.Millisecond
	// pieceWait is longer than clients whose bodies are passed on stand still, and than
	// the silence after which a part that sends all the time gives the other side up.
	pieceWait = 2 * time.Minute
	idleFor   = time.Minute
	// sendLag is lost whenever a request is answered before its end.
	sendLag = 5 * time.Millisecond
)

// Listen opens the node's address.
func Listen(cfg Config) (*Network, error) {
	if cfg.Cluster == nil {
		cfg.Cluster = func() string { return "" }
	}
	if cfg.Dialer == nil {
		dialer := &net.Dialer{KeepAlive: keepAlive}
		cfg.Dialer = func(ctx context.Context, address string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", address)
		}
	}
	if cfg.PieceWait == 0 {
		cfg.PieceWait = pieceWait
	}
	if cfg.IdleFor == 0 {
		cfg.IdleFor = idleFor
	}
	if cfg.SendLag == 0 {
		cfg.SendLag = sendLag
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	l, err := net.Listen("tcp", cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("listen for other nodes on %s: %w", cfg.Address, err)
	}
	n := &Network{cfg: cfg, process: rand.Text(), listener: l}
	n.mu.open = make(map[net.Conn]struct{})
	for ch := Control; ch < channels; ch++ {
		n.incoming[ch] = &listener{network: n, conns: make(chan net.Conn, backlog), closed: make(chan struct{})}
	}
	n.workers.Go(n.accept)
	return n, nil
}

// Address is where the node listens.
func (n *Network) Address() string { return n.listener.Addr().String() }

// Channel returns the listener of a channel. Closing it ends only that channel.
func (n *Network) Channel(ch Channel) net.Listener { return n.incoming[ch] }

// On returns the network as a part sees it that has a channel to itself.
func (n *Network) On(ch Channel) ChannelNetwork { return ChannelNetwork{n, ch} }

// ChannelNetwork is one channel of a Network.
type ChannelNetwork struct {
	network *Network
	channel Channel
}

// Listener is where connections of other nodes come in on the channel.
func (c ChannelNetwork) Listener() net.Listener { return c.network.Channel(c.channel) }

// Dial connects to the node at an address on the channel.
func (c ChannelNetwork) Dial(ctx context.Context, address string) (net.Conn, error) {
	return c.network.Dial(ctx, c.channel, address)
}

// Dial opens a connection on a channel of the node at an address. A *Refusal says
// why that node does not take it.
func (n *Network) Dial(ctx context.Context, ch Channel, address string) (net.Conn, error) {
	conn, err := n.dial(ctx, ch, address)
	if err != nil {
		return nil, fmt.Errorf("connect to the node at %s: %w", address, err)
	}
	return conn, nil
}

func (n *Network) dial(ctx context.Context, ch Channel, address string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, greetingWait)
	defer cancel()
	raw, err := n.cfg.Dialer(ctx, address)
	if err != nil {
		return nil, err
	}
	conn, err := n.keep(raw)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = raw.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err = n.introduce(conn, ch); err == nil && !stop() {
		err = ctx.Err()
	}
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// introduce greets the node that was called and reads its answer.
func (n *Network) introduce(conn net.Conn, ch Channel) error {
	g := greeting{channel: ch, cluster: n.cfg.Cluster(), node: n.cfg.Node, process: n.process}
	if n.cfg.Token != "" {
		g.nonce = newNonce()
	}
	text, err := g.append(nil)
	if err != nil {
		return err
	}
	if _, err := conn.Write(text); err != nil {
		return err
	}
	if n.cfg.Token != "" {
		return prove(conn, n.cfg.Token, string(text))
	}
	return readAnswer(conn)
}

// accept takes connections until the listener is closed.
func (n *Network) accept() {
	room := make(chan struct{}, greetings)
	for {
		raw, err := n.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			n.cfg.Log.Warn("a connection of another node was not accepted", "error", err)
			time.Sleep(10 * time.Millisecond) // out of descriptors, mostly: others may end meanwhile
			continue
		}
		room <- struct{}{}
		n.workers.Go(func() {
			defer func() { <-room }()
			n.greet(raw)
		})
	}
}

// greet reads the greeting of a connection and passes it to its channel.
func (n *Network) greet(raw net.Conn) {
	conn, err := n.keep(raw)
	if err != nil {
		return
	}
	_ = raw.SetDeadline(time.Now().Add(greetingWait))
	g, err := readGreeting(conn)
	var proof []byte
	if err == nil {
		proof, err = n.challenge(conn, g)
	}
	if err == nil {
		err = n.admit(g)
	}
	if err != nil {
		var refusal *Refusal
		if errors.As(err, &refusal) {
			// What is not read yet would make the system drop the answer.
			if refusal.write(conn) == nil && raw.SetDeadline(time.Now().Add(refusalWait)) == nil {
				_, _ = io.CopyN(io.Discard, conn, textMost)
			}
		}
		n.cfg.Log.Log(context.Background(), refusalLevel(err), "a connection of another node was refused",
			"from", raw.RemoteAddr().String(), "node", g.node, "reason", err)
		_ = conn.Close()
		return
	}
	if err := writeTaken(conn, proof); err != nil || raw.SetDeadline(time.Time{}) != nil {
		_ = conn.Close()
		return
	}
	n.incoming[g.channel].pass(conn)
}

// admit tells why a greeting is not taken.
func (n *Network) admit(g greeting) error {
	own := n.cfg.Cluster()
	switch {
	case g.channel == 0 || g.channel >= channels:
		return &Refusal{ReasonVersion, fmt.Sprintf("channel %d is not known here", g.channel)}
	case g.process == n.process:
		return &Refusal{ReasonSelf, fmt.Sprintf("the address is that of node %s itself", n.cfg.Node)}
	case g.node == n.cfg.Node:
		return &Refusal{ReasonName, fmt.Sprintf("both nodes are named %q: each needs a name of its own", g.node)}
	case g.cluster != "" && own != "" && g.cluster != own:
		return &Refusal{ReasonCluster, fmt.Sprintf("node %s belongs to cluster %s, node %s to cluster %s: one of them was started with the data or the addresses of the other", g.node, g.cluster, n.cfg.Node, own)}
	case g.channel != Calls && g.cluster != own:
		return &Refusal{ReasonEarly, fmt.Sprintf("one of the nodes %s and %s does not belong to the cluster yet", g.node, n.cfg.Node)}
	}
	return nil
}

// refusalLevel is how loud a refusal is: a node that looks for its own address, and
// one that is a moment ahead of the other, are nothing to tell of.
func refusalLevel(err error) slog.Level {
	if refusal, ok := errors.AsType[*Refusal](err); ok && (refusal.Reason == ReasonSelf || refusal.Reason == ReasonEarly) {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

// keep has a connection closed with the network.
func (n *Network) keep(raw net.Conn) (net.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mu.closed {
		return nil, errors.Join(net.ErrClosed, raw.Close())
	}
	n.mu.open[raw] = struct{}{}
	return &connection{Conn: raw, network: n}, nil
}

// connection is forgotten by its network when it is closed.
type connection struct {
	net.Conn
	network *Network
}

func (c *connection) Close() error {
	c.network.mu.Lock()
	delete(c.network.mu.open, c.Conn)
	c.network.mu.Unlock()
	return c.Conn.Close()
}

// Close ends the network and every connection of it.
func (n *Network) Close() error {
	n.mu.Lock()
	if n.mu.closed {
		n.mu.Unlock()
		return nil
	}
	n.mu.closed = true
	open := n.mu.open
	n.mu.open = nil
	n.mu.Unlock()
	err := n.listener.Close()
	for conn := range open {
		_ = conn.Close()
	}
	for ch := Control; ch < channels; ch++ {
		_ = n.incoming[ch].Close()
	}
	n.workers.Wait()
	return err
}

// listener is the net.Listener of a channel.
type listener struct {
	network *Network
	conns   chan net.Conn
	once    sync.Once
	closed  chan struct{}
}

func (l *listener) pass(conn net.Conn) {
	select {
	case <-l.closed:
	case l.conns <- conn:
		return
	default:
	}
	_ = conn.Close()
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *listener) Addr() net.Addr { return l.network.listener.Addr() }
