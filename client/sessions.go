package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// Forever, as the wait of Result and Invoke, waits until the context ends.
const Forever time.Duration = -1

const (
	pollWait  = 20 * time.Second // that one request asks the server to wait
	pollGrace = 15 * time.Second // after which a silent connection is given up
)

// InvokeOptions goes with an input.
type InvokeOptions struct {
	// Wait is how long to wait for the session's end; 0 returns once the input is
	// stored, Forever waits until the context ends.
	Wait time.Duration
	// SessionTimeout is how long the session may run before it fails; 0 leaves it to
	// the app.
	SessionTimeout time.Duration
	ContentType    string
	Meta           map[string]string
	IdempotencyKey string // as in PutOptions
	Traceparent    string
}

// Invoke runs a function with input and so starts a session.
//
// Without a wait the result names the session, running. With one it is the
// session's result; if the session failed, the error has CodeSessionFailed, if
// the time was up, CodeTimeout, and the session goes on. Either way the result
// names the session.
func (c *Client) Invoke(ctx context.Context, app spec.AppName, function spec.FunctionName, input io.Reader, o InvokeOptions) (wire.Result, error) {
	op := "invoke " + string(function)
	header, bad := putHeader(PutOptions{ContentType: o.ContentType, Meta: o.Meta, IdempotencyKey: o.IdempotencyKey, Traceparent: o.Traceparent})
	if bad != nil {
		return wire.Result{}, &Error{Op: op, Err: bad}
	}
	if input == nil {
		input = newBytes(nil)
	}
	query := url.Values{}
	setSessionTimeout(query, o.SessionTimeout)
	// Start and wait are two requests: the answer of an invoke that waits may be an
	// output's bytes or a result, and can't be asked for again when it is lost.
	var started wire.PutResult
	r := request{
		op: op, method: http.MethodPost, path: route("apps", string(app), "functions", string(function), "invoke"),
		query: query, header: header, body: input, repeatable: true,
	}
	// The node places the session by the key, so that it finds it again.
	slot := spec.KeySlot(app, spec.Inbox(function), spec.Key(header.Get(wire.HeaderIdempotencyKey)))
	answer, err := c.call(ctx, r.at(slot), &started)
	if err != nil {
		return wire.Result{}, err
	}
	session := started.Session
	if session == "" {
		session = spec.SessionID(answer.Get(wire.HeaderSession))
	}
	result := wire.Result{Session: session, Status: wire.SessionRunning}
	if o.Wait == 0 {
		return result, nil
	}
	result, err = c.Result(ctx, app, session, ResultOptions{Wait: o.Wait})
	if spec.CodeOf(err) == spec.CodeNotFound {
		err = NoResult(op, session)
	}
	if err != nil {
		return wire.Result{Session: session, Status: wire.SessionRunning}, err
	}
	return result, ResultError(op, result)
}

// NoResult is the error for a session that a put or an invoke has named and that
// is not kept any more: a request that is repeated under its idempotency key gets
// its answer for longer than the session it started is kept.
func NoResult(op string, session spec.SessionID) error {
	return &Error{Op: op, Status: http.StatusNotFound, Session: session,
		Err: spec.Errorf(spec.CodeNotFound, "session %s has ended, and its result is no longer kept", session).
			WithHint("a session is kept for its app's retention; to run it again, use a new idempotency key")}
}

// ResultError turns a result that is not a completed session's into the error
// that it means, nil otherwise.
func ResultError(op string, r wire.Result) error {
	e := &Error{Op: op, Session: r.Session}
	switch r.Status {
	case wire.SessionCompleted:
		return nil
	case wire.SessionFailed:
		e.Status, e.Err = http.StatusInternalServerError, spec.Errorf(spec.CodeSessionFailed, "session %s failed", r.Session)
		switch f := r.Error; {
		case f == nil:
		case f.Function == "": // of the session itself, as its deadline
			e.Err = spec.Errorf(spec.CodeSessionFailed, "%s", f.Message)
		case f.Attempts <= 1:
			e.Err = spec.Errorf(spec.CodeSessionFailed, "function %s %s: %s", f.Function, failureVerb(f.Kind), f.Message)
		default:
			e.Err = spec.Errorf(spec.CodeSessionFailed, "function %s %s after %d attempts: %s", f.Function, failureVerb(f.Kind), f.Attempts, f.Message)
		}
	case wire.SessionCancelled:
		e.Status, e.Err = http.StatusConflict, spec.Errorf(spec.CodeCancelled, "session %s was cancelled", r.Session)
	default:
		e.Status, e.Err = http.StatusGatewayTimeout, spec.Errorf(spec.CodeTimeout, "session %s is still running", r.Session)
	}
	return e
}

func failureVerb(kind string) string {
	switch kind {
	case "timeout":
		return "timed out"
	case "crashed":
		return "crashed"
	case "lost":
		return "was lost with its node"
	case "start":
		return "could not be started"
	case "conflict":
		return "put other bytes under a key that is taken"
	case "refused":
		return "was refused"
	case "cancelled":
		return "was cancelled"
	}
	return "failed"
}

// Session describes a session and what its triggers still wait for.
func (c *Client) Session(ctx context.Context, app spec.AppName, session spec.SessionID) (wire.Session, error) {
	var out wire.Session
	r := get("get session "+string(session), route("apps", string(app), "sessions", string(session)), nil)
	_, err := c.call(ctx, r.at(spec.SessionSlot(app, session)), &out)
	return out, err
}

