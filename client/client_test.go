package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// serve starts a server of one handler and returns a client of it that retries fast.
func serve(t *testing.T, handle http.HandlerFunc, options ...client.Option) *client.Client {
	t.Helper()
	server := httptest.NewServer(alone(handle))
	t.Cleanup(server.Close)
	options = append([]client.Option{client.WithRetry(client.Retry{MaxAttempts: 4, Backoff: time.Millisecond, MaxBackoff: 2 * time.Millisecond})}, options...)
	c, err := client.New(server.URL, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// alone answers what clients ask of the cluster as a node does that is in none.
func alone(handle http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/cluster" {
			answer(w, 200, wire.Cluster{Node: "n1"})
			return
		}
		handle(w, r)
	}
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func refuse(w http.ResponseWriter, status int, code spec.Code, message string) {
	answer(w, status, wire.ErrorBody{Error: wire.Error{Code: code, Message: message}})
}

func TestServerURLsThatMakeNoSenseAreRefused(t *testing.T) {
	for _, u := range []string{"", "127.0.0.1:7070", "ftp://host", "http://", "http://host?x=1", "http://user@host", "http://[::1"} {
		if _, err := client.New(u); spec.CodeOf(err) != spec.CodeInvalid {
			t.Errorf("New(%q) = %v, want an invalid error", u, err)
		}
	}
	c, err := client.New("http://host:1/prefix/")
	if err != nil || c.URL() != "http://host:1/prefix" {
		t.Errorf("New = %v, %v", c.URL(), err)
	}
}

func TestNamesAndKeysStayOnePathSegmentEach(t *testing.T) {
	tests := map[spec.Key]string{
		"a":            "/v1/apps/app/buckets/b/objects/a",
		"a/b c":        "/v1/apps/app/buckets/b/objects/a%2Fb%20c",
		"..":           "/v1/apps/app/buckets/b/objects/%2E%2E",
		"?x=1#y%41":    "/v1/apps/app/buckets/b/objects/%3Fx=1%23y%2541",
		"größe/..":     "/v1/apps/app/buckets/b/objects/gr%C3%B6%C3%9Fe%2F..",
		"control:0+é&": "/v1/apps/app/buckets/b/objects/control:0+%C3%A9&",
	}
	for key, want := range tests {
		var got string
		c := serve(t, func(w http.ResponseWriter, r *http.Request) { got = r.RequestURI; w.Header().Set("ETag", `"7"`) })
		if _, err := c.Get(t.Context(), "app", "b", key, client.GetOptions{}); err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("key %q went to %s, want %s", key, got, want)
		}
	}
}

func TestPutSendsItsOptions(t *testing.T) {
	var got *http.Request
	var body []byte
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
		answer(w, 200, wire.PutResult{Bucket: "b", Key: "k", Revision: 9, Session: "s1"})
	})
	r, err := c.Put(t.Context(), "app", "b", "k", strings.NewReader("hello"), client.PutOptions{
		ContentType: "text/plain", Meta: map[string]string{"region": "eu"}, TTL: 90 * time.Second,
		DeliverAfter: 1500 * time.Millisecond, SessionTimeout: 2 * time.Minute, IfRevision: 8, Traceparent: "00-x",
	})
	if err != nil || r.Session != "s1" || r.Revision != 9 {
		t.Fatalf("Put = %+v, %v", r, err)
	}
	h := got.Header
	for name, want := range map[string]string{
		"Content-Type": "text/plain", "Pheromone-Meta-Region": "eu", "If-Match": `"8"`,
		"Pheromone-Deliver-After": "1s500ms", "Traceparent": "00-x",
	} {
		if h.Get(name) != want {
			t.Errorf("%s = %q, want %q", name, h.Get(name), want)
		}
	}
	if q := got.URL.Query(); q.Get("session_timeout") != "2m" {
		t.Errorf("query %v", q)
	}
	if got.URL.Query().Get("ttl") != "1m30s" || string(body) != "hello" || got.ContentLength != 5 || h.Get("Idempotency-Key") == "" {
		t.Errorf("ttl %q, body %q, length %d, key %q", got.URL.Query().Get("ttl"), body, got.ContentLength, h.Get("Idempotency-Key"))
	}
	if _, err := c.Put(t.Context(), "app", "b", "k", nil, client.PutOptions{Meta: map[string]string{"no good": ""}}); spec.CodeOf(err) != spec.CodeInvalid {
		t.Errorf("bad metadata name: %v", err)
	}
}

