package hostile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

func TestMain(m *testing.M) { nodetest.Main(m) }

// answer is what a node said to a request.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// problem is the error in the answer's body.
func (a answer) problem(t testing.TB) wire.Error {
	t.Helper()
	var e wire.ErrorBody
	if err := json.Unmarshal(a.body, &e); err != nil || e.Error.Code == "" || e.Error.Message == "" {
		t.Fatalf("status %d without an error as the API documents it: %.500q (%v)", a.status, a.body, err)
	}
	return e.Error
}

// wants fails the test unless the answer is this error and says all of these.
func (a answer) wants(t testing.TB, status int, code spec.Code, says ...string) {
	t.Helper()
	if a.status != status {
		t.Fatalf("status %d, want %d: %.1000q", a.status, status, a.body)
	}
	e := a.problem(t)
	if e.Code != code {
		t.Errorf("code %q, want %q", e.Code, code)
	}
	text := fmt.Sprintf("%s %s %s %v", e.Message, e.Hint, e.Field, e.Faults)
	for _, s := range says {
		if !strings.Contains(text, s) {
			t.Errorf("the answer does not say %q: %s", s, text)
		}
	}
	if len(text) > 4<<10 {
		t.Errorf("the error has %d bytes: what came in is not cut off", len(text))
	}
}

// call sends a request. headers are names and values in turn.
func call(t testing.TB, node *nodetest.Node, method, path string, body io.Reader, headers ...string) answer {
	t.Helper()
	req, err := http.NewRequest(method, node.URL()+path, body)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := httpClient.Do(req)
	if err != nil {
		t.Fatalf("%s %.200s: %v", method, path, err)
	}
	defer func() { _ = resp.Body.Close() }()
	out, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		t.Fatalf("%s %.200s: %v", method, path, err)
	}
	return answer{resp.StatusCode, resp.Header, out}
}

var httpClient = &http.Client{Timeout: time.Minute}

// raw sends bytes over a connection of its own and returns all that comes back.
func raw(t testing.TB, node *nodetest.Node, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", node.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte(request)); err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(io.LimitReader(conn, 1<<20))
	if err != nil && len(out) == 0 {
		t.Fatal(err)
	}
	return string(out)
}

// listing is everything that is deployed and stored, as the API lists it.
func listing(t testing.TB, node *nodetest.Node, paths ...string) string {
	t.Helper()
	var all bytes.Buffer
	for _, path := range paths {
		a := call(t, node, http.MethodGet, path, nil)
		if a.status != http.StatusOK {
			t.Fatalf("GET %s: %d %s", path, a.status, a.body)
		}
		fmt.Fprintf(&all, "%s %s\n", path, a.body)
	}
	return all.String()
}

// resident is the memory of the node's process, in bytes.
func resident(t testing.TB, node *nodetest.Node, field string) int64 {
	t.Helper()
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(node.PID()), "status"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		value, ok := strings.CutPrefix(line, field+":")
		if !ok {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return kib << 10
	}
	t.Fatalf("/proc knows no %s", field)
	return 0
}

// gauge reads a metric without labels.
func gauge(t testing.TB, node *nodetest.Node, name string) float64 {
	t.Helper()
	a := call(t, node, http.MethodGet, "/metrics", nil)
	for line := range strings.Lines(string(a.body)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			v, err := strconv.ParseFloat(strings.TrimSpace(value), 64)
			if err != nil {
				t.Fatal(err)
			}
			return v
		}
	}
	t.Fatalf("the metrics have no %s", name)
	return 0
}

// reader gives n bytes, without holding them.
func reader(n int64) io.Reader { return io.LimitReader(zeros{}, n) }

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// written counts what the client has sent of a body.
type written struct {
	from io.Reader
	n    atomic.Int64
}

func (w *written) Read(p []byte) (int, error) {
	n, err := w.from.Read(p)
	w.n.Add(int64(n))
	return n, err
}

// halfClosed sends bytes, ends its side of the connection and waits for the other's end.
func halfClosed(t testing.TB, node *nodetest.Node, request string) {
	t.Helper()
	conn, err := net.Dial("tcp", node.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte(request)); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, conn)
}
