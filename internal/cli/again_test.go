package cli_test

import (
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/pheromone-run/pheromone/internal/cli"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

func TestWhatComesThroughAPipeIsSentAgainIfItIsSmall(t *testing.T) {
	for name, test := range map[string]struct {
		size, code, want int
	}{
		"small": {size: 1000, code: 0, want: 2},
		"large": {size: 2 << 20, code: 6, want: 1},
	} {
		t.Run(name, func(t *testing.T) {
			tries := 0
			s := newShell(t, map[string]http.HandlerFunc{"PUT /v1/apps/a/buckets/b/objects/k": func(w http.ResponseWriter, r *http.Request) {
				if n, _ := io.Copy(io.Discard, r.Body); n != int64(test.size) {
					t.Errorf("%d bytes came, want %d", n, test.size)
				}
				if tries++; tries == 1 {
					refusal(503, wire.Error{Code: spec.CodeUnavailable, Message: "no leader just now"})(w, r)
					return
				}
				reply(200, wire.PutResult{Bucket: "b", Key: "k"})(w, r)
			}})
			s.stdin = strings.Repeat("x", test.size)
			got := s.run("put", "a", "b/k", "-")
			if got.code != test.code || tries != test.want {
				t.Errorf("%+v after %d tries, want exit code %d after %d", got, tries, test.code, test.want)
			}
			if test.code != 0 && !strings.Contains(got.stderr, "can't be read twice") {
				t.Errorf("the error does not say why: %s", got.stderr)
			}
		})
	}
}

// overheard is a stream that can be looked at while it is written.
type overheard struct {
	mu   sync.Mutex
	text strings.Builder
}

func (o *overheard) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *overheard) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func TestPeopleAreToldWhyACommandTakesLong(t *testing.T) {
	var said overheard
	s := newShell(t, map[string]http.HandlerFunc{"GET /v1/apps": func(w http.ResponseWriter, r *http.Request) {
		if said.String() == "" {
			refusal(503, wire.Error{Code: spec.CodeUnavailable, Message: "no leader just now"})(w, r)
			return
		}
		reply(200, someApps)(w, r)
	}})
	s.terminal = true
	code := cli.Run(t.Context(), []string{"app", "ls"}, s.deps(io.Discard, &said))
	if got := said.String(); code != 0 || !strings.Contains(got, "tried again") || !strings.Contains(got, "no leader just now") {
		t.Errorf("exit code %d, said %q", code, got)
	}
}
