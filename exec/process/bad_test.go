package process_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	osexec "os/exec"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/pheromone-run/pheromone/client/fn"
	"github.com/pheromone-run/pheromone/client/fn/protocol"
	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/exec/process"
	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/spec"
)

// badPrograms are what goes wrong.
var badPrograms = map[string]func(){
	"exits": func() {
		fmt.Fprintln(os.Stderr, "no such module")
		os.Exit(3)
	},
	"silent": func() { select {} },
	"exits-midway": func() {
		fn.Handle("f", func(ctx *fn.Context, in []fn.Object) error {
			if string(in[0].Bytes()) == "stay" {
				return nil
			}
			fmt.Fprintln(os.Stderr, "last words")
			os.Exit(7)
			return nil
		})
		fn.Main()
	},
	"logs-and-exits": func() {
		fn.Handle("log", func(ctx *fn.Context, in []fn.Object) error {
			ctx.Log("last words")
			os.Exit(7)
			return nil
		})
		fn.Main()
	},
	"stubborn": func() {
		signal.Ignore(syscall.SIGTERM)
		hold := make(chan struct{})
		fn.Handle("hang", func(ctx *fn.Context, in []fn.Object) error {
			err := ctx.Put("out", "hanging", nil)
			<-hold
			return err
		})
		fn.Handle("waits", func(ctx *fn.Context, in []fn.Object) error {
			err := ctx.Put("out", "waiting", nil)
			<-ctx.Context().Done()
			return err
		})
		fn.Main()
	},
	"loud": func() {
		fn.Handle("f", func(ctx *fn.Context, in []fn.Object) error {
			line := append(bytes.Repeat([]byte("x"), 999), '\n')
			for range 100_000 {
				if _, err := os.Stdout.Write(line); err != nil {
					return err
				}
			}
			return nil
		})
		fn.Main()
	},
	"frames-on-stdout": func() {
		fn.Handle("f", func(ctx *fn.Context, in []fn.Object) error {
			var b protocol.Batch
			for id := range uint64(100) {
				b.Add(protocol.Header{Type: protocol.Error, ID: id}, nil, []byte(`{"kind":"permanent"}`))
			}
			_, err := os.Stdout.Write(b.Parts()[0])
			return err
		})
		fn.Main()
	},
	"garbage":         func() { sayHelloAnd(func(c net.Conn) { _, _ = c.Write(bytes.Repeat([]byte("garbage"), 1000)) }) },
	"huge-claim":      func() { sayHelloAnd(func(c net.Conn) { claim(c, protocol.Put, 1<<32-1, 0) }) },
	"huge-fields":     func() { sayHelloAnd(func(c net.Conn) { claim(c, protocol.Put, 40<<20, 39<<20) }) },
	"foreign-id":      func() { sayHelloAnd(func(c net.Conn) { claim(c, protocol.Result, 0, 0) }) },
	"closes":          func() { sayHelloAnd(func(c net.Conn) { _ = c.Close(); _ = unix.Close(protocol.FD) }) },
	"never-reads":     func() { sayHelloAnd(func(c net.Conn) { neverReads(c) }) },
	"asks-for-ever":   func() { sayHelloAnd(func(c net.Conn) { asksForEver(c) }) },
	"late-objects":    lateObjects,
	"gets-and-waits":  getsAndWaits,
	"old-protocol":    func() { hello(`{"versions":[99],"sdk":"x","functions":["f"],"concurrency":1}`); select {} },
	"no-json":         func() { hello(`{`); select {} },
	"no-concurrency":  func() { hello(`{"versions":[1],"sdk":"x","functions":["f"]}`); select {} },
	"one-at-a-time":   oneAtATime,
	"with-grandchild": withGrandchild,
	"prints-env":      printsEnv,
	"starts-badly":    startsBadly,
}

