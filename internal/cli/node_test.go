package cli_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/internal/cli"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// fakeNode is a node that serves canned answers.
type fakeNode struct {
	server *httptest.Server
	closed chan struct{}
	once   sync.Once
}

func (n *fakeNode) URL() string { return n.server.URL }
func (n *fakeNode) Wait() error { <-n.closed; return nil }
func (n *fakeNode) Close() error {
	n.once.Do(func() { close(n.closed); n.server.Close() })
	return nil
}

// runNode runs a command that starts a node until stop is called, and hands on
// the lines of one of its streams.
func runNode(t *testing.T, s *shell, handle http.HandlerFunc, readStdout bool, args ...string) (config cli.NodeConfig, lines <-chan string, stop func() outcome) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	read, write := io.Pipe()
	var rest strings.Builder
	d := s.deps(write, &rest)
	if !readStdout {
		d = s.deps(&rest, write)
	}
	started := make(chan cli.NodeConfig, 1)
	d.StartNode = func(_ context.Context, c cli.NodeConfig) (cli.Node, error) {
		started <- c
		return &fakeNode{server: httptest.NewServer(handle), closed: make(chan struct{})}, nil
	}
	ended := make(chan int, 1)
	go func() {
		ended <- cli.Run(ctx, args, d)
		write.Close()
	}()
	out := make(chan string, 1000)
	go func() {
		defer close(out)
		for scan := bufio.NewScanner(read); scan.Scan(); {
			out <- scan.Text()
		}
	}()
	select {
	case config = <-started:
	case code := <-ended:
		t.Fatalf("%v ended with %d before it started a node: %s", args, code, rest.String())
	}
	t.Cleanup(cancel)
	return config, out, func() outcome {
		cancel()
		return outcome{code: <-ended, stdout: rest.String()}
	}
}

// until reads lines up to one that holds text.
func until(t *testing.T, lines <-chan string, text string) string {
	t.Helper()
	var seen []string
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				t.Fatalf("no line with %q in %q", text, seen)
			}
			if seen = append(seen, line); strings.Contains(line, text) {
				return line
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("no line with %q in time; there were %q", text, seen)
		}
	}
}

// fakeAPI takes manifests and logs one line for each.
func fakeAPI() http.HandlerFunc {
	var mu sync.Mutex
	version := uint64(0)
	return func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case r.Method == http.MethodPut && strings.Contains(r.URL.Path, "/artifacts/"):
			reply(201, struct{}{})(w, r)
		case r.Method == http.MethodPut:
			version++
			reply(200, wire.ApplyResult{App: "demo", Version: version, Changes: []wire.Change{{Action: "change", Path: "artifact"}}})(w, r)
		case strings.HasSuffix(r.URL.Path, "/logs"):
			data, _ := json.Marshal(wire.LogLine{Time: now, Function: "f", Stream: "stdout", Text: "hello from f"})
			fmt.Fprintf(w, "event: log\ndata: %s\n\n", data)
			w.(http.Flusher).Flush()
			mu.Unlock()
			<-r.Context().Done()
			mu.Lock()
		case r.Method == http.MethodHead:
			w.WriteHeader(404)
		}
	}
}

const demoManifest = "apiVersion: pheromone/v1\napp: demo\nfunctions:\n  f: {runtime: process, command: [python3, app.py]}\n"

func demo(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "app.yaml"), demoManifest)
	write(t, filepath.Join(dir, "app.py"), "1")
	return dir
}

