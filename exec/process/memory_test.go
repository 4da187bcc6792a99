package process_test

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pheromone-run/pheromone/client/fn"
	"github.com/pheromone-run/pheromone/client/fn/protocol"
	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/exec/process"
	"github.com/pheromone-run/pheromone/internal/nodetest"
)

func init() {
	programs["memory"] = memoryFunctions
	for name, wrong := range map[string]func(conn net.Conn, inputs, outputs []byte){
		"output-outside": func(c net.Conn, _, outputs []byte) {
			putAt(c, 1, protocol.Descriptor{Kind: protocol.KindOutput, Offset: uint64(len(outputs)) - 10, Length: 11})
		},
		"output-overflow": func(c net.Conn, _, _ []byte) {
			putAt(c, 1, protocol.Descriptor{Kind: protocol.KindOutput, Offset: 1<<64 - 1, Length: 2})
		},
		"output-in-inputs": func(c net.Conn, _, _ []byte) {
			putAt(c, 1, protocol.Descriptor{Kind: protocol.KindInput, Length: 100})
		},
		"dies-after-put": func(c net.Conn, _, outputs []byte) {
			putAt(c, 1, protocol.Descriptor{Kind: protocol.KindOutput, Length: 1 << 20})
			os.Exit(9)
		},
	} {
		programs[name] = func() {
			conn := hello(`{"versions":[1],"sdk":"x","functions":["f"],"concurrency":8,"memory":true}`)
			inputs, outputs := mapInherited(protocol.InputFD, unix.PROT_READ), mapInherited(protocol.OutputFD, unix.PROT_READ|unix.PROT_WRITE)
			r := protocol.NewReader(conn, 1<<20)
			for range 2 {
				if _, err := r.Next(); err != nil {
					panic(err)
				}
			}
			wrong(conn, inputs, outputs)
			select {}
		}
	}
	programs["old-sdk"] = func() { // of before there was memory
		conn := hello(`{"versions":[1],"sdk":"old/1","functions":["f"],"concurrency":8}`)
		r := protocol.NewReader(conn, 64<<20)
		for {
			f, err := r.Next()
			if err != nil {
				os.Exit(0)
			}
			if f.Type != protocol.Invoke {
				continue
			}
			var b protocol.Batch
			fields := protocol.AppendObject(nil, protocol.Descriptor{Length: uint64(len(f.Payload))})
			b.Add(protocol.Header{Type: protocol.Put, ID: f.ID}, protocol.AppendField(fields, protocol.TagBucket, "out"), bytes.Clone(f.Payload))
			b.Add(protocol.Header{Type: protocol.Result, ID: f.ID}, nil)
			for _, part := range b.Parts() {
				_, _ = conn.Write(part)
			}
		}
	}
}

func mapInherited(fd, protection int) []byte {
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		panic(err)
	}
	b, err := unix.Mmap(fd, 0, int(stat.Size), protection, unix.MAP_SHARED)
	if err != nil {
		panic(err)
	}
	return b
}

func putAt(c net.Conn, id uint64, d protocol.Descriptor) {
	var b protocol.Batch
	b.Add(protocol.Header{Type: protocol.Put, ID: id}, protocol.AppendField(protocol.AppendObject(nil, d), protocol.TagBucket, "out"))
	_, _ = c.Write(b.Parts()[0])
}

// tampers are what a function tries on the memory it shares with the node. Each one
// returns an error if it is let.
var tampers = map[string]func() error{
	"maps the inputs for writing": func() error {
		return letThrough(func(fd int) error {
			_, err := unix.Mmap(fd, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
			return err
		}, "inputs")
	},
	"writes to the inputs": func() error {
		return letThrough(func(fd int) error { _, err := unix.Pwrite(fd, []byte("x"), 0); return err }, "inputs")
	},
	"shortens the inputs":  func() error { return letThrough(func(fd int) error { return unix.Ftruncate(fd, 0) }, "inputs") },
	"shortens the outputs": func() error { return letThrough(func(fd int) error { return unix.Ftruncate(fd, 0) }, "outputs") },
	"lengthens the outputs": func() error {
		return letThrough(func(fd int) error { return unix.Ftruncate(fd, 1<<40) }, "outputs")
	},
	"frees the inputs": func() error {
		return letThrough(func(fd int) error {
			return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 1<<20)
		}, "inputs")
	},
}

