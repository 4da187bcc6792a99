package client_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

func TestAWatchGoesOnFromTheLastPositionWhenItsConnectionBreaks(t *testing.T) {
	var mu sync.Mutex
	var from []string
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		from = append(from, r.URL.Query().Get("from"))
		n := len(from)
		mu.Unlock()
		w.Header().Set("Content-Type", "text/event-stream")
		switch n {
		case 1:
			fmt.Fprint(w, ":\n\nid: p0\nevent: position\ndata: {\"position\":\"p0\"}\n\n")
			fmt.Fprint(w, "id: p1\nevent: put\ndata: {\"type\":\"put\",\"object\":{\"key\":\"a\"},\ndata: \"position\":\"p1\"}\n\n")
		case 2:
			refuse(w, 503, spec.CodeUnavailable, "no leader just now")
		case 3:
			fmt.Fprint(w, "id: p2\nevent: delete\ndata: {\"type\":\"delete\",\"object\":{\"key\":\"a\"},\"position\":\"p2\"}\n\n")
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		default:
			refuse(w, 410, spec.CodeGone, "p2 is compacted")
		}
	})
	var got []string
	var last error
	for e, err := range c.Watch(t.Context(), "a", "b", client.WatchOptions{}) {
		if err != nil {
			last = err
			continue
		}
		got = append(got, e.Type+" "+string(e.Object.Key)+" "+e.Position)
	}
	if want := []string{"put a p1", "delete a p2"}; !slices.Equal(got, want) {
		t.Errorf("events %q, want %q", got, want)
	}
	if want := []string{"", "p1", "p1", "p2"}; !slices.Equal(from, want) {
		t.Errorf("asked from %q, want %q", from, want)
	}
	if spec.CodeOf(last) != spec.CodeGone {
		t.Errorf("the last error is %v, want gone", last)
	}
}

func TestAWatchThatIsRefusedAtFirstSaysSo(t *testing.T) {
	var calls atomic.Int64
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		refuse(w, 404, spec.CodeNotFound, "no such bucket")
	})
	for _, err := range c.Watch(t.Context(), "a", "b", client.WatchOptions{}) {
		if spec.CodeOf(err) != spec.CodeNotFound {
			t.Errorf("error %v", err)
		}
	}
	if calls.Load() != 1 {
		t.Errorf("%d calls, want 1", calls.Load())
	}
}

func TestTheErrorAtAStreamsEndIsItsError(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "event: error\ndata: {\"error\":{\"code\":\"gone\",\"message\":\"compacted\",\"hint\":\"p9\"}}\n\n")
	})
	var last error
	for _, err := range c.Watch(t.Context(), "a", "b", client.WatchOptions{From: "p1"}) {
		last = err
	}
	if spec.CodeOf(last) != spec.CodeGone {
		t.Errorf("error %v, want gone", last)
	}
}

func TestAWatchEndsWithoutAnErrorWhenItsContextEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "id: p1\ndata: {\"type\":\"put\",\"object\":{\"key\":\"a\"}}\n\n")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	n := 0
	for _, err := range c.Watch(ctx, "a", "b", client.WatchOptions{}) {
		if err != nil {
			t.Error(err)
		}
		n++
		cancel()
	}
	if n != 1 {
		t.Errorf("%d events, want 1", n)
	}
}

func TestFollowedLogsDontRepeatLinesAfterAReconnection(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	line := func(second int, text string) string {
		return fmt.Sprintf("event: log\ndata: {\"time\":%q,\"text\":%q}\n\n", start.Add(time.Duration(second)*time.Second).Format(time.RFC3339), text)
	}
	var calls atomic.Int64
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if calls.Add(1) == 1 {
			fmt.Fprint(w, line(1, "one"), line(2, "two"))
			return
		}
		fmt.Fprint(w, line(1, "one"), line(2, "two"), line(2, "two too"), line(3, "three"))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	var got []string
	for l, err := range c.Logs(t.Context(), "a", client.LogsOptions{Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, l.Text); l.Text == "three" {
			break
		}
	}
	if want := []string{"one", "two", "two too", "three"}; !slices.Equal(got, want) {
		t.Errorf("lines %q, want %q", got, want)
	}
}

func TestLogsThatAreNotFollowedEndWithTheStream(t *testing.T) {
	c := serve(t, func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "event: log\ndata: {\"text\":\"one\"}\n\n")
	})
	var lines []wire.LogLine
	for l, err := range c.Logs(t.Context(), "a", client.LogsOptions{Function: "f", Tail: 5}) {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, l)
	}
	if len(lines) != 1 {
		t.Errorf("%d lines, want 1", len(lines))
	}
}
