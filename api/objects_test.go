package api_test

import (
	"bytes"
	"context"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/api"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

func TestAPutIsHandedOnWithAllThatItSays(t *testing.T) {
	backend := newFake()
	s := serve(t, backend, api.Config{})
	const trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	a := s.do("PUT", objects+"/a/b?ttl=1h&deliver_after=2s&session_timeout=90s", "hello", "Content-Type: text/plain", "If-None-Match: *",
		"Pheromone-Meta-Region: eu", "Idempotency-Key: k1", "Traceparent: "+trace)
	if a.status != http.StatusOK || a.header.Get("ETag") != `"1"` || a.header.Get("Pheromone-Revision") != "1" || a.header.Get("Pheromone-Session") != string(session) {
		t.Errorf("answer %+v", a)
	}
	if got := decode[wire.PutResult](t, a); got != (wire.PutResult{Bucket: "orders", Key: "a/b", Revision: 1, Session: session}) {
		t.Errorf("result %+v", got)
	}
	p := backend.lastPut()
	if p.App != "shop" || p.Bucket != "orders" || p.Key != "a/b" || p.Session != "" || p.Size != 5 ||
		p.TTL != time.Hour || p.DeliverAfter != 2*time.Second || p.SessionTimeout != 90*time.Second || p.ContentType != "text/plain" || !maps.Equal(p.Meta, map[string]string{"region": "eu"}) ||
		p.IdempotencyKey != "k1" || p.Traceparent != trace || p.IfRevision == nil || *p.IfRevision != 0 || p.IfExists {
		t.Errorf("put %+v", p)
	}
}

func TestASessionTimeoutIsHandedOnFromWhateverStartsASession(t *testing.T) {
	backend := newFake()
	s := serve(t, backend, api.Config{})
	for _, c := range []struct {
		query string
		want  time.Duration
	}{{"", 0}, {"?session_timeout=1ms", time.Millisecond}, {"?session_timeout=1h30m", 90 * time.Minute}, {"?session_timeout=8760h", 8760 * time.Hour}} {
		if a := s.do("PUT", inside+"/k"+c.query, "x"); a.status != http.StatusOK || backend.lastPut().SessionTimeout != c.want {
			t.Errorf("a put into a session with %q: %+v, put %+v", c.query, a, backend.lastPut())
		}
		a := s.do("POST", invokePath+c.query, "x")
		if i := backend.invokes[len(backend.invokes)-1]; a.status != http.StatusAccepted || i.SessionTimeout != c.want {
			t.Errorf("an invoke with %q: %+v, invoke %+v", c.query, a, i)
		}
	}
}

func TestAnObjectThatStandsForADeletionSaysSo(t *testing.T) {
	backend := newFake()
	deleted := true
	backend.onGet = func(context.Context, api.Get) (api.Object, error) {
		return api.Object{Object: wire.Object{Key: "k", Revision: 3, Size: 1, Deleted: deleted}, Body: io.NopCloser(strings.NewReader("x"))}, nil
	}
	s := serve(t, backend, api.Config{})
	for _, want := range []string{"1", ""} {
		if a := s.do("GET", inside+"/k", ""); a.header.Get("Pheromone-Deleted") != want || a.body != "x" {
			t.Errorf("deleted %t: %+v", deleted, a)
		}
		deleted = false
	}
}

func TestConditionsAreHandedOn(t *testing.T) {
	backend := newFake()
	s := serve(t, backend, api.Config{})
	s.do("PUT", objects+"/k", "1")
	for i, header := range []string{`If-Match: "1"`, `If-Match: 2`, `If-Match: *`} {
		if a := s.do("PUT", objects+"/k", "x", header); a.status != http.StatusOK {
			t.Errorf("%s: %+v", header, a)
		}
		p := backend.lastPut()
		if i < 2 && (p.IfRevision == nil || *p.IfRevision != spec.Revision(i+1)) || i == 2 && !p.IfExists {
			t.Errorf("%s: put %+v", header, p)
		}
	}
}

func TestAMalformedTraceparentCountsAsNone(t *testing.T) {
	backend := newFake()
	s := serve(t, backend, api.Config{})
	for _, trace := range []string{"00-abc", strings.Repeat("0", 55), "00-0AF7651916CD43DD8448EB211C80319C-B7AD6B7169203331-01"} {
		if a := s.do("PUT", objects+"/k", "x", "Traceparent: "+trace); a.status != http.StatusOK || backend.lastPut().Traceparent != "" {
			t.Errorf("%q: %d, put %+v", trace, a.status, backend.lastPut())
		}
	}
}

func TestAnObjectComesBackAsItWasPut(t *testing.T) {
	s := serve(t, newFake(), api.Config{})
	large := strings.Repeat("0123456789", 100_000)
	for name, base := range map[string]string{"key-value": objects, "inside a session": inside} {
		for _, body := range []string{"hello", "", large} {
			s.do("PUT", base+"/k", body, "Content-Type: text/html", "Pheromone-Meta-Region: eu")
			a := s.do("GET", base+"/k", "")
			if a.status != http.StatusOK || a.body != body || a.header.Get("Content-Type") != "text/html" || a.header.Get("Pheromone-Meta-Region") != "eu" || a.header.Get("ETag") == "" {
				t.Errorf("%s: answer %d %v with %d bytes, want %d", name, a.status, a.header, len(a.body), len(body))
			}
			if a.header.Get("X-Content-Type-Options") != "nosniff" || !strings.Contains(a.header.Get("Content-Security-Policy"), "sandbox") {
				t.Errorf("%s: a browser may run it as a page: %v", name, a.header)
			}
			head := s.do("HEAD", base+"/k", "")
			if head.status != http.StatusOK || head.body != "" || head.header.Get("Content-Length") != a.header.Get("Content-Length") || head.header.Get("ETag") != a.header.Get("ETag") {
				t.Errorf("%s: HEAD answered %+v", name, head)
			}
		}
	}
}

func TestAReaderWithTheNewestRevisionGetsNoBody(t *testing.T) {
	s := serve(t, newFake(), api.Config{})
	s.do("PUT", objects+"/k", "hello")
	for header, status := range map[string]int{`"1"`: 304, `W/"1"`: 304, `"7", "1"`: 304, "*": 304, `"2"`: 200, "nonsense": 200} {
		a := s.do("GET", objects+"/k", "", "If-None-Match: "+header)
		if a.status != status || (a.body == "") != (status == 304) || a.header.Get("ETag") != `"1"` {
			t.Errorf("%s: got %+v, want %d", header, a, status)
		}
	}
}

func TestARangeOfAnObject(t *testing.T) {
	s := serve(t, newFake(), api.Config{})
	body := strings.Repeat("0123456789", 20_000)
	s.do("PUT", objects+"/k", body)
	for _, c := range []struct {
		header, ifRange string
		status          int
		want            string
	}{
		{"bytes=0-4", "", 206, "01234"},
		{"bytes=5-", "", 206, body[5:]},
		{"bytes=-3", "", 206, "789"},
		{"bytes=199999-500000", "", 206, "9"},
		{"bytes=2-3", `"1"`, 206, "23"},
		{"bytes=2-3", `"9"`, 200, body},
		{"bytes=200000-", "", 200, body},
		{"bytes=3-2", "", 200, body},
		{"bytes=0-1,3-4", "", 200, body},
		{"lines=0-1", "", 200, body},
		{"bytes=-99999999999999999999", "", 200, body},
	} {
		headers := []string{"Range: " + c.header}
		if c.ifRange != "" {
			headers = append(headers, "If-Range: "+c.ifRange)
		}
		a := s.do("GET", objects+"/k", "", headers...)
		if a.status != c.status || a.body != c.want || (a.header.Get("Content-Range") != "") != (c.status == 206) {
			t.Errorf("%s: got %d with %d bytes, want %d with %d", c.header, a.status, len(a.body), c.status, len(c.want))
		}
	}
}

func TestMetadataThatCannotStandInAHeaderIsLeftOut(t *testing.T) {
	backend := newFake()
	backend.onGet = func(context.Context, api.Get) (api.Object, error) {
		return api.Object{Object: wire.Object{Size: 1, ContentType: "a\r\nX-Evil: 1", Meta: map[string]string{"good": "1", "a b": "2", "line": "x\r\nX-Evil: 1"}},
			Body: io.NopCloser(strings.NewReader("x"))}, nil
	}
	s := serve(t, backend, api.Config{})
	a := s.do("GET", objects+"/k", "")
	if a.header.Get("Pheromone-Meta-Good") != "1" || a.header.Get("X-Evil") != "" || a.header.Get("Pheromone-Meta-Line") != "" || a.header.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("headers %v", a.header)
	}
}