func TestErrorsCarryCodeStatusSessionAndFaults(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		answer(w, 422, wire.ErrorBody{Error: wire.Error{
			Code: spec.CodeBadManifest, Message: "2 faults", Field: "functions", Hint: "look", Session: "s9",
			Faults: []spec.Fault{{Path: "functions.a", Line: 3, Column: 2, Message: "odd"}},
		}})
	})
	_, err := c.Apply(t.Context(), "app", []byte("x"), client.ApplyOptions{})
	e, ok := errors.AsType[*client.Error](err)
	if !ok || e.Status != 422 || e.Session != "s9" || e.Err.Code != spec.CodeBadManifest || e.Err.Field != "functions" || e.Err.Hint != "look" || len(e.Err.Faults) != 1 {
		t.Fatalf("error = %#v", err)
	}
	if spec.CodeOf(err) != spec.CodeBadManifest || !strings.Contains(err.Error(), "2 faults") {
		t.Errorf("code %s, text %q", spec.CodeOf(err), err)
	}
}

func TestAnAnswerThatIsNotOurServersGetsACodeFromItsStatus(t *testing.T) {
	for status, want := range map[int]spec.Code{
		400: spec.CodeInvalid, 401: spec.CodeUnauthorized, 403: spec.CodeForbidden, 404: spec.CodeNotFound, 405: spec.CodeNotAllowed,
		409: spec.CodeConflict, 410: spec.CodeGone, 412: spec.CodePrecondition, 413: spec.CodeTooLarge, 415: spec.CodeUnsupported,
		504: spec.CodeTimeout, 418: spec.CodeInternal, 302: spec.CodeInternal,
	} {
		c := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Error(w, "<html>", status) })
		if _, err := c.Apps(t.Context()); spec.CodeOf(err) != want {
			t.Errorf("status %d: code %s, want %s", status, spec.CodeOf(err), want)
		}
	}
	c := serve(t, func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, "<html>welcome") })
	if _, err := c.Apps(t.Context()); err == nil || !strings.Contains(err.Error(), "Pheromone server") {
		t.Errorf("an answer that is no JSON: %v", err)
	}
}

// attempts serves failures before a success and records what came.
type attempts struct {
	mu     sync.Mutex
	keys   []string
	bodies []string
}

func (a *attempts) handler(failures int, status int, success any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		a.mu.Lock()
		a.keys, a.bodies = append(a.keys, r.Header.Get("Idempotency-Key")), append(a.bodies, string(body))
		n := len(a.keys)
		a.mu.Unlock()
		switch {
		case n > failures:
			answer(w, 200, success)
		case status == 0: // break the connection
			panic(http.ErrAbortHandler)
		default:
			w.Header().Set("Retry-After", "0")
			refuse(w, status, spec.CodeUnavailable, "not now")
		}
	}
}

func (a *attempts) count() int { a.mu.Lock(); defer a.mu.Unlock(); return len(a.keys) }

