package api_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/api"
	"github.com/pheromone-run/pheromone/spec"
)

func TestOnlyHostsOfThisMachineAreServedOnLoopback(t *testing.T) {
	s := serve(t, newFake(), api.Config{AllowedHosts: []string{"console.example.org"}})
	for host, allowed := range map[string]bool{
		"localhost": true, "LOCALHOST:80": true, "localhost.": true, "127.0.0.1:7070": true, "127.8.9.1": true, "[::1]": true, "[::1]:7070": true,
		"console.example.org": true, "Console.Example.Org:443": true,
		"evil.example": false, "localhost.evil.example": false, "10.0.0.1": false, "[::2]:80": false, "127.0.0.1.evil.example": false, "evil.example:7070": false,
	} {
		a := s.do("GET", "/v1/apps", "", "Host: "+host)
		if (a.status == http.StatusOK) != allowed {
			t.Errorf("%s: %d %s", host, a.status, a.body)
		}
		if !allowed && (a.error(t).Code != spec.CodeForbidden || a.error(t).Field != "Host") {
			t.Errorf("%s: %s", host, a.body)
		}
	}
	if a := s.raw("GET http://evil.example/v1/apps HTTP/1.1\r\nHost: localhost\r\n\r\n", 1)[0]; a.status != http.StatusForbidden {
		t.Errorf("the host of an absolute target goes first: %+v", a)
	}
	if a := s.raw("GET /v1/apps HTTP/1.0\r\n\r\n", 1)[0]; a.status != http.StatusForbidden {
		t.Errorf("no host at all: %+v", a)
	}
}

func TestPagesOfOtherOriginsChangeNothing(t *testing.T) {
	backend := newFake()
	s := serve(t, backend, api.Config{AllowedHosts: []string{"console.example.org"}})
	for _, c := range []struct {
		header  string
		allowed bool
	}{
		{"Origin: http://" + s.addr, true},
		{"Origin: https://console.example.org", true},
		{"Origin: http://evil.example", false},
		{"Origin: http://localhost:1", false},
		{"Origin: null", false},
		{"Origin: :::", false},
		{"Sec-Fetch-Site: same-origin", true},
		{"Sec-Fetch-Site: none", true},
		{"Sec-Fetch-Site: same-site", false},
		{"Sec-Fetch-Site: cross-site", false},
	} {
		for method, path := range map[string]string{
			"PUT": objects + "/k", "POST": invokePath, "DELETE": objects + "/k",
		} {
			a := s.do(method, path, "", c.header)
			if (a.status < 300) != c.allowed || !c.allowed && a.status != http.StatusForbidden {
				t.Errorf("%s with %s: %d %s", method, c.header, a.status, a.body)
			}
		}
		if a := s.do("GET", "/v1/apps", "", c.header); a.status != http.StatusOK {
			t.Errorf("reading with %s: %d", c.header, a.status)
		}
	}
}

func TestNoOtherOriginIsLetIn(t *testing.T) {
	s := serve(t, newFake(), api.Config{})
	for _, method := range []string{"GET", "OPTIONS"} {
		a := s.do(method, "/v1/apps", "", "Origin: http://evil.example", "Access-Control-Request-Method: PUT")
		for name := range a.header {
			if strings.HasPrefix(name, "Access-Control-") {
				t.Errorf("%s answered %s", method, name)
			}
		}
		if a.header.Get("Server") != "" {
			t.Errorf("the server names itself: %s", a.header.Get("Server"))
		}
	}
}

func TestAConfigurationWithMistakesIsRefused(t *testing.T) {
	for _, c := range []api.Config{
		{MaxObjectBytes: -1}, {IdleTimeout: -1}, {MaxHeaderBytes: 10},
		{AllowedHosts: []string{"http://x"}}, {AllowedHosts: []string{"x:80"}}, {AllowedHosts: []string{"*"}}, {AllowedHosts: []string{""}},
	} {
		if c.Validate() == nil {
			t.Errorf("%+v is taken", c)
		}
	}
	if err := (api.Config{AllowedHosts: []string{"Console.example.org"}}).Validate(); err != nil {
		t.Error(err)
	}
}
