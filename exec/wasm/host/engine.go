package host

import (
	"context"
	"crypto/rand"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"

	"github.com/pheromone-run/pheromone/spec/module"
)

// engine makes instances of the one module that was compiled.
type engine struct {
	runtime  wazero.Runtime
	compiled wazero.CompiledModule
	loaded   bool // it was compiled by an earlier host
	took     time.Duration
}

// compile makes an engine of a module.
func compile(data []byte, o options) (*engine, error) {
	kept, err := openKept(o.cache, data)
	if err != nil {
		return nil, err
	}
	defer kept.close()
	began := time.Now()
	before := kept.files()
	e, err := compileWith(data, o, kept.folder)
	if err != nil && len(before) > 0 {
		// What was kept is damaged, or the module is: compiling anew tells.
		if err := kept.remove(before); err != nil {
			return nil, err
		}
		before = nil
		e, err = compileWith(data, o, kept.folder)
	}
	if err != nil {
		return nil, err
	}
	e.took = time.Since(began).Round(time.Millisecond)
	kept.used()
	if e.loaded = slices.Equal(before, kept.files()); !e.loaded {
		// What was there is another compiler's, or for another processor.
		if err := kept.remove(before); err != nil {
			return nil, err
		}
		kept.prune(maxKeptBytes)
	}
	return e, nil
}

func compileWith(data []byte, o options, folder string) (*engine, error) {
	cache, err := wazero.NewCompilationCacheWithDir(folder)
	if err != nil {
		return nil, fmt.Errorf("keep what is compiled: %w", err)
	}
	ctx := experimental.WithCompilationWorkers(context.Background(), runtime.NumCPU())
	r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfigCompiler().
		WithCompilationCache(cache).WithMemoryLimitPages(uint32(o.memory/module.PageBytes)).WithDebugInfoEnabled(false))
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, r); err != nil {
		return nil, fmt.Errorf("offer WASI: %w", err)
	}
	if _, err := offer(r).Instantiate(ctx); err != nil {
		return nil, fmt.Errorf("offer %s: %w", module.Host, err)
	}
	compiled, err := r.CompileModule(ctx, data)
	if err != nil {
		_ = r.Close(ctx)
		return nil, fmt.Errorf("compile the module: %w", err)
	}
	return &engine{runtime: r, compiled: compiled}, nil
}

// offer builds the imports of a module. docs/wasm.md says what they do.
func offer(r wazero.Runtime) wazero.HostModuleBuilder {
	calls := map[string]func(*instance, api.Memory, []uint64){
		"recv": func(i *instance, m api.Memory, stack []uint64) {
			stack[0] = uint64(i.recv(m, uint32(stack[0]), uint32(stack[1])))
		},
		"send": func(i *instance, m api.Memory, stack []uint64) {
			i.send(piecesAt(m, uint32(stack[0]), uint32(stack[1])))
		},
		"waiting": func(i *instance, _ api.Memory, stack []uint64) { stack[0] = uint64(i.waiting()) },
	}
	b := r.NewHostModuleBuilder(module.Host)
	for name, signature := range module.Imports {
		call := calls[name]
		b.NewFunctionBuilder().WithGoModuleFunction(api.GoModuleFunc(func(ctx context.Context, m api.Module, stack []uint64) {
			call(ctx.Value(instanceKey{}).(*instance), m.Memory(), stack)
		}), i32s(signature.Params), i32s(signature.Results)).Export(name)
	}
	return b
}

func i32s(n int) []api.ValueType {
	types := make([]api.ValueType, n)
	for i := range types {
		types[i] = api.ValueTypeI32
	}
	return types
}

// instanceKey finds the instance in the context of a call.
type instanceKey struct{}

// run makes an instance of the module and runs it to its end. peak is the memory
// that it had then.
func (e *engine) run(i *instance) (peak uint32, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("make an instance: %v", v) // memory that can't be had ends so
		}
	}()
	ctx := context.WithValue(context.Background(), instanceKey{}, i)
	ctx = experimental.WithMemoryAllocator(ctx, experimental.MemoryAllocatorFunc(reserve))
	config := wazero.NewModuleConfig().WithName("").WithStartFunctions().
		WithStdout(&i.stdout).WithStderr(&i.stderr).
		WithSysWalltime().WithSysNanotime().WithSysNanosleep().WithRandSource(rand.Reader)
	m, err := e.runtime.InstantiateModule(ctx, e.compiled, config)
	if err != nil {
		return 0, fmt.Errorf("make an instance: %w", err)
	}
	memory := m.Memory()
	defer func() {
		peak = memory.Size()
		_ = m.Close(ctx)
	}()
	_, err = m.ExportedFunction("_start").Call(ctx)
	return 0, err
}