func TestSafeCallsAreSentAgainAndOthersAreNot(t *testing.T) {
	put := func(c *client.Client, ctx context.Context) error {
		_, err := c.Put(ctx, "a", "b", "k", strings.NewReader("value"), client.PutOptions{})
		return err
	}
	invoke := func(c *client.Client, ctx context.Context) error {
		_, err := c.Invoke(ctx, "a", "f", strings.NewReader("value"), client.InvokeOptions{})
		return err
	}
	rerun := func(c *client.Client, ctx context.Context) error {
		_, err := c.Rerun(ctx, "a", "s", "")
		return err
	}
	apps := func(c *client.Client, ctx context.Context) error { _, err := c.Apps(ctx); return err }
	pipe := func(c *client.Client, ctx context.Context) error {
		_, err := c.Put(ctx, "a", "b", "k", io.MultiReader(strings.NewReader("value")), client.PutOptions{})
		return err
	}
	tests := []struct {
		name   string
		call   func(*client.Client, context.Context) error
		status int // 0: the connection breaks
		want   int // attempts
	}{
		{"a read after 503", apps, 503, 3},
		{"a read after a broken connection", apps, 0, 3},
		{"a read after 404 is not", apps, 404, 1},
		{"a read after 504 is not", apps, 504, 1},
		{"a put after 503", put, 503, 3},
		{"a put after 429", put, 429, 3},
		{"a put after a broken connection", put, 0, 3},
		{"a put after 500 is not", put, 500, 1},
		{"an invoke after 503", invoke, 503, 3},
		{"a rerun after 429", rerun, 429, 3},
		{"a rerun after 503 is not", rerun, 503, 1},
		{"a rerun after a broken connection is not", rerun, 0, 1},
		{"a put whose body can't be read again is not", pipe, 503, 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var a attempts
			c := serve(t, a.handler(2, test.status, struct{}{}))
			err := test.call(c, t.Context())
			if a.count() != test.want {
				t.Errorf("%d attempts, want %d", a.count(), test.want)
			}
			if (err == nil) != (test.want == 3) {
				t.Errorf("error %v", err)
			}
			for i := range a.keys {
				if a.keys[i] != a.keys[0] || a.bodies[i] != a.bodies[0] {
					t.Errorf("attempt %d differs from the first: key %q, body %q", i+1, a.keys[i], a.bodies[i])
				}
			}
		})
	}
}

func TestRetriesEndAfterTheirNumberAndWithTheContext(t *testing.T) {
	var a attempts
	c := serve(t, a.handler(100, 503, nil))
	if _, err := c.Apps(t.Context()); spec.CodeOf(err) != spec.CodeUnavailable || a.count() != 4 {
		t.Errorf("error %v after %d attempts, want unavailable after 4", err, a.count())
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var n atomic.Int64
	c = serve(t, func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) == 2 {
			cancel()
		}
		refuse(w, 503, spec.CodeUnavailable, "not now")
	}, client.WithRetry(client.Retry{MaxAttempts: 1000}))
	if _, err := c.Apps(ctx); err == nil || n.Load() != 2 {
		t.Errorf("error %v after %d attempts, want 2", err, n.Load())
	}
}

func TestNobodyListeningIsUnavailableWithAHint(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	url := server.URL
	server.Close()
	c, err := client.New(url, client.WithRetry(client.Retry{MaxAttempts: 2, Backoff: time.Millisecond}))
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Apps(t.Context())
	e, ok := errors.AsType[*spec.Error](err)
	if !ok || e.Code != spec.CodeUnavailable || e.Hint == "" {
		t.Errorf("error = %v", err)
	}
}

func TestAnswersAreReadUpToTheirBound(t *testing.T) {
	handle := func(chunked bool) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if chunked {
				w.(http.Flusher).Flush()
			}
			_, _ = w.Write(bytes.Repeat([]byte("x"), 100))
		}
	}
	for _, chunked := range []bool{true, false} {
		c := serve(t, handle(chunked), client.WithMaxAnswer(99))
		if _, err := c.Get(t.Context(), "a", "b", "k", client.GetOptions{}); spec.CodeOf(err) != spec.CodeTooLarge {
			t.Errorf("chunked %v: error %v, want too large", chunked, err)
		}
		var out bytes.Buffer
		if o, err := c.GetTo(t.Context(), &out, "a", "", "b", "k", client.GetOptions{}); err != nil || o.Size != 100 || out.Len() != 100 {
			t.Errorf("chunked %v: GetTo = %+v, %v", chunked, o, err)
		}
	}
}