// letThrough opens memory again, for reading and writing, and tries f on it.
func letThrough(f func(fd int) error, which string) error {
	maps, err := os.ReadDir("/proc/self/map_files")
	if err != nil {
		return err
	}
	for _, m := range maps {
		path := "/proc/self/map_files/" + m.Name()
		target, err := os.Readlink(path)
		if err != nil || !strings.HasPrefix(target, "/memfd:pheromone-"+which) {
			continue
		}
		fd, err := unix.Open(path, unix.O_RDWR, 0)
		if err != nil {
			return nil // not even that
		}
		if f(fd) == nil {
			return errors.New("it was let")
		}
		return nil
	}
	return errors.New("no such memory is mapped")
}

func memoryFunctions() {
	fn.Handle("scribbles", func(ctx *fn.Context, in []fn.Object) error {
		in[0].View()[0]++
		return nil
	})
	fn.Handle("tampers", func(ctx *fn.Context, in []fn.Object) error {
		return tampers[in[0].Key]()
	})
	var neverRead fn.Object
	fn.Handle("keeps unread", func(ctx *fn.Context, in []fn.Object) error {
		neverRead = in[0]
		return nil
	})
	fn.Handle("reads late", func(ctx *fn.Context, in []fn.Object) error {
		return ctx.Output(neverRead.Bytes())
	})
	fn.Handle("holds", func(ctx *fn.Context, in []fn.Object) error {
		if err := ctx.Put("out", "holding", nil); err != nil {
			return err
		}
		<-ctx.Context().Done()
		return ctx.Put("out", "too late", in[0].View())
	})
	fn.Handle("forgets", func(ctx *fn.Context, in []fn.Object) error {
		b, err := ctx.Create("out", "forgotten", 1<<20)
		if err != nil {
			return err
		}
		copy(b.Bytes(), bytes.Repeat([]byte("x"), 1<<20))
		return nil
	})
	fn.Handle("sum", func(ctx *fn.Context, in []fn.Object) error {
		return ctx.Output(fmt.Append(nil, sum(in[0].View())))
	})
	fn.Handle("writes", func(ctx *fn.Context, in []fn.Object) error {
		forgotten, err := ctx.Create("out", "forgotten", 1<<20)
		if err != nil {
			return err
		}
		copy(forgotten.Bytes(), "forgotten")
		b, err := ctx.Create("out", in[0].Key, 1<<20)
		if err != nil {
			return err
		}
		for _, byte := range b.Bytes() {
			if byte != 0 {
				return errors.New("the buffer is not empty")
			}
		}
		copy(b.Bytes(), bytes.Repeat([]byte(in[0].Key), 1<<20))
		return b.Commit()
	})
	fn.Main()
}

func sum(b []byte) (n uint64) {
	for i, c := range b {
		n += uint64(c) * uint64(i+1)
	}
	return n
}

func noise(size, seed int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte((i + seed) * 2654435761 >> 13)
	}
	return b
}

func TestLargeObjectsTravelThroughMemoryWithEverySDK(t *testing.T) {
	for sdk, command := range map[string][]string{"go": goProgram(t, "functions"), "python": {"python3", "functions.py"}} {
		t.Run(sdk, func(t *testing.T) {
			b := newBench(t, process.Settings{GroupProcesses: 1, SharedBytes: 16 << 20})
			for round := range 5 { // more than there is room for at once
				var in []exec.Input
				for i := range 3 {
					in = append(in, object(fmt.Sprint("k", i), noise(1<<20+i, round)))
				}
				out := b.submit(b.task(command, "echo", in...)).succeed()
				for i := range in {
					if !bytes.Equal(out[i].Data, in[i].Data) {
						t.Fatalf("round %d: object %d came back changed", round, i)
					}
				}
			}
			r := b.task(command, "read", object("name", []byte("there")))
			r.objects["there"] = exec.Input{Bucket: "in", Key: "there", Session: "s1", Data: noise(2<<20, 7)}
			if out := b.submit(r).succeed(); !bytes.Equal(out[1].Data, r.objects["there"].Data) {
				t.Fatal("what was read came back changed")
			}
			if s := b.Shared(); s.Inputs.Objects != 16 || s.Outputs.Objects != 16 || s.Inline.Objects != 0 || s.Refused != 0 {
				t.Fatalf("%+v: not all went through memory", s)
			}
		})
	}
}

