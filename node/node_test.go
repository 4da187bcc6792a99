package node_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/api"
	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/node"
	"github.com/pheromone-run/pheromone/spec"
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
