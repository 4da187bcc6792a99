package node_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/api"
	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/client/fn"
	"github.com/pheromone-run/pheromone/exec/inproc"
	"github.com/pheromone-run/pheromone/node"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

func start(t *testing.T, dir string) *node.Node {
	t.Helper()
	n, err := node.Start(context.Background(), node.Config{DataDir: dir, Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return n
}

const shop = `
apiVersion: pheromone/v1
app: shop
functions: {f: {command: [python3, app.py]}}
buckets: {in: {triggers: [{name: t, primitive: immediate, target: f}]}}
`

func TestArtifactsThatNoAppUsesAreRemovedAtTheNextStart(t *testing.T) {
	ctx, dir := context.Background(), filepath.Join(t.TempDir(), "data")
	app := t.TempDir()
	if err := os.WriteFile(filepath.Join(app, "app.py"), []byte("pass\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	packed, err := client.Pack(app, client.PackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n := start(t, dir)
	if _, err := n.PutArtifact(ctx, "shop", packed.Sum, bytes.NewReader(packed.Data)); err != nil {
		t.Fatalf("upload: %v", err)
	}
	if _, err := n.Apply(ctx, "shop", []byte(shop), api.ApplyOptions{Artifact: packed.Sum}); err != nil {
		t.Fatalf("apply: %v", err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(dir, "artifacts", "archives", strings.Repeat("0", 64)+".tar.zst")
	if err := os.WriteFile(left, []byte("of an upload that was cut off"), 0o644); err != nil {
		t.Fatal(err)
	}
	n = start(t, dir)
	if _, err := os.Stat(left); !os.IsNotExist(err) {
		t.Errorf("what no app uses is still there: %v", err)
	}
	if there, err := n.HasArtifact(ctx, "shop", packed.Sum); err != nil || !there {
		t.Errorf("what an app uses is there: %v, %v", there, err)
	}
}

func TestADryRunNeedsNoUpload(t *testing.T) {
	n := start(t, filepath.Join(t.TempDir(), "data"))
	sum := strings.Repeat("a", 64)
	if _, err := n.Apply(context.Background(), "shop", []byte(shop), api.ApplyOptions{Artifact: sum, DryRun: true}); err != nil {
		t.Errorf("a dry run of what is not uploaded: %v", err)
	}
	_, err := n.Apply(context.Background(), "shop", []byte(shop), api.ApplyOptions{Artifact: sum})
	if spec.CodeOf(err) != spec.CodeNotFound {
		t.Errorf("apply of what is not uploaded: %v", err)
	}
}

func TestConfigurationFaultsAreToldTogether(t *testing.T) {
	_, err := node.Start(context.Background(), node.Config{Name: "No Name", Listen: "0.0.0.0:7070", Shards: 1000})
	if err == nil {
		t.Fatal("a bad configuration starts")
	}
	for _, part := range []string{"name", "data", "shards", "--insecure"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not tell of %s", err, part)
		}
	}
}

// startInproc starts a node with an app whose functions are in this process.
func startInproc(t *testing.T, c node.Config, app spec.AppName, manifest string) *node.Node {
	t.Helper()
	c.DataDir, c.Listen = t.TempDir(), "127.0.0.1:0"
	n, err := node.Start(t.Context(), c)
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	if _, err := n.Apply(t.Context(), app, []byte(manifest), api.ApplyOptions{}); err != nil {
		t.Fatalf("apply: %v", err)
	}
	return n
}

func TestLargeInputsOfManyAttemptsStayWithinTheirMemory(t *testing.T) {
	const (
		size = 5 << 20
		all  = 12
	)
	functions := inproc.New(inproc.Settings{})
	accepted := make(chan struct{})
	var mu sync.Mutex
	var running, most int
	functions.Register("heavy", "f", func(ctx *fn.Context, in []fn.Object) error {
		mu.Lock()
		running += len(in[0].Bytes())
		most = max(most, running)
		mu.Unlock()
		<-accepted // all wait for memory by now, or have it
		mu.Lock()
		running -= len(in[0].Bytes())
		mu.Unlock()
		return ctx.Output(nil)
	})
	const memory = 16 << 20
	const manifest = "apiVersion: pheromone/v1\napp: heavy\nfunctions: {f: {runtime: inproc}}\nbuckets: {in: {triggers: [{name: t, primitive: immediate, target: f}]}}\n"
	n := startInproc(t, node.Config{Inproc: functions, InputBytes: memory}, "heavy", manifest)
	c, err := client.New(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	sessions := make([]spec.SessionID, all)
	for i := range sessions {
		put, err := c.Put(t.Context(), "heavy", "in", spec.Key(fmt.Sprint(i)), bytes.NewReader(make([]byte, size)), client.PutOptions{})
		if err != nil {
			t.Fatal(err)
		}
		sessions[i] = put.Session
	}
	close(accepted)
	for _, id := range sessions {
		if res, err := c.Result(t.Context(), "heavy", id, client.ResultOptions{Wait: 20 * time.Second}); err != nil || res.Status != wire.SessionCompleted {
			t.Fatalf("session %s: %+v, %v", id, res, err)
		}
	}
	if most > memory {
		t.Errorf("attempts held %d bytes of inputs at once, with %d allowed", most, memory)
	}
}

func TestAFunctionWithTooMuchPendingIsAnsweredWithRetryAfter(t *testing.T) {
	functions := inproc.New(inproc.Settings{})
	functions.Register("busy", "f", func(ctx *fn.Context, _ []fn.Object) error { <-ctx.Context().Done(); return nil })
	n := startInproc(t, node.Config{Inproc: functions}, "busy", "apiVersion: pheromone/v1\napp: busy\nfunctions: {f: {runtime: inproc, max_pending: 1}}\n")
	for i, want := range []int{http.StatusAccepted, http.StatusTooManyRequests} {
		resp, err := http.Post(n.URL()+"/v1/apps/busy/functions/f/invoke", "text/plain", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		said, err := io.ReadAll(resp.Body)
		if err = errors.Join(err, resp.Body.Close()); err != nil {
			t.Fatal(err)
		}
		if resp.StatusCode != want || (resp.Header.Get("Retry-After") != "") != (i == 1) {
			t.Fatalf("invoke %d: %s, Retry-After %q", i+1, resp.Status, resp.Header.Get("Retry-After"))
		}
		if i == 1 && (!strings.Contains(string(said), `"overloaded"`) || !strings.Contains(string(said), "functions.f.max_pending")) {
			t.Errorf("it says %s", said)
		}
	}
}
