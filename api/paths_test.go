package api_test

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/api"
	"github.com/pheromone-run/pheromone/spec"
	"pgregory.net/rapid"
)

// A key is what follows objects/, decoded once: nothing else is done to it, by
// nobody on the way.
func TestKeysAreDecodedExactlyOnce(t *testing.T) {
	backend := newFake()
	s := serve(t, backend, api.Config{})
	for _, c := range []struct{ name, path, key string }{
		{"a plain key", "a", "a"},
		{"a slash", "a/b", "a/b"},
		{"an encoded slash in capitals", "a%2Fb", "a/b"},
		{"an encoded slash", "a%2fb", "a/b"},
		{"a doubly encoded slash", "a%252fb", "a%2fb"},
		{"a doubly encoded percent sign", "%2525", "%25"},
		{"parents", "../../admin", "../../admin"},
		{"encoded parents", "%2e%2e%2f%2e%2e", "../.."},
		{"the folder itself", "./a", "./a"},
		{"empty segments", "a//b", "a//b"},
		{"nothing but slashes", "//", "//"},
		{"a slash at the end", "a/", "a/"},
		{"a plus sign", "a+b", "a+b"},
		{"an encoded blank", "a%20b", "a b"},
		{"an encoded question mark", "a%3Fb", "a?b"},
		{"an encoded hash sign", "a%23b", "a#b"},
		{"UTF-8", "%C3%A9", "é"},
		{"UTF-8 as it is", "é", "é"},
		{"a URL", "http://evil.example/x", "http://evil.example/x"},
		{"semicolons and such", "a;b=c&d,e@f:g", "a;b=c&d,e@f:g"},
	} {
		t.Run(c.name, func(t *testing.T) {
			answers := s.raw("PUT "+objects+"/"+c.path+" HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx", 1)
			if answers[0].status != http.StatusOK {
				t.Fatalf("answer %+v", answers[0])
			}
			if got := backend.lastPut().Key; got != spec.Key(c.key) {
				t.Errorf("key %q, want %q", got, c.key)
			}
		})
	}
}

func TestAnyKeyComesBackFromAPath(t *testing.T) {
	backend := newFake()
	s := serve(t, backend, api.Config{})
	rapid.Check(t, func(t *rapid.T) {
		key := rapid.StringOfN(rapid.Rune(), 1, 50, 200).Filter(func(k string) bool { return spec.ValidKey(k) == nil }).Draw(t, "key")
		s.do("PUT", objects+"/"+url.PathEscape(key), "x")
		if got := backend.lastPut().Key; got != spec.Key(key) {
			t.Fatalf("key %q, want %q", got, key)
		}
	})
}

func TestWordsOfAPathAreNotReinterpreted(t *testing.T) {
	s := serve(t, newFake(), api.Config{})
	for _, c := range []struct {
		name, target string
		status       int
	}{
		{"parents do not lead to another route", "/v1/apps/shop/../../../livez", 404},
		{"encoded parents do not either", "/v1/apps/%2e%2e/livez", 400},
		{"empty segments are segments", "/v1//apps", 404},
		{"two leading slashes are two", "//v1/apps", 404},
		{"a fragment is refused", objects + "/a#b", 400},
		{"an absolute target serves as well", "http://localhost/v1/apps", 200},
		{"an encoded letter is that letter", "/v1/%61pps", 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := s.raw("GET "+c.target+" HTTP/1.1\r\nHost: localhost\r\n\r\n", 1)
			if a[0].status != c.status {
				t.Errorf("got %d %s, want %d", a[0].status, a[0].body, c.status)
			}
		})
	}
}

func FuzzRequestsNeverBreakTheServer(f *testing.F) {
	for _, target := range []string{"/v1/apps/shop", objects + "/a%2fb?stale=1", "/v1/apps/%00", "//", "*", "/%", "/v1/apps?a=%zz"} {
		f.Add("GET", target, "X: y", "")
		f.Add("PUT", target, "If-Match: \"1\"", "body")
	}
	s := serve(f, newFake(), api.Config{})
	f.Fuzz(func(t *testing.T, method, target, header, body string) {
		s.t = t
		request := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: localhost\r\n%s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", method, target, header, len(body), body)
		if strings.Contains(strings.ToLower(request), "watch") || strings.Contains(strings.ToLower(header), "expect") {
			return // those wait, as they should
		}
		for _, a := range s.raw(request, 0) {
			if a.status >= 500 {
				t.Fatalf("%q: %d %s", request, a.status, a.body)
			}
		}
	})
}
