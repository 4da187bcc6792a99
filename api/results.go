package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// waiting is how long a request waits for a session, and what for.
type waiting struct {
	wait        time.Duration
	untilOutput bool
}

func (r *request) waiting() (waiting, error) {
	wait, err := r.query.duration("wait", maxWait)
	if err != nil {
		return waiting{}, err
	}
	until, err := r.query.choice("until", "end", "output")
	if err != nil {
		return waiting{}, err
	}
	if until != "" && !r.query.has("wait") {
		return waiting{}, spec.Errorf(spec.CodeInvalid, "until=%s without wait: say how long, as in wait=10s", until).WithField("wait")
	}
	return waiting{wait, until == "output"}, nil
}

// invoke puts the body into the function's inbox; with ?wait= it answers what
// becomes of it.
func invoke(r *request) error {
	w, err := r.waiting()
	if err != nil {
		return err
	}
	i := Invoke{App: r.app, Function: r.function, Body: &r.body, Size: r.body.size, Traceparent: r.traceparent()}
	if i.ContentType, err = r.contentType(); err != nil {
		return err
	}
	if i.Meta, err = r.meta(); err != nil {
		return err
	}
	if i.SessionTimeout, err = r.query.sessionTimeout(); err != nil {
		return err
	}
	if i.IdempotencyKey, err = r.idempotencyKey(); err != nil {
		return err
	}
	put, err := r.s.backend.Invoke(r.ctx, i)
	if err != nil {
		return err
	}
	if !r.query.has("wait") {
		return r.answerPut(http.StatusAccepted, put)
	}
	result, err := r.await(put.Session, w)
	if spec.CodeOf(err) == spec.CodeNotFound { // it was there: a repeated request's may be long gone
		err = noResult(put.Session)
	}
	if err != nil {
		return withSession(put.Session, err)
	}
	r.setSession(put.Session)
	return r.answerInvocation(result, w)
}

// noResult is the error for a session that a request has started, at some time,
// and that is not kept any more.
func noResult(session spec.SessionID) error {
	return spec.Errorf(spec.CodeNotFound, "session %s has ended, and its result is no longer kept", session).
		WithHint("a session is kept for its app's retention; to run the function again, use a new idempotency key")
}

// answerInvocation answers a caller who sees a session as the call of a function.
func (r *request) answerInvocation(result wire.Result, w waiting) error {
	switch result.Status {
	case wire.SessionFailed:
		return failedSession(result)
	case wire.SessionCancelled:
		return &sessionError{session: result.Session, err: spec.Errorf(spec.CodeCancelled, "session %s was cancelled", result.Session)}
	case wire.SessionRunning:
		if !w.untilOutput || len(result.Outputs) == 0 {
			return &sessionError{session: result.Session, err: spec.Errorf(spec.CodeTimeout, "session %s goes on after %s", result.Session, shortDuration(w.wait)).
				WithHint("GET …/sessions/" + string(result.Session) + "/result?wait= waits on")}
		}
	}
	if len(result.Outputs) == 1 {
		output := result.Outputs[0]
		r.fh.SetContentType(bodyType(output.ContentType))
		r.sandbox()
		r.fh.Response.SetBodyRaw(output.Data)
		return nil
	}
	return r.answerResult(result)
}

func failedSession(result wire.Result) error {
	e := &sessionError{session: result.Session, cause: result.Error}
	f := result.Error
	switch {
	case f == nil:
		e.err = spec.Errorf(spec.CodeSessionFailed, "session %s failed", result.Session)
	case f.Function == "": // of the session itself, as its deadline
		e.err = spec.Errorf(spec.CodeSessionFailed, "session %s failed: %s", result.Session, f.Message)
	case f.Attempts > 1:
		e.err = spec.Errorf(spec.CodeSessionFailed, "function %s %s after %d attempts: %s", f.Function, f.Kind, f.Attempts, f.Message)
	default:
		e.err = spec.Errorf(spec.CodeSessionFailed, "function %s %s: %s", f.Function, f.Kind, f.Message)
	}
	return e
}

