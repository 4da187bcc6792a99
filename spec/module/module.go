package module

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
)

const (
	// MaxBytes bounds a module.
	MaxBytes = 64 << 20
	// PageBytes is the unit in which a module's memory grows.
	PageBytes = 64 << 10
	// Host is the module that Imports are taken from. A change that modules would
	// notice gets another name, beside this one.
	Host = "pheromone_v1"
	// WASI is the other module that imports are taken from.
	WASI = "wasi_snapshot_preview1"

	// maxTable bounds the elements of a table, which have no other limit.
	maxTable = 1 << 20
	// maxEntries bounds the entries of a section that are looked at.
	maxEntries = 1 << 20
)

// Imports are the functions of Host: their parameters and results, each an i32.
var Imports = map[string]struct{ Params, Results int }{
	"recv":    {2, 1},
	"send":    {2, 0},
	"waiting": {0, 1},
}

// needed are those without which no attempt ever ends.
var needed = []string{"recv", "send"}

// WASIImports are the functions of WASI.
var WASIImports = strings.Fields(`args_get args_sizes_get clock_res_get clock_time_get environ_get environ_sizes_get
	fd_advise fd_allocate fd_close fd_datasync fd_fdstat_get fd_fdstat_set_flags fd_fdstat_set_rights fd_filestat_get
	fd_filestat_set_size fd_filestat_set_times fd_pread fd_prestat_dir_name fd_prestat_get fd_pwrite fd_read fd_readdir
	fd_renumber fd_seek fd_sync fd_tell fd_write path_create_directory path_filestat_get path_filestat_set_times path_link
	path_open path_readlink path_remove_directory path_rename path_symlink path_unlink_file poll_oneoff proc_exit
	proc_raise random_get sched_yield sock_accept sock_recv sock_send sock_shutdown`)

// Check says what is wrong with a module that may have so many bytes of memory.
func Check(data []byte, memory int64) error {
	if len(data) > MaxBytes {
		return fmt.Errorf("it has %d bytes, at most %d are allowed", len(data), MaxBytes)
	}
	if !bytes.HasPrefix(data, []byte("\x00asm")) {
		return fmt.Errorf("it is not a WebAssembly module: it does not begin with \\0asm")
	}
	if !bytes.HasPrefix(data[4:], []byte{1, 0, 0, 0}) {
		return fmt.Errorf("it is not a WebAssembly module of version 1: components are not taken, build a module for wasip1")
	}
	m := &reading{exports: map[string]byte{}, imported: map[string]bool{}}
	r := &reader{data: data[8:]}
	for len(r.data) > 0 && r.err == nil {
		id := r.byte()
		section := &reader{data: r.bytes(r.u32())}
		if r.err != nil {
			break
		}
		if err := m.section(id, section); err != nil {
			return err
		}
		if section.err != nil {
			return section.err
		}
	}
	if r.err != nil {
		return r.err
	}
	return m.whole(memory)
}

// reading is what is known of a module so far.
type reading struct {
	types    []signature
	pages    uint64 // that its memory begins with
	memories int
	imported map[string]bool
	exports  map[string]byte
}

type signature struct {
	params, results int
	plain           bool // all of them are i32
}

// Ids of sections, and kinds of imports and exports.
const (
	sectionType, sectionImport, sectionTable, sectionMemory, sectionExport = 1, 2, 4, 5, 7

	kindFunction, kindTable, kindMemory, kindGlobal, kindTag = 0, 1, 2, 3, 4
)

var kinds = map[byte]string{kindFunction: "function", kindTable: "table", kindMemory: "memory", kindGlobal: "global", kindTag: "tag"}

func (m *reading) section(id byte, r *reader) error {
	var entry func(*reader) error
	switch id {
	case sectionType:
		entry = m.signature
	case sectionImport:
		entry = m.imports
	case sectionTable:
		entry = table
	case sectionMemory:
		entry = m.memory
	case sectionExport:
		entry = m.export
	default:
		return nil
	}
	count := r.u32()
	if count > maxEntries {
		return fmt.Errorf("it is damaged: a section claims %d entries", count)
	}
	for range count {
		if err := entry(r); err != nil {
			return err
		}
		if r.err != nil {
			return r.err
		}
	}
	return nil
}

func (m *reading) signature(r *reader) error {
	if form := r.byte(); r.err == nil && form != 0x60 {
		return fmt.Errorf("it uses types that are not supported (form %#x)", form)
	}
	s := signature{plain: true}
	for _, n := range []*int{&s.params, &s.results} {
		for _, t := range r.bytes(r.u32()) {
			*n++
			s.plain = s.plain && t == 0x7f
		}
	}
	m.types = append(m.types, s)
	return nil
}

func (m *reading) imports(r *reader) error {
	from, name, kind := r.name(), r.name(), r.byte()
	if r.err != nil {
		return r.err
	}
	if kind != kindFunction {
		return fmt.Errorf("it imports the %s %q of %q, and only functions can be imported", kinds[kind], name, from)
	}
	index := r.u32()
	if int(index) >= len(m.types) {
		return fmt.Errorf("it is damaged: an import has the type %d of %d", index, len(m.types))
	}
	switch from {
	case WASI:
		if !slices.Contains(WASIImports, name) {
			return fmt.Errorf("it imports the function %q of %q, which does not have it", name, from)
		}
	case Host:
		want, ok := Imports[name]
		if !ok {
			return fmt.Errorf("it imports the function %q of %q, which has recv, send and waiting", name, from)
		}
		if got := m.types[index]; !got.plain || got.params != want.Params || got.results != want.Results {
			return fmt.Errorf("it imports the function %q of %q with another type: it takes %d and returns %d numbers of type i32", name, from, want.Params, want.Results)
		}
		m.imported[name] = true
	default:
		return fmt.Errorf("it imports %q of %q: modules get functions of %s and %s, and nothing else", name, from, WASI, Host)
	}
	return nil
}

func table(r *reader) error {
	if kind := r.byte(); r.err == nil && kind != 0x70 && kind != 0x6f {
		return fmt.Errorf("it has a table of a kind that is not supported (%#x)", kind)
	}
	if least, _ := r.limits(); least > maxTable {
		return fmt.Errorf("it has a table of %d elements, at most %d are allowed", least, maxTable)
	}
	return nil
}

func (m *reading) memory(r *reader) error {
	least, flags := r.limits()
	if flags > 1 {
		return fmt.Errorf("its memory is shared or has 64-bit addresses, which is not supported")
	}
	m.pages, m.memories = least, m.memories+1
	return nil
}

func (m *reading) export(r *reader) error {
	name, kind := r.name(), r.byte()
	r.u32()
	m.exports[name] = kind
	return nil
}

// whole judges what was read.
func (m *reading) whole(memory int64) error {
	kind, exported := m.exports["memory"]
	switch {
	case !exported || kind != kindMemory || m.memories != 1:
		return fmt.Errorf("it does not export one memory, as \"memory\"")
	case m.pages*PageBytes > uint64(memory):
		return fmt.Errorf("its memory begins with %d bytes, more than the %d that it may have: raise memory", m.pages*PageBytes, memory)
	}
	if kind, exported := m.exports["_start"]; !exported || kind != kindFunction {
		return fmt.Errorf("it does not export the function \"_start\": build a command, not a library")
	}
	for _, name := range needed {
		if !m.imported[name] {
			return fmt.Errorf("it does not import %q of %q, so it can't take attempts: does it call fn.Main?", name, Host)
		}
	}
	return nil
}
