package leader_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
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