func TestDevDeploysWatchesAndStopsCleanly(t *testing.T) {
	dir := demo(t)
	s := newShell(t, nil)
	config, lines, stop := runNode(t, s, fakeAPI(), true, "dev", filepath.Join(dir, "app.yaml"), "--random-port")
	if config.Listen != "127.0.0.1:0" || config.DataDir == "" {
		t.Errorf("the node got %+v", config)
	}
	until(t, lines, "Pheromone runs at http://127.0.0.1:")
	until(t, lines, "demo version 1 ready in ")
	until(t, lines, "f | hello from f")
	write(t, filepath.Join(dir, "app.py"), "2")
	until(t, lines, "demo version 2 ready in ")
	write(t, filepath.Join(dir, "app.yaml"), demoManifest+"colour: red\n")
	until(t, lines, "not deployed:")
	until(t, lines, "colour")
	write(t, filepath.Join(dir, "app.yaml"), demoManifest+"# mended\n")
	until(t, lines, "demo version 3 ready in ")
	if o := stop(); o.code != 0 {
		t.Errorf("dev ended with %+v", o)
	}
	if _, err := os.Stat(config.DataDir); !os.IsNotExist(err) {
		t.Errorf("the temporary data is still there: %v", err)
	}
}

func TestDevPrintsOneReadyLineForPrograms(t *testing.T) {
	dir := demo(t)
	data := filepath.Join(t.TempDir(), "data")
	s := newShell(t, nil)
	_, lines, stop := runNode(t, s, fakeAPI(), true, "dev", dir, "--random-port", "--data", data, "-o", "json")
	var ready struct {
		Ready          bool
		URL, Data, App string
		PID            int
		Version        uint64
	}
	line := until(t, lines, "{")
	if err := json.Unmarshal([]byte(line), &ready); err != nil || !ready.Ready || ready.Data != data || ready.PID != os.Getpid() || ready.App != "demo" || ready.Version != 1 || !strings.HasPrefix(ready.URL, "http://127.0.0.1:") {
		t.Errorf("ready line %s (%v)", line, err)
	}
	if o := stop(); o.code != 0 {
		t.Errorf("dev ended with %+v", o)
	}
	for line := range lines {
		t.Errorf("a second line on standard output: %s", line)
	}
}

func TestAPortInUseIsToldWithAWayOut(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := newShell(t, nil)
	if o := s.run("dev", "--listen", l.Addr().String()); o.code != 6 || !strings.Contains(o.stderr, "in use") || !strings.Contains(o.stderr, "--random-port") {
		t.Errorf("%+v", o)
	}
}

func TestAPeerAddressInUseIsNotTakenForTheAPIs(t *testing.T) {
	s := newShell(t, nil)
	var stdout, stderr strings.Builder
	d := s.deps(&stdout, &stderr)
	d.StartNode = func(context.Context, cli.NodeConfig) (cli.Node, error) {
		return nil, spec.Errorf(spec.CodeUnavailable, "listen for other nodes on 10.0.0.1:7170: %w", syscall.EADDRINUSE).WithHint("another --peer-listen")
	}
	code := cli.Run(t.Context(), []string{"serve", "--data", t.TempDir(), "--listen", "127.0.0.1:0"}, d)
	if text := stderr.String(); code != 6 || !strings.Contains(text, "other nodes on 10.0.0.1:7170") || !strings.Contains(text, "hint: another --peer-listen") {
		t.Errorf("exit code %d: %s", code, text)
	}
}

func TestServeRefusesWhatCannotWork(t *testing.T) {
	s := newShell(t, nil)
	data := t.TempDir()
	for text, args := range map[string][]string{
		"can't find each other":         {"--bootstrap-expect", "3"},
		"neither TLS nor tokens":        {"--listen", "0.0.0.0:7070"},
		"neither TLS nor tokens: anybo": {"--listen", ":7070"},
		"--log-level":                   {"--log-level", "loud"},
	} {
		if o := s.run(append([]string{"serve", "--data", data}, args...)...); o.code != 2 || !strings.Contains(o.stderr, text) {
			t.Errorf("%v: %+v", args, o)
		}
	}
}