func TestAnObjectThatBreaksOffDoesNotLookWhole(t *testing.T) {
	backend := newFake()
	backend.onGet = func(_ context.Context, g api.Get) (api.Object, error) {
		size := int64(10)
		if g.Key == "large" {
			size = 10 << 20
		}
		return api.Object{Object: wire.Object{Size: size}, Body: io.NopCloser(io.LimitReader(&endless{}, size/2))}, nil
	}
	s := serve(t, backend, api.Config{})
	if a := s.do("GET", objects+"/small", ""); a.status != http.StatusInternalServerError || a.header.Get("ETag") != "" {
		t.Errorf("small: %+v", a)
	}
	resp, err := s.client.Get("http://" + s.addr + objects + "/large")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if n, err := io.Copy(io.Discard, resp.Body); err == nil {
		t.Errorf("large: %d bytes and no error", n)
	}
}

// closing tells when it is closed.
type closing struct {
	io.Reader
	closed chan struct{}
}

func (c *closing) Close() error { close(c.closed); return nil }

func TestAReaderWhoGoesEndsTheReading(t *testing.T) {
	backend := newFake()
	body := &closing{&endless{}, make(chan struct{})}
	ended := make(chan struct{})
	backend.onGet = func(ctx context.Context, _ api.Get) (api.Object, error) {
		context.AfterFunc(ctx, func() { close(ended) })
		return api.Object{Object: wire.Object{Size: 1 << 50}, Body: body}, nil
	}
	s := serve(t, backend, api.Config{})
	resp, err := s.client.Get("http://" + s.addr + objects + "/k")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.CopyN(io.Discard, resp.Body, 1<<20)
	resp.Body.Close()
	<-body.closed
	<-ended
}

