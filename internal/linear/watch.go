package linear

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/anishathalye/porcupine"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// Watches are those that follow a load, in different ways.
type Watches struct {
	load    *Load
	from    string // the position before the load
	running sync.WaitGroup
	all     []*follower
}

// follower is one watch and what it showed.
type follower struct {
	name   string
	app    spec.AppName
	bucket spec.BucketName
	prefix string
	keys   []spec.Key // the watch is over when each of them has ended
	hangUp *rand.Rand // nil: never by itself
	events []wire.WatchEvent
	err    error
}

// Watch starts the watches of a load, which has yet to Run. They end with ctx, or
// when Verify has put the last objects.
func (l *Load) Watch(ctx context.Context) (*Watches, error) {
	from, err := PositionNow(ctx, l.cfg)
	if err != nil {
		return nil, err
	}
	w := &Watches{load: l, from: from, all: []*follower{
		l.follower("one that stays"), l.follower("one that hangs up"), l.follower("one of a prefix"),
	}}
	w.all[1].hangUp = l.random(2000)
	w.all[2].keys, w.all[2].prefix = l.keys[1:2], string(l.keys[1])
	for n, f := range w.all {
		w.running.Go(func() { f.follow(ctx, l.cfg.Servers, n, from) })
	}
	return w, nil
}

func (l *Load) follower(name string) *follower {
	return &follower{name: name, app: l.cfg.App, bucket: l.cfg.Bucket, keys: l.keys}
}

// PositionNow returns the position of a change that is made for that. A watch from
// now on begins when it is connected, so the object is put until it is seen.
func PositionNow(ctx context.Context, cfg Config) (string, error) {
	s, err := nodetest.Dial(cfg.Servers, 0)
	if err != nil {
		return "", err
	}
	defer s.Close()
	ctx, seen := context.WithCancel(ctx)
	var putting sync.WaitGroup
	putting.Go(func() {
		for ctx.Err() == nil {
			_, _ = s.All()[0].Put(ctx, cfg.App, cfg.Bucket, positionKey, strings.NewReader(""), client.PutOptions{})
			pauseShortly()
		}
	})
	defer putting.Wait()
	defer seen()
	for e, err := range s.All()[0].Watch(ctx, cfg.App, cfg.Bucket, client.WatchOptions{Prefix: string(positionKey)}) {
		return e.Position, err
	}
	return "", errors.New("a watch shows nothing")
}

// follow watches until all keys have ended. A watch that hangs up goes on from
// where it was, on another node if there are several.
func (f *follower) follow(ctx context.Context, urls []string, first int, from string) {
	s, err := nodetest.Dial(urls, first)
	if err != nil {
		f.err = err
		return
	}
	defer s.Close()
	ended := map[spec.Key]bool{}
	for len(ended) < len(f.keys) {
		left := -1
		if f.hangUp != nil {
			left = 1 + f.hangUp.IntN(60)
		}
		for e, err := range s.Next().Watch(ctx, f.app, f.bucket, client.WatchOptions{Prefix: f.prefix, From: from}) {
			if err != nil && ctx.Err() == nil && nodetest.NoAnswer(spec.CodeOf(err)) {
				pauseShortly()
				break // the node is away: another, or the same again, from here
			}
			if err != nil {
				f.err = fmt.Errorf("after position %q: %w", from, err)
				return
			}
			if e.Position == "" || e.Position == from {
				f.err = fmt.Errorf("%s of %s revision %d has no position of its own: %q", e.Type, e.Object.Key, e.Object.Revision, e.Position)
				return
			}
			from = e.Position
			if e.Object.Key != positionKey {
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
			f.err = fmt.Errorf("%d of %d keys have ended: %w", len(ended), len(f.keys), ctx.Err())
			return
		}
	}
}

// verify compares what the watches showed with each other and with the history, and
// returns it.
func (w *Watches) verify(ctx context.Context, history []porcupine.Operation, end map[spec.Key]spec.Revision) (map[spec.Key][]change, []error) {
	w.running.Wait()
	late := w.load.follower("one from long ago")
	late.follow(ctx, w.load.cfg.Servers, 0, w.from)
	want := late.byKey()
	var faults []error
	for _, f := range append(w.all, late) {
		if f.err != nil {
			faults = append(faults, fmt.Errorf("watch %q: %w", f.name, f.err))
		}
		faults = append(faults, f.compare(want)...)
	}
	for _, key := range w.load.keys {
		faults = append(faults, checkChanges(key, want[key], history, end[key])...)
	}
	return want, faults
}

// compare finds where a watch showed something else than the one that is right, or
// is checked for itself.
func (f *follower) compare(want map[spec.Key][]change) (faults []error) {
	got := f.byKey()
	for _, key := range f.keys {
		if !slices.Equal(got[key], want[key]) {
			faults = append(faults, fmt.Errorf("watch %q shows %d changes of %s, the one from long ago %d: %s", f.name, len(got[key]), key, len(want[key]), firstDifference(got[key], want[key])))
		}
	}
	if extra := len(got) - len(f.keys); extra > 0 {
		faults = append(faults, fmt.Errorf("watch %q shows %d keys that it did not ask for", f.name, extra))
	}
	return faults
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
func checkChanges(key spec.Key, changes []change, history []porcupine.Operation, end spec.Revision) (faults []error) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
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
			fault("%s: %+v after %+v: revisions must go up", key, c, last)
		}
		switch a, ok := puts[c.value]; {
		case c.kind == "delete":
			deletes++
			if !there {
				fault("%s: %+v of an object that is not there", key, c)
			}
		case c.kind != "put":
			fault("%s: %+v: nothing expires here", key, c)
		case !ok:
			fault("%s: %+v: nobody put that, or it came before", key, c)
		case a.ending == done && a.outcome.revision != c.revision:
			fault("%s: %+v: its put was answered with revision %d", key, c, a.outcome.revision)
		case a.ifAbsent && there, a.ifRevision != 0 && !(there && last.revision == a.ifRevision):
			fault("%s: %+v after %+v: its condition %+v did not hold", key, c, last, a.operation)
		default:
			delete(puts, c.value)
		}
		last = c
	}
	for value, a := range puts {
		if a.ending == done {
			fault("%s: put %s of revision %d was acknowledged and is not shown", key, value, a.outcome.revision)
		}
	}
	if deletes < deleted || deletes > deleted+mayBeDeleted {
		fault("%s: %d deletes are shown, %d were acknowledged, %d more may have been done", key, deletes, deleted, mayBeDeleted)
	}
	return faults
}
