package store_test

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

var update = flag.Bool("update", false, "write the golden files anew")

// record is one kind of record: a value with every field set, how one is drawn,
// and the pair that encodes and decodes.
type record struct {
	name   string
	full   any
	draw   func(*rapid.T) any
	encode func(any) []byte
	decode func([]byte) (any, error)
}

func kind[T any](name string, full T, encode func([]byte, *T) []byte, decode func([]byte) (T, error)) record {
	gen := rapid.Make[T]()
	return record{
		name:   name,
		full:   full,
		draw:   func(t *rapid.T) any { return gen.Draw(t, name) },
		encode: func(v any) []byte { r := v.(T); return encode([]byte("before"), &r)[len("before"):] },
		decode: func(b []byte) (any, error) { return decode(b) },
	}
}

func records() []record {
	failure := &store.Failure{Kind: "crash", Message: "exit status 1", Detail: "trace", Function: "count", Invocation: 7, Attempts: 3}
	blob := store.Blob{ID: [16]byte{1, 2, 15: 16}, Size: 3 << 20, Chunks: 3, Codec: store.CodecS2, CRC: 0xdeadbeef, Sum: store.Sum{7, 15: 8}}
	object := store.Object{
		Revision: 9, Created: 1_700_000_000_000_000, Expires: 2, Deliver: 3, Producer: 4, Session: "s1", Key: "a/b", Size: 5,
		ContentType: "text/plain", Meta: map[string]string{"b": "2", "a": "1"}, Output: true, Inline: []byte("hello"), Blob: &blob,
		Deleted: true,
	}
	parent := &store.Parent{Session: "p", Awaited: true, Depth: 2}
	return []record{
		kind("object", object, store.AppendObject, store.DecodeObject),
		kind("blob", blob, store.AppendBlob, store.DecodeBlob),
		kind("session", store.Session{
			AppVersion: 1, State: store.SessionFailed, Created: 2, Ended: 3, Purge: 4,
			Origin:      store.Origin{Kind: store.OriginTrigger, Bucket: "b", Key: "k", Revision: 5, Trigger: "t", Session: "s"},
			Invocations: 6, Pending: 7, Timers: 8, Mail: 9, Objects: 10, Outputs: 11, Blobs: 12, Held: 13, Machines: 14, Failure: failure,
			Buckets: []spec.BucketName{"words", "@count"},

			OutputBuckets: []spec.BucketName{"words"},
			Functions:     []store.FunctionCount{{Function: "f", Pending: 1, Total: 2, Parents: []spec.FunctionName{"g", "h"}}},
			Deadline:      15, Parent: parent, Children: 16, Awaited: 17,
		}, store.AppendSession, store.DecodeSession),
		kind("invocation", store.Invocation{
			Function: "f", State: store.InvocationRetrying, Bucket: "b", Trigger: "t", Group: "g", Window: 1,
			Inputs: []store.InputRef{{Bucket: "b", Key: "k", Revision: 2, Producer: 3, Held: true, Source: "s2"}},
			Queued: 4, Ended: 5, Next: 6, Tries: 7, Lost: 8,
			Attempts: []store.Attempt{{Number: 1, Started: 2, Ended: 3, Executor: "n1/1", Failure: failure}},
			Joins:    []uint64{1, 300}, Handled: true, Traceparent: "00-ab-cd-01",
			Expects: []store.Expect{{Bucket: "b", Trigger: "t", Due: 5, Runs: 2}},
		}, store.AppendInvocation, store.DecodeInvocation),
		kind("trigger_state", store.TriggerState{Timer: 1, Header: []byte{1, 2}, Primitive: spec.ByTime, Stalled: 9}, store.AppendTriggerState, store.DecodeTriggerState),
		kind("item", store.Item{Key: "k", Group: "g", Time: -5}, store.AppendItem, store.DecodeItem),
		kind("named_set", store.NamedSet{Keys: []spec.Key{"x", "y"}, Time: -5}, store.AppendNamedSet, store.DecodeNamedSet),
		kind("request", store.Request{Session: "s", Bucket: "b", Key: "k", Revision: 1, Expires: 2, Fingerprint: 3}, store.AppendRequest, store.DecodeRequest),
		kind("event", store.Event{Kind: store.EventDelete, App: "a", Bucket: "b", Key: "k", Object: object}, store.AppendEvent, store.DecodeEvent),
		kind("mail", store.Mail{
			Kind: store.MailStart, Slot: 4095, App: "a", Bucket: "b", Trigger: "t", Session: "s", Object: object, Keys: []spec.Key{"x", "y"},
			To: "c", State: store.SessionFailed, Deadline: 5, Parent: parent, Incarnation: 6,
		}, store.AppendMail, store.DecodeMail),
		kind("child", store.Child{Function: "f", Started: 1, Ended: 2, State: store.SessionFailed, Awaited: true, Bucket: "b", Key: "k", Producer: 3}, store.AppendChild, store.DecodeChild),
		kind("shard_meta", store.ShardMeta{Applied: 1, Epoch: 2 << 20, Seq: 3}, store.AppendShardMeta, store.DecodeShardMeta),
		kind("counters", store.Counters{Revision: 1, Mail: 2, Compacted: 3}, store.AppendCounters, store.DecodeCounters),
		kind("count", uint64(300), func(dst []byte, n *uint64) []byte { return store.AppendCount(dst, *n) }, store.DecodeCount),
	}
}

