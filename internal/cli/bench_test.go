package cli_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/internal/nodetest"
)

func TestMain(m *testing.M) { nodetest.Main(m) }

func TestBenchMeasuresANodeAndLeavesNothingBehind(t *testing.T) {
	n := nodetest.Start(t)
	stdout, _ := n.CLI(0, "bench", "objects", "a value", "--for", "200ms", "--clients", "3", "-o", "json")
	var report struct {
		Bytes int
		Work  []struct {
			Work          string
			Clients, Done int
			Failed        int
			P50           float64 `json:"p50_ms"`
			P99           float64 `json:"p99_ms"`
		}
	}
	if err := json.Unmarshal([]byte(stdout), &report); err != nil {
		t.Fatalf("%v: %s", err, stdout)
	}
	clients := map[string]int{"put": 3, "get": 3, "put until watched": 1}
	if report.Bytes != len("a value") || len(report.Work) != len(clients) {
		t.Errorf("reported: %s", stdout)
	}
	for _, w := range report.Work {
		if w.Clients != clients[w.Work] || w.Done < w.Clients || w.Failed != 0 || w.P50 <= 0 || w.P99 < w.P50 {
			t.Errorf("%+v", w)
		}
	}
	if apps, _ := n.CLI(0, "app", "ls", "-o", "name"); apps != "" {
		t.Errorf("apps are left: %s", apps)
	}
}

func TestBenchSaysWhatItCanNotMeasure(t *testing.T) {
	n := nodetest.Start(t)
	for _, c := range []struct {
		code int
		want string
		args []string
	}{
		{3, `there is no app "nope"`, []string{"invoke", "nope", "f", "--for", "200ms"}},
		{2, "use 1 to 1024", []string{"objects", "--clients", "0"}},
		{2, `"x" is not a whole number`, []string{"objects", "--clients", "x"}},
		{2, "more than 0", []string{"objects", "--for", "0"}},
		{2, "at most 64MiB", []string{"objects", "--size", "65MiB"}},
	} {
		if _, stderr := n.CLI(c.code, append([]string{"bench"}, c.args...)...); !strings.Contains(stderr, c.want) {
			t.Errorf("%v: %s", c.args, stderr)
		}
	}
}
