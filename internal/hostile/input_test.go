package hostile

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/spec"
)

const plain = "/v1/apps/bad/buckets/plain/objects"

// badRequest is a request and how it is refused.
type badRequest struct {
	name    string
	method  string
	path    string
	body    string
	headers []string
	status  int
	code    spec.Code
	says    []string
}

func manifest(name, text string, status int, code spec.Code, says ...string) badRequest {
	return badRequest{name, http.MethodPut, "/v1/apps/bad", text, nil, status, code, says}
}

func jsonManifest(name, text string, status int, code spec.Code, says ...string) badRequest {
	return badRequest{name, http.MethodPut, "/v1/apps/bad", text, []string{"Content-Type", "application/json"}, status, code, says}
}

func get(name, path string, status int, code spec.Code, says ...string) badRequest {
	return badRequest{name, http.MethodGet, path, "", nil, status, code, says}
}

func put(name, path, body string, headers []string, status int, code spec.Code, says ...string) badRequest {
	return badRequest{name, http.MethodPut, path, body, headers, status, code, says}
}

func post(name, path, body string, headers []string, status int, code spec.Code, says ...string) badRequest {
	return badRequest{name, http.MethodPost, path, body, headers, status, code, says}
}

const header = "apiVersion: pheromone/v1\napp: bad\n"

var badManifests = []badRequest{
	manifest("an empty manifest", "", 400, spec.CodeInvalid, "send the manifest"),
	manifest("a manifest of spaces", " \n\t\n", 400, spec.CodeInvalid, "send the manifest"),
	manifest("a manifest that is no YAML", header+"functions: {f: [", 422, spec.CodeBadManifest),
	manifest("a manifest with a tab as indent", header+"functions:\n\tf: {}\n", 422, spec.CodeBadManifest),
	manifest("a manifest that is a list", "- a\n- b\n", 422, spec.CodeBadManifest),
	manifest("a manifest that is a number", "12", 422, spec.CodeBadManifest),
	manifest("binary data as a manifest", "\x1f\x8b\x08\x00 zip", 415, spec.CodeUnsupported, "not compressed"),
	manifest("functions that are a text", header+"functions: many\n", 422, spec.CodeBadManifest, "functions"),
	manifest("a timeout that is a map", header+"functions: {f: {runtime: process, command: [x], timeout: {a: b}}}\n", 422, spec.CodeBadManifest, "timeout"),
	manifest("a timeout without unit", header+"functions: {f: {runtime: process, command: [x], timeout: 5}}\n", 422, spec.CodeBadManifest, "unit"),
	manifest("a command that is a text", header+"functions: {f: {runtime: process, command: run it}}\n", 422, spec.CodeBadManifest, "command"),
	manifest("an unknown field", header+"functoins: {}\n", 422, spec.CodeBadManifest, "functions"),
	manifest("an unknown primitive", header+"functions: {f: {runtime: process, command: [x]}}\nbuckets: {b: {triggers: [{name: t, primitive: imediate, target: f}]}}\n", 422, spec.CodeBadManifest, "immediate"),
	manifest("a trigger that targets nothing known", header+"functions: {f: {runtime: process, command: [x]}}\nbuckets: {b: {triggers: [{name: t, primitive: immediate, target: g}]}}\n", 422, spec.CodeBadManifest, "\"g\""),
	manifest("aliases that expand without end", header+bomb(), 422, spec.CodeBadManifest),
	manifest("a YAML that nests without end", strings.Repeat("[", 100_000), 422, spec.CodeBadManifest),
	manifest("a name outside of the alphabet", "apiVersion: pheromone/v1\napp: Bad App\n", 422, spec.CodeBadManifest, "lower-case"),
	manifest("another app's manifest", "apiVersion: pheromone/v1\napp: other\nfunctions: {}\nbuckets: {b: {}}\n", 400, spec.CodeInvalid, "other"),
	manifest("keys that are there twice", header+"buckets: {a: {}, a: {}}\n", 422, spec.CodeBadManifest),
	manifest("a huge number", header+"buckets: {b: {triggers: [{name: t, primitive: by_batch_size, count: 99999999999999999999, target: f}]}}\n", 422, spec.CodeBadManifest, "count"),
	manifest("a manifest over its limit", header+"# "+strings.Repeat("x", 1<<20), 413, spec.CodeTooLarge),
	jsonManifest("JSON that breaks off", `{"app": "bad"`, 422, spec.CodeBadManifest, "line 1"),
	jsonManifest("YAML sent as JSON", header, 422, spec.CodeBadManifest, "no JSON"),
	jsonManifest("JSON with the wrong type", `{"apiVersion": "pheromone/v1", "app": 7}`, 422, spec.CodeBadManifest, "app"),
	jsonManifest("JSON that nests without end", strings.Repeat(`{"a":`, 100_000), 422, spec.CodeBadManifest),
	jsonManifest("JSON with a number beyond any range", `{"apiVersion": "pheromone/v1", "app": "bad", "limits": {"max_pending": 1e999}}`, 422, spec.CodeBadManifest, "max_pending"),
	put("a manifest as a picture", "/v1/apps/bad", "x", []string{"Content-Type", "image/png"}, 415, spec.CodeUnsupported, "application/yaml"),
	put("a compressed manifest", "/v1/apps/bad", "x", []string{"Content-Encoding", "gzip"}, 415, spec.CodeUnsupported, "as it is"),
	put("a manifest with an artifact that is not there", "/v1/apps/bad?artifact="+strings.Repeat("0", 64), header+"buckets: {b: {}}\n", nil, 404, spec.CodeNotFound, "upload it first"),
	put("an artifact that is no hash", "/v1/apps/bad?artifact=..%2f..", header, nil, 400, spec.CodeInvalid, "64"),
}

