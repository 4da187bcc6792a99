package process_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client/fn"
	"github.com/pheromone-run/pheromone/client/fn/protocol"
	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/exec/process"
	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/spec"
)

// childFunctions are the conformance functions about child sessions and deletions
// in Go.
func childFunctions() {
	fn.Handle("starts", func(ctx *fn.Context, in []fn.Object) error {
		return errors.Join(
			ctx.Put("out", "first", []byte("1")),
			ctx.Start("child", []byte("2")),
			ctx.Start("child", []byte("3"), fn.Into("results", "third"), fn.StartTimeout(1500*time.Millisecond), fn.ContentType("text/plain"), fn.Meta("region", "eu")),
			ctx.Start("child", nil, fn.StartTimeout(time.Minute), fn.Into("results", "")),
			ctx.Put("out", "last", []byte("5")),
		)
	})
	fn.Handle("starts_large", func(ctx *fn.Context, in []fn.Object) error {
		n, err := strconv.Atoi(string(in[0].Bytes()))
		return errors.Join(err, ctx.Start("child", make([]byte, n)))
	})
	fn.Handle("deletions", func(ctx *fn.Context, in []fn.Object) error {
		for _, o := range in {
			bucket := "put"
			if o.Deleted {
				bucket = "deleted"
			}
			if err := ctx.Put(bucket, o.Key, o.Bytes()); err != nil {
				return err
			}
		}
		return nil
	})
}

