package leader_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec"
)

var plainBuckets = manifest(`
functions: {echo: {runtime: inproc}}
buckets:
  notes: {}
  in: {triggers: [{name: t, primitive: immediate, target: echo}]}
`)

var echo = map[string]function{
	"echo": func(c *call) error {
		c.output(string(c.in[0].Key), string(c.in[0].Data))
		return nil
	},
}

func TestAnObjectOfASessionIsWrittenOnce(t *testing.T) {
	for _, size := range []int{0, 3, leader.InlineBytes, leader.InlineBytes + 1} {
		t.Run(fmt.Sprint(size, " bytes"), func(t *testing.T) {
			w := newWorld(t, 1, plainBuckets, echo)
			value := noise(size, 1)
			first := w.into("run", "notes", "k", value)
			again := w.into("run", "notes", "k", value)
			if first.Existed || !again.Existed || again.Revision != first.Revision {
				t.Errorf("first %+v, again %+v: equal bytes must change nothing", first, again)
			}
			_, err := w.tryInto("run", "notes", "k", value+"x")
			wantCode(t, err, spec.CodeConflict, `"k"`, "a client", fmt.Sprint("revision ", first.Revision))
			o, err := w.home("run").GetSession(context.Background(), "demo", "run", "notes", "k")
			if got := readAll(t, o, err); got != value {
				t.Errorf("the object has %d bytes that are not the first ones", len(got))
			}
			w.into("other", "notes", "k", value+"x") // another session has its own keys
		})
	}
}

func TestAConflictNamesTheInvocationThatHoldsTheKey(t *testing.T) {
	w := newWorld(t, 1, plainBuckets, map[string]function{"echo": func(c *call) error {
		c.put("notes", "k", "mine")
		return nil
	}})
	w.into("run", "in", "go", "")
	w.completed("run")
	_, err := w.tryInto("run", "notes", "k", "yours")
	wantCode(t, err, spec.CodeConflict, "invocation run.1")
}

func TestConditionalPutsAndDeletes(t *testing.T) {
	w := newWorld(t, 1, plainBuckets, echo)
	revision := func(r spec.Revision) *spec.Revision { return &r }
	put := func(value string, condition *spec.Revision, exists bool) (leader.PutResult, error) {
		return w.tryPut(leader.Put{Bucket: "notes", Key: "k", Body: strings.NewReader(value), IfRevision: condition, IfExists: exists})
	}
	_, err := put("a", revision(7), false)
	wantCode(t, err, spec.CodePrecondition, "not there", "7")
	_, err = put("a", nil, true)
	wantCode(t, err, spec.CodePrecondition, "not there")
	first, err := put("a", revision(0), false)
	if err != nil {
		t.Fatalf("a put of what is not there, if it is not there: %v", err)
	}
	_, err = put("b", revision(0), false)
	wantCode(t, err, spec.CodePrecondition, "there already", fmt.Sprint(first.Revision))
	second, err := put("b", revision(first.Revision), false)
	if err != nil {
		t.Fatalf("a put over the revision that is there: %v", err)
	}
	_, err = put("c", revision(first.Revision), false)
	wantCode(t, err, spec.CodePrecondition, fmt.Sprint(first.Revision), fmt.Sprint(second.Revision))
	third, err := put("c", nil, true)
	if err != nil || third.Revision <= second.Revision {
		t.Fatalf("a put over whatever is there: %+v, %v", third, err)
	}
	o, err := w.get("notes", "k")
	if got := readAll(t, o, err); got != "c" || o.Revision != third.Revision {
		t.Errorf("the object is %q at revision %d, want c at %d", got, o.Revision, third.Revision)
	}

	del := func(d leader.Delete) error {
		d.App, d.Bucket = "demo", "notes"
		_, err := w.homeOf("notes", string(d.Key)).Delete(context.Background(), d)
		return err
	}
	wantCode(t, del(leader.Delete{Key: "k", IfRevision: revision(second.Revision)}), spec.CodePrecondition)
	if err := del(leader.Delete{Key: "k", IfRevision: revision(third.Revision)}); err != nil {
		t.Fatalf("delete: %v", err)
	}
	wantCode(t, del(leader.Delete{Key: "k"}), spec.CodeNotFound)
	_, err = w.get("notes", "k")
	wantCode(t, err, spec.CodeNotFound)
	w.nothingLeft()
}

