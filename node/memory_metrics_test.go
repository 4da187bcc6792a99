package node_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/api"
	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/node"
	"github.com/pheromone-run/pheromone/spec/wire"
)

func TestMetricsTellHowLargeObjectsReachProcesses(t *testing.T) {
	const back = "from pheromone import function, main\n\n@function\ndef f(ctx, objects):\n    ctx.output(objects[0].view)\n\nmain()\n"
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "app.py"), []byte(back), 0o644); err != nil {
		t.Fatal(err)
	}
	packed, err := client.Pack(dir, client.PackOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n, err := node.Start(t.Context(), node.Config{DataDir: t.TempDir(), Listen: "127.0.0.1:0", SharedBytes: 4 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	if _, err := n.PutArtifact(t.Context(), "shop", packed.Sum, bytes.NewReader(packed.Data)); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Apply(t.Context(), "shop", []byte(shop), api.ApplyOptions{Artifact: packed.Sum}); err != nil {
		t.Fatal(err)
	}
	c, err := client.New(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, size := range []int{1 << 20, 5 << 20} { // the second is larger than the memory
		put, err := c.Put(t.Context(), "shop", "in", "k", bytes.NewReader(make([]byte, size)), client.PutOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if res, err := c.Result(t.Context(), "shop", put.Session, client.ResultOptions{Wait: time.Minute}); err != nil || res.Status != wire.SessionCompleted {
			t.Fatalf("%+v, %v", res, err)
		}
	}
	for name, want := range map[string]float64{
		`pheromone_shared_memory_bytes`:                             4 << 20,
		`pheromone_shared_memory_passed_bytes_total{way="inputs"}`:  1 << 20,
		`pheromone_shared_memory_passed_bytes_total{way="outputs"}`: 1 << 20,
		`pheromone_shared_memory_passed_bytes_total{way="inline"}`:  10 << 20,
		`pheromone_shared_memory_refused_total`:                     2,
	} {
		text := embedding{n, c}.metric(t, name+" ")
		if got, err := strconv.ParseFloat(text, 64); err != nil || got != want {
			t.Errorf("%s is %s, want %v", name, text, want)
		}
	}
}