func TestObjectsComeWithTheirHeaders(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("ETag", `"12"`)
		h.Set("Pheromone-Session", "s1")
		h.Set("Pheromone-Meta-Region", "eu")
		h.Set("Pheromone-Producer", "s1.4")
		h.Set("Pheromone-Deleted", "1")
		h.Set("Pheromone-Age", "7")
		h.Set("Pheromone-Created", "2026-01-02T03:04:05.000006Z")
		h.Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, "hello")
	})
	for name, get := range map[string]func() (wire.Object, error){
		"get":  func() (wire.Object, error) { return c.Get(t.Context(), "a", "b", "k", client.GetOptions{Stale: true}) },
		"head": func() (wire.Object, error) { return c.Head(t.Context(), "a", "", "b", "k", client.GetOptions{}) },
		"in a session": func() (wire.Object, error) {
			return c.GetSessionObject(t.Context(), "a", "s1", "b", "k")
		},
	} {
		o, err := get()
		if err != nil || o.Revision != 12 || o.Session != "s1" || o.Meta["region"] != "eu" || o.Producer != "s1.4" || o.Size != 5 ||
			o.ContentType != "text/plain" || !o.Deleted || o.Age == nil || *o.Age != 7 || o.CreatedAt.Nanosecond() != 6000 {
			t.Errorf("%s: %+v, %v", name, o, err)
		}
		if name != "head" && string(o.Data) != "hello" {
			t.Errorf("%s: data %q", name, o.Data)
		}
	}
}

func TestListsGoOverAllPagesAndStopWhereTheCallerStops(t *testing.T) {
	var asked []string
	handle := func(w http.ResponseWriter, r *http.Request) {
		after := r.URL.Query().Get("after")
		asked = append(asked, after)
		list := wire.ObjectList{Items: []wire.Object{{Key: spec.Key("k" + after + "1")}, {Key: spec.Key("k" + after + "2")}}}
		if len(after) < 2 {
			list.Next = after + "n"
		}
		answer(w, 200, list)
	}
	c := serve(t, handle)
	var keys []string
	for o, err := range c.List(t.Context(), "a", "b", client.ListOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, string(o.Key))
	}
	if got := strings.Join(keys, " "); got != "k1 k2 kn1 kn2 knn1 knn2" {
		t.Errorf("keys %q", got)
	}
	asked = nil
	for range c.List(t.Context(), "a", "b", client.ListOptions{}) {
		break
	}
	if len(asked) != 1 {
		t.Errorf("asked for %d pages after the first item", len(asked))
	}
	c = serve(t, func(w http.ResponseWriter, r *http.Request) { answer(w, 200, wire.SessionList{Next: "same"}) })
	var last error
	for _, err := range c.Sessions(t.Context(), "a", client.SessionsOptions{}) {
		last = err
	}
	if last == nil {
		t.Error("pages that never go on gave no error")
	}
}

func TestResultAsksAgainUntilTheSessionEnds(t *testing.T) {
	var polls atomic.Int64
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if d, err := spec.ParseDuration(r.URL.Query().Get("wait")); err != nil || d == 0 {
			t.Errorf("wait=%q", r.URL.Query().Get("wait"))
		}
		if polls.Add(1) < 3 {
			answer(w, 200, wire.Result{Session: "s", Status: wire.SessionRunning})
			return
		}
		answer(w, 200, wire.Result{Session: "s", Status: wire.SessionCompleted, Outputs: []wire.Output{{Key: "o", Data: []byte("x")}}})
	})
	r, err := c.Result(t.Context(), "a", "s", client.ResultOptions{Wait: client.Forever})
	if err != nil || r.Status != wire.SessionCompleted || polls.Load() != 3 || len(r.Outputs) != 1 {
		t.Errorf("Result = %+v, %v after %d polls", r, err, polls.Load())
	}
}

func TestInvokeSendsTheSessionTimeoutIfThereIsOne(t *testing.T) {
	var query string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		query = r.URL.RawQuery
		answer(w, 202, wire.PutResult{Session: "s"})
	})
	for timeout, want := range map[time.Duration]string{0: "", time.Nanosecond: "session_timeout=1ms", 36 * time.Hour: "session_timeout=36h"} {
		if _, err := c.Invoke(t.Context(), "a", "f", nil, client.InvokeOptions{SessionTimeout: timeout}); err != nil || query != want {
			t.Errorf("%s: query %q, want %q (%v)", timeout, query, want, err)
		}
	}
}

