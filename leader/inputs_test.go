package leader_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// inputsManifest has a function for inputs of a session and one for held ones.
const inputsManifest = `
apiVersion: pheromone/v1
app: demo
functions:
  one: {runtime: inproc}
  set: {runtime: inproc}
  batch: {runtime: inproc}
buckets:
  in: {triggers: [{name: each, primitive: immediate, target: one}]}
  parts: {triggers: [{name: all, primitive: by_set, target: set, keys: [a, b]}]}
  many: {triggers: [{name: two, primitive: by_batch_size, target: batch, count: 2}]}
`

func TestInputsCanBeReadByReferenceFromACopyOfTheShard(t *testing.T) {
	large := strings.Repeat("x", 3<<20)
	read := make(chan error, 10)
	var w *world
	check := func(c *call) error {
		err := sameByReference(c, w.db)
		read <- err
		return err
	}
	w = newWorld(t, 1, inputsManifest, map[string]function{
		"one": func(c *call) error {
			c.put("parts", "a", "small")
			c.put("parts", "b", large)
			return check(c)
		},
		"set": check, "batch": check,
	})
	w.result(w.put("in", "k", "v"))
	w.put("many", "1", large)
	w.put("many", "2", "")
	for range 3 {
		if err := <-read; err != nil {
			t.Error(err)
		}
	}
}

// sameByReference tells how what a Reader reads differs from what the attempt got.
func sameByReference(c *call, db *store.DB) error {
	reference, err := c.Source.(exec.Portable).Reference()
	if err != nil {
		return err
	}
	r := leader.Reader{DB: db}
	loaded, err := r.Load(context.Background(), reference)
	if err != nil {
		return fmt.Errorf("%s: load: %w", c.Function.Name, err)
	}
	var streamed []exec.Input
	err = r.Each(context.Background(), reference, func(in exec.Input, size int64, data io.Reader) error {
		var err error
		if in.Data, err = io.ReadAll(data); int64(len(in.Data)) != size {
			return fmt.Errorf("%d bytes, said to be %d", len(in.Data), size)
		}
		streamed = append(streamed, in)
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: stream: %w", c.Function.Name, err)
	}
	for _, got := range [][]exec.Input{loaded, streamed} {
		if len(got) != len(c.in) || len(got) == 0 {
			return fmt.Errorf("%s: %d inputs, want %d", c.Function.Name, len(got), len(c.in))
		}
		for i := range got {
			a, b := got[i], c.in[i]
			if a.Bucket != b.Bucket || a.Key != b.Key || a.Session != b.Session || a.ContentType != b.ContentType || !bytes.Equal(a.Data, b.Data) {
				return fmt.Errorf("%s: input %d is %s/%s of %s, want %s/%s of %s", c.Function.Name, i, a.Bucket, a.Key, a.Session, b.Bucket, b.Key, b.Session)
			}
		}
	}
	return nil
}

func TestACopyThatLacksAnInputSaysSo(t *testing.T) {
	references := make(chan []byte, 1)
	w := newWorld(t, 1, inputsManifest, map[string]function{"one": func(c *call) error {
		reference, err := c.Source.(exec.Portable).Reference()
		references <- reference
		return err
	}})
	w.result(w.put("in", "k", strings.Repeat("x", leader.InlineBytes+1)))
	reference := <-references
	empty, err := store.Open(t.TempDir(), store.Options{Node: "n2"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = empty.Close() }()
	if _, err := (leader.Reader{DB: empty}).Load(context.Background(), reference); err == nil {
		t.Fatal("inputs were read that are not there")
	}
	// The name of an object with another revision: one of an earlier session.
	other := bytes.Replace(reference, []byte(`"Revision":`), []byte(`"Revision":1`), 1)
	if bytes.Equal(other, reference) {
		t.Fatalf("no revision in %s", reference)
	}
	if _, err := (leader.Reader{DB: w.db}).Load(context.Background(), other); err == nil || !strings.Contains(err.Error(), "revision") {
		t.Fatalf("an object of another revision: %v", err)
	}
	if _, err := (leader.Reader{DB: w.db}).Load(context.Background(), []byte("junk")); spec.CodeOf(err) != spec.CodeInvalid {
		t.Fatalf("a reference that is none: %v", err)
	}
	if _, err := (leader.Reader{DB: w.db}).Load(context.Background(), reference); err != nil {
		t.Fatalf("what is there: %v", err)
	}
}

// What has just been put is given to its functions from memory. Each has a copy of its
// own, in every attempt.
func TestAFunctionMayWriteIntoItsInputs(t *testing.T) {
	manifest := `
apiVersion: pheromone/v1
app: demo
functions:
  first: {runtime: inproc, retry: {backoff: 1ms}}
  second: {runtime: inproc, retry: {backoff: 1ms}}
buckets:
  in:
    triggers:
      - {name: both, primitive: immediate, target: [first, second]}
      - {name: again, primitive: immediate, target: first}
  fast:
    durability: ephemeral
    triggers: [{name: both, primitive: immediate, target: [first, second]}]
`
	got := make(chan error, 100)
	scribble := func(c *call) error {
		in := c.in[0]
		want := strings.Repeat("x", len(in.Data))
		var err error
		if string(in.Data) != want || len(in.Data) != mustAtoi(t, string(in.Key)) || in.ContentType != "text/x" {
			err = fmt.Errorf("%s, attempt %d: input %s of type %q is %.20q, %d bytes", c.Function.Name, c.Attempt, in.Key, in.ContentType, in.Data, len(in.Data))
		}
		for i := range in.Data {
			in.Data[i] = 'y'
		}
		got <- err
		if c.Attempt == 1 {
			return errors.New("once more")
		}
		return nil
	}
	w := newWorld(t, 1, manifest, map[string]function{"first": scribble, "second": scribble})
	for _, size := range []int{0, 1, 1 << 10, 1<<10 + 1, leader.InlineBytes, leader.InlineBytes + 1} {
		for bucket, runs := range map[spec.BucketName]int{"in": 6, "fast": 4} {
			key, data := spec.Key(strconv.Itoa(size)), strings.Repeat("x", size)
			res, err := w.tryPut(leader.Put{Bucket: bucket, Key: key, ContentType: "text/x", Body: strings.NewReader(data)})
			if err != nil {
				t.Fatal(err)
			}
			if w.result(res.Session); t.Failed() {
				return
			}
			for range runs {
				if err := <-got; err != nil {
					t.Error(err)
				}
			}
			o, err := w.home(res.Session).GetSession(t.Context(), "demo", res.Session, bucket, key)
			if readAll(t, o, err) != data {
				t.Errorf("%d bytes are not what was put any more", size)
			}
		}
	}
}

func mustAtoi(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Error(err)
	}
	return n
}
