package linear

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// watches are those that follow a load, in different ways.
type watches struct {
	from    string // the position before the load
	keys    []spec.Key
	client  *client.Client
	running sync.WaitGroup
	all     []*follower
}

// follower is one watch and what it showed.
type follower struct {
	name   string
	prefix string
	hangUp *rand.Rand // nil: never by itself
	client *client.Client
	keys   []spec.Key // the watch is over when each of them has ended
	events []wire.WatchEvent
	err    error
}

// watchLoad starts the watches of a load. They begin before it.
func watchLoad(t *testing.T, node *nodetest.Node, c *client.Client, keys []spec.Key) *watches {
	t.Helper()
	w := &watches{from: positionNow(t, c, objects), keys: keys, client: c}
	w.all = []*follower{
		{name: "one that stays", client: patient(t, node), keys: keys},
		{name: "one that hangs up", client: patient(t, node), keys: keys, hangUp: random(2000)},
		{name: "one of a prefix", client: patient(t, node), keys: keys[1:2], prefix: string(keys[1])},
	}
	ctx := bounded(t, time.Duration(*seconds)*time.Second+2*time.Minute)
	for _, f := range w.all {
		w.running.Go(func() { f.follow(ctx, w.from) })
	}
	return w
}

// positionNow returns the position of a change that is made for that. A watch from
// now on begins when it is connected, so the object is put until it is seen.
func positionNow(t *testing.T, c *client.Client, bucket spec.BucketName) string {
	t.Helper()
	ctx, seen := context.WithCancel(bounded(t, time.Minute))
	var putting sync.WaitGroup
	putting.Go(func() {
		for ctx.Err() == nil {
			_, _ = c.Put(ctx, app, bucket, "now", strings.NewReader(""), client.PutOptions{})
		}
	})
	defer putting.Wait()
	defer seen()
	for e, err := range c.Watch(ctx, app, bucket, client.WatchOptions{Prefix: "now"}) {
		if err != nil {
			t.Fatal(err)
		}
		return e.Position
	}
	t.Fatal("a watch shows nothing")
	return ""
}

// follow watches until all keys have ended.
func (f *follower) follow(ctx context.Context, from string) {
	ended := map[spec.Key]bool{}
	for len(ended) < len(f.keys) {
		left := -1
		if f.hangUp != nil {
			left = 1 + f.hangUp.IntN(60)
		}
		for e, err := range f.client.Watch(ctx, app, objects, client.WatchOptions{Prefix: f.prefix, From: from}) {
			if err != nil {
				f.err = err
				return
			}
			if e.Position == "" || e.Position == from {
				f.err = fmt.Errorf("%s of %s revision %d has no position of its own: %q", e.Type, e.Object.Key, e.Object.Revision, e.Position)
				return
			}
			from = e.Position
			if e.Object.Key != "now" {
				f.events = append(f.events, e)
			}
			if string(e.Object.Data) == "end" {
				ended[e.Object.Key] = true
			}
			if left--; left == 0 || len(ended) == len(f.keys) {
				break
			}
		}
		if ctx.Err() != nil {
			f.err = ctx.Err()
			return
		}
	}
}

// check compares what the watches showed with each other and with the history, and
// returns it.
func (w *watches) check(t *testing.T, history []porcupine.Operation, end map[spec.Key]spec.Revision) map[spec.Key][]change {
	t.Helper()
	w.running.Wait()
	late := &follower{name: "one from long ago", client: w.client, keys: w.keys}
	late.follow(bounded(t, time.Minute), w.from)
	want := late.byKey()
	for _, f := range append(w.all, late) {
		if f.err != nil {
			t.Errorf("watch %q: %v", f.name, f.err)
		}
		got := f.byKey()
		for _, key := range f.keys {
			if !slices.Equal(got[key], want[key]) {
				t.Errorf("watch %q shows %d changes of %s, the one from long ago %d: %s", f.name, len(got[key]), key, len(want[key]), firstDifference(got[key], want[key]))
			}
		}
		if extra := len(got) - len(f.keys); extra > 0 {
			t.Errorf("watch %q shows %d keys that it did not ask for", f.name, extra)
		}
	}
	for _, key := range w.keys {
		checkChanges(t, key, want[key], history, end[key])
	}
	if t.Failed() {
		t.Logf("seed %d", *seed)
	}
	return want
}

// change is what a watch shows of one change.
type change struct {
	kind     string
	value    string
	revision spec.Revision
}

func (f *follower) byKey() map[spec.Key][]change {
	m := map[spec.Key][]change{}
	for _, e := range f.events {
		c := change{kind: e.Type, revision: e.Object.Revision}
		if e.Type == "put" {
			c.value = e.Object.Meta["value"]
			if data := string(e.Object.Data); data == "end" {
				c.value = "end"
			} else if data != "" && data != bytesOf(c.value) {
				c.value = fmt.Sprintf("%s with the bytes of another: %.40q", c.value, data)
			}
		}
		m[e.Object.Key] = append(m[e.Object.Key], c)
	}
	return m
}

func firstDifference(got, want []change) string {
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			return fmt.Sprintf("%+v, not %+v", got[i], want[i])
		}
	}
	return "one shows more than the other"
}

// checkChanges compares the changes of a key with what clients know of it: every
// acknowledged change is there, once; what is there was asked for; revisions go up;
// and each condition held in the order that the watch shows.
func checkChanges(t *testing.T, key spec.Key, changes []change, history []porcupine.Operation, end spec.Revision) {
	t.Helper()
	type asked struct {
		operation
		outcome
	}
	puts := map[string]asked{"end": {operation{kind: putting}, outcome{revision: end}}}
	deleted, mayBeDeleted := 0, 0
	for i := range history {
		op, out := history[i].Input.(operation), history[i].Output.(outcome)
		switch {
		case op.key != key || op.kind == get || out.ending == refused || out.ending == missing:
		case op.kind == putting:
			puts[op.value] = asked{op, out}
		case out.ending == done:
			deleted++
		default:
			mayBeDeleted++
		}
	}
	var last change
	deletes := 0
	for _, c := range changes {
		there := last.kind == "put"
		if c.revision <= last.revision {
			t.Errorf("%s: %+v after %+v: revisions must go up", key, c, last)
		}
		switch a, ok := puts[c.value]; {
		case c.kind == "delete":
			deletes++
			if !there {
				t.Errorf("%s: %+v of an object that is not there", key, c)
			}
		case c.kind != "put":
			t.Errorf("%s: %+v: nothing expires here", key, c)
		case !ok:
			t.Errorf("%s: %+v: nobody put that, or it came before", key, c)
		case a.ending == done && a.outcome.revision != c.revision:
			t.Errorf("%s: %+v: its put was answered with revision %d", key, c, a.outcome.revision)
		case a.ifAbsent && there, a.ifRevision != 0 && !(there && last.revision == a.ifRevision):
			t.Errorf("%s: %+v after %+v: its condition %+v did not hold", key, c, last, a.operation)
		default:
			delete(puts, c.value)
		}
		last = c
	}
	for value, a := range puts {
		if a.ending == done {
			t.Errorf("%s: put %s of revision %d was acknowledged and is not shown", key, value, a.outcome.revision)
		}
	}
	if deletes < deleted || deletes > deleted+mayBeDeleted {
		t.Errorf("%s: %d deletes are shown, %d were acknowledged, %d more may have been done", key, deletes, deleted, mayBeDeleted)
	}
}