func TestAnObjectExpiresByItselfAndItsWatchSaysSo(t *testing.T) {
	w := newWorld(t, 1, plainBuckets, echo)
	put := func(key string, ttl time.Duration) {
		if _, err := w.tryPut(leader.Put{Bucket: "notes", Key: spec.Key(key), Body: strings.NewReader("v"), TTL: ttl}); err != nil {
			t.Fatalf("put: %v", err)
		}
	}
	put("replaced", 20*time.Minute)
	put("replaced", 0)
	put("short", 10*time.Minute)
	w.forward(5 * time.Minute)
	if o, err := w.get("notes", "short"); readAll(t, o, err) != "v" {
		t.Error("it is gone before its time")
	}
	w.forward(25 * time.Minute)
	eventually(t, "the short one is gone from the store", func() bool { return len(w.leftOf("short")) == 0 })
	_, err := w.get("notes", "short")
	wantCode(t, err, spec.CodeNotFound)
	put("after", 0)
	var got []string
	events, _, err := w.leaders[1].Changes("demo", "notes", "", 0, 100)
	if err != nil {
		t.Fatalf("changes: %v", err)
	}
	for _, e := range events {
		got = append(got, fmt.Sprintf("%s %s", e.Type, e.Object.Key))
	}
	wantLines(t, got, "put replaced", "put replaced", "put short", "expire short", "put after")
	o, err := w.get("notes", "replaced")
	if got := readAll(t, o, err); got != "v" {
		t.Errorf("an object that was put again without a time to live is %q", got)
	}
}

func TestARepeatedRequestGetsTheSameAnswerAndDoesNothing(t *testing.T) {
	w := newWorld(t, 1, plainBuckets, echo)
	put := func(p leader.Put, value string) (leader.PutResult, error) {
		p.Bucket, p.Key, p.Request, p.Body = "in", "k", "order-1", strings.NewReader(value)
		return w.tryPut(p)
	}
	first, err := put(leader.Put{}, "v")
	if err != nil {
		t.Fatalf("put: %v", err)
	}
	w.completed(first.Session, "k=v")
	w.restart()
	again, err := put(leader.Put{}, "v")
	if err != nil || again.Session != first.Session || again.Revision != first.Revision || !again.Existed {
		t.Fatalf("repeated: %+v, %v, want the answer %+v", again, err, first)
	}
	for name, other := range map[string]func() (leader.PutResult, error){
		"other bytes":      func() (leader.PutResult, error) { return put(leader.Put{}, "w") },
		"other metadata":   func() (leader.PutResult, error) { return put(leader.Put{Meta: map[string]string{"a": "b"}}, "v") },
		"into a session":   func() (leader.PutResult, error) { return put(leader.Put{Session: "s"}, "v") },
		"a time to live":   func() (leader.PutResult, error) { return put(leader.Put{TTL: time.Hour}, "v") },
		"another type":     func() (leader.PutResult, error) { return put(leader.Put{ContentType: "text/plain"}, "v") },
		"delivered later ": func() (leader.PutResult, error) { return put(leader.Put{DeliverAfter: time.Hour}, "v") },
	} {
		_, err := other()
		if spec.CodeOf(err) != spec.CodeConflict {
			t.Errorf("%s under the same idempotency key: %v, want a conflict", name, err)
		}
	}
	if n := w.run.count("echo"); n != 1 {
		t.Errorf("the function ran %d times", n)
	}
}

func TestObjectsAreListedByPrefixPageByPage(t *testing.T) {
	w := newWorld(t, 1, plainBuckets, echo)
	for i := range 25 {
		w.put("notes", fmt.Sprintf("a/%02d", i), "v")
		w.into("run", "notes", fmt.Sprintf("a/%02d", i), "v")
	}
	w.put("notes", "a", "v")
	w.put("notes", "b/00", "v")
	for _, of := range []string{"", "run"} {
		var got []string
		after := ""
		for {
			list := w.leaders[1].ListKV
			items, err := list(context.Background(), "demo", "notes", "a/", after, 10)
			if of != "" {
				items, err = w.leaders[1].ListSession(context.Background(), "demo", spec.SessionID(of), "notes", "a/", after, 10)
			}
			if err != nil {
				t.Fatalf("list: %v", err)
			}
			if len(items) == 0 {
				break
			}
			for _, o := range items {
				got = append(got, string(o.Key))
			}
			after = got[len(got)-1]
		}
		if len(got) != 25 || got[0] != "a/00" || got[24] != "a/24" {
			t.Errorf("session %q: listed %q", of, got)
		}
	}
}

