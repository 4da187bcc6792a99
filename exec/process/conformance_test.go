package process_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/exec/process"
	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/spec"
)

// scenario is one thing that every SDK does alike.
type scenario struct {
	name string
	run  func(t *testing.T, b *bench, command []string)
}

// TestEverySDK runs each scenario against each SDK, all scenarios of an SDK in
// one runtime.
func TestEverySDK(t *testing.T) {
	defer nodetest.NoGoroutinesLeft(t)
	for sdk, command := range map[string][]string{
		"go":     goProgram(t, "functions"),
		"python": {"python3", "functions.py"},
	} {
		t.Run(sdk, func(t *testing.T) {
			b := newBench(t, process.Settings{MaxObjectBytes: 16 << 20, CancelGrace: 500 * time.Millisecond})
			for _, s := range slices.Concat(scenarios, childScenarios) {
				t.Run(s.name, func(t *testing.T) {
					b.t = t
					s.run(t, b, command)
				})
			}
		})
	}
}

var scenarios = []scenario{
	{"objects of any size come back as they went", func(t *testing.T, b *bench, command []string) {
		for _, size := range []int{0, 1, 100, 16 << 10, 64<<10 - 24, 64 << 10, 1 << 20, 8 << 20} {
			data := make([]byte, size)
			for i := range data {
				data[i] = byte(i * i >> 3)
			}
			in := object("k", data)
			in.ContentType, in.Meta = "application/x", map[string]string{"a": "b\x00c", "": "unnamed"}
			out := b.submit(b.task(command, "echo", in)).succeed()
			if len(out) != 1 || !bytes.Equal(out[0].Data, data) || out[0].Key != "k" || out[0].Bucket != "out" ||
				out[0].ContentType != "application/x" || fmt.Sprint(out[0].Meta) != fmt.Sprint(in.Meta) {
				t.Fatalf("%d bytes came back as %d emissions, first %q %v", size, len(out), out[0].Key, out[0].Meta)
			}
		}
	}},
	{"several inputs keep their order", func(t *testing.T, b *bench, command []string) {
		var in []exec.Input
		for i := range 3000 {
			in = append(in, object(fmt.Sprintf("k%04d", i), bytes.Repeat([]byte{byte(i)}, i%50)))
		}
		out := b.submit(b.task(command, "echo", in...)).succeed()
		if len(out) != len(in) {
			t.Fatalf("%d objects came back, want %d", len(out), len(in))
		}
		for i := range out {
			if out[i].Key != in[i].Key || !bytes.Equal(out[i].Data, in[i].Data) {
				t.Fatalf("object %d is %q", i, out[i].Key)
			}
		}
	}},
	{"no input is an empty list", func(t *testing.T, b *bench, command []string) {
		if out := b.submit(b.task(command, "echo")).succeed(); len(out) != 0 {
			t.Fatalf("emitted %d objects", len(out))
		}
	}},
	{"puts carry their options", func(t *testing.T, b *bench, command []string) {
		out := b.submit(b.task(command, "options")).succeed()
		want := []exec.Emission{
			{Seq: 1, Bucket: "out", Key: "all", Data: []byte("1"), ContentType: "text/plain", Meta: map[string]string{"region": "eu", "empty": ""}, Output: true, DeliverAfter: 1500 * time.Millisecond},
			{Seq: 2, Bucket: "out", Data: []byte("2")},
			{Seq: 3, Bucket: "@other", Data: []byte("3")},
			{Seq: 4, Bucket: "@", Data: []byte("4"), Output: true},
			{Seq: 5, Bucket: "sets", JoinTrigger: "ready", JoinKeys: []spec.Key{"a", "b"}},
			{Seq: 6, Bucket: "out", Key: "made", Data: []byte("hello")},
		}
		if fmt.Sprintf("%+v", out) != fmt.Sprintf("%+v", want) {
			t.Fatalf("got  %+v\nwant %+v", out, want)
		}
	}},
	{"a thousand puts come in order with the result", func(t *testing.T, b *bench, command []string) {
		out := b.submit(b.task(command, "puts", object("n", []byte("1000")))).succeed()
		if len(out) != 1000 || out[999].Key != "k999" {
			t.Fatalf("%d emissions", len(out))
		}
	}},
	{"get finds an object and sends the puts before it", func(t *testing.T, b *bench, command []string) {
		r := b.task(command, "read", object("name", []byte("there")))
		r.objects["there"] = exec.Input{Bucket: "in", Key: "there", Session: "s1", ContentType: "text/x", Meta: map[string]string{"m": "v"}, Data: bytes.Repeat([]byte("ab"), 100_000)}
		out := b.submit(r).succeed()
		if len(out) != 2 || out[1].Key != "found" || len(out[1].Data) != 200_000 || out[1].ContentType != "text/x" || out[1].Meta["m"] != "v" {
			t.Fatalf("emitted %d, last %q of %d bytes", len(out), out[len(out)-1].Key, len(out[len(out)-1].Data))
		}
		if r.emits == 0 {
			t.Fatal("the put before the get was held back")
		}
	}},
	{"get tells what is not there", func(t *testing.T, b *bench, command []string) {
		out := b.submit(b.task(command, "read", object("name", []byte("nowhere")))).succeed()
		if len(out) != 2 || out[1].Key != "missing" || len(out[1].Data) != 0 {
			t.Fatalf("emitted %+v", out)
		}
	}},
	{"the context knows the invocation", func(t *testing.T, b *bench, command []string) {
		in := exec.Input{Bucket: "elsewhere", Key: "k", Session: "s2", ContentType: "c", Meta: map[string]string{"m": "é"}, Data: []byte("12345")}
		r := b.task(command, "info", in)
		r.task.Attempt, r.task.Group, r.task.Traceparent = 3, "g", "00-x"
		r.task.Window = time.Unix(1_700_000_000, 0)
		out := b.submit(r).succeed()
		var got map[string]any
		if err := json.Unmarshal(out[0].Data, &got); err != nil {
			t.Fatal(err)
		}
		want := map[string]any{
			"invocation": r.task.Invocation.String(), "session": "s1", "attempt": 3.0, "bucket": "in", "trigger": "tr", "group": "g", "window": "2023-11-14T22:13:20Z",
			"traceparent": "00-x", "function": "info", "deadline": true, "in": []any{"elsewhere", "k", "s2", "c", "é", "5"},
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("got  %v\nwant %v", got, want)
		}
	}},
	{"an error fails the attempt, its puts come along", func(t *testing.T, b *bench, command []string) {
		r := b.submit(b.task(command, "fails"))
		if f := r.fail(exec.Failed); !strings.Contains(f.Message, "no luck") || len(r.emitted) != 1 {
			t.Fatalf("failure %+v with %d emissions", f, len(r.emitted))
		}
	}},
	{"a permanent error says so", func(t *testing.T, b *bench, command []string) {
		if f := b.submit(b.task(command, "permanent")).fail(exec.Permanent); !strings.Contains(f.Message, "never again") {
			t.Fatalf("failure %+v", f)
		}
	}},
	{"an exception fails the attempt with its stack", func(t *testing.T, b *bench, command []string) {
		f := b.submit(b.task(command, "crashes")).fail(exec.Failed)
		if !strings.Contains(f.Message, "nothing here") || !strings.Contains(f.Detail, "main_test.go") && !strings.Contains(f.Detail, "functions.py") {
			t.Fatalf("failure %+v", f)
		}
		b.submit(b.task(command, "echo")).succeed()
	}},
	{"attempts run at once", func(t *testing.T, b *bench, command []string) {
		var all []*run
		for range 40 {
			all = append(all, b.submit(b.task(command, "meets")))
		}
		for _, r := range all {
			r.emission()
		}
		for _, r := range all {
			r.mu.Lock()
			r.objects["go"] = object("go", nil)
			r.mu.Unlock()
		}
		for _, r := range all {
			r.succeed()
		}
	}},
	{"a cancelled attempt ends at once and its function is told", func(t *testing.T, b *bench, command []string) {
		r := b.submit(b.task(command, "waits"))
		r.emission()
		b.Cancel(r.task.Ref())
		r.fail(exec.Cancelled)
		b.await("the function to end", func() bool { return b.running() == 0 })
	}},
	{"an attempt past its timeout ends and its function is told", func(t *testing.T, b *bench, command []string) {
		r := b.task(command, "waits")
		r.task.Timeout = 50 * time.Millisecond
		b.submit(r).fail(exec.TimedOut)
		b.await("the function to end", func() bool { return b.running() == 0 })
	}},
	{"an attempt whose emission is refused is told to stop", func(t *testing.T, b *bench, command []string) {
		r := b.task(command, "waits")
		r.refuse = spec.Errorf(spec.CodeConflict, "key %q is taken", "waiting")
		if f := b.submit(r).fail(exec.Conflict); f.Message != `key "waiting" is taken` {
			t.Fatalf("failure %+v", f)
		}
		b.await("the function to end", func() bool { return b.running() == 0 })
	}},
	{"what is logged and printed is attributed", func(t *testing.T, b *bench, command []string) {
		r := b.submit(b.task(command, "logs"))
		r.succeed()
		for stream, text := range map[string]string{exec.StreamLog: "a line", exec.StreamStdout: "printed"} {
			got := b.awaitLog(func(l exec.LogRecord) bool { return l.Text == text && l.Invocation == r.task.Invocation.String() })
			if got.Stream != stream || got.App != "app" || got.Function != "logs" || got.Attempt != 1 {
				t.Fatalf("record %+v", got)
			}
		}
	}},
	{"an object over the app's bound is refused", func(t *testing.T, b *bench, command []string) {
		r := b.task(command, "oversize", object("n", []byte("1001")))
		r.task.MaxObjectBytes = 1000
		if f := b.submit(r).fail(exec.Refused); !strings.Contains(f.Message, "1001 bytes, at most 1000") {
			t.Fatalf("failure %+v", f)
		}
		b.submit(b.task(command, "oversize", object("n", []byte("1001")))).succeed()
	}},
	{"inputs over the bound are refused", func(t *testing.T, b *bench, command []string) {
		small := newBench(t, process.Settings{MaxInputBytes: 1000})
		if f := small.submit(small.task(command, "echo", object("k", make([]byte, 1001)))).fail(exec.Refused); !strings.Contains(f.Message, "at most 1000") {
			t.Fatalf("failure %+v", f)
		}
	}},
	{"an unknown function is refused with the names of the known", func(t *testing.T, b *bench, command []string) {
		f := b.submit(b.task(command, "nobody")).fail(exec.Refused)
		if !strings.Contains(f.Message, `"nobody"`) || !strings.Contains(f.Message, `"echo"`) {
			t.Fatalf("failure %+v", f)
		}
	}},
	{"an invocation id may be tried again in the same process", func(t *testing.T, b *bench, command []string) {
		r := b.task(command, "fails")
		b.submit(r).fail(exec.Failed)
		again := b.task(command, "echo", object("k", []byte("x")))
		again.task.Invocation, again.task.Attempt = r.task.Invocation, 2
		b.submit(again).succeed()
	}},
}

// running counts the attempts that processes still work on.
func (b *bench) running() (n int) {
	for _, p := range b.Processes() {
		n += p.Running
	}
	return n
}

func TestTypedHandlersTakeAndGiveJSON(t *testing.T) {
	b := newBench(t, process.Settings{})
	command := goProgram(t, "functions")
	out := b.submit(b.task(command, "typed", object("k", []byte("[1,2,3]")))).succeed()
	if len(out) != 1 || string(out[0].Data) != `{"sum":6}` || !out[0].Output || out[0].ContentType != "application/json" {
		t.Fatalf("emitted %+v", out)
	}
	out = b.submit(b.task(command, "typed", object("a", []byte("4")), object("b", []byte("5")))).succeed()
	if string(out[0].Data) != `{"sum":9}` {
		t.Fatalf("emitted %s", out[0].Data)
	}
	b.submit(b.task(command, "typed", object("k", []byte("{")))).fail(exec.Permanent)
}
