package cli_test

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/spec/wire"
)

func TestAPrimitiveThatOnlyTheNodeKnowsIsAWarning(t *testing.T) {
	dir := demo(t)
	file := filepath.Join(dir, "app.yaml")
	write(t, file, demoManifest+"buckets: {b: {triggers: [{name: t, primitive: acme.debounce, target: f, options: {quiet: 1s}}]}}\n")
	s := newShell(t, nil)
	o := s.run("validate", "-f", file)
	if o.code != 0 || !strings.Contains(o.stderr, `custom primitive "acme.debounce" is not part of this program`) {
		t.Errorf("validate: %+v", o)
	}
}

func TestWhatIsStalledIsShown(t *testing.T) {
	session := wire.Session{Session: "s1", App: "a", Status: wire.SessionFailed, CreatedAt: now,
		Origin:  wire.Origin{Kind: "put", Bucket: "documents", Key: "x"},
		Error:   &wire.FunctionError{Kind: "trigger", Message: `trigger "t" (acme.x) on bucket "b" can't go on: version 2`},
		Waiting: []wire.Waiting{{Bucket: "b", Trigger: "t", Primitive: "acme.x", Stalled: "version 2"}}}
	s := newShell(t, map[string]http.HandlerFunc{
		"GET /v1/cluster": reply(200, wire.Cluster{Node: "n1", Shards: []wire.Shard{{Shard: 1, Leader: "n1", Stalled: []wire.StalledTrigger{
			{App: "shop", Bucket: "in", Trigger: "t", Primitive: "acme.x", Reason: "header of version 2"}}}}}),
		"GET /v1/apps/a/sessions/s1":         reply(200, session),
		"GET /v1/apps/a/sessions/s1/history": reply(200, wire.History{Session: session, Invocations: []wire.Invocation{}}),
	})
	if o := s.run("cluster", "status"); o.code != 0 || !strings.Contains(o.stdout, "stalled on shard 1: shop in/t  acme.x  header of version 2") {
		t.Errorf("cluster status: %+v", o)
	}
	o := s.run("session", "show", "a", "s1")
	for _, line := range []string{"error: trigger: trigger \"t\" (acme.x) on bucket \"b\" can't go on: version 2", "b/t  acme.x  has 0, stalled: version 2"} {
		if !strings.Contains(o.stdout, line) {
			t.Errorf("%q is not in\n%s", line, o.stdout)
		}
	}
}
