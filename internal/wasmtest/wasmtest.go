// Package wasmtest assembles WebAssembly modules for tests: some hundred bytes
// that compile at once, where a module of Go has millions. Guest makes one that
// takes attempts as docs/wasm.md says and does, for each of its functions, what a
// test needs: nothing, spin, trap. Module makes any other.
package wasmtest

import (
	"encoding/binary"
	"encoding/json"
)

// Module is a module in parts.
type Module struct {
	Imports []Import
	Memory  []byte // limits, as encoded; nil: no memory
	Table   []byte // a table with its limits, as encoded; nil: none
	Exports []Export
	Code    []byte // of its one function, without locals; nil: there is none
	Data    []byte // put at address 0
}

// Import is something that a module imports.
type Import struct {
	From, Name      string
	Kind            byte // 0: a function of the parameters and results, each an i32
	Params, Results int
}

// Export is something that a module exports.
type Export struct {
	Name  string
	Kind  byte
	Index int
}

// Assemble encodes a module.
func (m Module) Assemble() []byte {
	var types, imports, exports, tables, memories, functions, code, data [][]byte
	for i, imp := range m.Imports {
		types = append(types, cat([]byte{0x60}, repeat(0x7f, imp.Params), repeat(0x7f, imp.Results)))
		described := leb(i)
		if imp.Kind != 0 {
			described = []byte{0x00, 0x01} // enough for a memory
		}
		imports = append(imports, cat(text(imp.From), text(imp.Name), []byte{imp.Kind}, described))
	}
	if m.Code != nil {
		types = append(types, []byte{0x60, 0, 0})
		functions = append(functions, leb(len(m.Imports)))
		body := cat([]byte{0}, m.Code, []byte{0x0b})
		code = append(code, cat(leb(len(body)), body))
	}
	if m.Table != nil {
		tables = append(tables, m.Table)
	}
	if m.Memory != nil {
		memories = append(memories, m.Memory)
	}
	for _, e := range m.Exports {
		exports = append(exports, cat(text(e.Name), []byte{e.Kind}, leb(e.Index)))
	}
	if m.Data != nil {
		data = append(data, cat([]byte{0, 0x41, 0, 0x0b}, leb(len(m.Data)), m.Data))
	}
	out := []byte("\x00asm\x01\x00\x00\x00")
	for _, s := range []struct {
		id      byte
		entries [][]byte
	}{{1, types}, {2, imports}, {3, functions}, {4, tables}, {5, memories}, {7, exports}, {10, code}, {11, data}} {
		if len(s.entries) > 0 {
			body := cat(append([][]byte{leb(len(s.entries))}, s.entries...)...)
			out = cat(out, []byte{s.id}, leb(len(body)), body)
		}
	}
	return out
}

// Function is one of a guest's.
type Function struct {
	Name string
	Body []byte // run for an attempt, before its result is sent
}

// Bodies of functions.
var (
	Nothing = []byte{}
	Spin    = []byte{0x03, 0x40, 0x0c, 0x00, 0x0b}                                                 // loop: again
	Trap    = []byte{0x00}                                                                         // unreachable
	Exit3   = []byte{0x41, 0x03, 0x10, 0x02}                                                       // proc_exit(3)
	Stray   = []byte{0x41, 0x80, 0x04, 0x42, 0x07, 0x37, 0x03, 0x08}                               // the result is for attempt 7
	Recurse = []byte{0x10, 0x03}                                                                   // _start again, which says HELLO twice
	Eat     = []byte{0x03, 0x40, 0x41, 0x01, 0x40, 0x00, 0x41, 0x7f, 0x47, 0x0d, 0x00, 0x0b, 0x00} // grow until it fails, then trap
)

// Where things are in a guest's memory.
const (
	resultPart = 256 // address and size of the result
	helloPart  = 264
	result     = 512 // the RESULT frame, whose id is filled in
	hello      = 1024
	frame      = 8192 // what recv gives, up to the end of the page
	room       = 57344
)

// GuestImports are what a guest imports.
func GuestImports() []Import {
	return []Import{
		{From: "pheromone_v1", Name: "recv", Params: 2, Results: 1},
		{From: "pheromone_v1", Name: "send", Params: 2},
		{From: "wasi_snapshot_preview1", Name: "proc_exit", Params: 1},
	}
}

// GuestExports are what a guest exports.
func GuestExports() []Export { return []Export{{"memory", 2, 0}, {"_start", 0, 3}} }

// Guest assembles a module with functions.
func Guest(functions ...Function) []byte {
	var names []string
	var bodies []byte
	for i, f := range functions {
		names = append(names, f.Name)
		// if the frame's arg is i
		bodies = cat(bodies, constant(frame), []byte{0x28, 0x02, 20}, constant(i), []byte{0x46, 0x04, 0x40}, f.Body, []byte{0x0b})
	}
	said, err := json.Marshal(map[string]any{"versions": []int{1}, "sdk": "wasmtest", "functions": names, "concurrency": 1})
	if err != nil {
		panic(err)
	}
	data := make([]byte, hello, hello+24+len(said))
	part(data[resultPart:], result, 24)
	part(data[helloPart:], hello, 24+len(said))
	data[result+4] = 8
	data = cat(data, header(1, len(said)), said)
	return Module{
		Imports: GuestImports(), Memory: []byte{0, 1}, Exports: GuestExports(), Data: data,
		Code: cat(
			constant(helloPart), constant(1), []byte{0x10, 1}, // send HELLO
			[]byte{0x03, 0x40},                                     // loop
			constant(frame), constant(room), []byte{0x10, 0, 0x1a}, // recv
			constant(frame), []byte{0x2d, 0, 4}, constant(2), []byte{0x46, 0x04, 0x40}, // if it is INVOKE
			constant(result), constant(frame), []byte{0x29, 3, 8, 0x37, 3, 8}, // the result's id is its id
			bodies,
			constant(resultPart), constant(1), []byte{0x10, 1}, // send RESULT
			[]byte{0x0b, 0x0c, 0x00, 0x0b}, // end, again
		),
	}.Assemble()
}

func header(kind byte, body int) []byte {
	b := make([]byte, 24)
	binary.LittleEndian.PutUint32(b, uint32(body))
	b[4] = kind
	return b
}

func part(b []byte, address, size int) {
	binary.LittleEndian.PutUint32(b, uint32(address))
	binary.LittleEndian.PutUint32(b[4:], uint32(size))
}

// constant is i32.const.
func constant(n int) []byte {
	out := []byte{0x41}
	for {
		b := byte(n & 0x7f)
		if n >>= 7; n == 0 && b < 0x40 {
			return append(out, b)
		}
		out = append(out, b|0x80)
	}
}

func leb(n int) []byte { return binary.AppendUvarint(nil, uint64(n)) }

func text(s string) []byte { return cat(leb(len(s)), []byte(s)) }

func repeat(b byte, n int) []byte {
	out := leb(n)
	for range n {
		out = append(out, b)
	}
	return out
}

func cat(parts ...[]byte) []byte {
	var out []byte
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}
