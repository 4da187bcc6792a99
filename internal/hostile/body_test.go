package hostile

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/spec"
)

// badBodies are those that are too large, told beforehand or not.
func badBodies(t *testing.T, node *nodetest.Node) {
	for _, c := range []struct {
		name    string
		method  string
		path    string
		size    int64
		chunked bool
	}{
		{"an object over the app's limit", http.MethodPut, plain + "/large", 1<<20 + 1, false},
		{"an object over the app's limit in chunks", http.MethodPut, plain + "/large", 1<<20 + 1, true},
		{"an object over every limit", http.MethodPut, plain + "/large", 1 << 40, false},
		{"an input over the app's limit", http.MethodPost, "/v1/apps/bad/functions/echo/invoke", 1<<20 + 1, true},
		{"an object for a session over the app's limit", http.MethodPut, "/v1/apps/bad/sessions/done/buckets/plain/objects/large", 1<<20 + 1, false},
		{"an object for an unknown bucket over every limit", http.MethodPut, "/v1/apps/bad/buckets/nobody/objects/large", 1 << 40, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			body := &written{from: reader(c.size)}
			req, err := http.NewRequest(c.method, node.URL()+c.path, body)
			if err != nil {
				t.Fatal(err)
			}
			if !c.chunked {
				req.ContentLength = c.size
			}
			resp, err := httpClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			text, err := io.ReadAll(resp.Body)
			_ = resp.Body.Close()
			if err != nil {
				t.Fatal(err)
			}
			answer{resp.StatusCode, resp.Header, text}.wants(t, 413, spec.CodeTooLarge)
			if n := body.n.Load(); n > 64<<20 {
				t.Errorf("%d MiB were taken before the body was refused", n>>20)
			}
		})
	}
	t.Run("an object far over the app's limit in chunks", func(t *testing.T) {
		body := &written{from: reader(300 << 20)}
		req, err := http.NewRequest(http.MethodPut, node.URL()+plain+"/large", body)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := httpClient.Do(req) // the node may hang up while the client still sends: then there is no answer
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode != 413 {
				t.Errorf("status %d", resp.StatusCode)
			}
		}
		if n := body.n.Load(); n > 64<<20 {
			t.Errorf("%d MiB were taken", n>>20)
		}
	})
	t.Run("empty objects and empty inputs are fine", func(t *testing.T) {
		if a := call(t, node, http.MethodPut, plain+"/empty", nil); a.status != 200 {
			t.Errorf("an empty object: %d %s", a.status, a.body)
		}
		if a := call(t, node, http.MethodDelete, plain+"/empty", nil); a.status != 200 {
			t.Errorf("its deletion: %d %s", a.status, a.body)
		}
		if a := call(t, node, http.MethodPost, "/v1/apps/bad/functions/echo/invoke?wait=20s", nil); a.status != 200 || len(a.body) != 0 {
			t.Errorf("an empty input: %d %s", a.status, a.body)
		}
	})
}

// badFraming are requests that HTTP clients can't send.
func badFraming(t *testing.T, node *nodetest.Node) {
	request := func(lines ...string) string { return strings.Join(lines, "\r\n") }
	head := []string{"PUT " + plain + "/framed HTTP/1.1", "Host: localhost", "Connection: close"}
	for _, c := range []struct {
		name    string
		request string
		status  int
		says    string
	}{
		{"both lengths", request(append(head, "Content-Length: 5", "Transfer-Encoding: chunked", "", "0\r\n\r\n")...), 400, "both Content-Length and Transfer-Encoding"},
		{"two lengths", request(append(head, "Content-Length: 5", "Content-Length: 6", "", "helloo")...), 400, "well-formed"},
		{"a negative length", request(append(head, "Content-Length: -5", "", "hello")...), 400, "well-formed"},
		{"a length beyond any number", request(append(head, "Content-Length: 99999999999999999999", "", "hello")...), 400, "well-formed"},
		{"a chunk of a negative size", request(append(head, "Transfer-Encoding: chunked", "", "-1\r\nhello\r\n0\r\n\r\n")...), 400, ""},
		{"a coding that nobody knows", request(append(head, "Transfer-Encoding: xchunked", "", "hello")...), 400, ""},
		{"no host", request("GET /v1/apps HTTP/1.1", "Connection: close", "", ""), 400, ""},
		{"the host of somebody else", request("GET /v1/apps HTTP/1.1", "Host: evil.example", "Connection: close", "", ""), 403, "evil.example"},
		{"somebody else's host in the target", request("GET http://evil.example/v1/apps HTTP/1.1", "Host: localhost", "Connection: close", "", ""), 403, "evil.example"},
		{"a line end in a header", request("GET /v1/apps HTTP/1.1", "Host: localhost", "X: a\x00b", "Connection: close", "", ""), 400, ""},
		{"a key with a broken escape", request("PUT "+plain+"/a%zz HTTP/1.1", "Host: localhost", "Content-Length: 0", "Connection: close", "", ""), 400, "%25"},
		{"no HTTP at all", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "well-formed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			out := raw(t, node, c.request)
			if !strings.HasPrefix(out, fmt.Sprintf("HTTP/1.1 %d ", c.status)) || !strings.Contains(out, c.says) {
				t.Errorf("want %d that says %q, got %.600q", c.status, c.says, out)
			}
		})
	}
	t.Run("a body that breaks off is no object", func(t *testing.T) {
		for _, body := range []string{
			"Content-Length: 100\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhel",
			"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
		} {
			halfClosed(t, node, "PUT "+plain+"/framed HTTP/1.1\r\nHost: localhost\r\n"+body)
		}
		call(t, node, http.MethodGet, plain+"/framed", nil).wants(t, 404, spec.CodeNotFound)
	})
	t.Run("two requests in one do not become two", func(t *testing.T) {
		inner := "DELETE " + plain + "/there HTTP/1.1\r\nHost: localhost\r\n\r\n"
		raw(t, node, request(append(head[:2:2], "Content-Length: 5", "Transfer-Encoding: chunked", "", "0", "", inner)...))
		if a := call(t, node, http.MethodGet, plain+"/there", nil); a.status != 200 {
			t.Errorf("the smuggled request was served: %d", a.status)
		}
	})
	t.Run("headers that never end are given up", func(t *testing.T) {
		if out := raw(t, node, "GET /v1/apps HTTP/1.1\r\nHost: local"); !strings.HasPrefix(out, "HTTP/1.1 408 ") {
			t.Errorf("want 408, got %q", out)
		}
	})
}

