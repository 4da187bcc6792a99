package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/internal/cli"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// shell runs commands against a server of canned answers.
type shell struct {
	t        *testing.T
	env      map[string]string
	stdin    string
	terminal bool
	asked    []string // "METHOD path" of each request
}

func newShell(t *testing.T, answers map[string]http.HandlerFunc) *shell {
	t.Helper()
	s := &shell{t: t, env: map[string]string{"TERM": "xterm"}}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		what := r.Method + " " + r.URL.EscapedPath()
		if r.URL.Path != "/v1/cluster" { // which the client asks for beside the requests
			s.asked = append(s.asked, what)
		}
		if handle := answers[what]; handle != nil {
			handle(w, r)
			return
		}
		refusal(404, wire.Error{Code: spec.CodeNotFound, Message: "nothing at " + what})(w, r)
	}))
	t.Cleanup(server.Close)
	s.env["PHEROMONE_SERVER"] = server.URL
	return s
}

type outcome struct {
	code           int
	stdout, stderr string
}

func (s *shell) run(args ...string) outcome {
	s.t.Helper()
	var stdout, stderr bytes.Buffer
	code := cli.Run(s.t.Context(), args, s.deps(&stdout, &stderr))
	return outcome{code, stdout.String(), stderr.String()}
}

func (s *shell) deps(stdout, stderr io.Writer) cli.Deps {
	return cli.Deps{
		Stdin: strings.NewReader(s.stdin), Stdout: stdout, Stderr: stderr,
		StdinTerminal: s.terminal, StdoutTerminal: s.terminal, StderrTerminal: s.terminal,
		Getenv: func(name string) string { return s.env[name] },
		Now:    func() time.Time { return now },
		StartNode: func(context.Context, cli.NodeConfig) (cli.Node, error) {
			s.t.Error("a node was started")
			return nil, context.Canceled
		},
	}
}

func reply(status int, body any) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(body)
	}
}

func refusal(status int, e wire.Error) http.HandlerFunc {
	return reply(status, wire.ErrorBody{Error: e})
}

var someApps = wire.AppList{Items: []wire.App{
	{Name: "hello", Version: 3, AppliedAt: now.Add(-90 * time.Second), Artifact: strings.Repeat("ab", 32)},
	{Name: "wordcount", Version: 12, AppliedAt: now.Add(-50 * time.Hour)},
}}

func TestResultsComeInTheFormatThatIsAskedFor(t *testing.T) {
	s := newShell(t, map[string]http.HandlerFunc{"GET /v1/apps": reply(200, someApps)})
	tests := map[string]string{
		"table": "APP        VERSION  APPLIED    ARTIFACT\nhello      3        1m30s ago  abababababab\nwordcount  12       2d ago     -\n",
		"name":  "hello\nwordcount\n",
		"jsonl": `{"app":"hello","version":3,"applied_at":"2026-01-02T03:02:35Z","artifact":"` + strings.Repeat("ab", 32) + `"}` + "\n" +
			`{"app":"wordcount","version":12,"applied_at":"2025-12-31T01:04:05Z"}` + "\n",
	}
	for format, want := range tests {
		if got := s.run("app", "ls", "-o", format); got != (outcome{0, want, ""}) {
			t.Errorf("-o %s: %+v, want %q", format, got, want)
		}
	}
	var list wire.AppList
	if got := s.run("app", "ls", "--output=json"); json.Unmarshal([]byte(got.stdout), &list) != nil || len(list.Items) != 2 {
		t.Errorf("-o json: %+v", got)
	}
	if got := s.run("app", "ls", "-o", "yaml"); !strings.Contains(got.stdout, "items:\n- app: hello\n") {
		t.Errorf("-o yaml: %+v", got)
	}
	if got := s.run("app", "ls", "--no-headers"); strings.Contains(got.stdout, "APP") || !strings.Contains(got.stdout, "hello") {
		t.Errorf("--no-headers: %+v", got)
	}
}

func TestExitCodesFollowTheErrorsCode(t *testing.T) {
	for code, want := range map[spec.Code]struct{ status, exit int }{
		spec.CodeInvalid: {400, 2}, spec.CodeNotFound: {404, 3}, spec.CodeGone: {410, 3}, spec.CodeConflict: {409, 4},
		spec.CodePrecondition: {412, 4}, spec.CodeUnauthorized: {401, 5}, spec.CodeForbidden: {403, 5}, spec.CodeUnavailable: {503, 6},
		spec.CodeTimeout: {504, 6}, spec.CodeInternal: {500, 1}, spec.CodeBadManifest: {422, 1}, spec.CodeSessionFailed: {500, 1},
	} {
		s := newShell(t, map[string]http.HandlerFunc{"GET /v1/apps": refusal(want.status, wire.Error{Code: code, Message: "no"})})
		got := s.run("app", "ls", "--timeout", "2s") // what may pass is asked for again until then
		if got.code != want.exit || got.stdout != "" || got.stderr != "error: list apps: no\n" {
			t.Errorf("%s: %+v, want exit code %d", code, got, want.exit)
		}
	}
}

