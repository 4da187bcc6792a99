package api_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/api"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

func TestEveryCodeHasItsStatus(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "../spec/errors.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	backend := newFake()
	s := serve(t, backend, api.Config{})
	count := 0
	ast.Inspect(file, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || len(v.Values) != 1 || v.Comment == nil {
			return true
		}
		count++
		code, _ := strconv.Unquote(v.Values[0].(*ast.BasicLit).Value)
		want, _, _ := strings.Cut(strings.TrimSpace(v.Comment.Text()), ":")
		backend.onGet = func(context.Context, api.Get) (api.Object, error) {
			return api.Object{}, fmt.Errorf("somewhere: %w", spec.Errorf(spec.Code(code), "reason").WithField("f"))
		}
		a := s.do("GET", objects+"/k", "")
		if strconv.Itoa(a.status) != want || string(a.error(t).Code) != code {
			t.Errorf("%s is answered with %d %s, documented as %s", code, a.status, a.body, want)
		}
		if retry := a.header.Get("Retry-After"); (retry == "1") != (a.status == 429 || a.status == 503) {
			t.Errorf("%s: Retry-After %q", code, retry)
		}
		return true
	})
	if count < 15 {
		t.Errorf("found %d codes", count)
	}
}

func TestInternalErrorsKeepTheirText(t *testing.T) {
	backend := newFake()
	s := serve(t, backend, api.Config{})
	for name, fail := range map[string]func() error{
		"an error":          func() error { return errors.New("secret path /var/x") },
		"an internal Error": func() error { return spec.Errorf(spec.CodeInternal, "secret path /var/x") },
		"a panic":           func() error { panic("secret path /var/x") },
	} {
		backend.onGet = func(context.Context, api.Get) (api.Object, error) { return api.Object{}, fail() }
		a := s.do("GET", objects+"/k", "")
		if a.status != 500 || a.error(t).Code != spec.CodeInternal || strings.Contains(a.body, "secret") {
			t.Errorf("%s: %+v", name, a)
		}
		if log := s.log.String(); !strings.Contains(log, a.header.Get("Pheromone-Request-Id")) || !strings.Contains(log, "secret path") {
			t.Errorf("%s: the log says %q", name, log)
		}
	}
}

func TestAConnectionGoesOnAfterAPanic(t *testing.T) {
	backend := newFake()
	backend.onGet = func(context.Context, api.Get) (api.Object, error) { panic("boom") }
	s := serve(t, backend, api.Config{})
	answers := s.raw("GET "+objects+"/k HTTP/1.1\r\nHost: localhost\r\n\r\nGET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n", 2)
	if answers[0].status != 500 || answers[1].status != 200 {
		t.Errorf("answers %+v", answers)
	}
}

func TestWhatTakesTooLongIsAnswered(t *testing.T) {
	backend := newFake()
	backend.onGet = func(ctx context.Context, _ api.Get) (api.Object, error) {
		<-ctx.Done()
		return api.Object{}, fmt.Errorf("read: %w", ctx.Err())
	}
	s := serve(t, backend, api.Config{RequestTimeout: time.Millisecond})
	if a := s.do("GET", objects+"/k", ""); a.status != http.StatusGatewayTimeout || a.error(t).Code != spec.CodeTimeout {
		t.Errorf("answer %+v", a)
	}
}

func TestRequestIDsDiffer(t *testing.T) {
	s := serve(t, newFake(), api.Config{})
	seen := map[string]bool{}
	for range 20 {
		seen[s.do("GET", "/livez", "").header.Get("Pheromone-Request-Id")] = true
	}
	if len(seen) != 20 {
		t.Errorf("%d ids for 20 requests", len(seen))
	}
}

func TestTheNodeTellsOfItself(t *testing.T) {
	backend := newFake()
	s := serve(t, backend, api.Config{Version: "v1.2.3"})
	for path, holds := range map[string]string{
		"/": `"PUT /v1/apps/{app}"`, "/livez": "alive", "/readyz": "ready", "/v1/version": `"version":"v1.2.3"`,
		"/v1/cluster": `"node":"n1"`, "/v1/cluster/shards": `"items":[{"shard":1`, "/v1/cluster/nodes": `"items":[{"name":"n1"`,
		"/v1/cluster/shards/1/hash": `{"shard":1,"node":"n1","replica":1,"applied":7,"hash":"00ff","blobs":"11ee","lacking":0}`,
	} {
		if a := s.do("GET", path, ""); a.status != http.StatusOK || !strings.Contains(a.body, holds) {
			t.Errorf("%s: %+v", path, a)
		}
	}
	for path, status := range map[string]int{"/v1/cluster/shards/2/hash": http.StatusNotFound, "/v1/cluster/shards/one/hash": http.StatusBadRequest} {
		if a := s.do("GET", path, ""); a.status != status {
			t.Errorf("%s: %+v", path, a)
		}
	}
	backend.ready = spec.Errorf(spec.CodeUnavailable, "2 of 8 shards have no leader")
	if a := s.do("GET", "/readyz", ""); a.status != http.StatusServiceUnavailable || a.error(t).Message != "2 of 8 shards have no leader" {
		t.Errorf("not ready: %+v", a)
	}
	backend.ready = errors.New("secret")
	if a := s.do("GET", "/readyz", ""); a.status != http.StatusServiceUnavailable || strings.Contains(a.body, "secret") {
		t.Errorf("not ready: %+v", a)
	}
}

