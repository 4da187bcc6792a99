package node_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/client/fn"
	"github.com/pheromone-run/pheromone/exec/inproc"
	"github.com/pheromone-run/pheromone/node"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

const family = `
apiVersion: pheromone/v1
app: family
functions:
  parent: {runtime: inproc}
  child: {runtime: inproc}
  waits: {runtime: inproc}
buckets:
  orders: {triggers: [{name: t, primitive: immediate, target: waits}]}
  results: {triggers: [{name: t, primitive: immediate, target: child}]}
`

// startFamily starts a node over several shards with functions that wait until
// they are told to stop, and children that don't.
func startFamily(t *testing.T, dir string, change ...func(*node.Config)) (*node.Node, *client.Client) {
	t.Helper()
	functions := inproc.New(inproc.Settings{})
	functions.Register("family", "parent", func(ctx *fn.Context, in []fn.Object) error {
		return ctx.Start(string(in[0].Bytes()), []byte("hello"), fn.Into("results", "of-child"), fn.ContentType("text/x"))
	})
	functions.Register("family", "child", func(ctx *fn.Context, in []fn.Object) error {
		return ctx.Output([]byte(strings.ToUpper(string(in[0].Bytes()))), fn.ContentType(in[0].ContentType))
	})
	functions.Register("family", "waits", func(ctx *fn.Context, in []fn.Object) error {
		<-ctx.Context().Done()
		return context.Cause(ctx.Context())
	})
	cfg := node.Config{DataDir: dir, Listen: "127.0.0.1:0", Shards: 4, Inproc: functions}
	for _, c := range change {
		c(&cfg)
	}
	n, err := node.Start(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	c, err := client.New(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		if err := n.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	if _, err := c.Apply(t.Context(), "family", []byte(family), client.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
	return n, c
}

// outlived checks that a session has failed at its deadline.
func outlived(t *testing.T, c *client.Client, session spec.SessionID, d time.Duration) wire.History {
	t.Helper()
	r, err := c.Result(t.Context(), "family", session, client.ResultOptions{Wait: patience})
	if err != nil {
		t.Fatal(err)
	}
	h, err := c.History(t.Context(), "family", session, client.HistoryOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if r.Status != wire.SessionFailed || r.Error == nil || r.Error.Kind != "timeout" || !h.Session.DeadlineAt.Equal(h.Session.CreatedAt.Add(d)) {
		t.Errorf("session %s came to %+v, %+v", session, r, h.Session)
	}
	return h
}

func TestWhateverStartsASessionMaySetItsDeadline(t *testing.T) {
	_, c := startFamily(t, filepath.Join(t.TempDir(), "data"))
	const d = 50 * time.Millisecond
	invoked, err := c.Invoke(t.Context(), "family", "waits", nil, client.InvokeOptions{SessionTimeout: d})
	put, putErr := c.Put(t.Context(), "family", "orders", "k", nil, client.PutOptions{SessionTimeout: d})
	_, insideErr := c.PutSession(t.Context(), "family", "mine", "orders", "k", nil, client.PutOptions{SessionTimeout: d})
	if err := errors.Join(err, putErr, insideErr); err != nil {
		t.Fatal(err)
	}
	for _, session := range []spec.SessionID{invoked.Session, put.Session, "mine"} {
		outlived(t, c, session, d)
	}
	_, err = c.Invoke(t.Context(), "family", "waits", nil, client.InvokeOptions{SessionTimeout: d, Wait: patience})
	if spec.CodeOf(err) != spec.CodeSessionFailed || !strings.Contains(err.Error(), "50ms") || strings.Contains(err.Error(), "function") {
		t.Errorf("the error is %v", err)
	}
}

func TestAFunctionStartsAChildSessionAndGoesOnWithItsResult(t *testing.T) {
	_, c := startFamily(t, filepath.Join(t.TempDir(), "data"))
	for range 8 { // on whatever shards they come to lie
		r, err := c.Invoke(t.Context(), "family", "parent", strings.NewReader("child"), client.InvokeOptions{Wait: patience})
		if err != nil || len(r.Outputs) != 1 || string(r.Outputs[0].Data) != "HELLO" || r.Outputs[0].ContentType != "text/x" {
			t.Fatalf("result %+v, %v", r, err)
		}
		o, err := c.GetSessionObject(t.Context(), "family", r.Session, "results", "of-child")
		if err != nil || string(o.Data) != "HELLO" || o.ContentType != "text/x" || o.Meta["pheromone-status"] != "completed" {
			t.Fatalf("the child's result %+v, %v", o, err)
		}
		child, err := c.Session(t.Context(), "family", spec.SessionID(o.Meta["pheromone-session"]))
		if err != nil || child.Origin.Kind != "child" || child.Origin.Session != r.Session {
			t.Fatalf("the child %+v, %v", child, err)
		}
	}
}

func TestADeadlineThatPassesWhileTheNodeIsDownEndsTheSessionAndItsChildrenAfterwards(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	n, c := startFamily(t, dir)
	const d = time.Hour
	started, err := c.Invoke(t.Context(), "family", "parent", strings.NewReader("waits"), client.InvokeOptions{SessionTimeout: d})
	if err != nil {
		t.Fatal(err)
	}
	awaitChild(t, c, started.Session, wire.SessionRunning)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	_, c = startFamily(t, dir, func(cfg *node.Config) {
		cfg.Now = func() time.Time { return time.Now().Add(2 * d) }
	})
	outlived(t, c, started.Session, d)
	name := awaitChild(t, c, started.Session, wire.SessionCancelled)
	child, err := c.Result(t.Context(), "family", name, client.ResultOptions{Wait: patience})
	if err != nil || child.Status != wire.SessionCancelled {
		t.Errorf("the child came to %+v, %v", child, err)
	}
}

// awaitChild waits until a session has one child of that status.
func awaitChild(t *testing.T, c *client.Client, session spec.SessionID, status wire.SessionStatus) spec.SessionID {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		h, err := c.History(t.Context(), "family", session, client.HistoryOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(h.Children) == 1 && h.Children[0].Status == status {
			return h.Children[0].Session
		}
		if time.Now().After(deadline) {
			t.Fatalf("the children are %+v, want one that is %s", h.Children, status)
		}
		<-time.After(5 * time.Millisecond)
	}
}