func TestErrorsAreJSONWhereJSONWasAskedFor(t *testing.T) {
	s := newShell(t, map[string]http.HandlerFunc{
		"GET /v1/apps": refusal(409, wire.Error{Code: spec.CodeConflict, Message: "taken", Field: "app", Hint: "try another"}),
	})
	for _, args := range [][]string{{"app", "ls", "-o", "json"}, {"app", "ls", "-ojsonl"}} {
		got := s.run(args...)
		var body wire.ErrorBody
		if err := json.Unmarshal([]byte(got.stderr), &body); err != nil || got.stdout != "" || got.code != 4 ||
			body.Error.Code != spec.CodeConflict || body.Error.Field != "app" || body.Error.Hint != "try another" {
			t.Errorf("%v: %+v (%v)", args, got, err)
		}
	}
	if got := s.run("app", "ls"); got.stderr != "error: list apps: taken\nhint: try another\n" {
		t.Errorf("as text: %q", got.stderr)
	}
	got := s.run("no-such-command", "-o", "json")
	if !strings.HasPrefix(got.stderr, `{"error":{"code":"invalid"`) || got.code != 2 {
		t.Errorf("a usage error as JSON: %+v", got)
	}
}

func TestWhatIsTypedWrongIsAUsageErrorAndAsksNoServer(t *testing.T) {
	s := newShell(t, nil)
	for _, args := range [][]string{
		{"no-such-command"}, {"app", "no-such-verb"}, {"app", "ls", "extra"}, {"app", "ls", "--no-such-flag"}, {"app", "ls", "-o", "xml"},
		{"put", "app"}, {"put", "app", "nokey", "v"}, {"put", "app", "b/", "v"}, {"put", "app", "b/k", "@/no/such/file"},
		{"put", "app", "b/k", "v", "--ttl", "soon"}, {"put", "app", "b/k", "v", "--meta", "x"}, {"put", "app", "b/k", "v", "--if-match", "x"},
		{"put", "app", "b/k", "v", "--follow", "--wait", "1s"}, {"put", "app", "b/k", "v", "--session", "s", "--ttl", "1s"},
		{"app", "rollback", "a", "x"}, {"apply"}, {"apply", "-f", "/no/such/file"}, {"session", "ls", "a", "--status", "odd"},
		{"invoke", "a", "f", "--wait", "1s", "--async"}, {"app", "ls", "--server", "nonsense"}, {"app", "ls", "--profile", "unknown"},
		{"serve"}, {"dev", "/no/such/manifest"}, {"dev", "--listen", "0.0.0.0:0"}, {"init"}, {"init", "x", "--lang", "cobol"},
	} {
		if got := s.run(args...); got.code != 2 || got.stdout != "" || !strings.HasPrefix(got.stderr, "error: ") {
			t.Errorf("%v: %+v, want exit code 2", args, got)
		}
	}
	if len(s.asked) > 0 {
		t.Errorf("the server was asked %q", s.asked)
	}
}

func TestTheServerComesFromTheFlagTheEnvironmentOrAProfile(t *testing.T) {
	s := newShell(t, map[string]http.HandlerFunc{"GET /v1/apps": reply(200, someApps)})
	url := s.env["PHEROMONE_SERVER"]
	config := t.TempDir()
	write(t, config+"/pheromone/config.yaml", "default: near\nprofiles:\n  near: {server: '"+url+"'}\n  both: {server: 'http://127.0.0.1:1,"+url+"'}\n  far: {server: 'http://127.0.0.1:1'}\n")
	tests := map[string]struct {
		env  map[string]string
		args []string
		code int
	}{
		"flag before environment":  {map[string]string{"PHEROMONE_SERVER": "http://127.0.0.1:1"}, []string{"--server", url}, 0},
		"the second of several":    {nil, []string{"--server", "http://127.0.0.1:1," + url}, 0},
		"several in the variable":  {map[string]string{"PHEROMONE_SERVER": "http://127.0.0.1:1, " + url}, nil, 0},
		"several in a profile":     {map[string]string{"XDG_CONFIG_HOME": config}, []string{"--profile", "both"}, 0},
		"one that makes no sense":  {nil, []string{"--server", url + ",nowhere"}, 2},
		"environment":              {map[string]string{"PHEROMONE_SERVER": url}, nil, 0},
		"default profile":          {map[string]string{"XDG_CONFIG_HOME": config}, nil, 0},
		"named profile":            {map[string]string{"XDG_CONFIG_HOME": config}, []string{"--profile", "far"}, 6},
		"profile before variables": {map[string]string{"XDG_CONFIG_HOME": config, "PHEROMONE_SERVER": "http://127.0.0.1:1"}, []string{"--profile", "near"}, 0},
		"profile's variable":       {map[string]string{"XDG_CONFIG_HOME": config, "PHEROMONE_PROFILE": "far"}, nil, 6},
	}
	for name, test := range tests {
		s.env = test.env
		if got := s.run(append([]string{"app", "ls"}, test.args...)...); got.code != test.code {
			t.Errorf("%s: %+v, want exit code %d", name, got, test.code)
		}
	}
}

