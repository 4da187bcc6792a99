package client_test

import (
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/pheromone-run/pheromone/client"
)

// A repetition under another key would undo what others have applied meanwhile.
func TestAnApplyIsRepeatedUnderItsKey(t *testing.T) {
	var mu sync.Mutex
	var keys []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		keys = append(keys, r.Header.Get("Idempotency-Key"))
		if len(keys)%2 == 1 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte(`{"app": "a", "version": 1}`))
	}))
	defer server.Close()
	c, err := client.New(server.URL, client.WithoutDiscovery())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 2 {
		if _, err := c.Apply(t.Context(), "a", []byte("app: a"), client.ApplyOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Rollback(t.Context(), "a", 1); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(keys); i += 2 {
		if keys[i] == "" || keys[i] != keys[i+1] || seen[keys[i]] {
			t.Errorf("a request and its repetition came under %q and %q", keys[i], keys[i+1])
		}
		seen[keys[i]] = true
	}
	if len(seen) != 4 {
		t.Errorf("the keys were %q", keys)
	}
}