func TestASessionTellsItsDeadlineAndItsChildren(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6000, time.UTC)
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, `{"session":{"session":"s","status":"running","origin":{"kind":"child","session":"p"},"deadline_at":"2026-01-02T03:04:05.000006Z","children":3,"awaited":2,
			"waiting":[{"bucket":"b","trigger":"t","stalled":"damaged"}]},
			"invocations":[],"children":[{"session":"c","function":"f","invocation":"s.1","status":"failed","awaited":true,"bucket":"results","key":"k",
			"started_at":"2026-01-02T03:04:05.000006Z","ended_at":"2026-01-02T03:04:05.000006Z"}]}`)
	})
	h, err := c.History(t.Context(), "a", "s", client.HistoryOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s := h.Session
	if s.Origin != (wire.Origin{Kind: "child", Session: "p"}) || !s.DeadlineAt.Equal(at) || s.Children != 3 || s.Awaited != 2 || s.Waiting[0].Stalled != "damaged" {
		t.Errorf("session %+v", s)
	}
	want := wire.Child{Session: "c", Function: "f", Invocation: "s.1", Status: wire.SessionFailed, Awaited: true, Bucket: "results", Key: "k", StartedAt: at, EndedAt: at}
	if len(h.Children) != 1 || h.Children[0] != want {
		t.Errorf("children %+v", h.Children)
	}
}

func TestInvokeTellsHowTheSessionEnded(t *testing.T) {
	tests := []struct {
		name   string
		result wire.Result
		code   spec.Code
	}{
		{"completed", wire.Result{Session: "s", Status: wire.SessionCompleted}, ""},
		{"failed", wire.Result{Session: "s", Status: wire.SessionFailed, Error: &wire.FunctionError{Kind: "crashed", Function: "f", Message: "exit status 3", Attempts: 4}}, spec.CodeSessionFailed},
		{"failed at its deadline", wire.Result{Session: "s", Status: wire.SessionFailed, Error: &wire.FunctionError{Kind: "timeout", Message: "too long"}}, spec.CodeSessionFailed},
		{"cancelled", wire.Result{Session: "s", Status: wire.SessionCancelled}, spec.CodeCancelled},
		{"not in time", wire.Result{Session: "s", Status: wire.SessionRunning}, spec.CodeTimeout},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost {
					w.Header().Set("Pheromone-Session", "s")
					answer(w, 202, wire.PutResult{Session: "s"})
					return
				}
				answer(w, 200, test.result)
			})
			r, err := c.Invoke(t.Context(), "a", "f", strings.NewReader("in"), client.InvokeOptions{Wait: 3 * time.Millisecond})
			if spec.CodeOf(err) != test.code || r.Session != "s" {
				t.Errorf("Invoke = %+v, %v", r, err)
			}
			if e, ok := errors.AsType[*client.Error](err); ok && e.Session != "s" {
				t.Errorf("the error names session %q", e.Session)
			}
		})
	}
}

func TestAnArtifactIsUploadedOnlyOnce(t *testing.T) {
	stored := map[string][]byte{}
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, there := stored[r.URL.Path]
		switch {
		case r.Method == http.MethodHead && !there:
			w.WriteHeader(404)
		case r.Method == http.MethodPut:
			stored[r.URL.Path], _ = io.ReadAll(r.Body)
			answer(w, 201, struct{}{})
		}
	})
	a := &client.Artifact{Sum: "abc", Data: []byte("packed")}
	for i, want := range []bool{false, true} {
		if existed, err := c.UploadArtifact(t.Context(), "app", a); err != nil || existed != want {
			t.Errorf("upload %d: existed %v, %v", i+1, existed, err)
		}
	}
	if string(stored["/v1/apps/app/artifacts/abc"]) != "packed" {
		t.Errorf("stored %q", stored)
	}
}
