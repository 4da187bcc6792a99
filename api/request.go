package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
	"github.com/valyala/fasthttp"
)

// request is one request on its way to its handler. Nothing in it refers to
// fasthttp's buffers, so that what the backend keeps stays as it was.
type request struct {
	s     *Server
	fh    *fasthttp.RequestCtx
	id    string
	began time.Time
	route *route // nil until it is found

	// The parameters of the path, valid as their types demand.
	app      spec.AppName
	bucket   spec.BucketName
	key      spec.Key
	session  spec.SessionID
	function spec.FunctionName
	node     string
	shard    spec.ShardID
	sum      string // SHA-256 in hexadecimal digits
	profile  string // not checked before it is looked up

	query query
	body  body

	// ctx ends when the request must. A handler whose answer goes on after it
	// has returned takes cancel over with keep.
	ctx    context.Context
	cancel context.CancelFunc
}

// setParam checks one parameter of the path.
func (r *request) setParam(name, value string) error {
	var err error
	switch name {
	case "app":
		r.app, err = spec.AppName(value), spec.ValidAppName(value)
	case "bucket":
		r.bucket, err = spec.BucketName(value), spec.ValidBucketRef(value)
	case keyParam:
		r.key, err = spec.Key(value), spec.ValidKey(value)
	case "session":
		r.session, err = spec.SessionID(value), spec.ValidSessionID(value)
	case "function":
		r.function, err = spec.FunctionName(value), spec.ValidFunctionName(value)
	case "node":
		r.node, err = value, spec.ValidAppName(value) // nodes' names are made as apps' are
	case "shard":
		r.shard, err = shardID(value)
	case "profile":
		r.profile = value
	case "sha256":
		r.sum, err = value, validSum(value)
	default:
		panic("api: a route has a parameter that is not known: " + name)
	}
	if err != nil {
		return inField(name, err)
	}
	return nil
}

func shardID(value string) (spec.ShardID, error) {
	id, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		return 0, spec.Errorf(spec.CodeInvalid, "%q is not the number of a shard", clip(value))
	}
	return spec.ShardID(id), nil
}

func validSum(s string) error {
	ok := len(s) == 64
	for i := range len(s) {
		ok = ok && ('0' <= s[i] && s[i] <= '9' || 'a' <= s[i] && s[i] <= 'f')
	}
	if !ok {
		return spec.Errorf(spec.CodeInvalid, "bad hash %q: use the SHA-256 of the content as 64 lower-case hexadecimal digits", clip(s))
	}
	return nil
}

// header returns a request header that may be there once.
func (r *request) header(name string) (string, error) {
	all := r.fh.Request.Header.PeekAll(name)
	switch len(all) {
	case 0:
		return "", nil
	case 1:
		return string(all[0]), nil
	}
	return "", spec.Errorf(spec.CodeInvalid, "header %s is there %d times: send it once", name, len(all)).WithField(name)
}

// contentType returns the body's media type as it was sent, "" if it was not.
func (r *request) contentType() (string, error) {
	t := string(r.fh.Request.Header.ContentType())
	if err := spec.ValidContentType(t); err != nil {
		return "", inField("Content-Type", err)
	}
	return t, nil
}

// idempotencyKey returns the key under which repeating the request is safe.
func (r *request) idempotencyKey() (string, error) {
	const longest = 255
	key, err := r.header(wire.HeaderIdempotencyKey)
	if err != nil {
		return "", err
	}
	for i := range len(key) {
		if key[i] <= ' ' || key[i] > '~' || len(key) > longest {
			return "", spec.Errorf(spec.CodeInvalid, "bad idempotency key %q: use 1 to %d visible ASCII characters", clip(key), longest).
				WithField(wire.HeaderIdempotencyKey)
		}
	}
	return key, nil
}

// traceparent returns the trace that the request belongs to. As W3C Trace
// Context demands, one that is malformed counts as none.
func (r *request) traceparent() string {
	const version0 = len("00-0123456789abcdef0123456789abcdef-0123456789abcdef-01")
	t := r.fh.Request.Header.Peek("Traceparent")
	if len(t) != version0 || t[2] != '-' || t[35] != '-' || t[52] != '-' {
		return ""
	}
	for i, c := range t {
		if i != 2 && i != 35 && i != 52 && !('0' <= c && c <= '9' || 'a' <= c && c <= 'f') {
			return ""
		}
	}
	return string(t)
}

// keep hands the request's context over to what goes on after the handler.
func (r *request) keep() (context.Context, context.CancelFunc) {
	cancel := r.cancel
	r.cancel = nil
	return r.ctx, cancel
}

// json answers v.
func (r *request) json(status int, v any) error {
	answerJSON(r.fh, v)
	r.fh.SetStatusCode(status)
	return nil
}

func (r *request) setHeader(name, value string) { r.fh.Response.Header.Set(name, value) }

// setSession tells which session the answer is about.
func (r *request) setSession(session spec.SessionID) {
	if session != "" {
		r.setHeader(wire.HeaderSession, string(session))
	}
}

// requestIDs makes ids that are unique across nodes and restarts, and cheap.
type requestIDs struct {
	prefix string
	next   *atomic.Uint64
}

func newRequestIDs() requestIDs {
	var random [8]byte
	if _, err := rand.Read(random[:]); err != nil {
		panic(fmt.Sprintf("api: no randomness: %v", err)) // crypto/rand never fails on supported systems
	}
	return requestIDs{prefix: "r" + hex.EncodeToString(random[:]) + "-", next: new(atomic.Uint64)}
}

func (ids requestIDs) make() string {
	var room [48]byte
	return string(strconv.AppendUint(append(room[:0], ids.prefix...), ids.next.Add(1), 36))
}