func TestRecordsComeBackAsTheyWere(t *testing.T) {
	for _, r := range records() {
		t.Run(r.name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				want := r.draw(t)
				if m, ok := want.(store.Mail); ok {
					m.Slot %= spec.Slots
					want = m
				}
				src := r.encode(want)
				got, err := r.decode(src)
				if err != nil {
					t.Fatal(err)
				}
				if !reflect.DeepEqual(emptyAsNil(got), emptyAsNil(want)) {
					t.Fatalf("%+v came back as %+v", want, got)
				}
				if again := r.encode(got); !bytes.Equal(again, src) {
					t.Fatalf("%x encodes as %x the second time", src, again)
				}
				if _, err := r.decode(src[:rapid.IntRange(0, len(src)-1).Draw(t, "cut")]); err == nil {
					t.Fatal("a record that is cut short was read")
				}
				if _, err := r.decode(append(src, 0)); err == nil {
					t.Fatal("a record with a byte too many was read")
				}
			})
		})
	}
}

func TestEveryFieldOfARecordIsStored(t *testing.T) {
	for _, r := range records() {
		t.Run(r.name, func(t *testing.T) {
			checkNoZero(t, reflect.ValueOf(r.full), r.name)
			got, err := r.decode(r.encode(r.full))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, r.full) {
				t.Errorf("%+v came back as %+v", r.full, got)
			}
		})
	}
}

