package leader_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec"
)

const large = 4 << 20 // several chunks

func TestALargeObjectIsReadWholeThoughItIsReplacedMeanwhile(t *testing.T) {
	w := newWorld(t, 1, plainBuckets, echo)
	for name, replace := range map[string]func() error{
		"overwritten": func() error {
			_, err := w.tryPut(leader.Put{Bucket: "notes", Key: "k", Body: strings.NewReader(noise(large, 2))})
			return err
		},
		"deleted":         func() error { _, err := w.del("notes", "k"); return err },
		"its app deleted": func() error { w.apps.delete(); w.tellOfApps(); w.deploy(plainBuckets); return nil },
	} {
		value := noise(large, 1)
		w.put("notes", "k", value)
		o, err := w.get("notes", "k")
		if err != nil {
			t.Fatal(err)
		}
		head := make([]byte, 100)
		if _, err := io.ReadFull(o.Body, head); err != nil {
			t.Fatal(err)
		}
		if err := replace(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		rest, err := io.ReadAll(o.Body)
		if err != nil || string(head)+string(rest) != value {
			t.Errorf("%s: read %d bytes, %v", name, len(head)+len(rest), err)
		}
		if err := o.Body.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestReadersOfALargeObjectSeeOneOfItsValuesWhole(t *testing.T) {
	w := newWorld(t, 1, plainBuckets, echo)
	values := map[string]bool{}
	var puts []string
	for i := range 6 {
		v := noise(2<<20, uint64(i))
		values[v] = true
		puts = append(puts, v)
	}
	w.put("notes", "k", puts[0])
	ctx, stop := context.WithCancel(t.Context())
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for ctx.Err() == nil {
				o, err := w.get("notes", "k")
				if spec.CodeOf(err) == spec.CodeNotFound {
					continue
				}
				if err != nil {
					t.Errorf("get: %v", err)
					return
				}
				var got bytes.Buffer
				_, err = io.Copy(&got, o.Body)
				_ = o.Body.Close()
				if err != nil || !values[got.String()] {
					t.Errorf("read %d bytes that nobody put, %v", got.Len(), err)
					return
				}
			}
		})
	}
	for i := range 40 {
		w.put("notes", "k", puts[i%len(puts)])
		if i%3 == 0 {
			if _, err := w.del("notes", "k"); err != nil {
				t.Error(err)
			}
		}
	}
	stop()
	all.Wait()
	w.put("notes", "k", "small")
	if _, err := w.del("notes", "k"); err != nil {
		t.Fatal(err)
	}
	w.nothingLeft()
}

// The outputs are in two buckets, which are read one after the other.
func TestAResultIsWholeOrNotFoundWhileItsSessionIsPurged(t *testing.T) {
	const outputs, sessions = 400, 30
	w := newWorld(t, 1, plainBuckets, map[string]function{"echo": func(c *call) error {
		for i := range outputs - 1 {
			c.emit(exec.Emission{Bucket: "notes", Key: spec.Key(fmt.Sprint(i)), Data: []byte("v"), Output: true})
		}
		c.output("last", "v")
		return nil
	}})
	for i := range sessions {
		id := spec.SessionID(fmt.Sprint("run-", i))
		w.into(string(id), "in", "k", "")
		w.result(id)
		var all sync.WaitGroup
		for range 4 {
			all.Go(func() {
				for {
					res, err := w.home(id).Result(t.Context(), "demo", id, 0, false)
					if spec.CodeOf(err) == spec.CodeNotFound {
						return
					}
					if err != nil || len(res.Outputs) != outputs {
						t.Errorf("a session that is purged has %d outputs, %v", len(res.Outputs), err)
						return
					}
				}
			})
		}
		if err := w.home(id).Purge(t.Context(), "demo", id); err != nil && spec.CodeOf(err) != spec.CodeNotFound {
			t.Errorf("purge: %v", err)
		}
		all.Wait()
	}
}