func TestListsArePagesInKeyOrder(t *testing.T) {
	s := serve(t, newFake(), api.Config{})
	empty := s.do("GET", objects, "")
	if empty.status != http.StatusOK || !strings.Contains(empty.body, `"items":[]`) {
		t.Errorf("an empty list is %q", empty.body)
	}
	for _, k := range []string{"a/1", "a/2", "a/3", "b/1"} {
		s.do("PUT", objects+"/"+k, "x")
	}
	page := decode[wire.ObjectList](t, s.do("GET", objects+"?prefix=a%2F&limit=2", ""))
	if len(page.Items) != 2 || page.Items[0].Key != "a/1" || page.Next != "a/2" {
		t.Errorf("page %+v", page)
	}
	page = decode[wire.ObjectList](t, s.do("GET", objects+"?prefix=a/&limit=2&after="+page.Next, ""))
	if len(page.Items) != 1 || page.Items[0].Key != "a/3" || page.Next != "" {
		t.Errorf("page %+v", page)
	}
	if a := s.do("GET", inside, ""); len(decode[wire.ObjectList](t, a).Items) != 0 {
		t.Errorf("inside the session: %s", a.body)
	}
}

func TestADeleteAnswersLikeAPut(t *testing.T) {
	backend := newFake()
	s := serve(t, backend, api.Config{})
	a := s.do("DELETE", objects+"/k", "", `If-Match: "3"`)
	if a.status != http.StatusOK || a.header.Get("ETag") != `"9"` || decode[wire.PutResult](t, a).Key != "k" {
		t.Errorf("answer %+v", a)
	}
}