func TestAFailpointThatIsNoneIsRefusedWithTheListOfThem(t *testing.T) {
	s := newShell(t, nil)
	s.env["PHEROMONE_FAILPOINT"] = "nowhere"
	for _, args := range [][]string{{"serve", "--data", t.TempDir(), "--listen", "127.0.0.1:0"}, {"dev", "--random-port"}} {
		if o := s.run(args...); o.code != 2 || !strings.Contains(o.stderr, `no point "nowhere"`) || !strings.Contains(o.stderr, "fired/logged") {
			t.Errorf("%v: %+v", args, o)
		}
	}
}

func TestServeTakesSettingsFromFlagsThenEnvironmentThenFile(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "node.yaml")
	write(t, file, "# a node\nname: from-file\ndata: "+dir+"/file\nlisten: 127.0.0.1:0\nshards: 4\nlog-level: error\ninput-memory: 64MiB\nshared-memory: off\n")
	s := newShell(t, nil)
	s.env["PHEROMONE_NAME"], s.env["PHEROMONE_SHARDS"] = "from-env", "6"
	ready := func(w http.ResponseWriter, r *http.Request) {}
	config, lines, stop := runNode(t, s, ready, true, "serve", "--config", file, "--shards", "8", "-o", "json")
	if config.Name != "from-env" || config.Shards != 8 || config.DataDir != dir+"/file" || config.Listen != "127.0.0.1:0" || config.InputBytes != 64<<20 || config.SharedBytes >= 0 {
		t.Errorf("the node got %+v", config)
	}
	until(t, lines, `"ready":true`)
	if o := stop(); o.code != 0 {
		t.Errorf("serve ended with %+v", o)
	}
	for text, want := range map[string]string{
		"name: a\nlog_level: info\n": `:2: unknown setting "log_level"; did you mean "log-level"?`,
		"nmae: a\n":                  "settings have the names of",
		"shards: many\n":             ":1: shards:",
		"name: {a: b}\n":             "use a plain value",
		"name: a\nname: b\n":         "name",
		"- a\n":                      "name: value",
	} {
		write(t, file, text)
		s.env = map[string]string{}
		if o := s.run("serve", "--config", file, "--data", dir); o.code != 2 || !strings.Contains(o.stderr, want) {
			t.Errorf("%q: %+v, want %q", text, o, want)
		}
	}
}

func TestApplyUploadsTheFolderOfProcessFunctionsAndPrintsChanges(t *testing.T) {
	dir := demo(t)
	var applied recorded
	uploads := 0
	var names []string
	handle := func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/cluster" { // asked for beside the command's own requests
			http.NotFound(w, r)
			return
		}
		names = append(names, r.Method+" "+r.URL.Path)
		switch {
		case r.Method == http.MethodHead:
			w.WriteHeader(404)
		case strings.Contains(r.URL.Path, "/artifacts/"):
			uploads++
			reply(201, struct{}{})(w, r)
		default:
			applied.then(reply(200, wire.ApplyResult{App: "demo", Version: 2, DryRun: r.URL.Query().Has("dry_run"), Changes: []wire.Change{
				{Action: "add", Path: "functions.f"}, {Action: "change", Path: "retention", From: "1h", To: "2h"}, {Action: "remove", Path: "buckets.old"},
			}, Warnings: []spec.Fault{{Path: "functions.f", Line: 4, Column: 3, Message: "nothing fires it", Warning: true}}}))(w, r)
		}
	}
	server := httptest.NewServer(http.HandlerFunc(handle))
	defer server.Close()
	s := newShell(t, nil)
	s.env["PHEROMONE_SERVER"] = server.URL
	file := filepath.Join(dir, "app.yaml")
	o := s.run("apply", "-f", file)
	want := "demo version 2: 3 changes\n  + functions.f\n  ~ retention: 1h → 2h\n  - buckets.old\n"
	if o.code != 0 || o.stdout != want || o.stderr != file+":4:3: warning: functions.f: nothing fires it\n" {
		t.Errorf("apply: %+v", o)
	}
	if uploads != 1 || applied.body != demoManifest || len(applied.request.URL.Query().Get("artifact")) != 64 {
		t.Errorf("%d uploads, applied %q with %s", uploads, applied.body, applied.request.URL.RawQuery)
	}
	for _, args := range [][]string{{"apply", "--dry-run", "-f", dir}, {"diff", "-f", dir}} {
		if o := s.run(args...); o.code != 0 || uploads != 1 || applied.request.URL.Query().Get("dry_run") != "1" || !strings.HasPrefix(o.stdout, "demo: 3 changes to be made") {
			t.Errorf("%v: %+v, requests %q", args, o, names)
		}
	}
}

