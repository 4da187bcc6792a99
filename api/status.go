package api

import (
	"errors"
	"net/http"
	"runtime"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// getIndex is for whoever looks at the address with a browser or curl.
func getIndex(r *request) error {
	return r.json(http.StatusOK, map[string]any{
		"name":          "pheromone",
		"version":       r.s.cfg.Version,
		"documentation": "docs/http-api.md of the sources; pheromone help on the command line",
		"paths":         r.s.routes.patterns(),
	})
}

func (t *routeTree) patterns() []string {
	out := make([]string, 0, len(t.all))
	for _, r := range t.all {
		out = append(out, r.method+" "+r.pattern)
	}
	return out
}

func getLive(r *request) error {
	return r.json(http.StatusOK, map[string]string{"status": "alive"})
}

// getReady answers 503 until the node takes commands, and again once it stops,
// so that whoever sends requests here stops before the node does.
func getReady(r *request) error {
	if r.s.stopping.Err() != nil {
		return spec.Errorf(spec.CodeUnavailable, "the node is stopping")
	}
	if err := r.s.backend.Ready(); err != nil {
		if e, ok := errors.AsType[*spec.Error](err); ok && e.Code == spec.CodeUnavailable {
			return err
		}
		r.s.log.Warn("node is not ready", "request_id", r.id, "error", err)
		return spec.Errorf(spec.CodeUnavailable, "the node is not ready")
	}
	return r.json(http.StatusOK, map[string]string{"status": "ready"})
}

func getVersion(r *request) error {
	return r.json(http.StatusOK, wire.Version{Version: r.s.cfg.Version, API: "v1", Go: runtime.Version()})
}

// orEmpty keeps an empty list from becoming null in JSON.
func orEmpty[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}
