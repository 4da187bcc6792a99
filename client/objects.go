package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// PutOptions goes with an object. The zero value is right for most puts.
type PutOptions struct {
	ContentType string
	// Meta is small metadata: names of letters, digits and '-', values of printable
	// ASCII. The server gives the names back in lower case.
	Meta map[string]string
	// TTL deletes a key-value object after that time.
	TTL time.Duration
	// DeliverAfter makes the object count for triggers only after that time.
	DeliverAfter time.Duration
	// SessionTimeout is how long the session that the put starts may run before it
	// fails; 0 leaves it to the app. One that is there keeps its deadline.
	SessionTimeout time.Duration
	// IfRevision puts only if that is the object's revision now.
	IfRevision spec.Revision
	// IfAbsent puts only if there is no such object; IfPresent only if there is.
	IfAbsent  bool
	IfPresent bool
	// IdempotencyKey names the put, so that it can be repeated from elsewhere
	// without being done twice. The client makes one if it is empty.
	IdempotencyKey string
	Traceparent    string
}

// GetOptions says which object is good enough.
type GetOptions struct {
	// Stale takes what the answering node has, even if a newer revision exists.
	Stale bool
}

// Put puts a key-value object; body is read to its end. The put starts the
// session that the result names. A body that can't seek is not sent twice.
func (c *Client) Put(ctx context.Context, app spec.AppName, bucket spec.BucketName, key spec.Key, body io.Reader, o PutOptions) (wire.PutResult, error) {
	return c.put(ctx, objectPath(app, "", bucket, key), fmt.Sprintf("put %s/%s", bucket, key), body, o)
}

// PutSession puts an object into a session. It is written once: the same bytes
// again succeed, others are a CodeConflict.
func (c *Client) PutSession(ctx context.Context, app spec.AppName, session spec.SessionID, bucket spec.BucketName, key spec.Key, body io.Reader, o PutOptions) (wire.PutResult, error) {
	return c.put(ctx, objectPath(app, session, bucket, key), fmt.Sprintf("put %s/%s into session %s", bucket, key, session), body, o)
}

func (c *Client) put(ctx context.Context, path, op string, body io.Reader, o PutOptions) (wire.PutResult, error) {
	header, err := putHeader(o)
	if err != nil {
		return wire.PutResult{}, &Error{Op: op, Err: err}
	}
	query := url.Values{}
	if o.TTL > 0 {
		query.Set("ttl", durationText(o.TTL))
	}
	setSessionTimeout(query, o.SessionTimeout)
	if body == nil {
		body = newBytes(nil)
	}
	var result wire.PutResult
	_, e := c.call(ctx, request{op: op, method: http.MethodPut, path: path, query: query, header: header, body: body, repeatable: true}, &result)
	return result, e
}

func setSessionTimeout(query url.Values, d time.Duration) {
	if d > 0 {
		query.Set("session_timeout", durationText(d))
	}
}

func putHeader(o PutOptions) (http.Header, *spec.Error) {
	header := http.Header{}
	contentType := o.ContentType
	if contentType == "" {
		contentType = "application/octet-stream"
	}
	header.Set("Content-Type", contentType)
	header.Set(wire.HeaderIdempotencyKey, orMade(o.IdempotencyKey))
	for name, value := range o.Meta {
		if !isToken(name) {
			return nil, spec.Errorf(spec.CodeInvalid, "metadata name %q: use letters, digits and '-'", name).WithField("meta")
		}
		header.Set(wire.HeaderMetaPrefix+name, value)
	}
	if o.DeliverAfter > 0 {
		header.Set(wire.HeaderDeliverAfter, durationText(o.DeliverAfter))
	}
	switch {
	case o.IfAbsent:
		header.Set("If-None-Match", "*")
	case o.IfPresent:
		header.Set("If-Match", "*")
	case o.IfRevision > 0:
		header.Set("If-Match", etag(o.IfRevision))
	}
	if o.Traceparent != "" {
		header.Set("Traceparent", o.Traceparent)
	}
	return header, nil
}

// Get returns a key-value object with its bytes in Data.
func (c *Client) Get(ctx context.Context, app spec.AppName, bucket spec.BucketName, key spec.Key, o GetOptions) (wire.Object, error) {
	return c.getObject(ctx, app, "", bucket, key, o)
}

// GetSessionObject returns an object of a session with its bytes in Data.
func (c *Client) GetSessionObject(ctx context.Context, app spec.AppName, session spec.SessionID, bucket spec.BucketName, key spec.Key) (wire.Object, error) {
	return c.getObject(ctx, app, session, bucket, key, GetOptions{})
}

func (c *Client) getObject(ctx context.Context, app spec.AppName, session spec.SessionID, bucket spec.BucketName, key spec.Key, o GetOptions) (wire.Object, error) {
	op := fmt.Sprintf("get %s/%s", bucket, key)
	resp, err := c.do(ctx, get(op, objectPath(app, session, bucket, key), o.query()))
	if err != nil {
		return wire.Object{}, err
	}
	defer resp.Body.Close()
	object := objectOfHeader(resp, session, bucket, key)
	if object.Data, err = c.readBounded(ctx, op, resp); err != nil {
		return wire.Object{}, err
	}
	object.Size = int64(len(object.Data))
	return object, nil
}

