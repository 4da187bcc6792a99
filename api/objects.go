package api

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
	"github.com/valyala/fasthttp"
)

const (
	maxTTL          = 10 * 365 * 24 * time.Hour
	maxDeliverAfter = 365 * 24 * time.Hour
)

// putObject puts a key-value object, or an object into a session.
func putObject(r *request) error {
	p := Put{
		App: r.app, Session: r.session, Bucket: r.bucket, Key: r.key,
		Body: &r.body, Size: r.body.size, Traceparent: r.traceparent(),
	}
	var err error
	if r.session != "" {
		err = r.noCondition()
	} else {
		var c condition
		c, err = r.writeCondition()
		p.IfRevision, p.IfExists = c.revision, c.exists
	}
	if err != nil {
		return err
	}
	if p.TTL, err = r.query.duration("ttl", maxTTL); err != nil {
		return err
	}
	if r.query.has("ttl") && p.TTL == 0 {
		return spec.Errorf(spec.CodeInvalid, "ttl is 0: leave it out for an object that does not expire").WithField("ttl")
	}
	if p.DeliverAfter, err = r.deliverAfter(); err != nil {
		return err
	}
	if p.SessionTimeout, err = r.query.sessionTimeout(); err != nil {
		return err
	}
	if p.ContentType, err = r.contentType(); err != nil {
		return err
	}
	if p.Meta, err = r.meta(); err != nil {
		return err
	}
	if p.IdempotencyKey, err = r.idempotencyKey(); err != nil {
		return err
	}
	result, err := r.s.backend.Put(r.ctx, p)
	if err != nil {
		return err
	}
	return r.answerPut(http.StatusOK, result)
}

// answerPut answers a write: the revision and the session that it drives are in
// the headers, too.
func (r *request) answerPut(status int, result wire.PutResult) error {
	if result.Revision != 0 {
		r.setHeader(fasthttp.HeaderETag, etag(result.Revision))
		r.setHeader(wire.HeaderRevision, strconv.FormatUint(uint64(result.Revision), 10))
	}
	r.setSession(result.Session)
	return r.json(status, result)
}

func (r *request) deliverAfter() (time.Duration, error) {
	header, err := r.header(wire.HeaderDeliverAfter)
	if err != nil || header == "" {
		if err != nil {
			return 0, err
		}
		return r.query.duration("deliver_after", maxDeliverAfter)
	}
	if r.query.has("deliver_after") {
		return 0, spec.Errorf(spec.CodeInvalid, "both ?deliver_after= and %s: send one of them", wire.HeaderDeliverAfter).WithField("deliver_after")
	}
	return parseDuration(wire.HeaderDeliverAfter, header, maxDeliverAfter)
}

// meta reads an object's metadata from the headers, whose names know no case:
// fields are in lower case.
func (r *request) meta() (map[string]string, error) {
	var meta map[string]string
	for name, value := range r.fh.Request.Header.All() {
		if len(name) < len(wire.HeaderMetaPrefix) || !strings.EqualFold(string(name[:len(wire.HeaderMetaPrefix)]), wire.HeaderMetaPrefix) {
			continue
		}
		field := strings.ToLower(string(name[len(wire.HeaderMetaPrefix):]))
		header := wire.HeaderMetaPrefix + field
		_, twice := meta[field]
		switch {
		case field == "":
			return nil, spec.Errorf(spec.CodeInvalid, "header %s names no field: put the field's name behind it", wire.HeaderMetaPrefix).WithField(wire.HeaderMetaPrefix)
		case twice:
			return nil, spec.Errorf(spec.CodeInvalid, "header %s is there twice: send it once", clip(header)).WithField(clip(header))
		case len(meta) == spec.MaxMetaFields:
			return nil, spec.Errorf(spec.CodeInvalid, "more than %d metadata fields: put them into the object", spec.MaxMetaFields).WithField(wire.HeaderMetaPrefix)
		case !utf8.Valid(value):
			return nil, spec.Errorf(spec.CodeInvalid, "the value of %s is not UTF-8", clip(header)).WithField(clip(header))
		}
		if meta == nil {
			meta = make(map[string]string)
		}
		meta[field] = string(value)
	}
	return meta, nil
}