// bomb is YAML whose aliases stand for more than any memory holds.
func bomb() string {
	var b strings.Builder
	b.WriteString("a0: &a0 [x, x, x, x, x, x, x, x, x]\n")
	for i := 1; i < 12; i++ {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i-1), 9), ", "))
	}
	return b.String()
}

var badNames = []badRequest{
	get("an unknown path", "/v2/apps", 404, spec.CodeNotFound, "GET / lists"),
	get("an unknown app", "/v1/apps/nobody", 404, spec.CodeNotFound, "nobody"),
	get("an unknown version", "/v1/apps/bad?version=99", 404, spec.CodeNotFound, "99"),
	get("objects of an unknown app", "/v1/apps/nobody/buckets/b/objects/k", 404, spec.CodeNotFound, "nobody"),
	get("sessions of an unknown app", "/v1/apps/nobody/sessions", 404, spec.CodeNotFound, "nobody"),
	get("logs of an unknown app", "/v1/apps/nobody/logs", 404, spec.CodeNotFound, "nobody"),
	get("logs of an unknown function", "/v1/apps/bad/logs?function=nobody", 404, spec.CodeNotFound, "nobody"),
	get("an unknown bucket", "/v1/apps/bad/buckets/nobody/objects/k", 404, spec.CodeNotFound, "nobody"),
	get("a list of an unknown bucket", "/v1/apps/bad/buckets/nobody/objects", 404, spec.CodeNotFound, "nobody"),
	get("a watch of an unknown bucket", "/v1/apps/bad/buckets/nobody/watch", 404, spec.CodeNotFound, "nobody"),
	put("a put into an unknown bucket", "/v1/apps/bad/buckets/nobody/objects/k", "x", nil, 404, spec.CodeNotFound, "nobody"),
	put("a put into an unknown app", "/v1/apps/nobody/buckets/b/objects/k", "x", nil, 404, spec.CodeNotFound, "nobody"),
	put("a put into the inbox of an unknown function", "/v1/apps/bad/buckets/@nobody/objects/k", "x", nil, 404, spec.CodeNotFound, "nobody"),
	get("an unknown object", plain+"/nothing", 404, spec.CodeNotFound, "nothing"),
	get("an unknown session", "/v1/apps/bad/sessions/nothing", 404, spec.CodeNotFound, "nothing"),
	get("the result of an unknown session", "/v1/apps/bad/sessions/nothing/result?wait=1s", 404, spec.CodeNotFound, "nothing"),
	get("the history of an unknown session", "/v1/apps/bad/sessions/nothing/history", 404, spec.CodeNotFound, "nothing"),
	get("an object of an unknown session", "/v1/apps/bad/sessions/nothing/buckets/plain/objects/k", 404, spec.CodeNotFound),
	post("a cancel of an unknown session", "/v1/apps/bad/sessions/nothing/cancel", "", nil, 404, spec.CodeNotFound, "nothing"),
	post("a rerun of an unknown session", "/v1/apps/bad/sessions/nothing/rerun", "", nil, 404, spec.CodeNotFound, "nothing"),
	post("a call of an unknown function", "/v1/apps/bad/functions/nobody/invoke", "x", nil, 404, spec.CodeNotFound, "echo"),
	post("a call in an unknown app", "/v1/apps/nobody/functions/f/invoke", "x", nil, 404, spec.CodeNotFound, "nobody"),
	post("a rollback to an unknown version", "/v1/apps/bad/rollback?version=99", "", nil, 404, spec.CodeNotFound, "99"),
	post("a rollback of an unknown app", "/v1/apps/nobody/rollback?version=1", "", nil, 404, spec.CodeNotFound, "nobody"),
	{"a delete of an unknown app", http.MethodDelete, "/v1/apps/nobody", "", nil, 404, spec.CodeNotFound, []string{"nobody"}},
	{"a delete of an unknown object", http.MethodDelete, plain + "/nothing", "", nil, 404, spec.CodeNotFound, []string{"nothing"}},
	{"a purge of an unknown session", http.MethodDelete, "/v1/apps/bad/sessions/nothing", "", nil, 404, spec.CodeNotFound, []string{"nothing"}},
	get("an app in capitals", "/v1/apps/BAD", 400, spec.CodeInvalid, "lower-case"),
	get("an app that is dots", "/v1/apps/../apps", 400, spec.CodeInvalid, "lower-case"),
	get("an app with an encoded slash", "/v1/apps/bad%2fadmin", 400, spec.CodeInvalid, "lower-case"),
	get("an app that is decoded twice", "/v1/apps/b%2561d", 400, spec.CodeInvalid, "lower-case"),
	get("an app with a NUL", "/v1/apps/bad%00", 400, spec.CodeInvalid, "lower-case"),
	get("an app of no letters", "/v1/apps//buckets/plain/objects", 400, spec.CodeInvalid, "lower-case"),
	get("an app whose name is too long", "/v1/apps/"+strings.Repeat("a", 64), 400, spec.CodeInvalid, "63"),
	get("a session id with a slash", "/v1/apps/bad/sessions/a%2fb", 400, spec.CodeInvalid, "session id"),
	get("a session id that is too long", "/v1/apps/bad/sessions/"+strings.Repeat("a", 500), 400, spec.CodeInvalid, "at most"),
	put("a key with a NUL", plain+"/a%00b", "x", nil, 400, spec.CodeInvalid, "control character"),
	put("a key with a line end", plain+"/a%0ab", "x", nil, 400, spec.CodeInvalid, "control character"),
	put("a key that is not UTF-8", plain+"/a%ff", "x", nil, 400, spec.CodeInvalid, "UTF-8"),
	put("a key with an overlong slash", plain+"/%c0%af", "x", nil, 400, spec.CodeInvalid, "UTF-8"),
	put("an empty key", plain+"/", "x", nil, 400, spec.CodeInvalid, "at least one byte"),
	put("no key", plain, "x", nil, 405, spec.CodeNotAllowed, "GET"),
	put("a key of 1025 bytes", plain+"/"+strings.Repeat("k", 1025), "x", nil, 400, spec.CodeInvalid, "1024"),
	put("a key of 10 MB", plain+"/"+strings.Repeat("k", 10<<20), "x", nil, 431, spec.CodeTooLarge, "1024"),
}