func hello(text string) net.Conn {
	conn, err := net.FileConn(os.NewFile(protocol.FD, "node"))
	if err != nil {
		panic(err)
	}
	var b protocol.Batch
	b.Add(protocol.Header{Type: protocol.Hello}, nil, []byte(text))
	if _, err := conn.Write(b.Parts()[0]); err != nil {
		panic(err)
	}
	return conn
}

// sayHelloAnd does something wrong once the first INVOKE has come.
func sayHelloAnd(wrong func(net.Conn)) {
	conn := hello(`{"versions":[1],"sdk":"x","functions":["f"],"concurrency":8}`)
	r := protocol.NewReader(conn, 1<<20)
	for range 2 {
		if _, err := r.Next(); err != nil {
			panic(err)
		}
	}
	wrong(conn)
	select {}
}

func claim(c net.Conn, kind protocol.Type, body, fields uint32) {
	h := protocol.Header{Type: kind, ID: 999, BodyBytes: body, FieldBytes: fields}
	_, _ = c.Write(h.Append(nil))
}

// neverReads asks for more answers than fit anywhere.
func neverReads(c net.Conn) {
	pings := bytes.Repeat(protocol.Header{Type: protocol.Ping}.Append(nil), 1000)
	for range 250 { // 6 MB
		_, _ = c.Write(pings)
	}
}

func asksForEver(c net.Conn) {
	fields := protocol.AppendField(protocol.AppendField(nil, protocol.TagBucket, "in"), protocol.TagKey, "none")
	var b protocol.Batch
	for n := range uint32(1000) {
		b.Add(protocol.Header{Type: protocol.Get, ID: 1, Arg: n}, fields)
	}
	for range 40 {
		_, _ = c.Write(b.Parts()[0])
	}
}

// lateObjects puts two objects in one frame when g is called, for the attempt before.
func lateObjects() {
	conn := hello(`{"versions":[1],"sdk":"x","functions":["f","g"],"concurrency":1}`)
	r := protocol.NewReader(conn, 1<<20)
	for {
		f, err := r.Next()
		if err != nil {
			os.Exit(0)
		}
		switch {
		case f.Type == protocol.Invoke && f.Arg == 0:
			_, _ = conn.Write(protocol.Header{Type: protocol.Result, ID: f.ID}.Append(nil))
		case f.Type == protocol.Invoke:
			var b protocol.Batch
			fields := protocol.AppendField(oneObject(0), protocol.TagBucket, "out")
			b.Add(protocol.Header{Type: protocol.Put, ID: f.ID - 1}, protocol.AppendObject(fields, protocol.Descriptor{}))
			_, _ = conn.Write(b.Parts()[0])
		}
	}
}

// manyGets is how many objects getsAndWaits asks for before it takes one: more than the
// sockets hold. largeGets of them are there.
const (
	manyGets  = 10_000
	largeGets = 200
)

// getsAndWaits reads what it has asked for when it is told to by a signal.
func getsAndWaits() {
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGUSR1)
	conn := hello(`{"versions":[1],"sdk":"x","functions":["f"],"concurrency":1}`)
	r := protocol.NewReader(conn, 1<<20)
	var f protocol.Frame
	next := func() {
		var err error
		if f, err = r.Next(); err != nil {
			os.Exit(1)
		}
	}
	next()
	next()
	invoke := f.ID
	var b protocol.Batch
	for n := range uint32(manyGets) {
		key := "k"
		if n >= largeGets {
			key = "none"
		}
		fields := protocol.AppendField(protocol.AppendField(nil, protocol.TagBucket, "in"), protocol.TagKey, key)
		b.Add(protocol.Header{Type: protocol.Get, ID: invoke, Arg: n}, fields)
	}
	_, _ = conn.Write(b.Parts()[0])
	fmt.Println("asked")
	<-told
	for range manyGets {
		next()
	}
	_, _ = conn.Write(protocol.Header{Type: protocol.Result, ID: invoke}.Append(nil))
	select {}
}

