package cli_test

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

var someCluster = wire.Cluster{
	ID: "c1", Node: "n1", Version: "v1", Ready: true, StartedAt: now.Add(-time.Minute), ControlLeader: "n2",
	Nodes: []wire.Node{
		{Name: "n1", Address: "10.0.0.1:7170", API: "http://10.0.0.1:7070", Version: "v1", Live: true, Voter: true, JoinedAt: now.Add(-time.Hour), Replicas: 2, Leading: 1},
		{Name: "n2", Address: "10.0.0.2:7170", API: "http://10.0.0.2:7070", Version: "v1", Live: true, Draining: true, JoinedAt: now.Add(-time.Hour), Replicas: 1},
		{Name: "n3", Address: "10.0.0.3:7170", API: "http://10.0.0.3:7070", Version: "v1", JoinedAt: now.Add(-time.Hour)},
	},
	Shards: []wire.Shard{
		{Shard: 1, Leader: "n1", Epoch: 7, Applied: 90, PendingInvocations: 3, Slots: 4096, Replicas: []wire.Replica{{Replica: 1, Node: "n1"}, {Replica: 4, Node: "n2", Joining: true}}},
	},
}

func TestClusterStatusShowsNodesAndShards(t *testing.T) {
	s := newShell(t, map[string]http.HandlerFunc{"GET /v1/cluster": reply(200, someCluster)})
	o := s.run("cluster", "status")
	for _, row := range [][]string{
		{"NODE", "STATE", "VOTER", "REPLICAS", "LEADS", "ADDRESS", "API", "VERSION", "JOINED"},
		{"n1", "live", "yes", "2", "1", "10.0.0.1:7170"}, {"n2", "draining", "no", "1", "0"}, {"n3", "away", "no"},
		{"SHARD", "LEADER", "REPLICAS", "EPOCH", "APPLIED", "PENDING", "SLOTS"},
		{"1", "n1", "n1,n2+", "7", "90", "3", "4096"},
		{"cluster", "c1", "control", "group", "led", "by", "n2"},
		{"node", "n1", "version", "v1", "up", "1m00s", "ready"},
	} {
		if !slices.ContainsFunc(strings.Split(o.stdout, "\n"), func(line string) bool {
			fields := strings.Fields(line)
			return len(fields) >= len(row) && slices.Equal(fields[:len(row)], row)
		}) {
			t.Errorf("no line %v in\n%s", row, o.stdout)
		}
	}
	if o := s.run("cluster", "status", "-o", "name"); o.stdout != "n1\nn2\nn3\n" {
		t.Errorf("names: %+v", o)
	}
	if o := s.run("cluster", "status", "-o", "json"); !strings.Contains(o.stdout, `"control_leader": "n2"`) {
		t.Errorf("json: %+v", o)
	}
}

func TestANodeThatWaitsForItsClusterTellsWhatFor(t *testing.T) {
	s := newShell(t, map[string]http.HandlerFunc{"GET /v1/cluster": reply(200, wire.Cluster{Node: "n1", Version: "v1", StartedAt: now, Waiting: "1 of 3 nodes are there"})})
	if o := s.run("cluster", "status"); o.code != 0 || !strings.Contains(o.stdout, "not ready: 1 of 3 nodes are there") {
		t.Errorf("%+v", o)
	}
}

func TestClusterCommandsAskTheNode(t *testing.T) {
	for _, c := range []struct {
		args        []string
		asked, body string
	}{
		{[]string{"init"}, "POST /v1/cluster/init", "{}"},
		{[]string{"init", "--voters", "n1,n2"}, "POST /v1/cluster/init", `{"voters":["n1","n2"]}`},
		{[]string{"join", "10.0.0.1:7170"}, "POST /v1/cluster/join", `{"address":"10.0.0.1:7170"}`},
		{[]string{"drain", "n2"}, "POST /v1/cluster/nodes/n2/drain", ""},
		{[]string{"drain", "n2", "--undo"}, "POST /v1/cluster/nodes/n2/undrain", ""},
		{[]string{"rebalance"}, "POST /v1/cluster/rebalance", ""},
		{[]string{"remove", "n2", "--yes"}, "DELETE /v1/cluster/nodes/n2", ""},
		{[]string{"remove", "n2", "--yes", "--force"}, "DELETE /v1/cluster/nodes/n2", "?force=1"},
	} {
		var got string
		answer := func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			if got = string(body); r.URL.RawQuery != "" {
				got += "?" + r.URL.RawQuery
			}
			if r.Method == http.MethodDelete {
				w.WriteHeader(http.StatusNoContent)
				return
			}
			reply(200, someCluster)(w, r)
		}
		s := newShell(t, map[string]http.HandlerFunc{c.asked: answer})
		o := s.run(append([]string{"cluster"}, c.args...)...)
		if o.code != 0 || !slices.Equal(s.asked, []string{c.asked}) || got != c.body {
			t.Errorf("%v: %+v, asked %q with %q", c.args, o, s.asked, got)
		}
		if c.args[0] != "remove" && !strings.Contains(o.stdout, "cluster c1") {
			t.Errorf("%v shows no cluster: %+v", c.args, o)
		}
	}
}

func TestRemovingANodeIsAskedForAndMayBeRefused(t *testing.T) {
	s := newShell(t, map[string]http.HandlerFunc{
		"DELETE /v1/cluster/nodes/n2": refusal(409, wire.Error{Code: spec.CodeConflict, Message: "node n2 holds replicas"}),
	})
	if o := s.run("cluster", "remove", "n2"); o.code != 2 || len(s.asked) > 0 {
		t.Errorf("without --yes: %+v, asked %q", o, s.asked)
	}
	if o := s.run("cluster", "remove", "n2", "--yes"); o.code != 4 || !strings.Contains(o.stderr, "holds replicas") {
		t.Errorf("with replicas: %+v", o)
	}
}

func TestNodesAreUnknownWhileNobodyCanTell(t *testing.T) {
	cluster := someCluster
	cluster.ControlLeader = ""
	s := newShell(t, map[string]http.HandlerFunc{"GET /v1/cluster": reply(200, cluster)})
	o := s.run("cluster", "status")
	if !strings.Contains(o.stdout, "\nn3    unknown") || !strings.Contains(o.stdout, "\nn1    live") || strings.Contains(o.stdout, "away") {
		t.Errorf("%+v", o)
	}
}
