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
	// SendOnce goes without a key: a put that a node may have taken is not sent
	// again, since that could overwrite what others have put meanwhile, and fire
	// triggers twice. It spares the node a record for each put (docs/sdk-go.md).
	SendOnce    bool
	Traceparent string
}

// GetOptions says which object is good enough.
type GetOptions struct {
	// Stale takes what the answering node has, even if a newer revision exists.
	Stale bool
}

// Put puts a key-value object; body is read to its end. The put starts the
// session that the result names. A body that can't seek is not sent twice, and the
// error of its first attempt says so.
func (c *Client) Put(ctx context.Context, app spec.AppName, bucket spec.BucketName, key spec.Key, body io.Reader, o PutOptions) (wire.PutResult, error) {
	r := request{op: fmt.Sprintf("put %s/%s", bucket, key), path: objectPath(app, "", bucket, key)}
	return c.put(ctx, r.at(spec.KeySlot(app, bucket, key)), body, o)
}

// PutSession puts an object into a session. It is written once: the same bytes
// again succeed, others are a CodeConflict.
func (c *Client) PutSession(ctx context.Context, app spec.AppName, session spec.SessionID, bucket spec.BucketName, key spec.Key, body io.Reader, o PutOptions) (wire.PutResult, error) {
	r := request{op: fmt.Sprintf("put %s/%s into session %s", bucket, key, session), path: objectPath(app, session, bucket, key)}
	return c.put(ctx, r.at(spec.SessionSlot(app, session)), body, o)
}

func (c *Client) put(ctx context.Context, r request, body io.Reader, o PutOptions) (wire.PutResult, error) {
	header, err := putHeader(o)
	if err != nil {
		return wire.PutResult{}, &Error{Op: r.op, Err: err}
	}
	r.method, r.header, r.query, r.body, r.repeatable = http.MethodPut, header, url.Values{}, body, !o.SendOnce
	if o.TTL > 0 {
		r.query.Set("ttl", durationText(o.TTL))
	}
	setSessionTimeout(r.query, o.SessionTimeout)
	if body == nil {
		r.body = newBytes(nil)
	}
	var result wire.PutResult
	_, e := c.call(ctx, r, &result)
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
	switch {
	case o.SendOnce && o.IdempotencyKey != "":
		return nil, spec.Errorf(spec.CodeInvalid, "SendOnce goes without an idempotency key, and there is one").WithField("IdempotencyKey")
	case !o.SendOnce:
		header.Set(wire.HeaderIdempotencyKey, orMade(o.IdempotencyKey))
	}
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
	data, resp, err := c.read(ctx, getOf("get", app, session, bucket, key, o))
	if err != nil {
		return wire.Object{}, err
	}
	object := objectOfHeader(resp.Response, session, bucket, key)
	object.Data, object.Size = data, int64(len(data))
	return object, nil
}

func getOf(verb string, app spec.AppName, session spec.SessionID, bucket spec.BucketName, key spec.Key, o GetOptions) request {
	r := get(fmt.Sprintf("%s %s/%s", verb, bucket, key), objectPath(app, session, bucket, key), o.query())
	switch {
	case o.Stale: // any node will do
		return r
	case session != "":
		return r.at(spec.SessionSlot(app, session))
	}
	return r.at(spec.KeySlot(app, bucket, key))
}

// GetTo writes an object's bytes to w as they come, of a session unless session
// is empty. When it fails, w may have got a part.
func (c *Client) GetTo(ctx context.Context, w io.Writer, app spec.AppName, session spec.SessionID, bucket spec.BucketName, key spec.Key, o GetOptions) (wire.Object, error) {
	r := getOf("get", app, session, bucket, key, o)
	resp, err := c.do(ctx, r)
	if err != nil {
		return wire.Object{}, err
	}
	defer resp.Body.Close()
	object := objectOfHeader(resp.Response, session, bucket, key)
	written := &errorWriter{w: w}
	object.Size, err = io.Copy(written, resp.Body)
	switch {
	case written.err != nil:
		return object, fmt.Errorf("%s: writing: %w", r.op, written.err)
	case err != nil:
		return object, transportError(ctx, r.op, fmt.Errorf("the answer broke off after %d bytes: %w", object.Size, err))
	}
	return object, nil
}

// Head describes an object without its bytes, of a session unless session is empty.
func (c *Client) Head(ctx context.Context, app spec.AppName, session spec.SessionID, bucket spec.BucketName, key spec.Key, o GetOptions) (wire.Object, error) {
	r := getOf("head", app, session, bucket, key, o)
	r.method = http.MethodHead
	resp, err := c.do(ctx, r)
	if err != nil {
		return wire.Object{}, err
	}
	defer resp.Body.Close()
	return objectOfHeader(resp.Response, session, bucket, key), nil
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
	r := request{
		op: fmt.Sprintf("delete %s/%s", bucket, key), method: http.MethodDelete,
		path: objectPath(app, "", bucket, key), header: header, repeatable: true,
	}
	_, err := c.call(ctx, r.at(spec.KeySlot(app, bucket, key)), &result)
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
	if age, err := strconv.ParseInt(h.Get(wire.HeaderAge), 10, 64); err == nil {
		object.Age = &age
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
