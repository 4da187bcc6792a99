package api_test

import (
	"context"
	"encoding/json"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/api"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

const invokePath = "/v1/apps/shop/functions/bill/invoke"

func TestInvokeWithoutWaitAnswersTheSession(t *testing.T) {
	backend := newFake()
	s := serve(t, backend, api.Config{})
	a := s.do("POST", invokePath, "input", "Content-Type: text/plain", "Idempotency-Key: once", "Pheromone-Meta-A: 1")
	if a.status != http.StatusAccepted || a.header.Get("Pheromone-Session") != string(session) || decode[wire.PutResult](t, a).Session != session {
		t.Errorf("answer %+v", a)
	}
	if i := backend.invokes[0]; i.App != "shop" || i.Function != "bill" || i.Size != 5 || i.ContentType != "text/plain" || i.IdempotencyKey != "once" || i.Meta["a"] != "1" {
		t.Errorf("invoke %+v", i)
	}
	if a := s.do("POST", invokePath, ""); a.status != http.StatusAccepted {
		t.Errorf("an invocation without input: %+v", a)
	}
}

func TestInvokeWithWaitAnswersWhatBecomesOfIt(t *testing.T) {
	one := wire.Output{Bucket: "orders", Key: "k", ContentType: "text/csv", Size: 3, Data: []byte("a,b")}
	for _, c := range []struct {
		name        string
		query       string
		result      wire.Result
		status      int
		contentType string
		body        string // or what it holds
		code        spec.Code
	}{
		{"one output is answered as its bytes", "wait=1s", wire.Result{Status: wire.SessionCompleted, Outputs: []wire.Output{one}}, 200, "text/csv", "a,b", ""},
		{"no output is answered as a result", "wait=1s", wire.Result{Status: wire.SessionCompleted}, 200, "application/json", `"outputs":[]`, ""},
		{"two outputs are answered as a result", "wait=1s", wire.Result{Status: wire.SessionCompleted, Outputs: []wire.Output{one, one}}, 200, "application/json", `"data":"YSxi"`, ""},
		{"the first output is enough if asked for", "wait=1s&until=output", wire.Result{Status: wire.SessionRunning, Outputs: []wire.Output{one}}, 200, "text/csv", "a,b", ""},
		{"an output is not the end", "wait=1s", wire.Result{Status: wire.SessionRunning, Outputs: []wire.Output{one}}, 504, "application/json", "goes on after 1s", spec.CodeTimeout},
		{"time is up", "wait=10m", wire.Result{Status: wire.SessionRunning}, 504, "application/json", "goes on after 10m", spec.CodeTimeout},
		{"the session failed", "wait=1s", wire.Result{Status: wire.SessionFailed, Error: &wire.FunctionError{Kind: "crashed", Message: "exit status 1", Function: "bill", Attempts: 4}}, 500, "application/json", "function bill crashed after 4 attempts: exit status 1", spec.CodeSessionFailed},
		{"the session's deadline was over", "wait=1s", wire.Result{Status: wire.SessionFailed, Error: &wire.FunctionError{Kind: "timeout", Message: "the session did not end within 1s"}}, 500, "application/json", "session s-1 failed: the session did not end", spec.CodeSessionFailed},
		{"the session failed and does not say why", "wait=1s", wire.Result{Status: wire.SessionFailed}, 500, "application/json", "failed", spec.CodeSessionFailed},
		{"the session was cancelled", "wait=1s", wire.Result{Status: wire.SessionCancelled}, 409, "application/json", "cancelled", spec.CodeCancelled},
	} {
		t.Run(c.name, func(t *testing.T) {
			backend := newFake()
			backend.onResult = func(_ context.Context, wait time.Duration, untilOutput bool) (wire.Result, error) {
				if wait < time.Second || untilOutput != strings.Contains(c.query, "until=output") {
					t.Errorf("waits %s, until output %t", wait, untilOutput)
				}
				c.result.Session = session
				return c.result, nil
			}
			s := serve(t, backend, api.Config{})
			a := s.do("POST", invokePath+"?"+c.query, "input")
			if a.status != c.status || a.header.Get("Content-Type") != c.contentType || !strings.Contains(a.body, c.body) || a.header.Get("Pheromone-Session") != string(session) {
				t.Errorf("answer %+v", a)
			}
			if c.code != "" {
				if e := a.error(t); e.Code != c.code || e.Session != session || (e.Cause != nil) != (c.result.Error != nil) {
					t.Errorf("error %+v", e)
				}
			}
		})
	}
}

func TestAResultInParts(t *testing.T) {
	backend := newFake()
	backend.onResult = func(context.Context, time.Duration, bool) (wire.Result, error) {
		return wire.Result{Session: session, Status: wire.SessionCompleted, Outputs: []wire.Output{
			{Bucket: "orders", Key: "a/é", ContentType: "text/plain", Data: []byte("one")},
			{Bucket: "orders", Key: "b", Data: []byte("--two\r\n--")},
		}}, nil
	}
	s := serve(t, backend, api.Config{})
	a := s.do("POST", invokePath+"?wait=1s", "x", "Accept: multipart/mixed")
	_, params, err := mime.ParseMediaType(a.header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	parts := multipart.NewReader(strings.NewReader(a.body), params["boundary"])
	var got []string
	for {
		p, err := parts.NextPart()
		if err == io.EOF {
			break
		}
		data, _ := io.ReadAll(p)
		if len(got) == 0 {
			var head wire.Result
			if json.Unmarshal(data, &head) != nil || head.Status != wire.SessionCompleted || len(head.Outputs) != 2 || head.Outputs[0].Data != nil {
				t.Errorf("first part %s", data)
			}
			data = nil
		}
		got = append(got, p.Header.Get("Content-Type")+" "+p.Header.Get("Pheromone-Key")+" "+string(data))
	}
	want := []string{"application/json  ", "text/plain a%2F%C3%A9 one", "application/octet-stream b --two\r\n--"}
	if !slices.Equal(got, want) {
		t.Errorf("parts %q, want %q", got, want)
	}
}

func TestAResultIsAnsweredWhateverItIs(t *testing.T) {
	for _, status := range []wire.SessionStatus{wire.SessionRunning, wire.SessionFailed, wire.SessionCancelled, wire.SessionCompleted} {
		backend := newFake()
		backend.onResult = func(context.Context, time.Duration, bool) (wire.Result, error) {
			return wire.Result{Session: session, Status: status}, nil
		}
		s := serve(t, backend, api.Config{})
		a := s.do("GET", "/v1/apps/shop/sessions/s-1/result?wait=5s", "")
		if r := decode[wire.Result](t, a); a.status != http.StatusOK || r.Status != status || r.Outputs == nil || a.header.Get("Pheromone-Session") != string(session) {
			t.Errorf("%s: %+v", status, a)
		}
	}
}

func TestAClientWhoGoesEndsItsWait(t *testing.T) {
	for _, request := range []string{
		"POST " + invokePath + "?wait=10m HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx",
		"GET /v1/apps/shop/sessions/s-1/result?wait=10m HTTP/1.1\r\nHost: localhost\r\n\r\n",
	} {
		backend := newFake()
		waiting, ended := make(chan struct{}), make(chan struct{})
		backend.onResult = func(ctx context.Context, _ time.Duration, _ bool) (wire.Result, error) {
			close(waiting)
			<-ctx.Done()
			close(ended)
			return wire.Result{}, ctx.Err()
		}
		s := serve(t, backend, api.Config{})
		c := s.dial()
		_, _ = io.WriteString(c, request)
		<-waiting
		c.Close()
		<-ended
	}
}

func TestAWaitLeavesTheConnectionAsItWas(t *testing.T) {
	backend := newFake()
	backend.onResult = func(context.Context, time.Duration, bool) (wire.Result, error) {
		return wire.Result{Session: session, Status: wire.SessionCompleted}, nil
	}
	s := serve(t, backend, api.Config{})
	request := "GET /v1/apps/shop/sessions/s-1/result?wait=1s HTTP/1.1\r\nHost: localhost\r\n\r\n"
	for i, a := range s.raw(strings.Repeat(request, 5), 5) { // sent ahead, too
		if a.status != http.StatusOK {
			t.Errorf("answer %d: %+v", i, a)
		}
	}
}

func TestAFullHouseOfWaitsIsToldToComeBack(t *testing.T) {
	backend := newFake()
	waiting, release := make(chan struct{}), make(chan struct{})
	backend.onResult = func(context.Context, time.Duration, bool) (wire.Result, error) {
		waiting <- struct{}{}
		<-release
		return wire.Result{Session: session, Status: wire.SessionCompleted}, nil
	}
	s := serve(t, backend, api.Config{MaxWaits: 1})
	first := make(chan answer)
	go func() { first <- s.do("GET", "/v1/apps/shop/sessions/s-1/result?wait=1m", "") }()
	<-waiting
	a := s.do("POST", invokePath+"?wait=1m", "x")
	if a.status != http.StatusTooManyRequests || a.header.Get("Retry-After") != "1" || a.error(t).Session != session {
		t.Errorf("answer %+v", a)
	}
	close(release)
	if a := <-first; a.status != http.StatusOK {
		t.Errorf("the first: %+v", a)
	}
}

func TestSessionsAreListedShownAndEnded(t *testing.T) {
	backend := newFake()
	s := serve(t, backend, api.Config{})
	const at = "/v1/apps/shop/sessions"
	for _, c := range []struct {
		method, path string
		status       int
		holds        string
	}{
		{"GET", at + "?status=failed&function=bill&limit=5&after=x", 200, `"items":[]`},
		{"GET", at + "/s-1", 200, `"session":"s-1"`},
		{"HEAD", at + "/s-1", 200, ""},
		{"GET", at + "/s-1/history?limit=3", 200, `"invocations":[]`},
		{"POST", at + "/s-1/cancel", 200, `"status":"cancelled"`},
		{"POST", at + "/s-1/rerun?from=orders%2Fa%2Fb", 202, `"session":"s-2"`},
		{"POST", at + "/s-1/rerun", 202, `"session":"s-2"`},
		{"DELETE", at + "/s-1", 204, ""},
	} {
		if a := s.do(c.method, c.path, ""); a.status != c.status || !strings.Contains(a.body, c.holds) {
			t.Errorf("%s %s: %+v", c.method, c.path, a)
		}
	}
	want := []string{"cancel s-1", "rerun orders/a/b", "rerun ", "purge s-1"}
	if got := backend.recorded(); !slices.Equal(got, want) {
		t.Errorf("calls %q, want %q", got, want)
	}
}
