package api_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/api"
	"github.com/pheromone-run/pheromone/spec"
)

const (
	objects = "/v1/apps/shop/buckets/orders/objects"
	inside  = "/v1/apps/shop/sessions/s-1/buckets/orders/objects"
	sum     = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" // of nothing
)

// Whatever is wrong with a request, the answer says what, in which field, and
// what would be right.
func TestBadRequestsAreRefusedWithAReason(t *testing.T) {
	s := serve(t, newFake(), api.Config{MaxObjectBytes: 1 << 20})
	long := strings.Repeat("x", 2000)
	for _, c := range []struct {
		name, method, path, body string
		headers                  []string
		status                   int
		code                     spec.Code
		field, says              string
	}{
		// Paths.
		{"a path that is not there", "GET", "/v2/apps", "", nil, 404, spec.CodeNotFound, "", "no such path"},
		{"a misspelt path", "GET", "/v1/app", "", nil, 404, spec.CodeNotFound, "", `did you mean "apps"?`},
		{"a path that goes on too far", "GET", "/v1/apps/shop/versions/3", "", nil, 404, spec.CodeNotFound, "", "no such path"},
		{"half a path", "GET", "/v1/apps/shop/buckets/orders", "", nil, 404, spec.CodeNotFound, "", "no such path"},
		{"a bad escape in a name", "GET", "/v1/apps/%zz", "", nil, 400, spec.CodeInvalid, "", "two hexadecimal digits"},
		{"a method that is not there", "PATCH", "/v1/apps/shop", "", nil, 405, spec.CodeNotAllowed, "", "use DELETE, GET, HEAD or PUT"},
		{"a put on a list", "PUT", objects, "x", nil, 405, spec.CodeNotAllowed, "", "use GET or HEAD"},
		{"a preflight", "OPTIONS", objects + "/k", "", nil, 405, spec.CodeNotAllowed, "", "use"},
		{"a delete inside a session", "DELETE", inside + "/k", "", nil, 405, spec.CodeNotAllowed, "", "use GET, HEAD or PUT"},

		// Names.
		{"an app name in capitals", "GET", "/v1/apps/Shop", "", nil, 400, spec.CodeInvalid, "app", "lower-case letters"},
		{"an empty app name", "GET", "/v1/apps/", "", nil, 400, spec.CodeInvalid, "app", "starting with a letter"},
		{"an app name with an encoded slash", "GET", "/v1/apps/x%2Fadmin", "", nil, 400, spec.CodeInvalid, "app", `"x/admin"`},
		{"an app name that is far too long", "PUT", "/v1/apps/" + long, "app: x", nil, 400, spec.CodeInvalid, "app", "at most 63"},
		{"an unknown app", "GET", "/v1/apps/nope", "", nil, 404, spec.CodeNotFound, "app", `"nope"`},
		{"a bucket name in capitals", "PUT", "/v1/apps/shop/buckets/ORDERS/objects/k", "x", nil, 400, spec.CodeInvalid, "bucket", "lower-case"},
		{"a bad inbox", "PUT", "/v1/apps/shop/buckets/@BILL/objects/k", "x", nil, 400, spec.CodeInvalid, "bucket", "lower-case"},
		{"an unknown bucket", "PUT", "/v1/apps/shop/buckets/nope/objects/k", "x", nil, 404, spec.CodeNotFound, "bucket", `"nope"`},
		{"an unknown bucket to watch", "GET", "/v1/apps/shop/buckets/nope/watch", "", nil, 404, spec.CodeNotFound, "bucket", `"nope"`},
		{"a function name in capitals", "POST", "/v1/apps/shop/functions/BILL/invoke", "x", nil, 400, spec.CodeInvalid, "function", "lower-case"},
		{"an unknown function", "POST", "/v1/apps/shop/functions/nope/invoke", "x", nil, 404, spec.CodeNotFound, "function", `"nope"`},
		{"a session id with a space", "GET", "/v1/apps/shop/sessions/a%20b", "", nil, 400, spec.CodeInvalid, "session", "letters, digits"},
		{"a session id that is too long", "GET", "/v1/apps/shop/sessions/" + long, "", nil, 400, spec.CodeInvalid, "session", "at most 128"},
		{"an unknown session", "GET", "/v1/apps/shop/sessions/s-9", "", nil, 404, spec.CodeNotFound, "session", `"s-9"`},
		{"an unknown session to cancel", "POST", "/v1/apps/shop/sessions/s-9/cancel", "", nil, 404, spec.CodeNotFound, "session", `"s-9"`},
		{"an empty key", "PUT", objects + "/", "x", nil, 400, spec.CodeInvalid, "key", "at least one byte"},
		{"a key that is too long", "PUT", objects + "/" + long, "x", nil, 400, spec.CodeInvalid, "key", "at most 1024"},
		{"a key with NUL", "PUT", objects + "/a%00b", "x", nil, 400, spec.CodeInvalid, "key", "control character"},
		{"a key with a line break", "GET", objects + "/a%0Ab", "", nil, 400, spec.CodeInvalid, "key", "control character"},
		{"a key that is no UTF-8", "PUT", objects + "/%ff", "x", nil, 400, spec.CodeInvalid, "key", "not UTF-8"},
		{"an overlong slash", "PUT", objects + "/..%c0%af..", "x", nil, 400, spec.CodeInvalid, "key", "not UTF-8"},
		{"a bad escape in a key", "PUT", objects + "/50%", "x", nil, 400, spec.CodeInvalid, "", "%25"},
		{"half an escape in a key", "PUT", objects + "/50%4", "x", nil, 400, spec.CodeInvalid, "", "%25"},

		// Query parameters.
		{"an unknown parameter", "PUT", objects + "/k?tlt=5s", "x", nil, 400, spec.CodeInvalid, "tlt", `did you mean "ttl"?`},
		{"a parameter of another route", "GET", "/v1/apps?limit=3", "", nil, 400, spec.CodeInvalid, "limit", "unknown query parameter"},
		{"a ttl inside a session", "PUT", inside + "/k?ttl=5s", "x", nil, 400, spec.CodeInvalid, "ttl", "unknown query parameter"},
		{"a parameter twice", "GET", objects + "?limit=1&limit=2", "", nil, 400, spec.CodeInvalid, "limit", "twice"},
		{"a parameter with a bad escape", "GET", objects + "?prefix=%g0", "", nil, 400, spec.CodeInvalid, "prefix", "hexadecimal"},
		{"a prefix with NUL", "GET", objects + "?prefix=%00", "", nil, 400, spec.CodeInvalid, "prefix", "control characters"},
		{"a prefix longer than any key", "GET", objects + "?prefix=" + long, "", nil, 400, spec.CodeInvalid, "prefix", "at most 1024"},
		{"a limit of 0", "GET", objects + "?limit=0", "", nil, 400, spec.CodeInvalid, "limit", "from 1 to 1000"},
		{"a limit beyond the most", "GET", objects + "?limit=1001", "", nil, 400, spec.CodeInvalid, "limit", "from 1 to 1000"},
		{"a limit that overflows", "GET", objects + "?limit=99999999999999999999", "", nil, 400, spec.CodeInvalid, "limit", "from 1 to 1000"},
		{"a limit that is no number", "GET", "/v1/apps/shop/sessions?limit=ten", "", nil, 400, spec.CodeInvalid, "limit", "whole number"},
		{"a ttl without unit", "PUT", objects + "/k?ttl=5", "x", nil, 400, spec.CodeInvalid, "ttl", "500ms"},
		{"a negative ttl", "PUT", objects + "/k?ttl=-5s", "x", nil, 400, spec.CodeInvalid, "ttl", "500ms"},
		{"a ttl of nothing", "PUT", objects + "/k?ttl=0", "x", nil, 400, spec.CodeInvalid, "ttl", "leave it out"},
		{"a delay beyond the most", "PUT", objects + "/k?deliver_after=9000h", "x", nil, 400, spec.CodeInvalid, "deliver_after", "at most"},
		{"a delay given twice", "PUT", objects + "/k?deliver_after=1s", "x", []string{"Pheromone-Deliver-After: 2s"}, 400, spec.CodeInvalid, "deliver_after", "one of them"},
		{"a delay that is none", "PUT", objects + "/k", "x", []string{"Pheromone-Deliver-After: soon"}, 400, spec.CodeInvalid, "Pheromone-Deliver-After", "500ms"},
		{"a session timeout of nothing", "PUT", objects + "/k?session_timeout=0", "x", nil, 400, spec.CodeInvalid, "session_timeout", "at least 1ms"},
		{"a session timeout beyond the most", "PUT", inside + "/k?session_timeout=8761h", "x", nil, 400, spec.CodeInvalid, "session_timeout", "at most 8760h"},
		{"a session timeout without unit", "POST", invokePath + "?session_timeout=5", "x", nil, 400, spec.CodeInvalid, "session_timeout", "500ms"},
		{"a session timeout that overflows", "POST", invokePath + "?session_timeout=99999999999h", "x", nil, 400, spec.CodeInvalid, "session_timeout", ""},
		{"a session timeout on a delete", "DELETE", objects + "/k?session_timeout=5s", "", nil, 400, spec.CodeInvalid, "session_timeout", "unknown query parameter"},
		{"stale as a word", "GET", objects + "/k?stale=maybe", "", nil, 400, spec.CodeInvalid, "stale", "use 1 or 0"},
		{"a status that is none", "GET", "/v1/apps/shop/sessions?status=faled", "", nil, 400, spec.CodeInvalid, "status", `did you mean "failed"?`},
		{"a function filter that is no name", "GET", "/v1/apps/shop/sessions?function=A", "", nil, 400, spec.CodeInvalid, "function", "lower-case"},
		{"a wait that is too long", "POST", "/v1/apps/shop/functions/bill/invoke?wait=11m", "x", nil, 400, spec.CodeInvalid, "wait", "at most 10m"},
		{"a wait that is none", "GET", "/v1/apps/shop/sessions/s-1/result?wait=long", "", nil, 400, spec.CodeInvalid, "wait", "500ms"},
		{"until without wait", "GET", "/v1/apps/shop/sessions/s-1/result?until=output", "", nil, 400, spec.CodeInvalid, "wait", "wait=10s"},
		{"until something else", "GET", "/v1/apps/shop/sessions/s-1/result?wait=1s&until=x", "", nil, 400, spec.CodeInvalid, "until", "end or output"},
		{"a rerun from half an object", "POST", "/v1/apps/shop/sessions/s-1/rerun?from=orders", "", nil, 400, spec.CodeInvalid, "from", "bucket/key"},
		{"a rollback to nowhere", "POST", "/v1/apps/shop/rollback", "", nil, 400, spec.CodeInvalid, "version", "?version="},
		{"a rollback to version 0", "POST", "/v1/apps/shop/rollback?version=0", "", nil, 400, spec.CodeInvalid, "version", "from 1"},
		{"a version that is none", "GET", "/v1/apps/shop?version=v1", "", nil, 400, spec.CodeInvalid, "version", "whole number"},
		{"a dry run as a word", "PUT", "/v1/apps/shop?dry_run=yes", "app: shop", nil, 400, spec.CodeInvalid, "dry_run", "use 1 or 0"},
		{"an artifact that is no hash", "PUT", "/v1/apps/shop?artifact=abc", "app: shop", nil, 400, spec.CodeInvalid, "artifact", "64 lower-case"},
		{"too long a tail", "GET", "/v1/apps/shop/logs?tail=10001", "", nil, 400, spec.CodeInvalid, "tail", "from 0 to 10000"},

		// Headers.
		{"If-Match that is no revision", "PUT", objects + "/k", "x", []string{"If-Match: abc"}, 400, spec.CodeInvalid, "If-Match", `"12"`},
		{"If-Match with a list", "PUT", objects + "/k", "x", []string{`If-Match: "1", "2"`}, 400, spec.CodeInvalid, "If-Match", `"12"`},
		{"If-Match of revision 0", "PUT", objects + "/k", "x", []string{`If-Match: "0"`}, 400, spec.CodeInvalid, "If-Match", "If-None-Match: *"},
		{"If-Match twice", "PUT", objects + "/k", "x", []string{`If-Match: "1"`, `If-Match: "2"`}, 400, spec.CodeInvalid, "If-Match", "send it once"},
		{"If-None-Match with a revision on a put", "PUT", objects + "/k", "x", []string{`If-None-Match: "1"`}, 400, spec.CodeInvalid, "If-None-Match", "* alone"},
		{"both conditions", "PUT", objects + "/k", "x", []string{`If-Match: "1"`, `If-None-Match: *`}, 400, spec.CodeInvalid, "If-Match", "one of them"},
		{"a condition inside a session", "PUT", inside + "/k", "x", []string{`If-None-Match: *`}, 400, spec.CodeInvalid, "If-None-Match", "written once"},
		{"a delete of what must not be there", "DELETE", objects + "/k", "", []string{`If-None-Match: *`}, 400, spec.CodeInvalid, "If-Match", "one revision"},
		{"a condition that does not hold", "PUT", objects + "/k", "x", []string{`If-Match: "77"`}, 412, spec.CodePrecondition, "", "revision"},
		{"an idempotency key with a space", "PUT", objects + "/k", "x", []string{"Idempotency-Key: a b"}, 400, spec.CodeInvalid, "Idempotency-Key", "visible ASCII"},
		{"an idempotency key that is too long", "POST", "/v1/apps/shop/functions/bill/invoke", "x", []string{"Idempotency-Key: " + long}, 400, spec.CodeInvalid, "Idempotency-Key", "255"},
		{"metadata without a name", "PUT", objects + "/k", "x", []string{"Pheromone-Meta-: x"}, 400, spec.CodeInvalid, "Pheromone-Meta-", "name"},
		{"metadata twice", "PUT", objects + "/k", "x", []string{"Pheromone-Meta-A: 1", "Pheromone-Meta-A: 2"}, 400, spec.CodeInvalid, "Pheromone-Meta-a", "twice"},
		{"metadata that is no UTF-8", "PUT", objects + "/k", "x", []string{"Pheromone-Meta-A: \xff"}, 400, spec.CodeInvalid, "Pheromone-Meta-a", "UTF-8"},
		{"a content type that is too long", "PUT", objects + "/k", "x", []string{"Content-Type: " + long}, 400, spec.CodeInvalid, "Content-Type", "256"},
		{"a compressed body", "PUT", objects + "/k", "x", []string{"Content-Encoding: gzip"}, 415, spec.CodeUnsupported, "Content-Encoding", "as it is"},

		// Bodies.
		{"a body where none is taken", "DELETE", objects + "/k", "x", nil, 400, spec.CodeInvalid, "", "takes no body"},
		{"a body on a cancel", "POST", "/v1/apps/shop/sessions/s-1/cancel", "{}", nil, 400, spec.CodeInvalid, "", "takes no body"},
		{"an empty manifest", "PUT", "/v1/apps/shop", "", nil, 400, spec.CodeInvalid, "", "YAML or JSON"},
		{"a manifest of blanks", "PUT", "/v1/apps/shop", " \n\t", nil, 400, spec.CodeInvalid, "", "YAML or JSON"},
		{"a manifest that is compressed", "PUT", "/v1/apps/shop", "\x1f\x8b\x08", nil, 415, spec.CodeUnsupported, "", "not compressed"},
		{"a manifest as a form", "PUT", "/v1/apps/shop", "app: shop", []string{"Content-Type: application/x-www-form-urlencoded"}, 415, spec.CodeUnsupported, "Content-Type", "application/yaml"},
		{"a manifest of a type that is none", "PUT", "/v1/apps/shop", "app: shop", []string{"Content-Type: ;;;"}, 415, spec.CodeUnsupported, "Content-Type", "application/yaml"},
		{"a JSON manifest that is none", "PUT", "/v1/apps/shop", "{\n  \"app\": shop}", []string{"Content-Type: application/json"}, 422, spec.CodeBadManifest, "", "line 2, column 10"},
		{"JSON nested without end", "PUT", "/v1/apps/shop", strings.Repeat("[", 200_000), []string{"Content-Type: application/json"}, 422, spec.CodeBadManifest, "", "depth"},
		{"a manifest over the limit", "PUT", "/v1/apps/shop", strings.Repeat("#", 1<<20+1), nil, 413, spec.CodeTooLarge, "", "1048576"},
		{"an object over the limit", "PUT", objects + "/k", strings.Repeat("#", 1<<20+1), nil, 413, spec.CodeTooLarge, "", "1048576"},
		{"an input over the limit", "POST", "/v1/apps/shop/functions/bill/invoke", strings.Repeat("#", 1<<20+1), nil, 413, spec.CodeTooLarge, "", "1048576"},
		{"an artifact under no hash", "PUT", "/v1/apps/shop/artifacts/ABC", "x", nil, 400, spec.CodeInvalid, "sha256", "64 lower-case"},
		{"an artifact under another hash", "PUT", "/v1/apps/shop/artifacts/" + sum, "x", nil, 422, spec.CodeHashMismatch, "", "SHA-256"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := s.do(c.method, c.path, c.body, c.headers...)
			e := a.error(t)
			if a.status != c.status || e.Code != c.code || e.Field != c.field || !strings.Contains(e.Message, c.says) {
				t.Errorf("got %d %+v\nwant %d %s in field %q, saying %q", a.status, e, c.status, c.code, c.field, c.says)
			}
			if len(e.Message) > 400 {
				t.Errorf("a message of %d bytes repeats too much of the request", len(e.Message))
			}
			if a.header.Get("Pheromone-Request-Id") == "" || a.header.Get("Content-Type") != "application/json" {
				t.Errorf("headers %v", a.header)
			}
			if c.status == http.StatusMethodNotAllowed && a.header.Get("Allow") == "" {
				t.Error("405 without Allow")
			}
		})
	}
}
