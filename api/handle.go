package api

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
	"github.com/valyala/fasthttp"
)

// handle serves one request, whatever becomes of it.
func (s *Server) handle(fh *fasthttp.RequestCtx) {
	r := s.newRequest(fh)
	defer s.finish(r)
	if err := r.admit(); err != nil {
		r.fail(err)
		return
	}
	r.body = newBody(fh, s.cfg.bodyLimit(r.route.body))
	r.ctx, r.cancel = r.deadline()
	err := r.route.handle(r)
	if err != nil && r.body.fault != nil {
		err = r.body.fault
	}
	if err != nil {
		r.fail(err)
	}
}

func (s *Server) newRequest(fh *fasthttp.RequestCtx) *request {
	r := &request{s: s, fh: fh, id: s.ids.make(), began: time.Now()}
	r.setHeader(wire.HeaderRequestID, r.id)
	r.setHeader("X-Content-Type-Options", "nosniff")
	return r
}

// admit finds the request's route and refuses what must not go further: all of
// it by the request line and headers alone.
func (r *request) admit() error {
	if err := r.s.hosts.check(r.fh); err != nil {
		return err
	}
	uri := r.fh.URI()
	if len(uri.Hash()) > 0 {
		return spec.Errorf(spec.CodeInvalid, "the request target holds a '#': in a key it is written %%23")
	}
	at, err := r.s.routes.find(string(uri.PathOriginal()), r.setParam)
	if err != nil {
		return err
	}
	if r.route = at.route(string(r.fh.Method())); r.route == nil {
		allow := at.methods()
		r.setHeader("Allow", strings.Join(allow, ", "))
		return spec.Errorf(spec.CodeNotAllowed, "%s is not possible here: use %s", clip(string(r.fh.Method())), oneOf(allow))
	}
	if gate := r.s.cfg.Gate; gate != nil && !r.route.early {
		if err := gate(); err != nil {
			return err
		}
	}
	if err := r.s.cfg.admitBody(r.fh, r.route.body); err != nil {
		return err
	}
	if r.query, err = parseQuery(string(uri.QueryString()), r.route.query); err != nil {
		return err
	}
	if r.route.lasting && !r.fh.Request.Header.IsHTTP11() {
		return spec.Errorf(spec.CodeInvalid, "a stream needs HTTP/1.1: older clients can't tell where it ends")
	}
	return nil
}

// route returns the route for a method. HEAD is GET without its body.
func (n *node) route(method string) *route {
	for _, r := range n.routes {
		if r.method == method {
			return r
		}
	}
	if method == http.MethodHead {
		for _, r := range n.routes {
			if r.method == http.MethodGet && !r.lasting {
				return r
			}
		}
	}
	return nil
}

func (n *node) methods() []string {
	var all []string
	for _, m := range []string{http.MethodDelete, http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut} {
		if n.route(m) != nil {
			all = append(all, m)
		}
	}
	return slices.Compact(all)
}

// deadline makes the context of the request. What may last ends as soon as the
// node begins to stop; the rest is given the time to be done.
func (r *request) deadline() (context.Context, context.CancelFunc) {
	if r.route.lasting {
		return context.WithCancel(r.s.stopping)
	}
	allowed := r.s.cfg.RequestTimeout
	if !r.body.ended {
		allowed += r.s.cfg.uploadTime(r.body.size)
	}
	return context.WithTimeout(r.s.base, allowed)
}

// errPanicked is answered as any internal error.
var errPanicked = errors.New("panicked")

// finish ends a request: with a panic it is answered, and the node goes on.
func (s *Server) finish(r *request) {
	if p := recover(); p != nil {
		s.log.Error("request panicked", "request_id", r.id, "route", r.pattern(), "panic", p, "stack", string(debug.Stack()))
		answerError(r.fh, errPanicked)
	}
	if r.cancel != nil {
		r.cancel()
	}
	if r.leavesBody() {
		r.closeAfter()
	}
	if s.stopping.Err() != nil {
		r.fh.SetConnectionClose()
	}
	s.metrics.count(r)
	if s.log.Enabled(context.Background(), slog.LevelDebug) {
		s.log.Debug("request", "request_id", r.id, "route", r.pattern(), "app", r.app,
			"status", r.fh.Response.StatusCode(), "took", time.Since(r.began))
	}
}

// fail answers err. What is the node's fault is logged, too.
func (r *request) fail(err error) {
	answerError(r.fh, err)
	if r.fh.Response.StatusCode() == http.StatusInternalServerError && spec.CodeOf(err) == spec.CodeInternal {
		r.s.log.Error("request failed", "request_id", r.id, "route", r.pattern(), "app", r.app, "error", err)
	}
}

func (r *request) pattern() string {
	if r.route == nil {
		return noRoute
	}
	return r.route.pattern
}

// leavesBody says whether more of the body is unread than is worth reading for
// the sake of the connection.
func (r *request) leavesBody() bool {
	const worthReading = 64 << 10
	size := int64(r.fh.Request.Header.ContentLength())
	switch {
	case size == noLength || size == 0 || r.body.ended:
		return false
	case r.body.fault != nil || size == -1:
		return true
	}
	return size-r.body.read > worthReading
}

// closeAfter closes the connection after the answer.
func (r *request) closeAfter() {
	r.fh.SetConnectionClose()
	markUnread(r.fh)
}

func markUnread(fh *fasthttp.RequestCtx) {
	if c, ok := fh.Conn().(*conn); ok {
		c.unread.Store(true)
	}
}

// handleBroken answers what fasthttp could not read as a request.
func (s *Server) handleBroken(fh *fasthttp.RequestCtx, err error) {
	r := s.newRequest(fh)
	answerError(fh, brokenRequest(err, s.cfg.MaxHeaderBytes))
	markUnread(fh)
	s.metrics.count(r)
}

// handleExpect decides, for a client that asks first, whether to have the body
// sent: what would be refused anyway is refused here.
func (s *Server) handleExpect(fh *fasthttp.RequestCtx) int {
	r := s.newRequest(fh)
	if err := r.admit(); err != nil {
		r.fail(err)
		r.closeAfter()
		s.metrics.count(r)
		return fh.Response.StatusCode()
	}
	fh.Response.Reset() // the request comes again, to handle, with its body
	return http.StatusContinue
}
