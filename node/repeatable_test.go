package node

import (
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec"
)

// An invocation that has run and is forgotten would run once more.
func TestOnlyPutsThatAreRememberedAreRepeated(t *testing.T) {
	hour, none := &spec.App{Retention: time.Hour}, &spec.App{}
	for _, c := range []struct {
		what string
		put  leader.Put
		app  *spec.App
		want bool
	}{
		{"a key-value put", leader.Put{Key: "k"}, hour, false},
		{"one with an idempotency key", leader.Put{Key: "k", Request: "r"}, none, true},
		{"one into a session", leader.Put{Key: "k", Session: "s"}, hour, true},
		{"one into a session that may be gone", leader.Put{Key: "k", Session: "s"}, none, false},
		{"one with an idempotency key, of an app not known here", leader.Put{Key: "k", Request: "r"}, nil, true},
		{"one into a session of an app not known here", leader.Put{Key: "k", Session: "s"}, nil, false},
		{"an invocation whose session may be gone", leader.Put{Key: "input", Session: "s", New: true}, none, false},
	} {
		if got := repeatable(&c.put, c.app); got != c.want {
			t.Errorf("%s is repeated: %v", c.what, got)
		}
	}
}