func TestMetricsCountByRouteAndClass(t *testing.T) {
	s := serve(t, newFake(), api.Config{})
	s.do("PUT", objects+"/k1", "hello")
	s.do("PUT", objects+"/k2", "hello")
	s.do("PUT", objects+"/k2?x=1", "hello")
	s.do("GET", "/nowhere", "")
	a := s.do("GET", "/metrics", "")
	const route = `route="/v1/apps/{app}/buckets/{bucket}/objects/{key}"`
	for _, line := range []string{
		`pheromone_http_requests_total{method="PUT",` + route + `,status="2xx"} 2`,
		`pheromone_http_requests_total{method="PUT",` + route + `,status="4xx"} 1`,
		`pheromone_http_requests_total{method="other",route="none",status="4xx"} 1`,
		`pheromone_http_request_duration_seconds_count{method="PUT",` + route + `} 3`,
		`pheromone_http_request_body_bytes_total 10`,
	} {
		if !strings.Contains(a.body, line+"\n") {
			t.Errorf("no %s", line)
		}
	}
	if !strings.HasPrefix(a.header.Get("Content-Type"), "text/plain") || strings.Contains(a.body, "k1") {
		t.Errorf("metrics %v", a.header)
	}
}

func TestShutdownAnswersWhatIsUnderWayAndEndsWhatLasts(t *testing.T) {
	backend := newFake()
	started, release := make(chan struct{}, 3), make(chan struct{})
	backend.onPut = func(context.Context, api.Put) (wire.PutResult, error) {
		started <- struct{}{}
		<-release
		return wire.PutResult{Revision: 1}, nil
	}
	backend.onResult = func(ctx context.Context, _ time.Duration, _ bool) (wire.Result, error) {
		started <- struct{}{}
		<-ctx.Done()
		return wire.Result{}, ctx.Err()
	}
	backend.onWatch = func(ctx context.Context, _ api.Watch, emit func(wire.WatchEvent) error) error {
		_ = emit(wire.WatchEvent{Position: "p0"})
		started <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	s := serve(t, backend, api.Config{})
	put, wait := make(chan answer, 1), make(chan answer, 1)
	go func() { put <- s.do("PUT", objects+"/k", "x") }()
	go func() { wait <- s.do("POST", invokePath+"?wait=10m", "x") }()
	watching := s.open(watchPath)
	quiet := s.dial()
	for range 3 {
		<-started
	}
	down := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		down <- s.server.Shutdown(ctx)
	}()
	if a := <-wait; a.status != http.StatusServiceUnavailable || a.error(t).Session != session || a.header.Get("Retry-After") != "1" {
		t.Errorf("the wait: %+v", a)
	}
	if _, err := io.ReadAll(watching.Body); err != nil {
		t.Errorf("the watch ended with %v", err)
	}
	if _, err := bufio.NewReader(quiet).ReadByte(); err == nil {
		t.Error("a connection without a request is still open")
	}
	select {
	case err := <-down:
		t.Fatalf("shutdown did not wait for the put: %v", err)
	default:
	}
	close(release)
	if a := <-put; a.status != http.StatusOK || !a.closes {
		t.Errorf("the put: %+v", a)
	}
	if err := <-down; err != nil {
		t.Error(err)
	}
}

func TestShutdownCutsOffWhatDoesNotEnd(t *testing.T) {
	backend := newFake()
	started := make(chan struct{})
	backend.onPut = func(ctx context.Context, _ api.Put) (wire.PutResult, error) {
		close(started)
		<-ctx.Done()
		return wire.PutResult{}, ctx.Err()
	}
	s := serve(t, backend, api.Config{})
	c := s.dial()
	_, _ = io.WriteString(c, "PUT "+objects+"/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx")
	<-started
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := s.server.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("shutdown: %v", err)
	}
	_, _ = io.Copy(io.Discard, c) // until the server closes
}

func TestAServerThatIsShutDownFirstDoesNotServe(t *testing.T) {
	s := api.New(api.Config{}, newFake(), slog.New(slog.DiscardHandler))
	if err := s.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Serve(l); err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
		t.Error("it listens")
	}
}