// GetTo writes an object's bytes to w as they come, of a session unless session
// is empty. When it fails, w may have got a part.
func (c *Client) GetTo(ctx context.Context, w io.Writer, app spec.AppName, session spec.SessionID, bucket spec.BucketName, key spec.Key, o GetOptions) (wire.Object, error) {
	op := fmt.Sprintf("get %s/%s", bucket, key)
	resp, err := c.do(ctx, get(op, objectPath(app, session, bucket, key), o.query()))
	if err != nil {
		return wire.Object{}, err
	}
	defer resp.Body.Close()
	object := objectOfHeader(resp, session, bucket, key)
	written := &errorWriter{w: w}
	object.Size, err = io.Copy(written, resp.Body)
	switch {
	case written.err != nil:
		return object, fmt.Errorf("%s: writing: %w", op, written.err)
	case err != nil:
		return object, transportError(ctx, op, fmt.Errorf("the answer broke off after %d bytes: %w", object.Size, err))
	}
	return object, nil
}

// Head describes an object without its bytes, of a session unless session is empty.
func (c *Client) Head(ctx context.Context, app spec.AppName, session spec.SessionID, bucket spec.BucketName, key spec.Key, o GetOptions) (wire.Object, error) {
	r := get(fmt.Sprintf("head %s/%s", bucket, key), objectPath(app, session, bucket, key), o.query())
	r.method = http.MethodHead
	resp, err := c.do(ctx, r)
	if err != nil {
		return wire.Object{}, err
	}
	defer resp.Body.Close()
	return objectOfHeader(resp, session, bucket, key), nil
}

// DeleteOptions says when a delete is done.
type DeleteOptions struct {
	IfRevision     spec.Revision // only if that is the object's revision now
	IdempotencyKey string        // as in PutOptions
	Traceparent    string
}

// Delete deletes a key-value object. The result names the deletion's revision and
// the session that it starts, if the bucket has triggers with on: delete.
func (c *Client) Delete(ctx context.Context, app spec.AppName, bucket spec.BucketName, key spec.Key, o DeleteOptions) (wire.PutResult, error) {
	header := http.Header{wire.HeaderIdempotencyKey: {orMade(o.IdempotencyKey)}}
	if o.IfRevision > 0 {
		header.Set("If-Match", etag(o.IfRevision))
	}
	if o.Traceparent != "" {
		header.Set("Traceparent", o.Traceparent)
	}
	var result wire.PutResult
	_, err := c.call(ctx, request{
		op: fmt.Sprintf("delete %s/%s", bucket, key), method: http.MethodDelete,
		path: objectPath(app, "", bucket, key), header: header, repeatable: true,
	}, &result)
	return result, err
}

func (o GetOptions) query() url.Values {
	if o.Stale {
		return url.Values{"stale": {"1"}}
	}
	return nil
}

func objectPath(app spec.AppName, session spec.SessionID, bucket spec.BucketName, key spec.Key) string {
	if session != "" {
		return route("apps", string(app), "sessions", string(session), "buckets", string(bucket), "objects", string(key))
	}
	return route("apps", string(app), "buckets", string(bucket), "objects", string(key))
}

func objectOfHeader(resp *http.Response, session spec.SessionID, bucket spec.BucketName, key spec.Key) wire.Object {
	h := resp.Header
	object := wire.Object{
		Bucket: bucket, Key: key,
		Session:     session,
		Revision:    revisionOf(h),
		Size:        max(0, resp.ContentLength),
		ContentType: h.Get("Content-Type"),
		Producer:    h.Get(wire.HeaderProducer),
		Deleted:     h.Get(wire.HeaderDeleted) == "1",
	}
	if object.Session == "" {
		object.Session = spec.SessionID(h.Get(wire.HeaderSession))
	}
	object.CreatedAt, _ = time.Parse(time.RFC3339Nano, h.Get(wire.HeaderCreated))
	for name, values := range h {
		if field, ok := strings.CutPrefix(name, wire.HeaderMetaPrefix); ok {
			if object.Meta == nil {
				object.Meta = map[string]string{}
			}
			object.Meta[strings.ToLower(field)] = values[0]
		}
	}
	return object
}

func revisionOf(h http.Header) spec.Revision {
	text := h.Get(wire.HeaderRevision)
	if text == "" {
		text = strings.Trim(h.Get("ETag"), `"`)
	}
	n, _ := strconv.ParseUint(text, 10, 64)
	return spec.Revision(n)
}

func etag(r spec.Revision) string { return `"` + strconv.FormatUint(uint64(r), 10) + `"` }

func orMade(key string) string {
	if key == "" {
		return rand.Text()
	}
	return key
}

func isToken(s string) bool {
	for _, r := range s {
		if r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '_' {
			return false
		}
	}
	return s != "" && len(s) <= 64
}

// durationText never turns a short time into none.
func durationText(d time.Duration) string { return spec.FormatDuration(max(d, time.Millisecond)) }

func newBytes(b []byte) *bytes.Reader { return bytes.NewReader(b) }

// errorWriter tells a writer that failed from a reader that did.
type errorWriter struct {
	w   io.Writer
	err error
}

func (e *errorWriter) Write(b []byte) (int, error) {
	n, err := e.w.Write(b)
	e.err = err
	return n, err
}
