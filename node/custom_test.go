package node_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/api"
	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/client/fn"
	"github.com/pheromone-run/pheromone/exec/inproc"
	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/node"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
	"github.com/pheromone-run/pheromone/triggers"
)

// headerVersion is what this program writes, and reads up to, of headers of the
// custom primitive test.until: programs of another age have another one.
var headerVersion atomic.Int32

// refuseUntil is why this program can't make machines of it, if it can't.
var refuseUntil atomic.Pointer[error]

// until fires with all objects that have come once one with the key until comes.
type until struct {
	key     spec.Key
	waiting []triggers.Item
	last    uint64
}

func init() {
	headerVersion.Store(1)
	triggers.Register("test.until", triggers.Factory{
		Scope: spec.ScopeBucket,
		New:   func(t *spec.Trigger) (triggers.Machine, error) { return newUntil(t) },
		Restore: func(t *spec.Trigger, header []byte, items iter.Seq[triggers.Item]) (triggers.Machine, error) {
			m, err := newUntil(t)
			if err == nil && len(header) > 0 && int32(header[0]) > headerVersion.Load() {
				err = fmt.Errorf("header of version %d", header[0])
			}
			if err != nil {
				return nil, err
			}
			if len(header) > 0 {
				m.last, _ = binary.Uvarint(header[1:])
			}
			m.waiting = slices.Collect(items)
			return m, nil
		},
	})
}

func newUntil(t *spec.Trigger) (*until, error) {
	o := t.Options.Read()
	m := &until{key: spec.Key(o.Text("key", "end"))}
	o.Int("most", 10, 1, 100)
	if refuse := refuseUntil.Load(); refuse != nil {
		return nil, *refuse
	}
	return m, o.Err()
}

func (m *until) Step(ev triggers.Event) (out triggers.Outcome) {
	if ev.Kind != triggers.ObjectArrived {
		return out
	}
	m.last, out.Changed = ev.Object.Position, true
	if ev.Object.Key != m.key {
		it := triggers.Item{Object: ev.Object, Time: ev.Now}
		m.waiting = append(m.waiting, it)
		out.Keep = []triggers.Item{it}
		return out
	}
	var f triggers.Firing
	for _, it := range m.waiting {
		f.Inputs = append(f.Inputs, it.Object)
		out.Drop = append(out.Drop, it.Position)
	}
	m.waiting, out.Firings = nil, []triggers.Firing{f}
	return out
}

func (m *until) Header(dst []byte) []byte {
	if m.last == 0 {
		return dst
	}
	return binary.AppendUvarint(append(dst, byte(headerVersion.Load())), m.last)
}

func (m *until) Waiting() triggers.Waiting { return triggers.Waiting{} }

const untilApp = `apiVersion: pheromone/v1
app: shop
functions: {f: {runtime: inproc}}
buckets:
  in: {triggers: [{name: t, primitive: test.until, target: f, options: {key: go, most: 5}}]}
`

// embedding is a program that embeds a node, and notes what its function gets.
type embedding struct {
	*node.Node
	*client.Client
}

