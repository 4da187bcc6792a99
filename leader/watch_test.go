package leader_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

func TestAWatchSeesEveryChangeOnceAndInOrderPageByPage(t *testing.T) {
	w := newWorld(t, 1, plainBuckets, echo)
	l := w.leaders[1]
	start, err := l.Revision(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const changes = 40
	var putting sync.WaitGroup
	defer putting.Wait()
	putting.Go(func() {
		for i := range changes {
			_, err := w.tryPut(leader.Put{Bucket: "notes", Key: spec.Key(fmt.Sprintf("a/%02d", i)), Body: strings.NewReader(fmt.Sprint(i))})
			if err == nil {
				_, err = w.tryPut(leader.Put{Bucket: "notes", Key: spec.Key(fmt.Sprint("b/", i)), Body: strings.NewReader("")})
			}
			if err != nil {
				t.Errorf("put: %v", err)
			}
		}
	})
	var got []string
	at := start
	for len(got) < changes {
		changed := l.Changed()
		events, next, err := l.Changes("demo", "notes", "a/", at, 7)
		if err != nil {
			t.Fatalf("changes after %d: %v", at, err)
		}
		if len(events) > 7 || next < at {
			t.Fatalf("%d events, from %d to %d", len(events), at, next)
		}
		for _, e := range events {
			got = append(got, fmt.Sprintf("%s %s %s", e.Type, e.Object.Key, e.Object.Data))
		}
		if at = next; len(events) == 0 {
			<-changed
		}
	}
	var want []string
	for i := range changes {
		want = append(want, fmt.Sprintf("put a/%02d %d", i, i))
	}
	wantLines(t, got, want...)
}

// followed reads the keys of all changes after a revision.
func (w *world) followed(after spec.Revision) ([]string, error) {
	var keys []string
	for {
		events, next, err := w.leaders[1].Changes("demo", "notes", "", after, 100)
		for _, e := range events {
			keys = append(keys, string(e.Object.Key))
		}
		if err != nil || len(events) == 0 {
			return keys, err
		}
		after = next
	}
}

func (w *world) newest() spec.Revision {
	w.t.Helper()
	at, err := w.leaders[1].Revision(w.t.Context())
	if err != nil {
		w.t.Fatal(err)
	}
	return at
}

func TestTheChangeLogReachesBackByChangesNotByRevisions(t *testing.T) {
	w := &world{t: t, dir: t.TempDir(), shards: 1, apps: &deployed{}, run: newRunner(echo), kept: 40}
	w.apps.apply(t, plainBuckets)
	w.start()
	t.Cleanup(w.close)
	t.Cleanup(w.run.stop)
	begin := w.newest()
	var want []string
	change := func(n int) {
		for range n {
			key := fmt.Sprintf("k%04d", len(want))
			w.put("notes", key, "v")
			want = append(want, key)
		}
	}
	change(10)
	for i := range 300 { // which count revisions up, and are no changes
		w.into("run", "notes", fmt.Sprint(i), "v")
	}
	change(20)
	w.restart() // the log is counted again
	got, err := w.followed(begin)
	if err != nil {
		t.Fatalf("after %d revisions and %d changes: %v", w.newest()-begin, len(want), err)
	}
	wantLines(t, got, want...)
	middle := w.newest()
	change(30)
	_, err = w.followed(begin)
	wantCode(t, err, spec.CodeGone, fmt.Sprint("revision ", begin))
	got, err = w.followed(middle)
	if err != nil {
		t.Fatal(err)
	}
	wantLines(t, got, want[30:]...)
	change(1000)
	lower, upper := store.Bounds(store.AppendEventsPrefix(nil, 1))
	kept := 0
	if err := w.db.Scan(lower, upper, func(_, _ []byte) bool { kept++; return true }); err != nil {
		t.Fatal(err)
	}
	if kept < 40 || kept > 52 {
		t.Errorf("the log holds %d changes, want 40 and up to a quarter more", kept)
	}
	o, err := w.get("notes", "k0000")
	if got := readAll(t, o, err); got != "v" {
		t.Errorf("the object of a change that is not kept is %q", got)
	}
}

func TestTheChangeLogIsBoundedInBytes(t *testing.T) {
	w := &world{t: t, dir: t.TempDir(), shards: 1, apps: &deployed{}, run: newRunner(echo), bytes: 200_000}
	w.apps.apply(t, plainBuckets)
	w.start()
	t.Cleanup(w.close)
	for i := range 200 {
		w.put("notes", fmt.Sprint(i), noise(2000, 1))
	}
	w.restart()
	for i := range 200 {
		w.put("notes", fmt.Sprint(i), noise(2000, 1))
	}
	lower, upper := store.Bounds(store.AppendEventsPrefix(nil, 1))
	size := 0
	if err := w.db.Scan(lower, upper, func(k, v []byte) bool { size += len(k) + len(v); return true }); err != nil {
		t.Fatal(err)
	}
	if size < 150_000 || size > 260_000 {
		t.Errorf("the log holds %d bytes, want up to 200,000 and a quarter more", size)
	}
}

func TestAWatchFromBeforeItsAppWasDeletedIsToldSo(t *testing.T) {
	for name, test := range map[string]struct {
		before func(w *world)
		delete func(w *world)
	}{
		"with objects":        {func(w *world) { w.put("notes", "old", "v") }, (*world).tellOfApps},
		"without anything":    {func(*world) {}, (*world).tellOfApps},
		"while it was away":   {func(w *world) { w.put("notes", "old", "v") }, (*world).restart},
		"with changes alone":  {func(w *world) { w.gone("old") }, (*world).tellOfApps},
		"changes, while away": {func(w *world) { w.gone("old") }, (*world).restart},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 1, plainBuckets, echo)
			begin := w.newest()
			test.before(w)
			before := w.newest()
			w.apps.delete()
			test.delete(w)
			if got, err := w.followed(begin); !errors.Is(err, leader.ErrAppDeleted) || spec.CodeOf(err) != spec.CodeGone || len(got) != 0 {
				t.Fatalf("from before the deletion: %q, %v", got, err)
			}
			w.deploy(plainBuckets)
			w.restart()
			w.put("notes", "new", "v")
			_, at, err := w.leaders[1].Changes("demo", "notes", "", before, 10)
			if !errors.Is(err, leader.ErrAppDeleted) || at <= before {
				t.Fatalf("with the app there again: go on from %d, %v", at, err)
			}
			got, err := w.followed(at)
			if err != nil {
				t.Fatal(err)
			}
			wantLines(t, got, "new")
			if _, err := w.followed(w.newest()); err != nil {
				t.Errorf("from now on: %v", err)
			}
		})
	}
}

// gone puts an object and deletes it again.
func (w *world) gone(key string) {
	w.t.Helper()
	w.put("notes", key, "v")
	if _, err := w.del("notes", key); err != nil {
		w.t.Fatal(err)
	}
}
