package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/spec"
)

// request is one call of the API, as often as it takes.
type request struct {
	op     string // for errors
	method string
	path   string // made by route
	query  url.Values
	header http.Header
	body   io.Reader
	// repeatable says that sending it twice does no more than sending it once.
	repeatable bool
	// slot is where what it is about is placed, if placed says that it is.
	slot   spec.Slot
	placed bool
	wait   time.Duration // that it asks the server for
	// ofNamed has it answered by the servers that were named, not by others of
	// their cluster.
	ofNamed bool
}

// onlyReads tells that nothing is left open by a request that was cut short: it changes
// nothing, and does not wait at the server, where it runs out of its time unasked.
func (r request) onlyReads() bool { return r.method == http.MethodGet && r.wait == 0 }

// at says on which slot the thing is that r is about.
func (r request) at(slot spec.Slot) request {
	r.slot, r.placed = slot, true
	return r
}

// route escapes and joins the segments of a path below /v1. An encoded slash, or
// a segment of dots only, stays one segment.
func route(segments ...string) string {
	var b strings.Builder
	b.WriteString("/v1")
	for _, s := range segments {
		b.WriteByte('/')
		if s == "." || s == ".." {
			s = strings.ReplaceAll(s, ".", "%2E")
		} else {
			s = url.PathEscape(s)
		}
		b.WriteString(s)
	}
	return b.String()
}

// answer is a 2xx, and where it came from. Who gets one closes its Body.
type answer struct {
	*http.Response
	from *server
}

// do sends r until it is answered well, fails for good, or there is no more time.
func (c *Client) do(ctx context.Context, r request) (answer, error) {
	var got answer
	err := c.send(ctx, r, func(a answer) *Error {
		got = a
		return nil
	})
	return got, err
}

// send is do for who takes the answer at once: one that breaks off is asked for
// again, too.
func (c *Client) send(ctx context.Context, r request, take func(answer) *Error) error {
	body, err := newPayload(r.body)
	if err != nil {
		return &Error{Op: r.op, Err: spec.Errorf(spec.CodeInvalid, "reading the body: %w", err)}
	}
	began := time.Now()
	at, _ := c.servers.choose(&r)
	var before *Error // of the attempt before
	for attempt := 1; ; attempt++ {
		resp, failure := c.once(ctx, at, r, body)
		if failure == nil {
			failure = take(answer{resp, at})
		}
		if c.note(at, &r, failure); failure == nil {
			return nil
		}
		if failure.cutShort() && before != nil && r.onlyReads() {
			return before // which tells why there was no more time
		}
		if !mayRepeat(&r, failure) || c.over(attempt, began) {
			return failure
		}
		if !body.rewind(ctx) {
			if ctx.Err() == nil {
				return failure.sentOnce()
			}
			return failure
		}
		var notBefore time.Time
		at, notBefore = c.servers.choose(&r)
		wait := max(c.backoff(attempt), time.Until(notBefore))
		if failure.Status == http.StatusTooManyRequests { // by the one that leads, whoever passed it on
			wait = max(wait, failure.retryAfter)
		}
		c.retry.Again(failure)
		if !pause(ctx, wait) {
			return failure
		}
		before = failure
	}
}

// note remembers of at what an attempt has shown.
func (c *Client) note(at *server, r *request, failure *Error) {
	switch {
	case failure == nil:
		c.servers.answered(at, r)
	case failure.Status == http.StatusServiceUnavailable, failure.Status == http.StatusBadGateway:
		c.servers.refused(at, r, failure.retryAfter)
	case failure.Status != 0:
		c.servers.answeredOnce()
	case failure.Err.Code == spec.CodeUnavailable:
		c.servers.lost(at)
	default:
		return // the caller's doing
	}
	c.discovery.due(failure != nil && failure.Err.Code == spec.CodeUnavailable)
}

var errSilent = errors.New("the server has not answered for a while")