func TestLargeObjectsPassThroughFunctionsAndLeaveNothingBehind(t *testing.T) {
	w := newWorld(t, 1, manifest(`
functions: {upper: {runtime: inproc}, last: {runtime: inproc}}
buckets:
  in: {triggers: [{name: t, primitive: immediate, target: upper}]}
  mid: {triggers: [{name: t, primitive: immediate, target: last}]}
`), map[string]function{
		"upper": func(c *call) error {
			c.emit(exec.Emission{Bucket: "mid", Key: "m", Data: append(c.in[0].Data, '!')})
			return nil
		},
		"last": func(c *call) error {
			c.output("size", fmt.Sprint(len(c.in[0].Data), c.in[0].Data[len(c.in[0].Data)-1] == '!'))
			return nil
		},
	})
	for round, size := range []int{5 << 20, leader.InlineBytes + 1, 100, 3 << 20} {
		value := noise(size, uint64(round))
		id := w.put("in", "doc", value)
		w.completed(id, fmt.Sprintf("size=%d true", size+1))
		o, err := w.get("in", "doc")
		if got := readAll(t, o, err); got != value {
			t.Fatalf("the object of %d bytes came back with %d", size, len(got))
		}
	}
	if _, err := w.homeOf("in", "doc").Delete(context.Background(), leader.Delete{App: "demo", Bucket: "in", Key: "doc"}); err != nil {
		t.Fatalf("delete: %v", err)
	}
	w.forward(2 * time.Hour)
	w.nothingLeft() // sessions, their copies and all chunks go by themselves when they were kept for long enough
}

func TestAnObjectOverTheLimitIsRefusedAndStoresNothing(t *testing.T) {
	w := newWorld(t, 1, manifest("limits: {max_object_size: 100KiB}\nbuckets: {notes: {}}\n"), nil)
	_, err := w.tryPut(leader.Put{Bucket: "notes", Key: "k", Body: strings.NewReader(noise(100<<10+1, 1))})
	wantCode(t, err, spec.CodeTooLarge)
	_, err = w.tryPut(leader.Put{Bucket: "nowhere", Key: "k", Body: strings.NewReader(noise(100<<10, 1))})
	wantCode(t, err, spec.CodeNotFound, "nowhere")
	w.nothingLeft()
}

// More objects than the leader asks its memory for, and fewer.
func TestAnObjectOfASessionIsFoundHoweverManyThereAre(t *testing.T) {
	for _, objects := range []int{2, 1024, 1500} {
		t.Run(fmt.Sprint(objects), func(t *testing.T) {
			w := newWorld(t, 1, manifest("buckets: {kept: {}, other: {}, later: {}}\n"), nil)
			const id = "many"
			into := func(bucket, key, value string, wait time.Duration) (leader.PutResult, error) {
				return w.tryPut(leader.Put{Session: id, Bucket: spec.BucketName(bucket), Key: spec.Key(key), Body: strings.NewReader(value), DeliverAfter: wait})
			}
			// What is to be counted later keeps the session running, and in memory.
			if _, err := into("later", "x", "x", time.Hour); err != nil {
				t.Fatal(err)
			}
			var puts errgroup.Group
			puts.SetLimit(64)
			for i := range objects {
				puts.Go(func() error {
					_, err := into("kept", fmt.Sprint("k", i), fmt.Sprint("v", i), 0)
					return err
				})
			}
			if err := puts.Wait(); err != nil {
				t.Fatal(err)
			}
			for _, i := range []int{0, objects / 2, objects - 1} {
				key := fmt.Sprint("k", i)
				if res, err := into("kept", key, fmt.Sprint("v", i), 0); err != nil || !res.Existed {
					t.Errorf("the bytes of %s put again: %+v, %v, want that they were there", key, res, err)
				}
				if _, err := into("kept", key, "others", 0); spec.CodeOf(err) != spec.CodeConflict {
					t.Errorf("other bytes put under %s: %v, want a conflict", key, err)
				}
			}
			for _, name := range [][2]string{{"kept", fmt.Sprint("k", objects)}, {"other", "k0"}} {
				if res, err := into(name[0], name[1], "y", 0); err != nil || res.Existed {
					t.Errorf("put of %s: %+v, %v, want that it was not there", name, res, err)
				}
			}
		})
	}
}
