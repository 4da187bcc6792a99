package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

func TestAWatchGoesOnAtAnotherNodeWithoutAGapOrADuplicate(t *testing.T) {
	const events = 30
	cluster := startCluster(t, 2)
	// Each node sends ten events, half of one more, and goes away.
	for _, n := range cluster.nodes {
		n.do(func(w http.ResponseWriter, r *http.Request) {
			from, _ := strconv.Atoi(r.URL.Query().Get("from"))
			fmt.Fprintf(w, "id: %d\nevent: position\ndata: {\"position\":\"%d\"}\n\n", from, from)
			for i := from + 1; i <= min(from+10, events); i++ {
				fmt.Fprintf(w, "id: %d\nevent: put\ndata: {\"type\":\"put\",\"object\":{\"key\":\"k%d\"},\"position\":\"%d\"}\n\n", i, i, i)
			}
			fmt.Fprintf(w, "id: %d\nevent: put\ndata: {\"type\":\"put\",\"object\":{\"ke", from+11)
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		})
	}
	c := cluster.client(cluster.nodes[0].server.URL+","+cluster.nodes[1].server.URL, client.WithoutDiscovery())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var got, want []string
	for e, err := range c.Watch(ctx, "a", "b", client.WatchOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, string(e.Object.Key)); len(got) == events {
			break
		}
	}
	for i := range events {
		want = append(want, "k"+strconv.Itoa(i+1))
	}
	if !slices.Equal(got, want) {
		t.Errorf("keys %q, want %q", got, want)
	}
	if a, b := len(cluster.nodes[0].asked()), len(cluster.nodes[1].asked()); a == 0 || b == 0 {
		t.Errorf("asked %d and %d times, want both", a, b)
	}
}

func TestAPositionThatIsGoneAtTheNextNodeIsToldToTheCaller(t *testing.T) {
	cluster := startCluster(t, 2)
	cluster.nodes[0].do(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "id: 1\nevent: put\ndata: {\"type\":\"put\",\"object\":{\"key\":\"k\"},\"position\":\"1\"}\n\n")
		w.(http.Flusher).Flush()
		cluster.nodes[0].die()
	})
	cluster.nodes[1].do(func(w http.ResponseWriter, r *http.Request) {
		answer(w, 410, wire.ErrorBody{Error: wire.Error{Code: spec.CodeGone, Message: "compacted", Hint: "9"}})
	})
	c := cluster.client(cluster.nodes[0].server.URL+","+cluster.nodes[1].server.URL, client.WithoutDiscovery())
	var last error
	for _, err := range c.Watch(t.Context(), "a", "b", client.WatchOptions{}) {
		last = err
	}
	if spec.CodeOf(last) != spec.CodeGone {
		t.Errorf("the watch ended with %v, want gone", last)
	}
}

func TestAResultIsWaitedForAtAnotherNode(t *testing.T) {
	cluster := startCluster(t, 2)
	first, second := cluster.nodes[0], cluster.nodes[1]
	first.do(func(http.ResponseWriter, *http.Request) { first.die() })
	var polls atomic.Int64
	second.do(func(w http.ResponseWriter, r *http.Request) {
		if polls.Add(1) == 1 { // half an answer
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, `{"session":"s","status":"comp`)
			panic(http.ErrAbortHandler)
		}
		answer(w, 200, wire.Result{Session: "s", Status: wire.SessionCompleted, Outputs: []wire.Output{{Key: "o"}}})
	})
	c := cluster.client(first.server.URL+","+second.server.URL, client.WithoutDiscovery())
	r, err := c.Result(t.Context(), "a", "s", client.ResultOptions{Wait: time.Minute})
	if err != nil || r.Status != wire.SessionCompleted || len(r.Outputs) != 1 {
		t.Errorf("Result = %+v, %v", r, err)
	}
}