func (c *Client) once(ctx context.Context, at *server, r request, body *payload) (*http.Response, *Error) {
	target := at.url + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	attempt, cancel := context.WithCancelCause(ctx)
	sent := attempt
	if r.repeatable && c.servers.several() {
		silence := &silence{after: c.retry.Silence + r.wait, hangUp: func() { cancel(errSilent) }}
		defer silence.end()
		sent = httptrace.WithClientTrace(attempt, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { silence.begin() }})
	}
	req, err := http.NewRequestWithContext(sent, r.method, target, nil)
	if err != nil {
		cancel(nil)
		return nil, &Error{Op: r.op, Err: spec.Errorf(spec.CodeInvalid, "%w", err)}
	}
	for name, values := range r.header {
		req.Header[name] = values
	}
	req.Header.Set("User-Agent", c.userAgent)
	body.attach(req)
	resp, err := c.http.Do(req)
	if err != nil {
		defer cancel(nil)
		switch {
		case body.failed() != nil:
			return nil, &Error{Op: r.op, Err: spec.Errorf(spec.CodeInvalid, "reading the body: %w", body.failed())}
		case ctx.Err() == nil && context.Cause(attempt) == errSilent:
			err = fmt.Errorf("%s: %w", at.url, errSilent)
		}
		return nil, transportError(ctx, r.op, err)
	}
	resp.Body = &closing{resp.Body, cancel}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, answerError(r.op, resp)
}

// silence ends an attempt whose answer does not begin in time after it was sent.
type silence struct {
	after  time.Duration
	hangUp func()
	mu     struct {
		sync.Mutex
		timer *time.Timer
		over  bool // the answer has begun
	}
}

func (s *silence) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.mu.over && s.mu.timer == nil {
		s.mu.timer = time.AfterFunc(s.after, s.hangUp)
	}
}

func (s *silence) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.over = true
	if s.mu.timer != nil {
		s.mu.timer.Stop()
	}
}

// closing is a body with which its attempt's context ends.
type closing struct {
	io.ReadCloser
	end context.CancelCauseFunc
}

func (b *closing) Close() error {
	err := b.ReadCloser.Close()
	b.end(nil)
	return err
}

// call sends r and decodes the JSON of its answer into out, unless that is nil.
func (c *Client) call(ctx context.Context, r request, out any) (http.Header, error) {
	data, resp, err := c.read(ctx, r)
	if err != nil || out == nil {
		return resp.header(), err
	}
	if err := json.Unmarshal(data, out); err != nil {
		return nil, &Error{Op: r.op, Status: resp.StatusCode, Err: spec.Errorf(spec.CodeInternal, "the server's answer is not the JSON that was expected (is %s a Pheromone server?): %w", resp.from.url, err)}
	}
	return resp.Header, nil
}

// read sends r and returns the whole body of its answer, which is closed.
func (c *Client) read(ctx context.Context, r request) ([]byte, answer, error) {
	var data []byte
	var got answer
	err := c.send(ctx, r, func(a answer) *Error {
		defer a.Body.Close()
		var failure *Error
		if data, failure = c.readBounded(ctx, r.op, a.Response); failure != nil {
			return failure
		}
		got = a
		return nil
	})
	return data, got, err
}

func (a answer) header() http.Header {
	if a.Response == nil {
		return nil
	}
	return a.Header
}

func (c *Client) readBounded(ctx context.Context, op string, resp *http.Response) ([]byte, *Error) {
	if resp.ContentLength > c.maxAnswer {
		return nil, c.tooLarge(op)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, c.maxAnswer+1))
	if err != nil {
		return nil, transportError(ctx, op, fmt.Errorf("the answer broke off: %w", err))
	}
	if int64(len(data)) > c.maxAnswer {
		return nil, c.tooLarge(op)
	}
	return data, nil
}

func (c *Client) tooLarge(op string) *Error {
	return &Error{Op: op, Err: spec.Errorf(spec.CodeTooLarge, "the answer is larger than the %d bytes that this client holds in memory", c.maxAnswer)}
}