var badOptions = []badRequest{
	put("a ttl without unit", plain+"/k?ttl=5", "x", nil, 400, spec.CodeInvalid, "unit"),
	put("a ttl of nothing", plain+"/k?ttl=0", "x", nil, 400, spec.CodeInvalid, "leave it out"),
	put("a negative ttl", plain+"/k?ttl=-5s", "x", nil, 400, spec.CodeInvalid, "500ms"),
	put("a ttl beyond any time", plain+"/k?ttl=99999999999h", "x", nil, 400, spec.CodeInvalid),
	put("a ttl of a century", plain+"/k?ttl=900000h", "x", nil, 400, spec.CodeInvalid, "at most"),
	put("a ttl twice", plain+"/k?ttl=5s&ttl=5s", "x", nil, 400, spec.CodeInvalid, "twice"),
	put("an unknown parameter", plain+"/k?tll=5s", "x", nil, 400, spec.CodeInvalid, "ttl"),
	put("a ttl in a session", "/v1/apps/bad/sessions/s1/buckets/plain/objects/k?ttl=5s", "x", nil, 400, spec.CodeInvalid, "deliver_after"),
	put("a condition in a session", "/v1/apps/bad/sessions/s1/buckets/plain/objects/k", "x", []string{"If-Match", `"1"`}, 400, spec.CodeInvalid, "written once"),
	put("both conditions", plain+"/k", "x", []string{"If-Match", `"1"`, "If-None-Match", "*"}, 400, spec.CodeInvalid, "one of them"),
	put("a condition that is no revision", plain+"/k", "x", []string{"If-Match", `"abc"`}, 400, spec.CodeInvalid, "one revision"),
	put("a condition twice", plain+"/k", "x", []string{"If-Match", `"1"`, "If-Match", `"2"`}, 400, spec.CodeInvalid, "once"),
	put("a revision of an object that is not there", plain+"/nothing", "x", []string{"If-Match", `"1"`}, 412, spec.CodePrecondition, "nothing"),
	put("any revision of an object that is not there", plain+"/nothing", "x", []string{"If-Match", "*"}, 412, spec.CodePrecondition, "nothing"),
	put("a new object that is there", plain+"/there", "x", []string{"If-None-Match", "*"}, 412, spec.CodePrecondition, "there"),
	put("another revision than the newest", plain+"/there", "x", []string{"If-Match", `"999999"`}, 412, spec.CodePrecondition, "there"),
	{"a delete of another revision", http.MethodDelete, plain + "/there", "", []string{"If-Match", `"999999"`}, 412, spec.CodePrecondition, []string{"there"}},
	put("an idempotency key with spaces", plain+"/k", "x", []string{"Idempotency-Key", "a b"}, 400, spec.CodeInvalid, "visible ASCII"),
	put("an idempotency key without end", plain+"/k", "x", []string{"Idempotency-Key", strings.Repeat("a", 256)}, 400, spec.CodeInvalid, "255"),
	put("a delay beyond any time", plain+"/k?deliver_after=900000h", "x", nil, 400, spec.CodeInvalid, "at most"),
	put("metadata without a name", plain+"/k", "x", []string{"Pheromone-Meta-", "v"}, 400, spec.CodeInvalid, "no field"),
	put("metadata that is not UTF-8", plain+"/k", "x", []string{"Pheromone-Meta-A", "\xff"}, 400, spec.CodeInvalid, "UTF-8"),
	put("headers over their limit", plain+"/k", "x", []string{"Pheromone-Meta-A", strings.Repeat("v", 32<<10)}, 431, spec.CodeTooLarge),
	get("a limit of zero", plain+"?limit=0", 400, spec.CodeInvalid, "1 to 1000"),
	get("a limit beyond the most", plain+"?limit=1001", 400, spec.CodeInvalid, "1 to 1000"),
	get("a limit beyond any number", plain+"?limit=99999999999999999999", 400, spec.CodeInvalid, "1 to 1000"),
	get("a limit that is a word", plain+"?limit=all", 400, spec.CodeInvalid, "1 to 1000"),
	get("a negative limit of sessions", "/v1/apps/bad/sessions?limit=-1", 400, spec.CodeInvalid, "1 to 1000"),
	get("an unknown status", "/v1/apps/bad/sessions?status=dead", 400, spec.CodeInvalid, "running"),
	get("a page of sessions after nothing known", "/v1/apps/bad/sessions?after=x", 400, spec.CodeInvalid, "next of an earlier page"),
	get("a page of a history after nothing known", "/v1/apps/bad/sessions/done/history?after=x", 400, spec.CodeInvalid, "after"),
	get("a watch from nowhere", "/v1/apps/bad/buckets/plain/watch?from=x", 400, spec.CodeInvalid, "position"),
	get("a watch from nowhere in disguise", "/v1/apps/bad/buckets/plain/watch?from=OTk6MQ", 400, spec.CodeInvalid, "position"),
	get("a wait beyond the most", "/v1/apps/bad/sessions/done/result?wait=11m", 400, spec.CodeInvalid, "10m"),
	get("a wait without unit", "/v1/apps/bad/sessions/done/result?wait=10", 400, spec.CodeInvalid, "unit"),
	get("until without wait", "/v1/apps/bad/sessions/done/result?until=output", 400, spec.CodeInvalid, "wait=10s"),
	get("until what never comes", "/v1/apps/bad/sessions/done/result?wait=1s&until=doom", 400, spec.CodeInvalid, "output"),
	get("a prefix that is too long", plain+"?prefix="+strings.Repeat("k", 1025), 400, spec.CodeInvalid, "1024"),
	get("a prefix that is not UTF-8", plain+"?prefix=%ff", 400, spec.CodeInvalid, "UTF-8"),
	get("a list after what can be no key", plain+"?after=%00", 400, spec.CodeInvalid),
	post("a rollback to nothing", "/v1/apps/bad/rollback", "", nil, 400, spec.CodeInvalid, "?version="),
	post("a rerun from what is no object", "/v1/apps/bad/sessions/done/rerun?from=plain", "", nil, 400, spec.CodeInvalid, "bucket/key"),
	post("a rerun from an object that is not there", "/v1/apps/bad/sessions/done/rerun?from=plain/nothing", "", nil, 404, spec.CodeNotFound, "nothing"),
	post("a rerun from a bucket that is not there", "/v1/apps/bad/sessions/done/rerun?from=nobody/k", "", nil, 404, spec.CodeNotFound, "nobody"),
	post("a cancel with a body", "/v1/apps/bad/sessions/done/cancel", "x", nil, 400, spec.CodeInvalid, "no body"),
	{"a method that is none", "BREW", "/v1/apps", "", nil, 405, spec.CodeNotAllowed, []string{"GET"}},
	{"a post where a put belongs", http.MethodPost, "/v1/apps/bad", "", nil, 405, spec.CodeNotAllowed, []string{"PUT"}},
	put("a page of another origin", plain+"/k", "x", []string{"Origin", "https://evil.example"}, 403, spec.CodeForbidden, "another origin"),
	put("a put into a failed session", "/v1/apps/bad/sessions/failed/buckets/plain/objects/late", "x", nil, 409, spec.CodeConflict, "rerun"),
	put("a put into a cancelled session", "/v1/apps/bad/sessions/cancelled/buckets/plain/objects/late", "x", nil, 409, spec.CodeConflict, "rerun"),
	put("other bytes under a key of a session", "/v1/apps/bad/sessions/done/buckets/@echo/objects/in", "other", nil, 409, spec.CodeConflict, "in"),
	post("a call whose program is not there", "/v1/apps/bad/functions/missing/invoke?wait=20s", "x", nil, 500, spec.CodeSessionFailed, "no-such-program", "not found"),
	post("a call whose program ends at once", "/v1/apps/bad/functions/quits/invoke?wait=20s", "x", nil, 500, spec.CodeSessionFailed, "quits.py", "HELLO"),
	post("a call that fails", "/v1/apps/bad/functions/fails/invoke?wait=20s", "x", nil, 500, spec.CodeSessionFailed, "always fails"),
}