func embed(t *testing.T, dir string, took func(keys string)) embedding {
	t.Helper()
	functions := inproc.New(inproc.Settings{})
	functions.Register("shop", "f", func(_ *fn.Context, in []fn.Object) error {
		var keys []string
		for _, o := range in {
			keys = append(keys, o.Key)
		}
		took(strings.Join(keys, "+"))
		return nil
	})
	n, err := node.Start(t.Context(), node.Config{DataDir: dir, Listen: "127.0.0.1:0", Inproc: functions})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	c, err := client.New(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	return embedding{n, c}
}

func (e embedding) put(t *testing.T, keys ...spec.Key) {
	t.Helper()
	for _, key := range keys {
		if _, err := e.Client.Put(t.Context(), "shop", "in", key, strings.NewReader("v"), client.PutOptions{}); err != nil {
			t.Fatalf("put %s: %v", key, err)
		}
	}
}

// awaitNoneRunning waits until the ends of all sessions are written down.
func (e embedding) awaitNoneRunning(t *testing.T) {
	t.Helper()
	nodetest.Eventually(t, "no session runs", func() bool {
		for _, err := range e.Client.Sessions(t.Context(), "shop", client.SessionsOptions{Status: wire.SessionRunning}) {
			if err != nil {
				t.Fatal(err)
			}
			return false
		}
		return true
	})
}

func (e embedding) metric(t *testing.T, name string) string {
	t.Helper()
	resp, err := http.Get(e.Node.URL() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	page, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(page)) {
		if value, ok := strings.CutPrefix(line, name); ok {
			return strings.TrimSpace(value)
		}
	}
	return "none"
}

func TestACustomPrimitiveSurvivesRestartsAndAProgramThatCannotReadItsState(t *testing.T) {
	var mu sync.Mutex
	var fired []string
	took := func(keys string) {
		mu.Lock()
		defer mu.Unlock()
		fired = append(fired, keys)
	}
	dir := filepath.Join(t.TempDir(), "data")
	program := func(version int32, keys ...spec.Key) embedding {
		t.Helper()
		headerVersion.Store(version)
		e := embed(t, dir, took)
		e.put(t, keys...)
		return e
	}
	stop := func(e embedding) {
		t.Helper()
		if err := e.Node.Close(); err != nil {
			t.Fatal(err)
		}
	}
	defer headerVersion.Store(1)

	e := program(2)
	if _, err := e.Client.Apply(t.Context(), "shop", []byte(untilApp), client.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	e.put(t, "a", "b")
	stop(e)
	stop(program(2, "c"))

	old := program(1, "d", "e", "go", "f")
	cluster, err := old.Client.Cluster(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	stalled := cluster.Shards[0].Stalled
	if len(stalled) != 1 || stalled[0].Trigger != "t" || stalled[0].Bucket != "in" || !strings.Contains(stalled[0].Reason, "header of version 2") {
		t.Errorf("stalled are %+v", stalled)
	}
	if value := old.metric(t, `pheromone_stalled_triggers{shard="1"}`); value != "1" {
		t.Errorf("the metric is %s", value)
	}
	if err := old.Client.Ready(t.Context()); err != nil {
		t.Errorf("the node is not ready: %v", err)
	}
	stop(old)
	if len(fired) != 0 {
		t.Fatalf("fired while stalled: %q", fired)
	}

	e = program(2, "g", "go")
	deadline := time.Now().Add(patience)
	for {
		mu.Lock()
		n := len(fired)
		mu.Unlock()
		if n == 2 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("fired %q", fired)
		}
		<-time.After(5 * time.Millisecond)
	}
	if value := e.metric(t, `pheromone_stalled_triggers{shard="1"}`); value != "0" {
		t.Errorf("the metric is %s", value)
	}
	e.awaitNoneRunning(t) // an attempt whose end is not written down is made again
	stop(e)
	stop(program(2)) // nothing is fired again
	slices.Sort(fired)
	if want := []string{"a+b+c+d+e", "f+g"}; !slices.Equal(fired, want) {
		t.Errorf("fired %q, want %q", fired, want)
	}
}

func TestANodeTellsEveryFaultOfCustomTriggersAtOnce(t *testing.T) {
	e := embed(t, filepath.Join(t.TempDir(), "data"), func(string) {})
	manifest := `apiVersion: pheromone/v1
app: shop
functions: {f: {runtime: inproc}}
buckets:
  in:
    triggers:
      - {name: a, primitive: test.until, target: f, options: {most: 0, kye: end}}
      - {name: b, primitive: test.unheard, target: f}
      - {name: c, primitive: test.until, target: f}
      - {name: d, primitive: immediate, target: g}
`
	_, err := e.Client.Apply(t.Context(), "shop", []byte(manifest), client.ApplyOptions{})
	said, ok := errors.AsType[*spec.Error](err)
	if !ok || said.Code != spec.CodeBadManifest || len(said.Faults) != 4 {
		t.Fatalf("apply: %v %+v", err, said)
	}
	for i, want := range []string{
		"7:69: buckets.in.triggers[0].options.most: must be a whole number from 1 to 100",
		`7:77: buckets.in.triggers[0].options.kye: unknown option: did you mean "key"?`,
		`8:30: buckets.in.triggers[1].primitive: trigger "b" has the unknown primitive "test.unheard": this program has by_batch_size, `,
		"10:49: buckets.in.triggers[3].target: unknown function",
	} {
		if got := said.Faults[i].String(); !strings.HasPrefix(got, want) {
			t.Errorf("fault %s\nshould be %s", got, want)
		}
	}
	if !strings.Contains(said.Faults[2].Message, "test.until") {
		t.Errorf("%q does not list what there is", said.Faults[2].Message)
	}
}

func TestAVersionThatThisProgramCannotRunIsNotRolledBackTo(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	e := embed(t, dir, func(string) {})
	for _, manifest := range []string{untilApp, strings.Replace(untilApp, "most: 5", "most: 6", 1)} {
		if _, err := e.Node.Apply(context.Background(), "shop", []byte(manifest), api.ApplyOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	refuse := errors.New("not now")
	refuseUntil.Store(&refuse)
	defer refuseUntil.Store(nil)
	_, err := e.Node.Rollback(context.Background(), "shop", 1, "")
	if spec.CodeOf(err) != spec.CodeInvalid || !strings.Contains(err.Error(), "not now") {
		t.Errorf("rollback: %v", err)
	}
}
