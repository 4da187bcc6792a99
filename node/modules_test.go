package node_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/api"
	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/internal/wasmtest"
	"github.com/pheromone-run/pheromone/node"
	"github.com/pheromone-run/pheromone/spec"
)

const inModule = `
apiVersion: pheromone/v1
app: shop
functions: {f: {runtime: wasm, file: f.wasm, memory: 1MiB}}
`

func TestAModuleThatCanNotBeRunIsRefusedWhenItIsApplied(t *testing.T) {
	n, err := node.Start(t.Context(), node.Config{DataDir: t.TempDir(), Listen: "127.0.0.1:0", ModuleHost: []string{"host"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	apply := func(file string, data []byte) error {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, file), data, 0o600); err != nil {
			t.Fatal(err)
		}
		packed, err := client.Pack(dir, client.PackOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.PutArtifact(t.Context(), "shop", packed.Sum, bytes.NewReader(packed.Data)); err != nil {
			t.Fatal(err)
		}
		_, err = n.Apply(t.Context(), "shop", []byte(inModule), api.ApplyOptions{Artifact: packed.Sum})
		return err
	}
	for _, c := range []struct {
		name, file string
		data       []byte
		says       string
	}{
		{"no such file", "g.wasm", nil, "no such file"},
		{"no module", "f.wasm", []byte("text"), "not a WebAssembly module"},
		{"an unknown import", "f.wasm", wasmtest.Module{Imports: []wasmtest.Import{{From: "env", Name: "log"}}}.Assemble(), `it imports "log" of "env"`},
		{"too much memory", "f.wasm", wasmtest.Module{
			Imports: wasmtest.GuestImports(), Exports: wasmtest.GuestExports(), Memory: []byte{0, 32}, Code: []byte{},
		}.Assemble(), "raise memory"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := apply(c.file, c.data); spec.CodeOf(err) != spec.CodeInvalid || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want one of code invalid that says %q", err, c.says)
			}
		})
	}
	if _, err := n.Apply(t.Context(), "shop", []byte(inModule), api.ApplyOptions{}); spec.CodeOf(err) != spec.CodeInvalid {
		t.Errorf("without an artifact: %v", err)
	}
	if err := apply("f.wasm", wasmtest.Guest()); err != nil {
		t.Errorf("a module that can be run: %v", err)
	}
}

func TestANodeWithoutAHostTakesNoModules(t *testing.T) {
	n := start(t, filepath.Join(t.TempDir(), "data"))
	_, err := n.Apply(t.Context(), "shop", []byte(inModule), api.ApplyOptions{DryRun: true})
	if spec.CodeOf(err) != spec.CodeInvalid || !strings.Contains(err.Error(), "hosts no modules") {
		t.Errorf("error %v", err)
	}
}