func TestNoticesAreForTerminalsOnly(t *testing.T) {
	answers := map[string]http.HandlerFunc{
		"DELETE /v1/apps/a/buckets/b/objects/k": reply(200, wire.PutResult{}),
	}
	s := newShell(t, answers)
	if got := s.run("rm", "a", "b/k"); got != (outcome{0, "", ""}) {
		t.Errorf("in a pipe: %+v", got)
	}
	s.terminal = true
	if got := s.run("rm", "a", "b/k"); got.code != 0 || got.stdout != "" || !strings.Contains(got.stderr, "deleted b/k") || !strings.Contains(got.stderr, "\x1b[2m") {
		t.Errorf("on a terminal: %+v", got)
	}
	s.env["NO_COLOR"] = "1"
	if got := s.run("rm", "a", "b/k"); strings.Contains(got.stderr, "\x1b") {
		t.Errorf("with NO_COLOR: %+v", got)
	}
}

func TestWhatDestroysIsConfirmed(t *testing.T) {
	answers := map[string]http.HandlerFunc{
		"DELETE /v1/apps/a":            func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) },
		"DELETE /v1/apps/a/sessions/s": func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) },
	}
	for _, args := range [][]string{{"app", "delete", "a"}, {"session", "purge", "a", "s"}} {
		tests := map[string]struct {
			terminal bool
			answer   string
			yes      bool
			code     int
			deleted  bool
		}{
			"in a pipe":               {false, "y\n", false, 2, false},
			"in a pipe with --yes":    {false, "", true, 0, true},
			"on a terminal, agreed":   {true, "y\n", false, 0, true},
			"on a terminal, declined": {true, "\n", false, 1, false},
			"on a terminal, no more":  {true, "", false, 1, false},
		}
		for name, test := range tests {
			s := newShell(t, answers)
			s.terminal, s.stdin = test.terminal, test.answer
			all := slices.Clone(args)
			if test.yes {
				all = append(all, "--yes")
			}
			got := s.run(all...)
			if got.code != test.code || (len(s.asked) == 1) != test.deleted {
				t.Errorf("%v %s: %+v, requests %q", args, name, got, s.asked)
			}
		}
	}
}

func TestTextFromDataCannotSteerTheTerminal(t *testing.T) {
	const evil = "\x1b]0;owned\x07\x1b[2J\u009b31m\u202egnp.exe\r\n"
	s := newShell(t, map[string]http.HandlerFunc{
		"GET /v1/apps/a/buckets/b/objects": reply(200, wire.ObjectList{Items: []wire.Object{{Key: spec.Key(evil), ContentType: evil}}}),
		"GET /v1/apps/a/logs": func(w http.ResponseWriter, r *http.Request) {
			data, _ := json.Marshal(wire.LogLine{Function: "f", Text: evil})
			_, _ = io.WriteString(w, "data: "+string(data)+"\n\n")
		},
		"GET /v1/apps/a/buckets/b/objects/k": func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, evil) },
		"GET /v1/apps":                       refusal(500, wire.Error{Code: spec.CodeInternal, Message: evil, Hint: evil}),
		"GET /v1/apps/a/sessions":            reply(200, wire.SessionList{Items: []wire.Session{{Session: evil, Status: evil}}}),
	})
	s.env["NO_COLOR"] = "1"
	for _, terminal := range []bool{true, false} {
		s.terminal = terminal
		for _, args := range [][]string{{"ls", "a", "b"}, {"logs", "a"}, {"app", "ls"}, {"session", "ls", "a"}, {"ls", "a", "b", "-o", "json"}, {"logs", "a", "-o", "jsonl"}} {
			got := s.run(args...)
			for _, bad := range []string{"\x1b", "\x07", "\u009b", "\u202e", "\r"} {
				if strings.Contains(got.stdout+got.stderr, bad) {
					t.Errorf("%v lets %q through: %q", args, bad, got.stdout+got.stderr)
				}
			}
		}
	}
	s.terminal = true
	if got := s.run("get", "a", "b/k"); strings.ContainsAny(got.stdout, "\x1b\x07\r") || got.code != 0 {
		t.Errorf("get on a terminal: %+v", got)
	}
	s.terminal = false
	if got := s.run("get", "a", "b/k"); got.stdout != evil {
		t.Errorf("get in a pipe changed the bytes: %q", got.stdout)
	}
	s.terminal = true
	var list wire.ObjectList
	if got := s.run("ls", "a", "b", "-o", "json"); json.Unmarshal([]byte(got.stdout), &list) != nil || string(list.Items[0].Key) != evil {
		t.Error("JSON on a terminal is not the same JSON")
	}
}

