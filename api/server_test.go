package api_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/api"
	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/spec/wire"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	nodetest.MainWithoutLeaks(m,
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),    // one for the process
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"), // ends within its cleaning interval
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).workerFunc"),  // idle workers end with it
	)
}

// served is a server under test on a loopback port.
type served struct {
	t      testing.TB
	server *api.Server
	addr   string
	log    *lockedBuffer
	client *http.Client
	done   chan error
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}
func (l *lockedBuffer) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

func serve(t testing.TB, backend api.Backend, cfg api.Config) *served {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &served{t: t, addr: l.Addr().String(), log: &lockedBuffer{}, done: make(chan error, 1)}
	s.server = api.New(cfg, backend, slog.New(slog.NewTextHandler(s.log, nil)))
	go func() { s.done <- s.server.Serve(l) }()
	s.client = &http.Client{Transport: &http.Transport{ExpectContinueTimeout: time.Minute}}
	t.Cleanup(func() {
		s.client.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := s.server.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
		if err := <-s.done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return s
}

// answer is a response read whole.
type answer struct {
	status int
	header http.Header
	body   string
	closes bool // the connection
}

// do sends a request; headers are given as "Name: value".
func (s *served) do(method, path, body string, headers ...string) answer {
	s.t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	req, err := http.NewRequest(method, "http://"+s.addr, reader)
	if err != nil {
		s.t.Fatal(err)
	}
	req.URL.Opaque = path // as it is written, not cleaned
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		if name == "Host" {
			req.Host = value
		} else {
			req.Header.Add(name, value)
		}
	}
	resp, err := s.client.Do(req)
	if err != nil {
		s.t.Fatalf("%s %s: %v", method, clip(path), err)
	}
	return readAnswer(s.t, resp)
}

func readAnswer(t testing.TB, resp *http.Response) answer {
	t.Helper()
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatalf("read answer: %v", err)
	}
	return answer{resp.StatusCode, resp.Header, string(body), resp.Close}
}

// raw sends bytes as they are and reads the answers until the server closes or,
// with n > 0, n of them.
func (s *served) raw(request string, n int) []answer {
	s.t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	go func() { _, _ = io.WriteString(c, request) }()
	in := bufio.NewReader(c)
	var out []answer
	for n == 0 || len(out) < n {
		resp, err := http.ReadResponse(in, nil)
		if err == io.EOF || err == io.ErrUnexpectedEOF && n == 0 {
			break
		}
		if err != nil {
			s.t.Fatalf("answer %d to %q: %v", len(out)+1, clip(request), err)
		}
		out = append(out, readAnswer(s.t, resp))
	}
	return out
}

func clip(s string) string { return s[:min(len(s), 100)] }

func (a answer) error(t testing.TB) wire.Error {
	t.Helper()
	var e wire.ErrorBody
	if err := json.Unmarshal([]byte(a.body), &e); err != nil {
		t.Fatalf("answer %d is no error body: %q", a.status, a.body)
	}
	return e.Error
}

func decode[T any](t testing.TB, a answer) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(a.body), &v); err != nil {
		t.Fatalf("decode %q: %v", a.body, err)
	}
	return v
}

// eventually waits for a condition that something else brings about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("not in 20s: %s", what)
		}
		<-time.After(time.Millisecond) // between two looks
	}
}

func (s *served) dial() *net.TCPConn {
	s.t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}
