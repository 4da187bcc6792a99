package api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"

	"github.com/valyala/fasthttp"
)

// Server serves the HTTP API over one listener. New makes it, Serve runs it
// until Shutdown.
type Server struct {
	cfg     Config
	backend Backend
	log     *slog.Logger
	http    *fasthttp.Server
	metrics *metrics
	hosts   hostRules
	routes  *routeTree
	ids     requestIDs

	// base ends when what is still under way at the end of Shutdown has to
	// stop; stopping ends as soon as Shutdown begins and takes with it what
	// would otherwise last: streams and waits.
	base      context.Context
	endBase   context.CancelFunc
	stopping  context.Context
	beginStop context.CancelFunc

	streams   atomic.Int64 // open, at most Config.MaxStreams
	waits     atomic.Int64 // under way, at most Config.MaxWaits
	producers sync.WaitGroup

	conns struct {
		sync.Mutex
		open     map[net.Conn]fasthttp.ConnState
		listener net.Listener
		stopped  bool
	}
}

// New makes a server of backend. Zero fields of cfg take their defaults.
func New(cfg Config, backend Backend, log *slog.Logger) *Server {
	s := &Server{cfg: cfg.withDefaults(), backend: backend, log: log}
	s.base, s.endBase = context.WithCancel(context.Background())
	s.stopping, s.beginStop = context.WithCancel(s.base)
	s.routes = newRouteTree(routes())
	s.metrics = newMetrics(s.cfg.Registry, s.routes.all)
	s.ids = newRequestIDs()
	s.conns.open = make(map[net.Conn]fasthttp.ConnState)
	s.http = &fasthttp.Server{
		Handler:        s.handle,
		ErrorHandler:   s.handleBroken,
		ExpectHandler:  s.handleExpect,
		HeaderReceived: s.headerReceived,
		ConnState:      s.trackConn,
		Logger:         fasthttpLog{log},

		Concurrency:     maxConns,
		ReadBufferSize:  s.cfg.MaxHeaderBytes,
		WriteBufferSize: 16 << 10,
		ReadTimeout:     s.cfg.HeaderTimeout,
		WriteTimeout:    s.cfg.WriteTimeout,
		IdleTimeout:     s.cfg.IdleTimeout,

		// Bodies are read by the handlers, through a reader that holds the
		// limit of their route: a streamed body knows no limit by itself.
		StreamRequestBody:            true,
		DisablePreParseMultipartForm: true,
		SecureErrorLogMessage:        true, // request bytes may hold secrets
		NoDefaultServerHeader:        true,
		NoDefaultContentType:         true,
		TCPKeepalive:                 true,
		CloseOnShutdown:              true,
	}
	return s
}

// Serve answers requests on l until Shutdown, then returns nil. It may be
// called once.
func (s *Server) Serve(l net.Listener) error {
	s.conns.Lock()
	s.conns.listener = l
	stopped := s.conns.stopped
	s.conns.Unlock()
	if stopped {
		return l.Close()
	}
	s.hosts = newHostRules(s.cfg.AllowedHosts, l.Addr())
	if err := s.http.Serve(listener{l}); err != nil {
		return fmt.Errorf("serve http on %s: %w", l.Addr(), err)
	}
	return nil
}

// Shutdown stops taking requests, ends streams and waits, and returns when all
// requests are answered. When ctx ends before, the rest are cut off and ctx's
// error is returned.
func (s *Server) Shutdown(ctx context.Context) error {
	s.beginStop()
	s.closeListener()
	s.closeQuietConns()
	err := s.http.ShutdownWithContext(ctx)
	s.endBase()
	if errors.Is(err, net.ErrClosed) {
		err = nil // the listener is closed already
	}
	ended := make(chan struct{})
	go func() { s.producers.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err != nil {
		s.closeAllConns()
		return fmt.Errorf("shut down http: %w", err)
	}
	return nil
}

// closeListener also stops a Serve that is only about to begin, of which
// fasthttp does not know yet.
func (s *Server) closeListener() {
	s.conns.Lock()
	defer s.conns.Unlock()
	s.conns.stopped = true
	if s.conns.listener != nil {
		_ = s.conns.listener.Close()
	}
}

// headerReceived gives a request with a large body the time to send it.
func (s *Server) headerReceived(h *fasthttp.RequestHeader) fasthttp.RequestConfig {
	if size := h.ContentLength(); size != 0 && size != noLength {
		return fasthttp.RequestConfig{ReadTimeout: s.cfg.uploadTime(int64(size))}
	}
	return fasthttp.RequestConfig{}
}

// trackConn remembers the open connections, for Shutdown.
func (s *Server) trackConn(c net.Conn, state fasthttp.ConnState) {
	s.conns.Lock()
	defer s.conns.Unlock()
	if state == fasthttp.StateClosed {
		delete(s.conns.open, c)
		return
	}
	s.conns.open[c] = state
}

// closeQuietConns closes the connections that no request is under way on.
func (s *Server) closeQuietConns() {
	s.conns.Lock()
	defer s.conns.Unlock()
	for c, state := range s.conns.open {
		if state == fasthttp.StateNew || state == fasthttp.StateIdle {
			_ = c.Close()
		}
	}
}

func (s *Server) closeAllConns() {
	s.conns.Lock()
	defer s.conns.Unlock()
	for c := range s.conns.open {
		if c, ok := c.(*conn); ok {
			c.unread.Store(false)
		}
		_ = c.Close()
	}
}

// fasthttpLog takes what fasthttp itself has to say: trouble with connections,
// which clients cause at will and operators seldom need.
type fasthttpLog struct{ log *slog.Logger }

func (l fasthttpLog) Printf(format string, args ...any) {
	l.log.Debug("http connection", "event", fmt.Sprintf(format, args...))
}