// checkNoZero makes sure that a field added to a record is added to this test.
func checkNoZero(t *testing.T, v reflect.Value, path string) {
	t.Helper()
	if v.IsZero() {
		t.Errorf("%s is not set in the test's record: set it", path)
	}
	switch v.Kind() {
	case reflect.Pointer:
		checkNoZero(t, v.Elem(), path)
	case reflect.Struct:
		for i := range v.NumField() {
			checkNoZero(t, v.Field(i), path+"."+v.Type().Field(i).Name)
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Struct {
			checkNoZero(t, v.Index(0), path+"[0]")
		}
	}
}

func TestRecordsOfAllVersionsStayReadable(t *testing.T) {
	for _, r := range records() {
		t.Run(r.name, func(t *testing.T) {
			newest := filepath.Join("testdata", "records_v3", r.name+".hex")
			encoded := hex.EncodeToString(r.encode(r.full)) + "\n"
			if *update {
				if err := os.MkdirAll(filepath.Dir(newest), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(newest, []byte(encoded), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if golden := readGolden(t, r, newest, r.full); golden != encoded {
				t.Errorf("the format on disk has changed: a change needs a new record version\n got %s\nwant %s", encoded, golden)
			}
			readGolden(t, r, filepath.Join("testdata", "records_v2", r.name+".hex"), asOfVersion2(r.full))
			if r.name != "child" && r.name != "named_set" { // which came with version 2
				readGolden(t, r, filepath.Join("testdata", "records_v1", r.name+".hex"), asOfVersion1(r.full))
			}
		})
	}
}

// readGolden checks that the record in a golden file reads as want.
func readGolden(t *testing.T, r record, file string, want any) string {
	t.Helper()
	golden, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	src, err := hex.DecodeString(strings.TrimSpace(string(golden)))
	if err != nil {
		t.Fatal(err)
	}
	got, err := r.decode(src)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s: read %+v, want %+v", file, got, want)
	}
	return string(golden)
}

// asOfVersion2 returns a record without what version 2 did not have.
func asOfVersion2(full any) any {
	if m, ok := full.(store.Mail); ok {
		m.Incarnation = store.AnyIncarnation
		return m
	}
	return full
}

// asOfVersion1 returns a record without what version 1 did not have.
func asOfVersion1(full any) any {
	switch v := full.(type) {
	case store.Object:
		v.Deleted = false
		return v
	case store.Event:
		v.Object.Deleted = false
		return v
	case store.Session:
		v.Deadline, v.Parent, v.Children, v.Awaited = 0, nil, 0, 0
		return v
	case store.TriggerState:
		v.Stalled = 0
		return v
	case store.Mail:
		return store.Mail{
			Kind: store.MailSet, Slot: v.Slot, App: v.App, Bucket: v.Bucket, Trigger: v.Trigger, Session: v.Session,
			Object: asOfVersion1(v.Object).(store.Object), Keys: v.Keys,
			Incarnation: store.AnyIncarnation,
		}
	}
	return full
}

func TestRecordsOfOtherVersionsAreRefused(t *testing.T) {
	for _, r := range records() {
		src := r.encode(r.full)
		src[0] = 4
		if _, err := r.decode(src); err == nil || !strings.Contains(err.Error(), "version 4") {
			t.Errorf("%s: error %v, want one that names the version", r.name, err)
		}
	}
}

func TestALengthBeyondTheRecordAllocatesNothing(t *testing.T) {
	// 2^40 inputs, in a record of a few bytes.
	src := []byte{1, 0, 1, 0, 0, 0, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x20, 1, 2, 3}
	if _, err := store.DecodeInvocation(src); err == nil {
		t.Fatal("it was read")
	}
}

func TestInlineBytesAreAPartOfTheRecord(t *testing.T) {
	src := store.AppendObject(nil, &store.Object{Inline: []byte("hello")})
	o, err := store.DecodeObject(src)
	if err != nil {
		t.Fatal(err)
	}
	src[bytes.Index(src, []byte("hello"))] = 'j'
	if string(o.Inline) != "jello" {
		t.Errorf("%q: the bytes were copied", o.Inline)
	}
	if grown := append(o.Inline, 'x'); &grown[0] == &o.Inline[0] {
		t.Error("appending to the bytes writes into the record")
	}
}

func FuzzRecordsFromAnywhereGiveAnErrorOrComeBackEqual(f *testing.F) {
	all := records()
	for i, r := range all {
		f.Add(byte(i), r.encode(r.full))
	}
	f.Fuzz(func(t *testing.T, which byte, src []byte) {
		r := all[int(which)%len(all)]
		v, err := r.decode(src)
		if err != nil {
			return
		}
		again, err := r.decode(r.encode(v))
		if err != nil {
			t.Fatalf("%s: %x was read as %+v, whose record is refused: %v", r.name, src, v, err)
		}
		if !reflect.DeepEqual(again, v) {
			t.Fatalf("%s: %+v came back as %+v", r.name, v, again)
		}
	})
}

// emptyAsNil returns v with empty slices and maps as nil, as records keep them.
func emptyAsNil(v any) any {
	out := reflect.New(reflect.TypeOf(v)).Elem()
	out.Set(reflect.ValueOf(v))
	setNil(out)
	return out.Interface()
}

func setNil(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			setNil(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			setNil(v.Field(i))
		}
	case reflect.Slice, reflect.Map:
		if v.Len() == 0 {
			v.SetZero()
			return
		}
		for i := range v.Len() {
			if v.Kind() == reflect.Slice {
				setNil(v.Index(i))
			}
		}
	}
}

func TestTheAppOfAChangeIsReadWithoutTheRest(t *testing.T) {
	value := store.AppendEvent(nil, &store.Event{Kind: store.EventDropped, App: "demo", Bucket: "b", Key: "k"})
	if kind, app, err := store.DecodeEventApp(value); kind != store.EventDropped || app != "demo" || err != nil {
		t.Errorf("%d %q, %v", kind, app, err)
	}
	for n := range 6 {
		if kind, app, err := store.DecodeEventApp(value[:n]); err == nil {
			t.Errorf("cut to %d bytes: %d %q", n, kind, app)
		}
	}
}
