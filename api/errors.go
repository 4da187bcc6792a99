package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
	"github.com/valyala/fasthttp"
)

// statuses is the reference of error codes and their statuses. Every answer
// that is not a success has the body of wire.ErrorBody. Two statuses come with a
// code that otherwise stands for another one: 431 (too_large), for a request
// line and headers over the limit, and 408 (timeout), for a request that was not
// sent in time.
var statuses = map[spec.Code]int{
	spec.CodeInvalid:       http.StatusBadRequest,
	spec.CodeUnauthorized:  http.StatusUnauthorized,
	spec.CodeForbidden:     http.StatusForbidden,
	spec.CodeNotFound:      http.StatusNotFound,
	spec.CodeNotAllowed:    http.StatusMethodNotAllowed,
	spec.CodeTimeout:       http.StatusGatewayTimeout,
	spec.CodeConflict:      http.StatusConflict,
	spec.CodeGone:          http.StatusGone,
	spec.CodePrecondition:  http.StatusPreconditionFailed,
	spec.CodeTooLarge:      http.StatusRequestEntityTooLarge,
	spec.CodeUnsupported:   http.StatusUnsupportedMediaType,
	spec.CodeBadManifest:   http.StatusUnprocessableEntity,
	spec.CodeHashMismatch:  http.StatusUnprocessableEntity,
	spec.CodeOverloaded:    http.StatusTooManyRequests,
	spec.CodeInternal:      http.StatusInternalServerError,
	spec.CodeSessionFailed: http.StatusInternalServerError,
	spec.CodeCancelled:     http.StatusConflict,
	spec.CodeUnavailable:   http.StatusServiceUnavailable,
}

// statusError is an Error of the transport, with a status of its own.
type statusError struct {
	status int
	err    *spec.Error
}

func (e *statusError) Error() string { return e.err.Error() }
func (e *statusError) Unwrap() error { return e.err }

// sessionError is an Error that leaves a session behind.
type sessionError struct {
	session spec.SessionID
	cause   *wire.FunctionError // why the session failed, if it did
	err     *spec.Error
}

func (e *sessionError) Error() string { return e.err.Error() }
func (e *sessionError) Unwrap() error { return e.err }

// errorOf says what is answered for err: its status and its body. What is no
// spec.Error, or is an internal one, keeps its text here: it may hold anything.
func errorOf(err error) (int, wire.Error) {
	e, ok := errors.AsType[*spec.Error](err)
	switch {
	case ok && e.Code != spec.CodeInternal:
	case !ok && errors.Is(err, context.DeadlineExceeded):
		e = spec.Errorf(spec.CodeTimeout, "not done in time; it may still take effect").
			WithHint("repeat it with the same Idempotency-Key")
	case !ok && errors.Is(err, context.Canceled):
		e = spec.Errorf(spec.CodeUnavailable, "the node is stopping")
	default:
		e = spec.Errorf(spec.CodeInternal, "internal error").
			WithHint("the node's log tells more under the request id of this answer")
	}
	status, known := statuses[e.Code]
	if !known {
		status = http.StatusInternalServerError
	}
	out := wire.Error{Code: e.Code, Message: e.Message, Field: e.Field, Hint: e.Hint, Faults: e.Faults}
	if t, ok := errors.AsType[*statusError](err); ok {
		status = t.status
	}
	if s, ok := errors.AsType[*sessionError](err); ok {
		out.Session, out.Cause = s.session, s.cause
	}
	return status, out
}

// answerError replaces whatever answer there was by err.
func answerError(fh *fasthttp.RequestCtx, err error) {
	status, e := errorOf(err)
	fh.Response.ResetBody()
	h := &fh.Response.Header
	for _, name := range []string{"ETag", "Cache-Control", "Content-Range", "Content-Encoding", wire.HeaderRevision} {
		h.Del(name)
	}
	fh.SetStatusCode(status)
	if status == http.StatusTooManyRequests || status == http.StatusServiceUnavailable {
		h.Set("Retry-After", "1")
	}
	if e.Session != "" {
		h.Set(wire.HeaderSession, string(e.Session))
	}
	answerJSON(fh, wire.ErrorBody{Error: e})
}

func answerJSON(fh *fasthttp.RequestCtx, v any) {
	out, err := json.Marshal(v)
	if err != nil {
		panic(err) // wire types always encode: recovered and answered as internal
	}
	fh.SetContentType("application/json")
	fh.Response.SetBodyRaw(append(out, '\n'))
}

// brokenRequest says what was wrong with a request that fasthttp could not read.
func brokenRequest(err error, maxHeader int) error {
	if _, ok := errors.AsType[*fasthttp.ErrSmallBuffer](err); ok {
		return &statusError{http.StatusRequestHeaderFieldsTooLarge,
			spec.Errorf(spec.CodeTooLarge, "the request line and headers have more than %d bytes; an object's key has at most %d", maxHeader, spec.MaxKeyBytes)}
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		return &statusError{http.StatusRequestTimeout, spec.Errorf(spec.CodeTimeout, "the request was not sent in time")}
	}
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return spec.Errorf(spec.CodeInvalid, "the request broke off")
	}
	return spec.Errorf(spec.CodeInvalid, "this is no well-formed HTTP/1.1 request")
}