func oneAtATime() {
	conn := hello(`{"versions":[1],"sdk":"x","functions":["f","g","h"],"concurrency":1}`)
	r := protocol.NewReader(conn, 1<<20)
	for {
		f, err := r.Next()
		if err != nil {
			os.Exit(0)
		}
		if f.Type == protocol.Invoke {
			_, _ = conn.Write(protocol.Header{Type: protocol.Result, ID: f.ID}.Append(nil))
		}
	}
}

func withGrandchild() {
	fn.Handle("f", func(ctx *fn.Context, in []fn.Object) error {
		child := osexec.Command("sleep", "1000")
		if err := child.Start(); err != nil {
			return err
		}
		return ctx.Output(fmt.Append(nil, child.Process.Pid))
	})
	fn.Main()
}

func printsEnv() {
	fn.Handle("f", func(ctx *fn.Context, in []fn.Object) error {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			return err
		}
		var fds []string
		for _, e := range entries {
			target, err := os.Readlink("/proc/self/fd/" + e.Name())
			if err == nil && !strings.HasPrefix(target, "anon_inode:") && !strings.HasPrefix(target, "/proc/") && !strings.HasPrefix(target, "/sys/") {
				fds = append(fds, e.Name()+"="+target)
			}
		}
		status, err := os.ReadFile("/proc/self/status")
		text := strings.Join(os.Environ(), "\n") + "\n" + strings.Join(fds, "\n") + "\n" + string(status)
		if err != nil {
			return err
		}
		return ctx.Output([]byte(text))
	})
	fn.Main()
}

func TestBadPrograms(t *testing.T) {
	defer nodetest.NoGoroutinesLeft(t)
	for _, c := range []struct {
		name, program, kind, says string
	}{
		{"one that exits at once fails to start, with what it said last", "exits", exec.Start, "no such module"},
		{"one that says nothing fails to start", "silent", exec.Start, "did not say HELLO within"},
		{"one that speaks no version of ours fails to start", "old-protocol", exec.Start, "versions [99]"},
		{"one whose hello is no JSON fails to start", "no-json", exec.Start, "not the JSON"},
		{"one whose hello is out of bounds fails to start", "no-concurrency", exec.Start, "out of bounds"},
		{"one that exits in an attempt crashes it, with what it said last", "exits-midway", exec.Crashed, "exit status 7"},
		{"one that exits in an attempt leaves its last words", "exits-midway", exec.Crashed, "last words"},
		{"garbage on the socket is refused", "garbage", exec.Refused, "broke the executor protocol"},
		{"a frame that claims 4 GiB is refused", "huge-claim", exec.Refused, "PUT frame of 4294967295 bytes"},
		{"a frame with too many fields is refused", "huge-fields", exec.Refused, "bytes of fields"},
		{"a result for an attempt that never was is refused", "foreign-id", exec.Refused, "never given"},
		{"one that does not read what it is answered is ended", "never-reads", exec.Refused, "does not read what it is answered"},
		{"one that asks for objects and takes none is ended", "asks-for-ever", exec.Refused, "asked for more than 16384 objects"},
		{"one that closes its socket loses its attempt", "closes", exec.Lost, "closed its connection"},
		{"frames on stdout are only text", "frames-on-stdout", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := process.Settings{StopGrace: 200 * time.Millisecond, HelloTimeout: wait, CancelGrace: wait}
			switch c.program { // where it is what ends the attempt
			case "silent":
				s.HelloTimeout = time.Second
			case "closes":
				s.CancelGrace = 100 * time.Millisecond
			}
			b := newBench(t, s)
			r := b.submit(b.task(goProgram(t, c.program), "f", object("k", nil)))
			if c.kind == "" {
				r.succeed()
				return
			}
			if f := r.fail(c.kind); !strings.Contains(f.Message+f.Detail, c.says) {
				t.Fatalf("failure %+v does not say %q", f, c.says)
			}
		})
	}
}

