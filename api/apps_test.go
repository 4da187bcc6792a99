package api_test

import (
	"net/http"
	"slices"
	"testing"

	"github.com/pheromone-run/pheromone/api"
	"github.com/pheromone-run/pheromone/spec/wire"
)

func TestWhatIsDeployedIsNamedByItsIdempotencyKey(t *testing.T) {
	backend := newFake()
	var keys []string
	backend.onApply = func(_ []byte, o api.ApplyOptions) (wire.ApplyResult, error) {
		keys = append(keys, o.IdempotencyKey)
		return wire.ApplyResult{App: "shop", Version: 1}, nil
	}
	s := serve(t, backend, api.Config{})
	for _, key := range []string{"k1", ""} {
		if a := s.do("PUT", "/v1/apps/shop", "app: shop", "Idempotency-Key: "+key); a.status != http.StatusOK {
			t.Errorf("apply: %+v", a)
		}
	}
	if want := []string{"k1", ""}; !slices.Equal(keys, want) {
		t.Errorf("the keys %q came, want %q", keys, want)
	}
	if a := s.do("POST", "/v1/apps/shop/rollback?version=4", "", "Idempotency-Key: k2"); a.status != http.StatusOK || !slices.Contains(backend.recorded(), "roll back under k2") {
		t.Errorf("roll back: %+v", a)
	}
	for _, route := range []struct{ method, path, body string }{{"PUT", "/v1/apps/shop", "app: shop"}, {"POST", "/v1/apps/shop/rollback?version=4", ""}} {
		if a := s.do(route.method, route.path, route.body, "Idempotency-Key: not one"); a.status != http.StatusBadRequest {
			t.Errorf("%s %s with a bad key: %+v", route.method, route.path, a)
		}
	}
}
