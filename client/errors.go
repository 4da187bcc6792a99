package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

const maxErrorBytes = 4 << 20 // a manifest may have many faults

// Error is a call that failed. It wraps the *spec.Error that tells why.
type Error struct {
	Op      string         // what was being done, as in "put documents/x"
	Status  int            // of the HTTP answer; 0 if there was none
	Session spec.SessionID // set when a session was started and goes on
	Err     *spec.Error

	retryAfter time.Duration
	sent       bool // the server may have taken the request
}

func (e *Error) Error() string { return e.Op + ": " + e.Err.Message }

// Unwrap returns the *spec.Error.
func (e *Error) Unwrap() error { return e.Err }

// cutShort tells whether the caller's context ended in the middle of the call.
func (e *Error) cutShort() bool {
	return errors.Is(e, context.Canceled) || errors.Is(e, context.DeadlineExceeded)
}

// sentOnce says why the call is not sent again, though its failure would allow it.
func (e *Error) sentOnce() *Error {
	said := *e.Err
	said.Message += "; the body can't be read twice, so it was sent once"
	said.Hint = "send bytes or a file, or read the body into memory"
	e.Err = &said
	return e
}

// answerError reads the error that an answer holds, in whatever form it comes:
// a proxy between may answer with a page of its own.
func answerError(op string, resp *http.Response) *Error {
	e := &Error{
		Op:         op,
		Status:     resp.StatusCode,
		Session:    spec.SessionID(resp.Header.Get(wire.HeaderSession)),
		retryAfter: retryAfter(resp.Header.Get("Retry-After")),
		sent:       true,
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBytes))
	var said wire.ErrorBody
	if json.Unmarshal(body, &said) == nil && said.Error.Code != "" {
		e.Err = &spec.Error{
			Code: said.Error.Code, Message: said.Error.Message, Field: said.Error.Field,
			Hint: said.Error.Hint, Faults: said.Error.Faults,
		}
		if said.Error.Session != "" {
			e.Session = said.Error.Session
		}
		return e
	}
	message := fmt.Sprintf("the server answered %s", resp.Status)
	if text := strings.TrimSpace(string(body)); text != "" && len(text) <= 200 && strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") {
		message += ": " + text
	}
	e.Err = spec.Errorf(codeOfStatus(resp.StatusCode), "%s", message)
	return e
}

// transportError wraps what went wrong before there was an answer.
func transportError(ctx context.Context, op string, err error) *Error {
	switch ctx.Err() {
	case nil:
	case context.DeadlineExceeded:
		return &Error{Op: op, sent: true, Err: spec.Errorf(spec.CodeTimeout, "no answer in time: %w", ctx.Err())}
	default:
		return &Error{Op: op, sent: true, Err: spec.Errorf(spec.CodeTimeout, "%w", ctx.Err())}
	}
	var dial *net.OpError
	refused := errors.Is(err, syscall.ECONNREFUSED) || errors.As(err, &dial) && dial.Op == "dial"
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err // Op says what was done; the URL adds nothing to read
	}
	e := &Error{Op: op, sent: !refused, Err: spec.Errorf(spec.CodeUnavailable, "%w", err)}
	if refused {
		e.Err = e.Err.WithHint("is a node running there? `pheromone dev` starts one")
	}
	return e
}

func codeOfStatus(status int) spec.Code {
	switch status {
	case http.StatusBadRequest, http.StatusUnprocessableEntity:
		return spec.CodeInvalid
	case http.StatusUnauthorized:
		return spec.CodeUnauthorized
	case http.StatusForbidden:
		return spec.CodeForbidden
	case http.StatusNotFound:
		return spec.CodeNotFound
	case http.StatusMethodNotAllowed:
		return spec.CodeNotAllowed
	case http.StatusConflict:
		return spec.CodeConflict
	case http.StatusGone:
		return spec.CodeGone
	case http.StatusPreconditionFailed:
		return spec.CodePrecondition
	case http.StatusRequestEntityTooLarge:
		return spec.CodeTooLarge
	case http.StatusUnsupportedMediaType:
		return spec.CodeUnsupported
	case http.StatusTooManyRequests:
		return spec.CodeOverloaded
	case http.StatusBadGateway, http.StatusServiceUnavailable:
		return spec.CodeUnavailable
	case http.StatusGatewayTimeout:
		return spec.CodeTimeout
	}
	return spec.CodeInternal
}

func retryAfter(header string) time.Duration {
	seconds, err := strconv.Atoi(header)
	if err != nil || seconds < 0 {
		return 0
	}
	return time.Duration(min(seconds, 30)) * time.Second
}