func deleteObject(r *request) error {
	c, err := r.writeCondition()
	if err != nil {
		return err
	}
	if c.exists || c.revision != nil && *c.revision == 0 {
		return spec.Errorf(spec.CodeInvalid, `a delete takes If-Match with one revision, as in "12"`).WithField(fasthttp.HeaderIfMatch)
	}
	key, err := r.idempotencyKey()
	if err != nil {
		return err
	}
	result, err := r.s.backend.Delete(r.ctx, Delete{
		App: r.app, Bucket: r.bucket, Key: r.key, IfRevision: c.revision, IdempotencyKey: key, Traceparent: r.traceparent(),
	})
	if err != nil {
		return err
	}
	return r.answerPut(http.StatusOK, result)
}

// getObject answers an object's bytes; HEAD the same headers without them.
func getObject(r *request) error {
	stale, err := r.query.flag("stale")
	if err != nil {
		return err
	}
	noneMatch, err := r.header(fasthttp.HeaderIfNoneMatch)
	if err != nil {
		return err
	}
	headOnly := r.fh.IsHead()
	object, err := r.s.backend.Get(r.ctx, Get{
		App: r.app, Session: r.session, Bucket: r.bucket, Key: r.key, Stale: stale, HeadOnly: headOnly,
	})
	if err != nil {
		return err
	}
	r.describe(object.Object)
	switch {
	case noneMatch != "" && unchanged(noneMatch, object.Revision):
		closeBody(object.Body)
		r.fh.Response.Header.Del(fasthttp.HeaderContentType)
		r.fh.SetStatusCode(http.StatusNotModified)
		return nil
	case headOnly:
		closeBody(object.Body)
		r.fh.Response.SkipBody = true
		r.fh.Response.Header.SetContentLength(int(object.Size))
		return nil
	}
	return r.sendBody(object)
}

// describe puts what is known of an object into the headers. Metadata that
// can't stand in a header is left out: listings have it.
func (r *request) describe(o wire.Object) {
	r.fh.SetContentType(bodyType(o.ContentType))
	r.sandbox()
	r.setHeader(fasthttp.HeaderETag, etag(o.Revision))
	r.setHeader(wire.HeaderRevision, strconv.FormatUint(uint64(o.Revision), 10))
	r.setHeader(fasthttp.HeaderAcceptRanges, "bytes")
	r.setHeader(fasthttp.HeaderCacheControl, "no-cache") // keep it, and ask whether it is still the newest
	if !o.CreatedAt.IsZero() {
		r.setHeader(wire.HeaderCreated, o.CreatedAt.UTC().Format(time.RFC3339Nano))
	}
	if o.Age != nil {
		r.setHeader(wire.HeaderAge, strconv.FormatInt(*o.Age, 10))
	}
	if o.Producer != "" {
		r.setHeader(wire.HeaderProducer, o.Producer)
	}
	if o.Deleted {
		r.setHeader(wire.HeaderDeleted, "1")
	}
	r.setSession(o.Session)
	for field, value := range o.Meta {
		if isToken(field) && isHeaderValue(value) {
			r.setHeader(wire.HeaderMetaPrefix+field, value)
		}
	}
}

// sandbox keeps a browser that opens an object from running it as a page of
// this origin, which the API trusts.
func (r *request) sandbox() {
	r.setHeader("Content-Security-Policy", "default-src 'none'; sandbox")
}

func bodyType(contentType string) string {
	if contentType == "" || !isHeaderValue(contentType) {
		return "application/octet-stream"
	}
	return contentType
}

func isToken(s string) bool {
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c > '~' || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

func isHeaderValue(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, isControl) && strings.TrimSpace(s) == s
}

func closeBody(b io.Closer) {
	if b != nil {
		_ = b.Close()
	}
}

func listObjects(r *request) error {
	limit, err := r.query.limit()
	if err != nil {
		return err
	}
	l := List{
		App: r.app, Session: r.session, Bucket: r.bucket,
		Prefix: r.query.get("prefix"), After: r.query.get("after"), Limit: limit,
	}
	if err := checkPrefix(l.Prefix); err != nil {
		return err
	}
	page, err := r.s.backend.List(r.ctx, l)
	if err != nil {
		return err
	}
	page.Items = orEmpty(page.Items)
	return r.json(http.StatusOK, page)
}

func checkPrefix(prefix string) error {
	if len(prefix) > spec.MaxKeyBytes {
		return spec.Errorf(spec.CodeInvalid, "prefix has %d bytes: keys have at most %d", len(prefix), spec.MaxKeyBytes).WithField("prefix")
	}
	return nil
}