// packed is a tar of entries, compressed as artifacts are.
func packed(t *testing.T, fill func(*tar.Writer) error) []byte {
	t.Helper()
	var out bytes.Buffer
	z, err := zstd.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(z)
	if err := fill(w); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func entry(h tar.Header) func(*tar.Writer) error {
	return func(w *tar.Writer) error {
		h.Mode = 0o644
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		_, err := io.CopyN(w, zeros{}, h.Size)
		return err
	}
}

// badArtifacts are refused when they are uploaded or when an app is to have them.
func badArtifacts(t *testing.T, node *nodetest.Node) {
	upload := func(t *testing.T, sum string, archive []byte) answer {
		return call(t, node, http.MethodPut, "/v1/apps/bad/artifacts/"+sum, bytes.NewReader(archive))
	}
	t.Run("an artifact under another hash", func(t *testing.T) {
		wrong := strings.Repeat("a", 64)
		upload(t, wrong, []byte("anything")).wants(t, 422, spec.CodeHashMismatch, "SHA-256")
		if a := call(t, node, http.MethodHead, "/v1/apps/bad/artifacts/"+wrong, nil); a.status != 404 {
			t.Errorf("it is there: %d", a.status)
		}
	})
	text := header + "functions: {f: {runtime: process, command: [x]}}\nbuckets: {b: {}}\n"
	for _, c := range []struct {
		name    string
		archive []byte
		status  int
		code    spec.Code
		says    string
	}{
		{"an artifact that is no archive", []byte("not an archive"), 400, spec.CodeInvalid, "tar"},
		{"an artifact that breaks off", packed(t, entry(tar.Header{Name: "a", Size: 1 << 20}))[:50], 400, spec.CodeInvalid, "tar"},
		{"an artifact that climbs out", packed(t, entry(tar.Header{Name: "../../evil", Size: 3})), 400, spec.CodeInvalid, "outside"},
		{"an artifact with an absolute name", packed(t, entry(tar.Header{Name: "/tmp/evil", Size: 3})), 400, spec.CodeInvalid, "outside"},
		{"an artifact with a link out", packed(t, entry(tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../../../etc/passwd"})), 400, spec.CodeInvalid, "outside"},
		{"an artifact with an absolute link", packed(t, entry(tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"})), 400, spec.CodeInvalid, "outside"},
		{"an artifact with a hard link out", packed(t, entry(tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "/etc/passwd"})), 400, spec.CodeInvalid, "outside"},
		{"an artifact with a device", packed(t, entry(tar.Header{Name: "d", Typeflag: tar.TypeChar})), 400, spec.CodeInvalid, "neither"},
		{"an artifact with a name twice", packed(t, func(w *tar.Writer) error {
			if err := entry(tar.Header{Name: "a", Size: 1})(w); err != nil {
				return err
			}
			return entry(tar.Header{Name: "a", Size: 1})(w)
		}), 400, spec.CodeInvalid, "a"},
		{"an artifact that expands without end", packed(t, entry(tar.Header{Name: "a", Size: 1 << 30})), 413, spec.CodeTooLarge, "expands"},
		{"an artifact of too many files", packed(t, func(w *tar.Writer) error {
			for i := range 20_001 {
				if err := w.WriteHeader(&tar.Header{Name: fmt.Sprint(i), Mode: 0o755, Typeflag: tar.TypeDir}); err != nil {
					return err
				}
			}
			return nil
		}), 413, spec.CodeTooLarge, "20000"},
	} {
		t.Run(c.name, func(t *testing.T) {
			sum := sha256.Sum256(c.archive)
			name := hex.EncodeToString(sum[:])
			a := upload(t, name, c.archive)
			if a.status == http.StatusCreated {
				a = call(t, node, http.MethodPut, "/v1/apps/bad?artifact="+name, strings.NewReader(text))
			}
			a.wants(t, c.status, c.code, c.says)
		})
	}
}