// TestBadRequestsAreRefusedWithAReasonAndLeaveNothingBehind: whatever comes in,
// the answer is the documented one and says what would be right; afterwards the
// node is as it was.
func TestBadRequestsAreRefusedWithAReasonAndLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	node := nodetest.Start(t)
	prepare(t, node)
	things := []string{"/v1/apps", "/v1/apps/bad/versions", plain, "/v1/apps/bad/sessions/done", "/v1/apps/bad/sessions/failed",
		"/v1/apps/bad/sessions/cancelled", "/v1/apps/bad/sessions/done/buckets/plain/objects"}
	before := listing(t, node, things...)
	goroutines := gauge(t, node, "go_goroutines")

	for _, group := range [][]badRequest{badManifests, badNames, badOptions} {
		for _, c := range group {
			t.Run(c.name, func(t *testing.T) {
				var body io.Reader
				if c.body != "" {
					body = strings.NewReader(c.body)
				}
				call(t, node, c.method, c.path, body, c.headers...).wants(t, c.status, c.code, c.says...)
			})
		}
	}
	badBodies(t, node)
	badFraming(t, node)
	badArtifacts(t, node)

	if after := listing(t, node, things...); after != before {
		t.Errorf("bad requests left something behind:\n%s\nwas\n%s", after, before)
	}
	httpClient.CloseIdleConnections()
	nodetest.Eventually(t, "what bad requests started ends", func() bool {
		return gauge(t, node, "go_goroutines") < goroutines+50
	})
	const bound = 512 << 20
	if most := resident(t, node, "VmHWM"); most > bound {
		t.Errorf("bad requests brought the node to %d MiB, more than %d", most>>20, bound>>20)
	}
	node.CLI(0, "invoke", "bad", "echo", "still here")
	node.CLI(0, "put", "bad", "plain/after", "x")
}

// prepare deploys the app and brings it to where the bad requests find it.
func prepare(t *testing.T, node *nodetest.Node) {
	t.Helper()
	node.CLI(0, "apply", "-f", "testdata/bad/app.yaml")
	node.CLI(0, "put", "bad", "plain/there", "x")
	node.CLI(0, "put", "bad", "@echo/in", "x", "--session", "done")
	node.CLI(0, "session", "result", "bad", "done", "--wait", "20s")
	node.CLI(0, "put", "bad", "@fails/in", "x", "--session", "failed")
	node.CLI(1, "session", "result", "bad", "failed", "--wait", "20s")
	node.CLI(0, "put", "bad", "@sleeps/in", "x", "--session", "cancelled")
	nodetest.Eventually(t, "the function sleeps", func() bool {
		return call(t, node, http.MethodGet, "/v1/apps/bad/sessions/cancelled/buckets/plain/objects/started", nil).status == http.StatusOK
	})
	node.CLI(0, "session", "cancel", "bad", "cancelled")
}
