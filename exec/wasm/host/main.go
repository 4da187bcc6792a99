package host

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/pheromone-run/pheromone/client/fn/protocol"
	"github.com/pheromone-run/pheromone/spec/module"
)

const (
	// sdkName is sent in HELLO, before that of the module.
	sdkName = "wasm/1"
	// Instances is how many attempts a host takes at once. One runs well at a time;
	// the others are for those that wait for an object, or for a core.
	Instances = 8
	// collectBytes is how much garbage there may be before it is collected while
	// attempts run, which stops all of them until each comes to a call.
	collectBytes = 256 << 20
	// stackBytes is what the stacks of an instance may come to.
	stackBytes = 128 << 20
)

// options say what is hosted.
type options struct {
	file   string // of the module
	memory int64  // of one instance, in bytes
	cache  string // folder of what is compiled
}

// Main hosts the module that args name, until the node lets it go, and returns the
// exit code.
func Main(args []string) int {
	var o options
	flags := flag.NewFlagSet("host", flag.ContinueOnError)
	flags.StringVar(&o.file, "file", "", "the module")
	flags.Int64Var(&o.memory, "memory", 0, "bytes of memory of one instance")
	flags.StringVar(&o.cache, "cache", "", "folder of compiled modules")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "pheromone:", err)
		return 1
	}
	return 0
}

// Args are the arguments of Main.
func Args(file string, memory int64, cache string) []string {
	return []string{"--file", file, "--memory", fmt.Sprint(memory), "--cache", cache}
}

func run(o options) error {
	if os.Getenv("PHEROMONE_EXECUTOR") == "" {
		return errors.New("a node starts the hosts of modules, for functions of runtime wasm")
	}
	syscall.CloseOnExec(protocol.FD)
	socket := os.NewFile(protocol.FD, "node")
	conn, err := net.FileConn(socket)
	if err != nil {
		return fmt.Errorf("descriptor %d is not the node's socket: %w", protocol.FD, err)
	}
	_ = socket.Close()
	if err := bound(o.memory); err != nil {
		return err
	}
	data, err := readModule(o.file)
	if err != nil {
		return err
	}
	if err := module.Check(data, o.memory); err != nil {
		return fmt.Errorf("%s: %w", o.file, err)
	}
	e, err := compile(data, o)
	if err != nil {
		return fmt.Errorf("%s: %w", o.file, err)
	}
	collectLate(o.memory)
	h := newHost(e, conn, o)
	names, sdk, err := h.first()
	if err != nil {
		return fmt.Errorf("%s: %w", o.file, err)
	}
	if err := h.hello(names, sdk); err != nil {
		return err
	}
	return h.serve()
}

func readModule(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("the module: %w", err)
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, module.MaxBytes+1)) // Check refuses what is too long
	if err != nil {
		return nil, fmt.Errorf("the module: %w", err)
	}
	return data, nil
}

// bound limits what the process takes. Each attempt may hold a thread for as long
// as it runs, and the others must go on.
func bound(memory int64) error {
	runtime.GOMAXPROCS(max(runtime.NumCPU(), Instances+2))
	// What no limit of its own holds, such as tables, comes to an end here.
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return fmt.Errorf("limit the memory: %w", err)
	}
	var pages [6]uint64 // the last is what the limit counts, as of now
	if _, err := fmt.Sscan(string(text), &pages[0], &pages[1], &pages[2], &pages[3], &pages[4], &pages[5]); err != nil {
		return fmt.Errorf("limit the memory: /proc/self/statm: %w", err)
	}
	limit := pages[5]*uint64(os.Getpagesize()) + uint64(Instances*(2*memory+stackBytes)+1<<30)
	if err := unix.Setrlimit(unix.RLIMIT_DATA, &unix.Rlimit{Cur: limit, Max: limit}); err != nil {
		return fmt.Errorf("limit the memory: %w", err)
	}
	return nil
}

// collectLate has garbage collected only when there is much of it: a collection
// stops everything until each attempt comes to a call, since compiled code can't be
// interrupted.
func collectLate(memory int64) {
	debug.FreeOSMemory() // what compiling has left
	debug.SetGCPercent(-1)
	debug.SetMemoryLimit(collectBytes + Instances*memory)
}

// hello presents the module's functions to the node, and takes its answer.
func (h *host) hello(names []string, sdk string) error {
	text, err := json.Marshal(protocol.ProcessHello{
		Versions: []int{protocol.Version}, SDK: cut(sdkName+" "+sdk, 100), Functions: names, Concurrency: Instances, Parallel: 1,
	})
	if err != nil {
		return fmt.Errorf("encode hello: %w", err)
	}
	h.write(frame(protocol.Header{Type: protocol.Hello}, nil, text))
	f, err := h.frames.Next()
	if err != nil {
		return fmt.Errorf("wait for the node's hello: %w", err)
	}
	if f.Type != protocol.Hello {
		return fmt.Errorf("the node began with %s: %s", f.Type, f.Payload)
	}
	var limits protocol.NodeHello
	if err := json.Unmarshal(f.Payload, &limits); err != nil {
		return fmt.Errorf("the node's hello: %w", err)
	}
	if limits.MaxBodyBytes == 0 {
		limits.MaxBodyBytes = math.MaxUint32
	}
	h.welcomed(frame(f.Header, f.Fields, f.Payload), limits)
	return nil
}

func cut(s string, most int) string { return s[:min(len(s), most)] }

// frame encodes a frame.
func frame(header protocol.Header, fields, payload []byte) []byte {
	header.FieldBytes, header.BodyBytes = uint32(len(fields)), uint32(len(fields)+len(payload))
	b := make([]byte, 0, protocol.HeaderBytes+len(fields)+len(payload))
	b = header.Append(b)
	b = append(b, fields...)
	return append(b, payload...)
}
