package node_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/client/fn"
	"github.com/pheromone-run/pheromone/exec/inproc"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

const meetManifest = `
apiVersion: pheromone/v1
app: meet
functions:
  meet: {runtime: inproc}
buckets:
  in: {triggers: [{name: each, primitive: immediate, target: meet}]}
`

// meeting is a cluster with one shard, whose nodes take so many attempts each.
// Attempts stay until they are let go, or their node gives them up.
type meeting struct {
	t       *testing.T
	members []*member
	client  *client.Client
	mu      sync.Mutex
	on      map[string]int // attempts that have begun, by node
	let     chan struct{}
}

func newMeeting(t *testing.T, nodes, places int) *meeting {
	m := &meeting{t: t, members: members(t, nodes), on: map[string]int{}, let: make(chan struct{})}
	for _, one := range m.members {
		name := one.cfg.Name
		functions := inproc.New(inproc.Settings{Concurrency: places})
		functions.Register("meet", "meet", func(ctx *fn.Context, in []fn.Object) error {
			m.mu.Lock()
			m.on[name]++
			m.mu.Unlock()
			select {
			case <-m.let:
			case <-ctx.Context().Done():
				return ctx.Context().Err()
			}
			return ctx.Output([]byte(string(in[0].Bytes()) + " on " + name))
		})
		one.cfg.Inproc, one.cfg.Shards = functions, 1
		one.start()
	}
	for _, one := range m.members {
		one.ready()
	}
	var err error
	if m.client, err = client.New(m.members[0].node.URL()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.client.Close)
	m.members[0].do("deploy", func(ctx context.Context) error {
		_, err := m.client.Apply(ctx, "meet", []byte(meetManifest), client.ApplyOptions{})
		return err
	})
	return m
}

func (m *meeting) put(key string) (session spec.SessionID) {
	m.t.Helper()
	m.members[0].do("put "+key, func(ctx context.Context) error {
		r, err := m.client.Put(ctx, "meet", "in", spec.Key(key), strings.NewReader(key), client.PutOptions{})
		session = r.Session
		return err
	})
	return session
}

// begun waits until so many attempts have begun on each of the nodes.
func (m *meeting) begun(want int, nodes ...string) {
	m.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		m.mu.Lock()
		all := true
		for _, node := range nodes {
			all = all && m.on[node] >= want
		}
		on := fmt.Sprint(m.on)
		m.mu.Unlock()
		if all {
			return
		}
		if time.Now().After(deadline) {
			m.t.Fatalf("attempts have begun on %s, want %d on each of %v", on, want, nodes)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func (m *meeting) result(session spec.SessionID) string {
	m.t.Helper()
	var res wire.Result
	m.members[0].do("the result of "+string(session), func(ctx context.Context) error {
		var err error
		res, err = m.client.Result(ctx, "meet", session, client.ResultOptions{Wait: patience})
		return err
	})
	if res.Status != wire.SessionCompleted || len(res.Outputs) != 1 {
		m.t.Fatalf("session %s: %+v", session, res)
	}
	return string(res.Outputs[0].Data)
}

// leader returns the member that leads the shard.
func (m *meeting) leader() *member {
	m.t.Helper()
	var led *member
	m.members[0].until("the shard is led", func(c wire.Cluster) bool {
		for _, one := range m.members {
			if one.node != nil && len(c.Shards) == 1 && c.Shards[0].Leader == one.cfg.Name {
				led = one
			}
		}
		return led != nil
	})
	return led
}

// metrics reads a node's metrics that begin with a name.
func (m *member) metrics(prefix string) map[string]float64 {
	m.t.Helper()
	r, err := http.Get(m.node.URL() + "/metrics")
	if err != nil {
		m.t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	found := map[string]float64{}
	for lines := bufio.NewScanner(r.Body); lines.Scan(); {
		name, value, ok := strings.Cut(lines.Text(), " ")
		if ok && strings.HasPrefix(name, prefix) {
			if found[name], err = strconv.ParseFloat(value, 64); err != nil {
				m.t.Fatal(err)
			}
		}
	}
	return found
}

func TestAttemptsRunOnAllNodesOnceTheLeadersIsBusy(t *testing.T) {
	m := newMeeting(t, 3, 2)
	var sessions []spec.SessionID
	for i := range 6 {
		sessions = append(sessions, m.put(fmt.Sprint("k", i)))
	}
	m.begun(2, "n1", "n2", "n3") // all six at once
	close(m.let)
	ran := map[string]int{}
	for _, s := range sessions {
		_, node, _ := strings.Cut(m.result(s), " on ")
		ran[node]++
	}
	if ran["n1"] != 2 || ran["n2"] != 2 || ran["n3"] != 2 {
		t.Fatalf("results of %v", ran)
	}
	got := map[string]float64{} // of all nodes: the lead may have moved
	for _, one := range m.members {
		for name, value := range one.metrics("pheromone_attempts") {
			got[name] += value
		}
	}
	if got[`pheromone_attempts_total{on="leader"}`] < 2 || got[`pheromone_attempts_total{on="replica"}`] < 4 || got[`pheromone_attempts_total{on="other"}`] != 0 {
		t.Fatalf("metrics %v", got)
	}
	if local, ok := got[`pheromone_attempts_inputs_local_total`]; !ok || local < 2 {
		t.Fatalf("metrics %v", got)
	}
}

func TestAttemptsOfANodeThatStopsRunElsewhere(t *testing.T) {
	m := newMeeting(t, 3, 1)
	leader := m.leader()
	var sessions []spec.SessionID
	for i := range 3 {
		sessions = append(sessions, m.put(fmt.Sprint("k", i)))
	}
	m.begun(1, "n1", "n2", "n3")
	var victim *member
	for _, one := range m.members[1:] { // the client talks to the first
		if one != leader {
			victim = one
		}
	}
	victim.stop()
	close(m.let)
	for _, s := range sessions {
		if got := m.result(s); strings.HasSuffix(got, " on "+victim.cfg.Name) {
			t.Fatalf("result %q of a node that was stopped before", got)
		}
	}
}
