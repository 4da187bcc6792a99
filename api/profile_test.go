package api_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/api"
)

func TestProfilesAreGivenInTheFormsOfTheirTools(t *testing.T) {
	s := serve(t, newFake(), api.Config{})
	for path, begins := range map[string]string{
		"/debug/pprof/heap":              "\x1f\x8b", // gzip, as all of pprof's
		"/debug/pprof/profile?seconds=1": "\x1f\x8b",
		"/debug/pprof/trace?seconds=1":   "go 1.",
		"/debug/pprof/goroutine?debug=1": "goroutine profile:",
		"/debug/pprof":                   `{"items":["allocs","block"`,
	} {
		if a := s.do("GET", path, ""); a.status != http.StatusOK || !strings.HasPrefix(a.body, begins) {
			t.Errorf("%s: %d, %q", path, a.status, clip(a.body))
		}
	}
}

func TestProfilesThatCanNotBeTakenAreRefused(t *testing.T) {
	s := serve(t, newFake(), api.Config{})
	for path, want := range map[string]int{
		"/debug/pprof/heep":               http.StatusNotFound,
		"/debug/pprof/profile?seconds=26": http.StatusBadRequest,
		"/debug/pprof/trace?seconds=6":    http.StatusBadRequest,
		"/debug/pprof/heap?seconds=1":     http.StatusBadRequest,
		"/debug/pprof/heap?debug=3":       http.StatusBadRequest,
	} {
		if a := s.do("GET", path, ""); a.status != want {
			t.Errorf("%s: %d, %s", path, a.status, clip(a.body))
		}
	}
	if a := s.do("GET", "/debug/pprof/heap", "", "X-Forwarded-For: 203.0.113.7"); a.status != http.StatusForbidden {
		t.Errorf("for somebody behind a proxy: %d", a.status)
	}
	first := make(chan answer)
	go func() { first <- s.do("GET", "/debug/pprof/profile?seconds=3", "") }()
	for refused := false; ; {
		select {
		case a := <-first: // which may have come second itself
			if !refused && a.status != http.StatusConflict {
				t.Error("two are taken at a time")
			}
			return
		default:
			refused = refused || s.do("GET", "/debug/pprof/trace?seconds=1", "").status == http.StatusConflict
		}
	}
}