func TestBytesThatAFunctionKeepsStayWhenTheirMemoryIsUsedAnew(t *testing.T) {
	for sdk, command := range map[string][]string{"go": goProgram(t, "functions"), "python": {"python3", "functions.py"}} {
		t.Run(sdk, func(t *testing.T) {
			b := newBench(t, process.Settings{GroupProcesses: 1, SharedBytes: 4 << 20})
			in, other := object("k", noise(3<<20, 1)), object("k", noise(3<<20, 2))
			b.submit(b.task(command, "keeps", in)).succeed()
			b.submit(b.task(command, "echo", other)).succeed() // there is room for one
			if out := b.submit(b.task(command, "recalls", object("k", nil))).succeed(); !bytes.Equal(out[0].Data, in.Data) {
				t.Fatal("what was kept has changed")
			}
			if s := b.Shared(); s.Inputs.Objects != 2 {
				t.Fatalf("%+v: not both were in memory", s)
			}
		})
	}
}

func TestBytesThatAreAskedForTooLateAreNotThoseOfAnother(t *testing.T) {
	b := newBench(t, process.Settings{GroupProcesses: 1})
	command := goProgram(t, "memory")
	b.submit(b.task(command, "keeps unread", object("k", noise(1<<20, 1)))).succeed()
	f := b.submit(b.task(command, "reads late", object("k", noise(1<<20, 2)))).fail(exec.Failed)
	if !strings.Contains(f.Message, "after the handler had returned") {
		t.Fatalf("failure %+v", f)
	}
}

func TestWhatFindsNoRoomInMemoryTravelsInline(t *testing.T) {
	for shared, refused := range map[int64]uint64{-1: 0, 4 << 20: 2} {
		b := newBench(t, process.Settings{GroupProcesses: 1, SharedBytes: shared})
		in := object("k", noise(5<<20, 1))
		out := b.submit(b.task(goProgram(t, "functions"), "echo", in)).succeed()
		if !bytes.Equal(out[0].Data, in.Data) {
			t.Fatal("it came back changed")
		}
		if s := b.Shared(); s.Inputs.Objects+s.Outputs.Objects != 0 || s.Inline != (process.Passed{Objects: 2, Bytes: 10 << 20}) || s.Bytes != 0 || s.Refused != refused {
			t.Fatalf("%+v", s)
		}
	}
}

func TestAProgramThatKnowsNothingOfMemoryWorksAsBefore(t *testing.T) {
	b := newBench(t, process.Settings{})
	in := object("k", noise(1<<20, 1))
	if out := b.submit(b.task(goProgram(t, "old-sdk"), "f", in)).succeed(); !bytes.Equal(out[0].Data, in.Data) {
		t.Fatal("it came back changed")
	}
	if s := b.Shared(); s.Inputs.Objects+s.Outputs.Objects != 0 || s.Inline.Objects != 2 || s.Refused != 0 {
		t.Fatalf("%+v", s)
	}
}

func TestAFunctionThatWritesToItsInputsFailsAlone(t *testing.T) {
	b := newBench(t, process.Settings{GroupProcesses: 1})
	command := goProgram(t, "memory")
	in := object("k", noise(1<<20, 3))
	held := b.submit(b.task(command, "holds", in))
	held.emission()
	if f := b.submit(b.task(command, "scribbles", in)).fail(exec.Failed); !strings.Contains(f.Message, "write to the bytes of an input") {
		t.Fatalf("failure %+v", f)
	}
	out := b.submit(b.task(command, "sum", in)).succeed()
	if string(out[0].Data) != fmt.Sprint(sum(in.Data)) {
		t.Fatal("what others read has changed")
	}
	b.Cancel(held.task.Ref())
	held.fail(exec.Cancelled)
}