func TestWhoWaitsForAResultWaitsLongerThanCallsAreRepeated(t *testing.T) {
	cluster := startCluster(t, 1)
	var polls atomic.Int64
	cluster.nodes[0].do(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case polls.Add(1) < 5:
			refuse(w, 503, spec.CodeUnavailable, "no leader just now")
		default:
			answer(w, 200, wire.Result{Session: "s", Status: wire.SessionCompleted})
		}
	})
	c := cluster.client(cluster.nodes[0].server.URL, client.WithRetry(client.Retry{MaxAttempts: 1}))
	if r, err := c.Result(t.Context(), "a", "s", client.ResultOptions{Wait: client.Forever}); err != nil || r.Status != wire.SessionCompleted {
		t.Errorf("Result = %+v, %v", r, err)
	}
	polls.Store(0)
	if _, err := c.Result(t.Context(), "a", "s", client.ResultOptions{}); spec.CodeOf(err) != spec.CodeUnavailable || polls.Load() != 1 {
		t.Errorf("without a wait: %v after %d requests, want unavailable after 1", err, polls.Load())
	}
	ctx, cancel := context.WithCancel(t.Context())
	cluster.nodes[0].do(func(w http.ResponseWriter, r *http.Request) {
		cancel()
		refuse(w, 503, spec.CodeUnavailable, "no leader just now")
	})
	if _, err := c.Result(ctx, "a", "s", client.ResultOptions{Wait: client.Forever}); err == nil {
		t.Error("a wait whose context has ended gave no error")
	}
}

func TestCallsAreRepeatedForAsLongAsIsAskedFor(t *testing.T) {
	cluster := startCluster(t, 1)
	cluster.nodes[0].do(func(w http.ResponseWriter, r *http.Request) { refuse(w, 503, spec.CodeUnavailable, "not now") })
	url := cluster.nodes[0].server.URL
	for name, retry := range map[string]client.Retry{
		"for":                   {For: time.Nanosecond},
		"for, once it answered": {For: time.Nanosecond, Reach: time.Hour},
		"attempts":              {MaxAttempts: 1},
	} {
		before := len(cluster.nodes[0].asked())
		c := cluster.client(url, client.WithRetry(retry))
		if _, err := c.Apps(t.Context()); spec.CodeOf(err) != spec.CodeUnavailable || len(cluster.nodes[0].asked()) != before+1 {
			t.Errorf("%s: %v after %d requests, want one", name, err, len(cluster.nodes[0].asked())-before)
		}
	}
	cluster.nodes[0].die()
	c := cluster.client(url, client.WithRetry(client.Retry{For: time.Hour, Reach: time.Nanosecond}))
	if _, err := c.Apps(t.Context()); spec.CodeOf(err) != spec.CodeUnavailable {
		t.Errorf("nobody there: %v", err)
	}
}

func TestACallWhoseTimeEndsWhileItIsRepeatedTellsWhyItIs(t *testing.T) {
	for _, refusals := range []int64{0, 1} {
		ctx, cancel := context.WithCancel(t.Context())
		var n atomic.Int64
		c := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if n.Add(1) <= refusals {
				refuse(w, 503, spec.CodeUnavailable, "not now")
				return
			}
			cancel() // before there is an answer
			<-r.Context().Done()
		})
		_, err := c.Apps(ctx)
		if refusals == 0 && !errors.Is(err, context.Canceled) {
			t.Errorf("of the first attempt: %v", err)
		}
		if refusals > 0 && (spec.CodeOf(err) != spec.CodeUnavailable || !strings.Contains(err.Error(), "not now") || n.Load() != 2) {
			t.Errorf("after a refusal: %v, and %d attempts", err, n.Load())
		}
	}
}

func TestFollowedLogsGoOnAtAnotherNode(t *testing.T) {
	cluster := startCluster(t, 2)
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for i, n := range cluster.nodes {
		n.do(func(w http.ResponseWriter, r *http.Request) {
			for second := range 2 + i { // the second node has a line more
				fmt.Fprintf(w, "event: log\ndata: {\"time\":%q,\"text\":\"line %d\"}\n\n", start.Add(time.Duration(second)*time.Second).Format(time.RFC3339), second)
			}
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		})
	}
	c := cluster.client(cluster.nodes[0].server.URL+","+cluster.nodes[1].server.URL, client.WithoutDiscovery())
	var got []string
	for l, err := range c.Logs(t.Context(), "a", client.LogsOptions{Follow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		if got = append(got, l.Text); len(got) == 3 {
			break
		}
	}
	if text := strings.Join(got, ", "); text != "line 0, line 1, line 2" {
		t.Errorf("lines %s", text)
	}
}