func TestACommandThatIsNotThereFailsToStartAndIsTriedAgainLater(t *testing.T) {
	b := newBench(t, process.Settings{})
	for _, command := range [][]string{{"no-such-program"}, {"./no-such-program"}, {"./functions.py"}} {
		b.submit(b.task(command, "f")).fail(exec.Start)
		b.submit(b.task(command, "f")).fail(exec.Start)
	}
}

func TestAProcessIsReplacedAfterACrash(t *testing.T) {
	b := newBench(t, process.Settings{})
	command := goProgram(t, "exits-midway")
	b.submit(b.task(command, "f", object("k", nil))).fail(exec.Crashed)
	b.submit(b.task(command, "f", object("k", []byte("stay")))).succeed()
}

func TestAnAttemptThatIgnoresItsTimeoutCostsTheProcess(t *testing.T) {
	b := newBench(t, process.Settings{GroupProcesses: 1, CancelGrace: 20 * time.Millisecond, SuspectLimit: 100 * time.Millisecond, StopGrace: 200 * time.Millisecond})
	command := goProgram(t, "stubborn")
	other := b.submit(b.task(command, "waits"))
	other.emission()
	hung := b.task(command, "hang")
	hung.task.Timeout = 30 * time.Millisecond
	b.submit(hung).fail(exec.TimedOut)
	other.fail(exec.Lost)

	alone := b.task(command, "hang")
	b.submit(alone).emission()
	b.Cancel(alone.task.Ref())
	alone.fail(exec.Cancelled)
	b.await("the process to be killed", func() bool { return len(b.Processes()) == 0 })
}

func TestAFloodOfOutputIsBoundedAndSaidToBe(t *testing.T) {
	b := newBench(t, process.Settings{})
	b.submit(b.task(goProgram(t, "loud"), "f")).succeed()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	b.awaitLog(func(r exec.LogRecord) bool {
		return r.Stream == exec.StreamNode && strings.HasPrefix(r.Text, "dropped ")
	})
	size := 0
	for _, r := range b.logs {
		size += len(r.Text)
	}
	if size > 20<<20 {
		t.Fatalf("%d bytes were kept of 100 MB", size)
	}
}

func TestTwoObjectsInOneFrameAreRefusedAlsoFromAnAttemptThatHasEnded(t *testing.T) {
	b := newBench(t, process.Settings{})
	command := goProgram(t, "late-objects")
	b.submit(b.task(command, "f")).succeed()
	if f := b.submit(b.task(command, "g")).fail(exec.Refused); !strings.Contains(f.Message, "a PUT with two objects") {
		t.Fatalf("failure %+v", f)
	}
}

// countedGets is a sink that counts what is read.
type countedGets struct {
	*run
	n atomic.Int64
}

func (c *countedGets) Get(ctx context.Context, t *exec.Task, bucket spec.BucketName, key spec.Key) (exec.Input, error) {
	c.n.Add(1)
	return c.run.Get(ctx, t, bucket, key)
}

func TestObjectsAreReadNoFasterThanTheyAreTaken(t *testing.T) {
	b := newBench(t, process.Settings{})
	r := b.task(goProgram(t, "gets-and-waits"), "f")
	r.objects["k"] = object("k", noise(60<<10, 1))
	gets := &countedGets{run: r}
	r.task.Sink = gets
	b.submit(r)
	b.awaitLog(func(l exec.LogRecord) bool { return l.Text == "asked" })
	b.await("objects to be read", func() bool { return gets.n.Load() >= 64 })
	pid := b.Processes()[0].PID
	for range 100 { // others go on meanwhile
		b.submit(b.task(goProgram(t, "functions"), "echo", object("k", nil))).succeed()
	}
	if n := gets.n.Load(); n > 128 {
		t.Errorf("%d objects were read for a program that takes none", n)
	}
	if err := unix.Kill(pid, unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	r.succeed()
	if n := gets.n.Load(); n != manyGets {
		t.Errorf("%d objects were read, want %d", n, manyGets)
	}
}