func TestSharedMemoryCanNotBeTamperedWith(t *testing.T) {
	b := newBench(t, process.Settings{GroupProcesses: 1})
	command := goProgram(t, "memory")
	for name := range tampers {
		t.Run(name, func(t *testing.T) {
			b.t = t
			in := object(name, noise(1<<20, 3))
			b.submit(b.task(command, "tampers", in)).succeed()
			if out := b.submit(b.task(command, "sum", in)).succeed(); string(out[0].Data) != fmt.Sprint(sum(in.Data)) {
				t.Fatal("what others read has changed")
			}
		})
	}
}

func TestAProgramThatLiesAboutItsOutputsIsRefused(t *testing.T) {
	for program, says := range map[string]string{
		"output-outside":   "in shared memory of",
		"output-overflow":  "in shared memory of",
		"output-in-inputs": "kind 1 is not supported",
	} {
		t.Run(program, func(t *testing.T) {
			b := newBench(t, process.Settings{})
			if f := b.submit(b.task(goProgram(t, program), "f", object("k", nil))).fail(exec.Refused); !strings.Contains(f.Message, says) {
				t.Fatalf("failure %+v does not say %q", f, says)
			}
		})
	}
}

func TestMemoryOfAProgramThatDiesIsGivenBack(t *testing.T) {
	t.Cleanup(func() { nodetest.NoGoroutinesLeft(t) }) // after the runtime has been closed
	b := newBench(t, process.Settings{})
	r := b.submit(b.task(goProgram(t, "dies-after-put"), "f", object("k", noise(1<<20, 1))))
	r.fail(exec.Crashed)
	if len(r.emitted) != 1 || len(r.emitted[0].Data) != 1<<20 {
		t.Fatalf("%d emissions", len(r.emitted))
	}
	b.await("the memory to be given back", func() bool { return b.Shared().Bytes == 0 })
}

func TestAnAttemptThatEndsLateKeepsItsInputsUntilItHasEnded(t *testing.T) {
	b := newBench(t, process.Settings{GroupProcesses: 1, SharedBytes: 4 << 20, CancelGrace: wait})
	command := goProgram(t, "memory")
	in := object("k", noise(3<<20, 1))
	held := b.submit(b.task(command, "holds", in))
	held.emission()
	b.submit(b.task(command, "sum", in)).succeed()
	if s := b.Shared(); s.Inputs.Objects != 1 || s.Inline.Objects != 1 {
		t.Fatalf("%+v: the place of inputs was used twice", s)
	}
	b.Cancel(held.task.Ref())
	held.fail(exec.Cancelled)
	b.await("the inputs' place to be free", func() bool {
		before := b.Shared().Inputs.Objects
		b.submit(b.task(command, "sum", in)).succeed()
		return b.Shared().Inputs.Objects == before+1
	})
}

func TestBuffersAreEmptyAndThoseThatAreForgottenAreGivenBack(t *testing.T) {
	const rounds = 12 // of two buffers of 1 MiB
	b := newBench(t, process.Settings{GroupProcesses: 1, SharedBytes: 8 << 20})
	for i := range rounds {
		key := fmt.Sprint(i)
		out := b.submit(b.task(goProgram(t, "memory"), "writes", object(key, nil))).succeed()
		if !bytes.Equal(out[0].Data, bytes.Repeat([]byte(key), 1<<20)[:1<<20]) {
			t.Fatalf("round %d: the object is another one", i)
		}
	}
	if s := b.Shared(); s.Outputs.Objects != rounds {
		t.Fatalf("%+v: not all were written in place", s)
	}
}

func TestMemoryOfIdleProcessesIsGivenBack(t *testing.T) {
	b := newBench(t, process.Settings{GroupProcesses: 1, SharedBytes: 8 << 20, IdleTimeout: 20 * time.Millisecond, GroupIdleTimeout: time.Hour})
	b.submit(b.task(goProgram(t, "memory"), "forgets")).succeed()
	b.await("outputs that were never sent to be given back", func() bool { return outputPages(t) == 0 })
	in := object("k", noise(6<<20, 1))
	command := goProgram(t, "functions")
	b.submit(b.task(command, "echo", in)).succeed()
	b.await("the outputs to be given back", func() bool { return outputPages(t) == 0 })
	if out := b.submit(b.task(command, "echo", in)).succeed(); !bytes.Equal(out[0].Data, in.Data) {
		t.Fatal("after that it came back changed")
	}
	if n := len(b.Processes()); n != 2 {
		t.Fatalf("%d processes are left, want one of each group", n)
	}
}