func TestBytesThatAreNoTextAreNotShownOnATerminal(t *testing.T) {
	s := newShell(t, map[string]http.HandlerFunc{
		"GET /v1/apps/a/buckets/b/objects/k": func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write([]byte{0xff, 0, 1}) },
	})
	s.terminal = true
	if got := s.run("get", "a", "b/k"); got.code != 2 || got.stdout != "" {
		t.Errorf("%+v", got)
	}
	s.terminal = false
	if got := s.run("get", "a", "b/k"); got.code != 0 || got.stdout != "\xff\x00\x01" {
		t.Errorf("%+v", got)
	}
}

func TestNamesAreCompletedFromTheServer(t *testing.T) {
	shape := json.RawMessage(`{"functions":{"split":{},"count":{}},"buckets":{"parts":{},"papers":{},"counts":{}}}`)
	s := newShell(t, map[string]http.HandlerFunc{
		"GET /v1/apps":           reply(200, someApps),
		"GET /v1/apps/wordcount": reply(200, wire.App{Spec: shape}),
		"GET /v1/apps/wordcount/buckets/parts/objects": reply(200, wire.ObjectList{Items: []wire.Object{{Key: "p/1"}, {Key: "p/2"}}}),
		"GET /v1/apps/wordcount/sessions":              reply(200, wire.SessionList{Items: []wire.Session{{Session: "s2"}, {Session: "s1"}}}),
	})
	tests := map[string][]string{
		"app show w":                  {"wordcount"},
		"invoke wordcount ":           {"count", "split"},
		"put wordcount pa":            {"papers/", "parts/"},
		"get wordcount parts/p":       {"parts/p/1", "parts/p/2"},
		"session show wordcount ":     {"s2", "s1"},
		"session ls hello --status c": {"running", "completed", "failed", "cancelled"}, // shells pick from these
		"logs unknown ":               nil,
	}
	for line, want := range tests {
		got := s.run(append([]string{"__complete"}, strings.Split(line, " ")...)...)
		var names []string
		for name := range strings.Lines(got.stdout) {
			if name = strings.TrimSpace(name); !strings.HasPrefix(name, ":") {
				names = append(names, name)
			}
		}
		if !slices.Equal(names, want) {
			t.Errorf("%q completes to %q, want %q", line, names, want)
		}
	}
}

func TestEveryCommandHasHelpAndCompletionScriptsAreWritten(t *testing.T) {
	s := newShell(t, nil)
	for _, args := range [][]string{{"--help"}, {"put", "--help"}, {"session", "--help"}, {"session"}, {"app"}, {}} {
		if got := s.run(args...); got.code != 0 || !strings.Contains(got.stdout, "Usage:") || got.stderr != "" {
			t.Errorf("%v: %+v", args, got)
		}
	}
	for _, name := range []string{"bash", "zsh", "fish", "powershell"} {
		if got := s.run("completion", name); got.code != 0 || !strings.Contains(got.stdout, "pheromone") {
			t.Errorf("completion %s: code %d, %s", name, got.code, got.stderr)
		}
	}
	if got := s.run("version", "-o", "json"); !strings.Contains(got.stdout, `"go":`) {
		t.Errorf("version: %+v", got)
	}
}

func TestTheVersionIsTheOneTheBinaryWasBuiltWith(t *testing.T) {
	s := newShell(t, nil)
	cli.Version = "v9.8.7"
	defer func() { cli.Version = "" }()
	if got := s.run("version", "-o", "name"); got.stdout != "v9.8.7\n" {
		t.Errorf("version: %+v", got)
	}
}

func TestWhatIsMistypedIsToldInPlainWords(t *testing.T) {
	s := newShell(t, nil)
	for text, args := range map[string][]string{
		`did you mean "apply"?`:                                            {"aply", "app.yaml"},
		`did you mean "show"?`:                                             {"session", "shwo", "a", "s"},
		"error: unknown command \"zzzzzz\" for \"pheromone\"\n":            {"zzzzzz"},
		"error: --follow and --wait don't go together: give one of them\n": {"put", "a", "b/k", "v", "--follow", "--wait", "1s"},
	} {
		if got := s.run(args...); got.code != 2 || !strings.Contains(got.stderr, text) {
			t.Errorf("%v: %+v", args, got)
		}
	}
}
