package cli_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// recorded keeps the last request and its body.
type recorded struct {
	request *http.Request
	body    string
}

func (r *recorded) then(handle http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, request *http.Request) {
		body, _ := io.ReadAll(request.Body)
		r.request, r.body = request, string(body)
		handle(w, request)
	}
}

func TestPutTakesItsValueFromTheArgumentAFileOrStandardInput(t *testing.T) {
	var got recorded
	s := newShell(t, map[string]http.HandlerFunc{
		"PUT /v1/apps/a/buckets/b/objects/k%2Fl": got.then(reply(200, wire.PutResult{Bucket: "b", Key: "k/l", Revision: 4, Session: "s1"})),
	})
	s.stdin = "from input"
	file := filepath.Join(t.TempDir(), "v.json")
	write(t, file, `{"from":"file"}`)
	for value, want := range map[string][2]string{
		"text": {"text", "text/plain; charset=utf-8"}, "-": {"from input", "application/octet-stream"},
		"@" + file: {`{"from":"file"}`, "application/json"}, "@@at": {"@at", "text/plain; charset=utf-8"}, "": {"", "text/plain; charset=utf-8"},
	} {
		o := s.run("put", "a", "b/k/l", value, "--meta", "region=eu=1", "--if-match", "0", "--ttl", "1m", "--session-timeout", "2m")
		if o != (outcome{0, "b/k/l  revision 4  session s1\n", ""}) {
			t.Errorf("%q: %+v", value, o)
		}
		h := got.request.Header
		if got.body != want[0] || h.Get("Content-Type") != want[1] || h.Get("Pheromone-Meta-Region") != "eu=1" || h.Get("If-None-Match") != "*" || got.request.URL.RawQuery != "session_timeout=2m&ttl=1m" {
			t.Errorf("%q sent %q, %v, %s", value, got.body, h, got.request.URL.RawQuery)
		}
	}
	if o := s.run("put", "a", "b/k/l"); got.body != "from input" || o.code != 0 {
		t.Errorf("no value in a pipe sent %q: %+v", got.body, o)
	}
	s.terminal = true
	if o := s.run("put", "a", "b/k/l"); o.code != 2 {
		t.Errorf("no value on a terminal: %+v", o)
	}
	s.terminal = false
	if o := s.run("put", "a", "b/k/l", "v", "-o", "name"); o.stdout != "s1\n" {
		t.Errorf("-o name: %+v", o)
	}
}

func TestInvokeHasASessionTimeoutIfItIsAskedFor(t *testing.T) {
	var got recorded
	s := newShell(t, map[string]http.HandlerFunc{"POST /v1/apps/a/functions/f/invoke": got.then(reply(202, wire.PutResult{Session: "s1"}))})
	for want, args := range map[string][]string{"": nil, "session_timeout=1h30m": {"--session-timeout", "90m"}} {
		if o := s.run(append([]string{"invoke", "a", "f", "x", "--async"}, args...)...); o.code != 0 || got.request.URL.RawQuery != want {
			t.Errorf("%q: query %q, %+v", args, got.request.URL.RawQuery, o)
		}
	}
	if o := s.run("invoke", "a", "f", "x", "--session-timeout", "90"); o.code != 2 {
		t.Errorf("a timeout without a unit: %+v", o)
	}
}

func TestAnObjectThatStandsForADeletionIsListedAsSuch(t *testing.T) {
	gone := wire.Object{Bucket: "b", Key: "gone", Revision: 7, Size: 3, CreatedAt: now, Session: "s1", Deleted: true}
	here := wire.Object{Bucket: "b", Key: "here", Revision: 8, Size: 3, CreatedAt: now, Session: "s1"}
	s := newShell(t, map[string]http.HandlerFunc{
		"GET /v1/apps/a/sessions/s1/buckets/b/objects": reply(200, wire.ObjectList{Items: []wire.Object{gone, here}}),
		"GET /v1/apps/a/sessions/s1/buckets/b/objects/gone": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Pheromone-Deleted", "1")
			fmt.Fprint(w, "old")
		},
	})
	want := "KEY   REVISION  SIZE              TYPE  AGE  SESSION\n" +
		"gone  7         3 bytes, deleted  -     0s   s1\n" +
		"here  8         3 bytes           -     0s   s1\n"
	if o := s.run("ls", "a", "b", "--session", "s1"); o.stdout != want {
		t.Errorf("ls:\n%s\nwant\n%s%s", o.stdout, want, o.stderr)
	}
	if o := s.run("get", "a", "b/gone", "--session", "s1", "-o", "json"); !strings.Contains(o.stdout, `"deleted": true`) {
		t.Errorf("get: %+v", o)
	}
}

