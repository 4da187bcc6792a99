package api_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/api"
	"github.com/pheromone-run/pheromone/spec"
)

func TestChangesOfTheClusterReachTheNode(t *testing.T) {
	backend := newFake()
	s := serve(t, backend, api.Config{})
	for _, c := range []struct{ method, path, body, call string }{
		{"POST", "/v1/cluster/init", "", "init "},
		{"POST", "/v1/cluster/init", `{"voters": ["n1", "n2"]}`, "init n1,n2"},
		{"POST", "/v1/cluster/join", `{"address": "10.0.0.1:7170"}`, "join 10.0.0.1:7170"},
		{"POST", "/v1/cluster/nodes/n2/drain", "", "drain n2 true"},
		{"POST", "/v1/cluster/nodes/n2/undrain", "", "drain n2 false"},
		{"DELETE", "/v1/cluster/nodes/n2", "", "remove n2 false"},
		{"DELETE", "/v1/cluster/nodes/n2?force=1", "", "remove n2 true"},
		{"POST", "/v1/cluster/rebalance", "", "rebalance"},
	} {
		a := s.do(c.method, c.path, c.body)
		if calls := backend.recorded(); a.status/100 != 2 || len(calls) == 0 || calls[len(calls)-1] != c.call {
			t.Errorf("%s %s: %d %s, the node was asked %q", c.method, c.path, a.status, a.body, calls)
		}
	}
}

func TestBadRequestsToChangeTheClusterAreRefused(t *testing.T) {
	backend := newFake()
	s := serve(t, backend, api.Config{})
	for _, c := range []struct{ method, path, body string }{
		{"POST", "/v1/cluster/init", `{"voters": "n1"}`},
		{"POST", "/v1/cluster/init", `{"votes": []}`},
		{"POST", "/v1/cluster/init", `{} {}`},
		{"POST", "/v1/cluster/join", ""},
		{"POST", "/v1/cluster/nodes/N2/drain", ""},
		{"DELETE", "/v1/cluster/nodes/n2?force=perhaps", ""},
		{"POST", "/v1/cluster/rebalance", "now"},
	} {
		if a := s.do(c.method, c.path, c.body); a.status != http.StatusBadRequest {
			t.Errorf("%s %s %s: %d %s", c.method, c.path, c.body, a.status, a.body)
		}
	}
	if a := s.do("POST", "/v1/cluster/init", `"`+strings.Repeat("x", 70<<10)+`"`); a.status != http.StatusRequestEntityTooLarge {
		t.Errorf("a large body: %d %s", a.status, a.body)
	}
	if calls := backend.recorded(); len(calls) > 0 {
		t.Errorf("the node was asked %q", calls)
	}
}

func TestBehindTheGateOnlyTheNodeItselfAndItsClusterAnswer(t *testing.T) {
	backend := newFake()
	s := serve(t, backend, api.Config{Gate: func() error {
		return spec.Errorf(spec.CodeUnavailable, "waits for its cluster")
	}})
	for _, path := range []string{"/", "/livez", "/readyz", "/v1/version", "/v1/cluster", "/v1/cluster/shards", "/v1/cluster/nodes"} {
		if a := s.do("GET", path, ""); a.status != http.StatusOK {
			t.Errorf("GET %s: %d %s", path, a.status, a.body)
		}
	}
	if a := s.do("POST", "/v1/cluster/init", ""); a.status != http.StatusOK {
		t.Errorf("init: %d %s", a.status, a.body)
	}
	for _, c := range []struct{ method, path, body string }{
		{"GET", "/v1/apps", ""}, {"GET", "/metrics", ""}, {"POST", "/v1/cluster/rebalance", ""},
		{"DELETE", "/v1/cluster/nodes/n2", ""}, {"PUT", "/v1/apps/shop/buckets/orders/objects/k", "v"},
	} {
		if a := s.do(c.method, c.path, c.body); a.status != http.StatusServiceUnavailable || a.error(t).Message != "waits for its cluster" {
			t.Errorf("%s %s: %d %s", c.method, c.path, a.status, a.body)
		}
	}
	if calls := backend.recorded(); !slices.Equal(calls, []string{"init "}) {
		t.Errorf("the node was asked %q", calls)
	}
}