// asText shows emissions with what they point to.
func asText(t *testing.T, v any) string {
	t.Helper()
	text, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

var childScenarios = []scenario{
	{"starts of child sessions carry their options and are numbered with the puts", func(t *testing.T, b *bench, command []string) {
		out := b.submit(b.task(command, "starts")).succeed()
		want := []exec.Emission{
			{Seq: 1, Bucket: "out", Key: "first", Data: []byte("1")},
			{Seq: 2, Data: []byte("2"), Child: &exec.ChildStart{Function: "child"}},
			{
				Seq: 3, Bucket: "results", Key: "third", Data: []byte("3"), ContentType: "text/plain", Meta: map[string]string{"region": "eu"},
				Child: &exec.ChildStart{Function: "child", Timeout: 1500 * time.Millisecond},
			},
			{Seq: 4, Bucket: "results", Data: []byte{}, Child: &exec.ChildStart{Function: "child", Timeout: time.Minute}},
			{Seq: 5, Bucket: "out", Key: "last", Data: []byte("5")},
		}
		if got, want := asText(t, out), asText(t, want); got != want {
			t.Fatalf("got  %s\nwant %s", got, want)
		}
	}},
	{"the input of a child session has the bound of an object", func(t *testing.T, b *bench, command []string) {
		r := b.task(command, "starts_large", object("n", []byte("1001")))
		r.task.MaxObjectBytes = 1000
		if f := b.submit(r).fail(exec.Refused); !strings.Contains(f.Message, "child session") || !strings.Contains(f.Message, "1001 bytes, at most 1000") {
			t.Fatalf("failure %+v", f)
		}
		out := b.submit(b.task(command, "starts_large", object("n", []byte("2000000")))).succeed()
		if len(out) != 1 || len(out[0].Data) != 2_000_000 || out[0].Child == nil {
			t.Fatalf("%d emissions", len(out))
		}
	}},
	{"an input says whether it stands for a deletion", func(t *testing.T, b *bench, command []string) {
		gone := object("gone", []byte("its bytes"))
		gone.Deleted = true
		out := b.submit(b.task(command, "deletions", object("here", nil), gone, object("too", nil))).succeed()
		got := ""
		for _, e := range out {
			got += fmt.Sprintf("%s/%s=%s ", e.Bucket, e.Key, e.Data)
		}
		if got != "put/here= deleted/gone=its bytes put/too= " {
			t.Fatalf("got %s", got)
		}
	}},
}

// startsBadly sends, for the input of its first attempt, the frame of that name
// in badStarts.
func startsBadly() {
	conn := hello(`{"versions":[1],"sdk":"x","functions":["f"],"concurrency":8}`)
	r := protocol.NewReader(conn, 1<<20)
	var f protocol.Frame
	for range 2 {
		var err error
		if f, err = r.Next(); err != nil {
			panic(err)
		}
	}
	fields, payload := badStarts[string(f.Payload)]()
	var batch protocol.Batch
	batch.Add(protocol.Header{Type: protocol.Start, ID: f.ID}, fields, payload)
	for _, part := range batch.Parts() {
		_, _ = conn.Write(part)
	}
	select {}
}

var badStarts = map[string]func() (fields, payload []byte){
	"no object":         func() ([]byte, []byte) { return protocol.AppendField(nil, protocol.TagFunction, "f"), nil },
	"no function":       func() ([]byte, []byte) { return protocol.AppendObject(nil, protocol.Descriptor{}), nil },
	"an empty function": func() ([]byte, []byte) { return protocol.AppendField(oneObject(0), protocol.TagFunction, ""), nil },
	"two objects":       func() ([]byte, []byte) { return protocol.AppendObject(startOf(0), protocol.Descriptor{}), nil },
	"an object outside": func() ([]byte, []byte) { return startOf(4), []byte("abc") },
	"a key, no bucket":  func() ([]byte, []byte) { return protocol.AppendField(startOf(0), protocol.TagKey, "k"), nil },
	"a short timeout":   func() ([]byte, []byte) { return protocol.AppendField(startOf(0), protocol.TagTimeout, "1s"), nil },
	"no time":           func() ([]byte, []byte) { return protocol.AppendUint(startOf(0), protocol.TagTimeout, 999_999), nil },
	"more than a year": func() ([]byte, []byte) {
		return protocol.AppendUint(startOf(0), protocol.TagTimeout, uint64(spec.MaxSessionTimeout)+1), nil
	},
	"more than all time":  func() ([]byte, []byte) { return protocol.AppendUint(startOf(0), protocol.TagTimeout, 1<<64-1), nil },
	"cut metadata":        func() ([]byte, []byte) { return protocol.AppendField(startOf(0), protocol.TagMeta, "\xff\xff"), nil },
	"cut fields":          func() ([]byte, []byte) { return append(startOf(0), 5, 0, 9, 0), nil },
	"1001 bytes, of 1000": func() ([]byte, []byte) { return startOf(1001), make([]byte, 1001) },
}

func oneObject(size uint64) []byte {
	return protocol.AppendObject(nil, protocol.Descriptor{Length: size})
}

func startOf(size uint64) []byte {
	return protocol.AppendField(oneObject(size), protocol.TagFunction, "child")
}

func TestABadStartEndsItsAttemptAndStartsNothing(t *testing.T) {
	defer nodetest.NoGoroutinesLeft(t)
	for input, says := range map[string]string{
		"no object":           "a START without an object or a function",
		"no function":         "a START without an object or a function",
		"an empty function":   "a START without an object or a function",
		"two objects":         "a START with two objects",
		"an object outside":   "in a payload of 3",
		"a key, no bucket":    "a START with a key and without a bucket",
		"a short timeout":     "a number has 8",
		"no time":             "a START with a timeout of 999.999µs, a child session runs for 1ms to 8760h",
		"more than a year":    "a START with a timeout of 8760h0m0.000000001s",
		"more than all time":  "a START with a timeout of 1281023h53m",
		"cut metadata":        "a metadata field is cut short",
		"cut fields":          "claims 9 bytes",
		"1001 bytes, of 1000": `the input of a child session of function "child" has 1001 bytes, at most 1000 are allowed`,
	} {
		t.Run(input, func(t *testing.T) {
			b := newBench(t, process.Settings{CancelGrace: 100 * time.Millisecond, StopGrace: 200 * time.Millisecond})
			r := b.task(goProgram(t, "starts-badly"), "f", object("k", []byte(input)))
			r.task.MaxObjectBytes = 1000
			if f := b.submit(r).fail(exec.Refused); !strings.Contains(f.Message, says) {
				t.Fatalf("failure %+v does not say %q", f, says)
			}
			if len(r.emitted) != 0 {
				t.Fatalf("it emitted %s", asText(t, r.emitted))
			}
		})
	}
}