func TestGetSavesWholeObjectsOnly(t *testing.T) {
	s := newShell(t, map[string]http.HandlerFunc{
		"GET /v1/apps/a/buckets/b/objects/whole": func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "whole") },
		"GET /v1/apps/a/buckets/b/objects/part": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			fmt.Fprint(w, "part")
		},
	})
	dir := t.TempDir()
	file := filepath.Join(dir, "out")
	if o := s.run("get", "a", "b/whole", "--output-file", file); o != (outcome{}) {
		t.Errorf("%+v", o)
	}
	if o := s.run("get", "a", "b/part", "--output-file", file); o.code != 6 {
		t.Errorf("an answer that breaks off: %+v", o)
	}
	text, err := os.ReadFile(file)
	entries, _ := os.ReadDir(dir)
	if err != nil || string(text) != "whole" || len(entries) != 1 {
		t.Errorf("the file holds %q (%v), the folder %d files", text, err, len(entries))
	}
	if o := s.run("get", "a", "b/none"); o.code != 3 {
		t.Errorf("an object that is not there: %+v", o)
	}
}

func invocation(outputs []wire.Output, status wire.SessionStatus, e *wire.FunctionError) map[string]http.HandlerFunc {
	return map[string]http.HandlerFunc{
		"POST /v1/apps/a/functions/f/invoke": reply(202, wire.PutResult{Session: "s1"}),
		"GET /v1/apps/a/sessions/s1/result":  reply(200, wire.Result{Session: "s1", Status: status, Outputs: outputs, Error: e}),
	}
}

func TestInvokePrintsWhatTheSessionPutOut(t *testing.T) {
	one := []wire.Output{{Bucket: "@", Key: "o", ContentType: "text/plain", Size: 2, Data: []byte("hi")}}
	two := append(one, wire.Output{Bucket: "out", Key: "p", Size: 1, Data: []byte("x\n")})
	tests := []struct {
		name    string
		answers map[string]http.HandlerFunc
		args    []string
		want    outcome
	}{
		{"one output", invocation(one, "completed", nil), nil, outcome{0, "hi", ""}},
		{"two outputs", invocation(two, "completed", nil), nil, outcome{0, "--- @/o (text/plain, 2 bytes)\nhi\n--- out/p (-, 1 byte)\nx\n", ""}},
		{"none", invocation(nil, "completed", nil), nil, outcome{0, "", ""}},
		{"one as JSON lines", invocation(one, "completed", nil), []string{"-o", "jsonl"},
			outcome{0, `{"session":"s1","status":"completed","outputs":[{"bucket":"@","key":"o","content_type":"text/plain","size":2,"data":"aGk="}]}` + "\n", ""}},
		{"without waiting", invocation(one, "completed", nil), []string{"--async"}, outcome{0, "session s1\n", ""}},
		{"without waiting, the name", invocation(one, "completed", nil), []string{"--async", "-o", "name"}, outcome{0, "s1\n", ""}},
		{"a failure", invocation(nil, "failed", &wire.FunctionError{Function: "f", Kind: "crashed", Message: "exit status 3", Attempts: 4}), nil,
			outcome{1, "", "error: session s1: function f crashed after 4 attempts: exit status 3\nhint: see `pheromone session show a s1` and `pheromone logs a`\n"}},
		{"its deadline was over", invocation(nil, "failed", &wire.FunctionError{Kind: "timeout", Message: "too long"}), nil,
			outcome{1, "", "error: session s1: too long\nhint: see `pheromone session show a s1` and `pheromone logs a`\n"}},
		{"not in time", invocation(nil, "running", nil), []string{"--wait", "1ms"},
			outcome{6, "", "error: wait for the result: session s1 is still running\nhint: it goes on: `pheromone session result a s1 --wait 1m` waits for it\n"}},
		{"no such function", nil, nil, outcome{3, "", "error: invoke f: nothing at POST /v1/apps/a/functions/f/invoke\n"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := newShell(t, test.answers)
			if got := s.run(append([]string{"invoke", "a", "f", "input"}, test.args...)...); got != test.want {
				t.Errorf("%+v, want %+v", got, test.want)
			}
		})
	}
}

