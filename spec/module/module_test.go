package module_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/internal/wasmtest"
	"github.com/pheromone-run/pheromone/spec/module"
)

const enough = 1 << 20

// guest is a module that is taken, changed by change.
func guest(change func(*wasmtest.Module)) []byte {
	m := wasmtest.Module{Imports: wasmtest.GuestImports(), Exports: wasmtest.GuestExports(), Memory: []byte{0, 2}, Code: []byte{0}}
	change(&m)
	return m.Assemble()
}

func TestAModuleThatCanBeRunIsTaken(t *testing.T) {
	for name, data := range map[string][]byte{
		"as it is":                               guest(func(*wasmtest.Module) {}),
		"a guest":                                wasmtest.Guest(wasmtest.Function{Name: "f"}),
		"with a table and a bound of its memory": guest(func(m *wasmtest.Module) { m.Table, m.Memory = []byte{0x70, 0, 10}, []byte{1, 2, 16} }),
		"with all that is offered": guest(func(m *wasmtest.Module) {
			for _, f := range module.WASIImports {
				m.Imports = append(m.Imports, wasmtest.Import{From: module.WASI, Name: f})
			}
		}),
	} {
		if err := module.Check(data, enough); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAModuleThatCanNotBeRunIsRefusedWithTheReason(t *testing.T) {
	imports := func(i wasmtest.Import) []byte {
		return guest(func(m *wasmtest.Module) { m.Imports = append(m.Imports, i) })
	}
	for _, c := range []struct {
		name string
		data []byte
		says string
	}{
		{"nothing", nil, "not a WebAssembly module"},
		{"a script", []byte("#!/bin/sh\n"), "not a WebAssembly module"},
		{"a component", []byte("\x00asm\x0d\x00\x01\x00"), "components are not taken"},
		{"too large", make([]byte, module.MaxBytes+1), "at most 67108864 are allowed"},
		{"another module's function", imports(wasmtest.Import{From: "env", Name: "log"}), `"log" of "env"`},
		{"a function that WASI has not", imports(wasmtest.Import{From: module.WASI, Name: "sock_open"}), `"sock_open" of "wasi_snapshot_preview1"`},
		{"a function that the host has not", imports(wasmtest.Import{From: module.Host, Name: "exec"}), `"exec" of "pheromone_v1"`},
		{"a function of another type", imports(wasmtest.Import{From: module.Host, Name: "waiting", Params: 1, Results: 1}), "another type"},
		{"a memory from outside", imports(wasmtest.Import{From: "env", Name: "memory", Kind: 2}), `the memory "memory" of "env"`},
		{"no memory", guest(func(m *wasmtest.Module) { m.Exports = m.Exports[1:] }), `as "memory"`},
		{"a function as memory", guest(func(m *wasmtest.Module) { m.Exports[0].Kind = 0 }), `as "memory"`},
		{"much memory", guest(func(m *wasmtest.Module) { m.Memory = []byte{0, 17} }), "more than the 1048576"},
		{"shared memory", guest(func(m *wasmtest.Module) { m.Memory = []byte{3, 1, 2} }), "shared"},
		{"a large table", guest(func(m *wasmtest.Module) { m.Table = []byte{0x70, 0, 0x81, 0x80, 0x40} }), "table of 1048577 elements"},
		{"a library", guest(func(m *wasmtest.Module) { m.Exports[1].Name = "_initialize" }), "build a command, not a library"},
		{"a program without functions", guest(func(m *wasmtest.Module) { m.Imports[0] = m.Imports[2] }), "does it call fn.Main?"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := module.Check(c.data, enough); err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v, want one that says %q", err, c.says)
			}
		})
	}
}

func TestAModuleThatIsCutShortAnywhereIsRefused(t *testing.T) {
	whole := guest(func(m *wasmtest.Module) { m.Code = nil; m.Exports[1].Index = 2 })
	for n := range len(whole) {
		if module.Check(whole[:n], enough) == nil {
			t.Errorf("the first %d of %d bytes are taken", n, len(whole))
		}
	}
}

func FuzzCheck(f *testing.F) {
	f.Add(wasmtest.Guest(wasmtest.Function{Name: "f", Body: wasmtest.Spin}))
	f.Add(bytes.Replace(wasmtest.Guest(), []byte("memory"), []byte("memori"), 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		before := slices.Clone(data)
		_ = module.Check(data, enough)
		if !bytes.Equal(before, data) {
			t.Fatal("the module was changed")
		}
	})
}
