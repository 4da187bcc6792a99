package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
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

// do sends r until it succeeds, fails for good, or ctx ends. The caller closes
// the body of the answer, which is always a 2xx.
func (c *Client) do(ctx context.Context, r request) (*http.Response, error) {
	body, err := newPayload(r.body)
	if err != nil {
		return nil, &Error{Op: r.op, Err: spec.Errorf(spec.CodeInvalid, "reading the body: %w", err)}
	}
	for attempt := 1; ; attempt++ {
		resp, failure := c.once(ctx, r, body)
		if failure == nil {
			return resp, nil
		}
		if attempt >= c.retry.MaxAttempts || !mayRepeat(r, failure) {
			return nil, failure
		}
		if !body.rewind(ctx) || !pause(ctx, max(c.backoff(attempt), failure.retryAfter)) {
			return nil, failure
		}
	}
}

func (c *Client) once(ctx context.Context, r request, body *payload) (*http.Response, *Error) {
	target := c.base + r.path
	if len(r.query) > 0 {
		target += "?" + r.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target, nil)
	if err != nil {
		return nil, &Error{Op: r.op, Err: spec.Errorf(spec.CodeInvalid, "%w", err)}
	}
	for name, values := range r.header {
		req.Header[name] = values
	}
	req.Header.Set("User-Agent", c.userAgent)
	body.attach(req)
	resp, err := c.http.Do(req)
	if err != nil {
		if body.failed() != nil {
			return nil, &Error{Op: r.op, Err: spec.Errorf(spec.CodeInvalid, "reading the body: %w", body.failed())}
		}
		return nil, transportError(ctx, r.op, err)
	}
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return resp, nil
	}
	defer resp.Body.Close()
	return nil, answerError(r.op, resp)
}

// mayRepeat says whether sending r once more can't do its work twice.
func mayRepeat(r request, failure *Error) bool {
	switch {
	case errors.Is(failure, context.Canceled), errors.Is(failure, context.DeadlineExceeded):
		return false
	case failure.Status == http.StatusTooManyRequests:
		return true
	case failure.Status == http.StatusServiceUnavailable, failure.Status == http.StatusBadGateway:
		return r.repeatable
	case failure.Status != 0 || failure.Err.Code != spec.CodeUnavailable:
		return false
	}
	return r.repeatable || !failure.sent
}

func (c *Client) backoff(attempt int) time.Duration {
	d := c.retry.MaxBackoff
	if attempt < 20 { // beyond that the shift would overflow
		d = min(d, c.retry.Backoff<<(attempt-1))
	}
	return d/2 + rand.N(d/2+1)
}

// pause waits for d and says whether ctx let it.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// call sends r and decodes the JSON of its answer into out, unless that is nil.
func (c *Client) call(ctx context.Context, r request, out any) (http.Header, error) {
	resp, err := c.do(ctx, r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	data, err := c.readBounded(ctx, r.op, resp)
	if err != nil || out == nil {
		return resp.Header, err
	}
	if err := json.Unmarshal(data, out); err != nil {
		return nil, &Error{Op: r.op, Status: resp.StatusCode, Err: spec.Errorf(spec.CodeInternal, "the server's answer is not the JSON that was expected (is %s a Pheromone server?): %w", c.base, err)}
	}
	return resp.Header, nil
}

func (c *Client) readBounded(ctx context.Context, op string, resp *http.Response) ([]byte, error) {
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

func (c *Client) tooLarge(op string) error {
	return &Error{Op: op, Err: spec.Errorf(spec.CodeTooLarge, "the answer is larger than the %d bytes that this client holds in memory", c.maxAnswer)}
}