// ResultOptions says what to wait for.
type ResultOptions struct {
	// Wait is how long to wait for the end; 0 returns what is there, Forever waits
	// until the context ends.
	Wait time.Duration
	// UntilOutput waits for the first output instead of the end.
	UntilOutput bool
}

// Result returns what a session came to. It asks again as long as the session
// runs and there is time, also when the node that it asks goes away; a result whose
// Status is running says that the wait is over, not that something failed.
func (c *Client) Result(ctx context.Context, app spec.AppName, session spec.SessionID, o ResultOptions) (wire.Result, error) {
	deadline := time.Now().Add(o.Wait)
	for {
		wait := pollWait
		if o.Wait >= 0 {
			wait = max(0, min(wait, time.Until(deadline)))
		}
		result, err := c.pollResult(ctx, app, session, wait, o.UntilOutput)
		timeIsUp := o.Wait >= 0 && time.Until(deadline) <= 0
		switch {
		case err != nil && (timeIsUp || ctx.Err() != nil || !mayComeBack(err) || !c.servers.reached()):
			return wire.Result{}, err
		case err != nil: // whoever waits longer than calls are repeated means to
		case result.Status != wire.SessionRunning, o.UntilOutput && len(result.Outputs) > 0, timeIsUp:
			return result, nil
		}
		// A server that answers before its time is up must not be hammered.
		if !pause(ctx, c.retry.Backoff) {
			return wire.Result{}, &Error{Op: "wait for session " + string(session), Session: session, Err: spec.Errorf(spec.CodeTimeout, "%w", ctx.Err())}
		}
	}
}

func (c *Client) pollResult(ctx context.Context, app spec.AppName, session spec.SessionID, wait time.Duration, untilOutput bool) (wire.Result, error) {
	query := url.Values{}
	if wait >= time.Millisecond {
		query.Set("wait", spec.FormatDuration(wait))
	}
	if untilOutput {
		query.Set("until", "output")
	}
	op := "wait for session " + string(session)
	poll, cancel := context.WithTimeout(ctx, wait+pollGrace)
	defer cancel()
	var result wire.Result
	r := get(op, route("apps", string(app), "sessions", string(session), "result"), query)
	r.wait = wait
	_, err := c.call(poll, r.at(spec.SessionSlot(app, session)), &result)
	if err == nil {
		return result, nil
	}
	if spec.CodeOf(err) == spec.CodeTimeout && ctx.Err() == nil { // only this poll is over
		return wire.Result{Session: session, Status: wire.SessionRunning}, nil
	}
	if e, ok := errors.AsType[*Error](err); ok && e.Session == "" {
		e.Session = session
	}
	return wire.Result{}, err
}

// HistoryOptions says which page of a history to return.
type HistoryOptions struct {
	After string
	Limit int // 1 to 1000; the server's default if 0
}

// History tells how a session ran: a page of its invocations, in the order they
// were queued, and on the first page at most 100 of its child sessions. Its Next,
// as After, leads to the next page.
func (c *Client) History(ctx context.Context, app spec.AppName, session spec.SessionID, o HistoryOptions) (wire.History, error) {
	var out wire.History
	r := get("get history of session "+string(session),
		route("apps", string(app), "sessions", string(session), "history"), pageQuery(o.After, o.Limit))
	_, err := c.call(ctx, r.at(spec.SessionSlot(app, session)), &out)
	return out, err
}

// Invocations yields all invocations of a session, fetching pages as it goes on.
func (c *Client) Invocations(ctx context.Context, app spec.AppName, session spec.SessionID) iter.Seq2[wire.Invocation, error] {
	return pages("", func(after string) ([]wire.Invocation, string, error) {
		history, err := c.History(ctx, app, session, HistoryOptions{After: after})
		return history.Invocations, history.Next, err
	})
}

// Cancel ends a session: what runs is stopped, nothing more is started.
func (c *Client) Cancel(ctx context.Context, app spec.AppName, session spec.SessionID) (wire.Session, error) {
	var out wire.Session
	r := request{
		op: "cancel session " + string(session), method: http.MethodPost,
		path: route("apps", string(app), "sessions", string(session), "cancel"), body: newBytes(nil),
		repeatable: true, // one that has ended stays as it is
	}
	_, err := c.call(ctx, r.at(spec.SessionSlot(app, session)), &out)
	return out, err
}

// Rerun starts a new session from the object that started this one, or from the
// stored object from ("bucket/key"). There is no key for it: one that a node may
// have taken is not sent again.
func (c *Client) Rerun(ctx context.Context, app spec.AppName, session spec.SessionID, from string) (wire.PutResult, error) {
	query := url.Values{}
	if from != "" {
		query.Set("from", from)
	}
	var out wire.PutResult
	r := request{
		op: "rerun session " + string(session), method: http.MethodPost,
		path: route("apps", string(app), "sessions", string(session), "rerun"), query: query, body: newBytes(nil),
	}
	_, err := c.call(ctx, r.at(spec.SessionSlot(app, session)), &out)
	return out, err
}

// Purge deletes a session that has ended, with its objects and history.
func (c *Client) Purge(ctx context.Context, app spec.AppName, session spec.SessionID) error {
	r := request{
		op: fmt.Sprintf("purge session %s", session), method: http.MethodDelete,
		path: route("apps", string(app), "sessions", string(session)),
	}
	_, err := c.call(ctx, r.at(spec.SessionSlot(app, session)), nil)
	return err
}