func TestWatchAndLogsPrintLinesAsTheyCome(t *testing.T) {
	at := now.Local().Format("15:04:05.000")
	event, _ := json.Marshal(wire.WatchEvent{Type: "put", Object: wire.Object{Key: "k", Revision: 3, Size: 7, CreatedAt: now}, Position: "p1"})
	line, _ := json.Marshal(wire.LogLine{Time: now, Function: "f", Invocation: "s1m83kvx471zwegcfabc.2", Stream: "stdout", Text: "tick"})
	s := newShell(t, map[string]http.HandlerFunc{
		"GET /v1/apps/a/buckets/b/watch": func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("from") != "" {
				refusal(410, wire.Error{Code: spec.CodeGone, Message: "compacted", Hint: "p9"})(w, r)
				return
			}
			fmt.Fprintf(w, "id: p1\nevent: put\ndata: %s\n\n", event)
		},
		"GET /v1/apps/a/logs": func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "event: log\ndata: %s\n\n", line) },
	})
	if o := s.run("watch", "a", "b"); o.stdout != at+"  put     k  revision 3  7 bytes\n" || o.code != 3 || !strings.Contains(o.stderr, "hint: p9") {
		t.Errorf("watch: %+v", o)
	}
	if o := s.run("logs", "a", "f"); o != (outcome{0, at + " f #2 s1m8…abc | tick\n", ""}) {
		t.Errorf("logs: %+v", o)
	}
	if o := s.run("logs", "a", "-o", "json"); o.stdout != string(line)+"\n" {
		t.Errorf("logs as JSON: %+v", o)
	}
}

func TestListsStopAtTheirLimitAndSayThatThereIsMore(t *testing.T) {
	s := newShell(t, map[string]http.HandlerFunc{
		"GET /v1/apps/a/buckets/b/objects": func(w http.ResponseWriter, r *http.Request) {
			n := 0
			_, _ = fmt.Sscan(r.URL.Query().Get("limit"), &n)
			after := r.URL.Query().Get("after")
			var list wire.ObjectList
			for i := range min(n, 2) {
				list.Items = append(list.Items, wire.Object{Key: spec.Key(fmt.Sprintf("%sk%d", after, i)), Size: 20 << 10, Revision: 1, CreatedAt: now.Add(-time.Hour)})
			}
			if len(after) < 2 {
				list.Next = after + "x"
			}
			reply(200, list)(w, r)
		},
	})
	if o := s.run("ls", "a", "b", "-o", "name", "--limit", "3"); o.stdout != "k0\nk1\nxk0\n" {
		t.Errorf("--limit 3: %+v", o)
	}
	if o := s.run("ls", "a", "b", "-o", "name", "--limit", "0"); o.stdout != "k0\nk1\nxk0\nxk1\nxxk0\nxxk1\n" {
		t.Errorf("--limit 0: %+v", o)
	}
	if o := s.run("ls", "a", "b", "--limit", "1"); o != (outcome{0, "KEY  REVISION  SIZE    TYPE  AGE    SESSION\nk0   1         20 KiB  -     1h00m  -\n", ""}) {
		t.Errorf("table: %+v", o)
	}
	s.terminal = true
	if o := s.run("ls", "a", "b", "--limit", "1"); !strings.Contains(o.stderr, "there are more") {
		t.Errorf("on a terminal: %+v", o)
	}
}

