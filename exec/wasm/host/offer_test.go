package host

import (
	"maps"
	"slices"
	"testing"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/pheromone-run/pheromone/spec/module"
)

func TestWhatIsOfferedIsWhatModulesMayImport(t *testing.T) {
	r := wazero.NewRuntimeWithConfig(t.Context(), wazero.NewRuntimeConfigInterpreter())
	wasi := r.NewHostModuleBuilder(module.WASI)
	wasi_snapshot_preview1.NewFunctionExporter().ExportFunctions(wasi)
	for name, c := range map[string]struct {
		builder wazero.HostModuleBuilder
		want    []string
	}{
		module.WASI: {wasi, module.WASIImports},
		module.Host: {offer(r), slices.Collect(maps.Keys(module.Imports))},
	} {
		compiled, err := c.builder.Compile(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.Sorted(maps.Keys(compiled.ExportedFunctions())); !slices.Equal(got, slices.Sorted(slices.Values(c.want))) {
			t.Errorf("%s offers\n%q, modules may import\n%q", name, got, c.want)
		}
	}
	if err := r.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