func TestFaultsOfAManifestAreToldWithoutAServer(t *testing.T) {
	dir := demo(t)
	file := filepath.Join(dir, "app.yaml")
	s := newShell(t, nil)
	if o := s.run("validate", "-f", file); o.code != 0 || !strings.Contains(o.stdout, "is valid: app demo, 1 function, 0 buckets") {
		t.Errorf("validate: %+v", o)
	}
	write(t, file, demoManifest+"colour: red\nretention: soon\n")
	for _, verb := range []string{"validate", "apply", "diff"} {
		if o := s.run(verb, "-f", file); o.code != 1 || !strings.Contains(o.stderr, "5:1: ") || !strings.Contains(o.stderr, "retention") {
			t.Errorf("%s: %+v", verb, o)
		}
	}
	o := s.run("validate", "-f", file, "-o", "json")
	var body wire.ErrorBody
	if err := json.Unmarshal([]byte(o.stderr), &body); err != nil || len(body.Error.Faults) < 2 || body.Error.Code != spec.CodeBadManifest {
		t.Errorf("as JSON: %+v (%v)", o, err)
	}
	if len(s.asked) > 0 {
		t.Errorf("the server was asked %q", s.asked)
	}
	if o := s.run("schema", "app"); !json.Valid([]byte(o.stdout)) {
		t.Errorf("schema app: %+v", o)
	}
}

func TestInitWritesAnAppThatIsValidAndOverwritesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "hello")
	s := newShell(t, nil)
	if o := s.run("init", dir); o.code != 0 || !strings.Contains(o.stdout, "pheromone dev "+filepath.Join(dir, "app.yaml")) {
		t.Fatalf("init: %+v", o)
	}
	if o := s.run("validate", "-f", dir); o.code != 0 || o.stderr != "" {
		t.Errorf("what init wrote is not valid: %+v", o)
	}
	write(t, filepath.Join(dir, "app.py"), "mine")
	if o := s.run("init", dir); o.code != 4 {
		t.Errorf("a second init: %+v", o)
	}
	if text, _ := os.ReadFile(filepath.Join(dir, "app.py")); string(text) != "mine" {
		t.Error("init overwrote a file")
	}
	if o := s.run("init", filepath.Join(t.TempDir(), "Bad Name")); o.code != 2 || !strings.Contains(o.stderr, "--name") {
		t.Errorf("a folder whose name is no app's: %+v", o)
	}
}

func TestDevTellsWhichSessionALineIsOf(t *testing.T) {
	handle := fakeAPI()
	s := newShell(t, nil)
	_, lines, stop := runNode(t, s, func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/logs") {
			handle(w, r)
			return
		}
		for _, id := range []string{"s1m83kvx471zwegcfj5j3ac.2", "pair-1.7"} {
			data, _ := json.Marshal(wire.LogLine{Time: now, Function: "count", Invocation: id, Stream: "node", Text: "attempt 1: failed: no"})
			fmt.Fprintf(w, "event: log\ndata: %s\n\n", data)
		}
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}, true, "dev", demo(t), "--random-port")
	until(t, lines, "count #2 s1m8…3ac | attempt 1: failed: no")
	until(t, lines, "count #7 pair-1 | ")
	if o := stop(); o.code != 0 {
		t.Errorf("dev ended with %+v", o)
	}
}