func TestRmShowsWhatTheDeletionDrives(t *testing.T) {
	deletion := wire.PutResult{Bucket: "b", Key: "k", Revision: 7, Session: "s1"}
	ended := wire.Result{Session: "s1", Status: wire.SessionCompleted, Outputs: []wire.Output{{Bucket: "@", Key: "o", Size: 3, Data: []byte("bye")}}}
	var got recorded
	s := newShell(t, map[string]http.HandlerFunc{
		"DELETE /v1/apps/a/buckets/b/objects/k":     got.then(reply(200, deletion)),
		"DELETE /v1/apps/a/buckets/b/objects/quiet": reply(200, wire.PutResult{Bucket: "b", Key: "quiet", Revision: 8}),
		"GET /v1/apps/a/sessions/s1/history":        reply(200, wire.History{Session: wire.Session{Session: "s1", Status: wire.SessionCompleted}}),
		"GET /v1/apps/a/sessions/s1/result":         reply(200, ended),
	})
	for _, c := range []struct {
		args []string
		want outcome
	}{
		{[]string{"b/k"}, outcome{0, "b/k  revision 7  session s1\n", ""}},
		{[]string{"b/k", "-o", "name"}, outcome{0, "s1\n", ""}},
		{[]string{"b/k", "--follow"}, outcome{0, "bye", ""}},
		{[]string{"b/k", "--wait", "1s"}, outcome{0, "bye", ""}},
		{[]string{"b/quiet"}, outcome{0, "", ""}},
		{[]string{"b/quiet", "-o", "name"}, outcome{0, "", ""}},
		{[]string{"b/quiet", "--follow"}, outcome{0, "b/quiet  revision 8\n", ""}},
	} {
		if o := s.run(append([]string{"rm", "a"}, c.args...)...); o != c.want {
			t.Errorf("rm %v: %+v, want %+v", c.args, o, c.want)
		}
	}
	if o := s.run("rm", "a", "b/k", "--idempotency-key", "once", "-o", "json"); o.code != 0 || !strings.Contains(o.stdout, `"session": "s1"`) || got.request.Header.Get("Idempotency-Key") != "once" {
		t.Errorf("as JSON: %+v, with %v", o, got.request.Header)
	}
}

func TestARepeatedRequestWhoseSessionIsNotKeptSaysSo(t *testing.T) {
	put := wire.PutResult{Bucket: "b", Key: "k", Revision: 7, Session: "s1", Existed: true}
	purged := refusal(404, wire.Error{Code: spec.CodeNotFound, Message: "no such session"})
	s := newShell(t, map[string]http.HandlerFunc{
		"PUT /v1/apps/a/buckets/b/objects/k":    reply(200, put),
		"DELETE /v1/apps/a/buckets/b/objects/k": reply(200, put),
		"POST /v1/apps/a/functions/f/invoke":    reply(202, put),
		"GET /v1/apps/a/sessions/s1/history":    purged,
		"GET /v1/apps/a/sessions/s1/result":     purged,
	})
	for _, args := range [][]string{
		{"put", "a", "b/k", "v", "--wait", "1s"}, {"put", "a", "b/k", "v", "--follow"}, {"rm", "a", "b/k", "--wait", "1s"}, {"invoke", "a", "f", "v"},
	} {
		o := s.run(append(args, "--idempotency-key", "once")...)
		if o.code != 3 || !strings.Contains(o.stderr, "session s1 has ended, and its result is no longer kept") || !strings.Contains(o.stderr, "new idempotency key") {
			t.Errorf("%v: %+v", args, o)
		}
	}
}

func TestACallThatCarriesAnObjectEndsWhenItsTimeoutSaysSo(t *testing.T) {
	for _, args := range [][]string{{"put", "a", "b/k", "v"}, {"put", "a", "b/k", "v", "--session", "s1"}, {"get", "a", "b/k"}, {"get", "a", "b/k", "--head"}, {"invoke", "a", "f", "v"}} {
		silent := make(chan struct{})
		hang := func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body) // only then is a client that hangs up noticed
			select {
			case <-r.Context().Done():
			case <-silent:
			}
		}
		answers := map[string]http.HandlerFunc{}
		for _, what := range []string{"PUT /v1/apps/a/buckets/b/objects/k", "GET /v1/apps/a/buckets/b/objects/k", "HEAD /v1/apps/a/buckets/b/objects/k",
			"PUT /v1/apps/a/sessions/s1/buckets/b/objects/k", "POST /v1/apps/a/functions/f/invoke"} {
			answers[what] = hang
		}
		s := newShell(t, answers)
		ended := make(chan outcome, 1)
		go func() { ended <- s.run(append(args, "--timeout", "200ms")...) }()
		select {
		case o := <-ended:
			if o.code != 6 || !strings.Contains(o.stderr, "no answer in time") {
				t.Errorf("%v: %+v", args, o)
			}
		case <-time.After(time.Minute):
			t.Errorf("%v goes on", args)
		}
		close(silent)
	}
}
