package leader_test

import (
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

func TestAWatchThatIsTooFarBehindIsToldSo(t *testing.T) {
	w := newWorld(t, 1, plainBuckets, echo)
	w.put("notes", "first", "v")
	w.close()
	// The log is cut after a quarter of a million revisions: bring the shard there.
	db, err := store.Open(w.dir+"/store", store.Options{Node: "n1"})
	if err != nil {
		t.Fatal(err)
	}
	var b store.Batch
	b.Set(store.AppendCountersKey(nil, 1), store.AppendCounters(nil, &store.Counters{Revision: 300_000}))
	if err := db.Commit(&b, true); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.put("notes", "second", "v")
	l := w.leaders[1]
	_, now, err := l.Changes("demo", "notes", "", 0, 10)
	wantCode(t, err, spec.CodeGone, "revision 0")
	if now < 300_000 {
		t.Errorf("it is to go on from %d", now)
	}
	events, _, err := l.Changes("demo", "notes", "", now-1, 10)
	if err != nil || len(events) != 1 || events[0].Object.Key != "second" {
		t.Errorf("changes after %d: %+v, %v", now-1, events, err)
	}
	o, err := w.get("notes", "first")
	if got := readAll(t, o, err); got != "v" {
		t.Errorf("the object of a change that is not kept is %q", got)
	}
}