// getResult answers what a session has come to by the end of the wait, whatever
// that is.
func getResult(r *request) error {
	w, err := r.waiting()
	if err != nil {
		return err
	}
	result, err := r.await(r.session, w)
	if err != nil {
		return err
	}
	r.setSession(r.session)
	return r.answerResult(result)
}

// await waits for a session as long as the client does, and the node.
func (r *request) await(session spec.SessionID, w waiting) (wire.Result, error) {
	if w.wait > 0 {
		if r.s.waits.Add(1) > int64(r.s.cfg.MaxWaits) {
			r.s.waits.Add(-1)
			return wire.Result{}, spec.Errorf(spec.CodeOverloaded, "%d requests wait here already: ask for the result later", r.s.cfg.MaxWaits)
		}
		r.s.metrics.waits.Inc()
		defer func() { r.s.waits.Add(-1); r.s.metrics.waits.Dec() }()
	}
	ctx, cancel := context.WithTimeout(r.s.stopping, w.wait+r.s.cfg.RequestTimeout)
	defer cancel()
	if c, ok := r.fh.Conn().(*conn); ok && w.wait > 0 {
		defer c.whenGone(cancel)()
	}
	result, err := r.s.backend.Result(ctx, r.app, session, w.wait, w.untilOutput)
	if err != nil {
		return wire.Result{}, err
	}
	result.Outputs = orEmpty(result.Outputs)
	return result, nil
}

// withSession says which session an error leaves behind.
func withSession(session spec.SessionID, err error) error {
	e, ok := errors.AsType[*spec.Error](err)
	switch {
	case ok:
	case errors.Is(err, context.Canceled):
		e = spec.Errorf(spec.CodeUnavailable, "the node is stopping; session %s goes on", session)
	case errors.Is(err, context.DeadlineExceeded):
		e = spec.Errorf(spec.CodeTimeout, "session %s goes on, and did not answer in time", session)
	default:
		return err
	}
	return &sessionError{session: session, err: e}
}

// answerResult answers a session's result as JSON, or as the client prefers in
// parts.
func (r *request) answerResult(result wire.Result) error {
	if !strings.Contains(strings.ToLower(string(r.fh.Request.Header.Peek("Accept"))), "multipart/mixed") {
		return r.json(http.StatusOK, result)
	}
	out, boundary, err := inParts(result)
	if err != nil {
		return err
	}
	r.fh.SetContentType("multipart/mixed; boundary=" + boundary)
	r.fh.Response.SetBodyRaw(out)
	return nil
}

// inParts writes the result without the outputs' data as the first part, and
// each output as a part of its own.
func inParts(result wire.Result) ([]byte, string, error) {
	var out bytes.Buffer
	w := multipart.NewWriter(&out)
	head := result
	head.Outputs = make([]wire.Output, len(result.Outputs))
	for i, o := range result.Outputs {
		o.Data = nil
		head.Outputs[i] = o
	}
	text, err := json.Marshal(head)
	if err != nil {
		return nil, "", fmt.Errorf("encode result: %w", err)
	}
	write := func(h textproto.MIMEHeader, data []byte) {
		h.Set("Content-Length", strconv.Itoa(len(data)))
		part, _ := w.CreatePart(h) // writes to memory do not fail
		_, _ = part.Write(data)
	}
	write(textproto.MIMEHeader{"Content-Type": {"application/json"}}, text)
	for _, o := range result.Outputs {
		write(textproto.MIMEHeader{
			"Content-Type":    {bodyType(o.ContentType)},
			wire.HeaderBucket: {string(o.Bucket)},
			wire.HeaderKey:    {url.PathEscape(string(o.Key))},
		}, o.Data)
	}
	_ = w.Close()
	return out.Bytes(), w.Boundary(), nil
}