func TestInputsThatFindNoRoomGetThatOfAnIdleProcess(t *testing.T) {
	b := newBench(t, process.Settings{GroupProcesses: 1, SharedBytes: 4 << 20, IdleTimeout: time.Hour, GroupIdleTimeout: time.Hour})
	command := func(group string) []string { return append(goProgram(t, "memory"), group) }
	in := object("k", noise(3<<20, 1))
	for _, group := range []string{"one that holds nothing", "one that holds all"} {
		small := in
		if group == "one that holds nothing" {
			small.Data = in.Data[:100]
		}
		b.submit(b.task(command(group), "sum", small)).succeed()
	}
	before := b.Processes()
	b.await("room for another group's inputs", func() bool {
		inputs := b.Shared().Inputs.Objects
		b.submit(b.task(command("another"), "sum", in)).succeed()
		return b.Shared().Inputs.Objects > inputs
	})
	var after []string
	for _, p := range b.Processes() {
		after = append(after, p.Name)
	}
	if !slices.Contains(after, before[0].Name) || slices.Contains(after, before[1].Name) {
		t.Fatalf("of %+v and another one %q are left, want the first", before, after)
	}
}

func TestAProgramStartsWithoutMemoryIfThereIsNone(t *testing.T) {
	const size = 64 << 30
	for room, where := range map[uint64]string{size / 2: "for inputs", size * 3 / 2: "for outputs"} {
		t.Run(where, func(t *testing.T) {
			b := newBench(t, process.Settings{SharedBytes: size})
			limitAddresses(t, room)
			in := object("k", noise(1<<20, 1))
			if out := b.submit(b.task([]string{"python3", "functions.py"}, "echo", in)).succeed(); !bytes.Equal(out[0].Data, in.Data) {
				t.Fatal("it came back changed")
			}
			if s := b.Shared(); s.Inline.Objects != 2 || s.Bytes != 0 {
				t.Fatalf("%+v", s)
			}
			if left := memoryFiles(t); len(left) != 0 {
				t.Fatalf("%q are left of what could not be made", left)
			}
		})
	}
}

// limitAddresses has room for so many bytes of mappings more, until the test ends.
func limitAddresses(t *testing.T, room uint64) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	var pages uint64
	if _, err := fmt.Sscan(string(text), &pages); err != nil {
		t.Fatal(err)
	}
	var old unix.Rlimit
	if err := unix.Prlimit(0, unix.RLIMIT_AS, nil, &old); err != nil {
		t.Fatal(err)
	}
	limit := unix.Rlimit{Cur: pages*uint64(os.Getpagesize()) + room, Max: old.Max}
	if err := unix.Prlimit(0, unix.RLIMIT_AS, &limit, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Prlimit(0, unix.RLIMIT_AS, &old, nil); err != nil {
			t.Error(err)
		}
	})
}

// memoryFiles are the files of shared memory that this process has open.
func memoryFiles(t *testing.T) (paths []string) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		path := "/proc/self/fd/" + e.Name()
		if target, err := os.Readlink(path); err == nil && strings.HasPrefix(target, "/memfd:pheromone-") {
			paths = append(paths, path)
		}
	}
	return paths
}

// outputPages counts the memory, in blocks, that the outputs of all processes take up.
func outputPages(t *testing.T) (blocks int64) {
	t.Helper()
	for _, path := range memoryFiles(t) {
		if target, err := os.Readlink(path); err != nil || !strings.HasPrefix(target, "/memfd:pheromone-outputs") {
			continue
		}
		var stat unix.Stat_t
		if err := unix.Stat(path, &stat); err == nil {
			blocks += stat.Blocks
		}
	}
	return blocks
}