func TestAppsAreAppliedReadAndDeleted(t *testing.T) {
	backend := newFake()
	s := serve(t, backend, api.Config{})
	var applied api.ApplyOptions
	backend.onApply = func(_ []byte, o api.ApplyOptions) (wire.ApplyResult, error) {
		applied = o
		return wire.ApplyResult{App: "shop", Version: 2}, nil
	}
	for _, contentType := range []string{"application/yaml", "text/yaml; charset=utf-8", "application/json", ""} {
		var headers []string
		if contentType != "" {
			headers = []string{"Content-Type: " + contentType}
		}
		a := s.do("PUT", "/v1/apps/shop?dry_run=1&artifact="+sum, `{"app": "shop"}`, headers...)
		if a.status != http.StatusOK || !strings.Contains(a.body, `"changes":[]`) || !applied.DryRun || applied.Artifact != sum {
			t.Errorf("%q: answer %+v, options %+v", contentType, a, applied)
		}
	}
	backend.onApply = func([]byte, api.ApplyOptions) (wire.ApplyResult, error) {
		e := spec.Errorf(spec.CodeBadManifest, "2 faults")
		e.Faults = []spec.Fault{{Path: "functions.a", Line: 3, Column: 1, Message: "no command"}, {Path: "buckets.b", Line: 9, Column: 3, Message: "unknown field"}}
		return wire.ApplyResult{}, e
	}
	if a := s.do("PUT", "/v1/apps/shop", "app: shop"); a.status != http.StatusUnprocessableEntity || len(a.error(t).Faults) != 2 {
		t.Errorf("a bad manifest: %+v", a)
	}
	for path, want := range map[string]string{
		"/v1/apps": `"items":[{"app":"shop"`, "/v1/apps/shop": `"version":1`, "/v1/apps/shop?version=7": `"version":7`, "/v1/apps/shop/versions": `"items":[]`,
	} {
		if a := s.do("GET", path, ""); a.status != http.StatusOK || !strings.Contains(a.body, want) {
			t.Errorf("%s: %+v", path, a)
		}
	}
	if a := s.do("POST", "/v1/apps/shop/rollback?version=4", ""); a.status != http.StatusOK || decode[wire.ApplyResult](t, a).Version != 4 {
		t.Errorf("rollback: %+v", a)
	}
	if a := s.do("DELETE", "/v1/apps/shop", ""); a.status != http.StatusNoContent || a.body != "" {
		t.Errorf("delete: %+v", a)
	}
}

func TestAnArtifactIsUploadedOnce(t *testing.T) {
	s := serve(t, newFake(), api.Config{})
	const hello = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
	path := "/v1/apps/shop/artifacts/" + hello
	for i, want := range []int{404, 201, 200, 200} {
		method, body := "PUT", "hello"
		if i == 0 || i == 3 {
			method, body = "HEAD", ""
		}
		if a := s.do(method, path, body); a.status != want {
			t.Errorf("%s answered %+v, want %d", method, a, want)
		}
	}
	if got := s.do("GET", path, ""); got.status != http.StatusMethodNotAllowed || got.header.Get("Allow") != "HEAD, PUT" {
		t.Errorf("GET: %+v", got)
	}
}

func BenchmarkPutASmallObject(b *testing.B) {
	backend := newFake()
	backend.onPut = func(_ context.Context, p api.Put) (wire.PutResult, error) {
		_, err := io.Copy(io.Discard, p.Body)
		return wire.PutResult{Bucket: p.Bucket, Key: p.Key, Revision: 1, Session: session}, err
	}
	s := serve(b, backend, api.Config{})
	c := s.dial()
	_ = c.SetDeadline(time.Time{})
	request := []byte("PUT " + objects + "/k HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\n" + strings.Repeat("x", 100))
	in := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(request); err != nil {
			b.Fatal(err)
		}
		n, err := c.Read(in)
		if err != nil || !bytes.HasPrefix(in[:n], []byte("HTTP/1.1 200")) {
			b.Fatalf("%q %v", in[:n], err)
		}
	}
}
