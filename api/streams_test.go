package api_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/api"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

const watchPath = "/v1/apps/shop/buckets/orders/watch"

func (s *served) open(path string, headers ...string) *http.Response {
	s.t.Helper()
	req, _ := http.NewRequest("GET", "http://"+s.addr+path, nil)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := s.client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { resp.Body.Close() })
	return resp
}

func TestAWatchSendsEventsWithTheirPositions(t *testing.T) {
	backend := newFake()
	var asked api.Watch
	backend.onWatch = func(_ context.Context, w api.Watch, emit func(wire.WatchEvent) error) error {
		asked = w
		return errors.Join(
			emit(wire.WatchEvent{Position: "p0"}),
			emit(wire.WatchEvent{Type: "put", Object: wire.Object{Bucket: "orders", Key: "a\nb"}, Position: "p1"}),
			emit(wire.WatchEvent{Type: "delete", Position: "p2"}))
	}
	s := serve(t, backend, api.Config{})
	resp := s.open(watchPath + "?prefix=a&from=p9")
	a := readAnswer(t, resp)
	events := strings.Split(strings.TrimSuffix(a.body, "\n\n"), "\n\n")
	if a.status != 200 || a.header.Get("Content-Type") != "text/event-stream" || len(events) != 3 {
		t.Fatalf("answer %+v", a)
	}
	if events[0] != "id: p0\nevent: position\ndata: {\"position\":\"p0\"}" ||
		!strings.HasPrefix(events[1], "id: p1\nevent: put\ndata: {\"type\":\"put\"") || !strings.HasPrefix(events[2], "id: p2\nevent: delete\n") {
		t.Errorf("events %q", events)
	}
	if asked != (api.Watch{App: "shop", Bucket: "orders", Prefix: "a", From: "p9"}) {
		t.Errorf("asked %+v", asked)
	}
	readAnswer(t, s.open(watchPath+"?from=p9", "Last-Event-ID: p11"))
	if asked.From != "p11" {
		t.Errorf("a client that comes back goes on from %q", asked.From)
	}
}

func TestAWatchFromACompactedPositionIsGone(t *testing.T) {
	backend := newFake()
	backend.onWatch = func(context.Context, api.Watch, func(wire.WatchEvent) error) error {
		return spec.Errorf(spec.CodeGone, "position p1 is compacted").WithHint("p5")
	}
	s := serve(t, backend, api.Config{})
	a := s.do("GET", watchPath+"?from=p1", "")
	if e := a.error(t); a.status != http.StatusGone || e.Code != spec.CodeGone || e.Hint != "p5" {
		t.Errorf("answer %+v", a)
	}
}

func TestAWatchThatBreaksSaysSoInItsLastEvent(t *testing.T) {
	for name, brk := range map[string]func() error{
		"unavailable": func() error { return spec.Errorf(spec.CodeUnavailable, "the shard moved") },
		"internal":    func() error { panic("secret") },
	} {
		backend := newFake()
		backend.onWatch = func(_ context.Context, _ api.Watch, emit func(wire.WatchEvent) error) error {
			if err := emit(wire.WatchEvent{Type: "put", Position: "p1"}); err != nil {
				return err
			}
			return brk()
		}
		s := serve(t, backend, api.Config{})
		a := readAnswer(t, s.open(watchPath))
		if !strings.Contains(a.body, "\n\nevent: error\ndata: {\"error\":{\"code\":\""+name+"\"") || strings.Contains(a.body, "secret") {
			t.Errorf("%s: %q", name, a.body)
		}
	}
}

func TestAQuietWatchShowsThatItLives(t *testing.T) {
	s := serve(t, newFake(), api.Config{Heartbeat: 5 * time.Millisecond})
	in := bufio.NewReader(s.open(watchPath).Body)
	for range 3 {
		if line, err := in.ReadString('\n'); err != nil || line != ":\n" {
			t.Fatalf("read %q %v", line, err)
		}
		_, _ = in.ReadString('\n')
	}
}

func TestAWatcherWhoGoesEndsTheWatch(t *testing.T) {
	backend := newFake()
	ended := make(chan struct{})
	backend.onWatch = func(ctx context.Context, _ api.Watch, emit func(wire.WatchEvent) error) error {
		defer close(ended)
		if err := emit(wire.WatchEvent{Position: "p0"}); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}
	s := serve(t, backend, api.Config{Heartbeat: time.Hour})
	resp := s.open(watchPath)
	if _, err := bufio.NewReader(resp.Body).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	<-ended
}

func TestAWatcherWhoReadsNothingIsGivenUp(t *testing.T) {
	backend := newFake()
	ended := make(chan struct{})
	backend.onWatch = func(_ context.Context, _ api.Watch, emit func(wire.WatchEvent) error) error {
		defer close(ended)
		for {
			if err := emit(wire.WatchEvent{Type: "put", Position: strings.Repeat("p", 10_000)}); err != nil {
				return err
			}
		}
	}
	s := serve(t, backend, api.Config{WriteTimeout: 50 * time.Millisecond})
	c := s.dial()
	_, _ = io.WriteString(c, "GET "+watchPath+" HTTP/1.1\r\nHost: localhost\r\n\r\n")
	<-ended
}

func TestStreamsAreBounded(t *testing.T) {
	backend := newFake()
	first := true // streams come one after the other
	backend.onWatch = func(ctx context.Context, _ api.Watch, emit func(wire.WatchEvent) error) error {
		if !first {
			return nil
		}
		first = false
		_ = emit(wire.WatchEvent{Position: "p0"})
		<-ctx.Done()
		return ctx.Err()
	}
	s := serve(t, backend, api.Config{MaxStreams: 1})
	resp := s.open(watchPath)
	if a := s.do("GET", watchPath, ""); a.status != http.StatusTooManyRequests || a.error(t).Code != spec.CodeOverloaded {
		t.Errorf("answer %+v", a)
	}
	resp.Body.Close()
	eventually(t, "the place of the first is free again", func() bool { return s.do("GET", watchPath, "").status == 200 })
}

func TestAStreamNeedsHTTP11(t *testing.T) {
	s := serve(t, newFake(), api.Config{})
	if a := s.raw("GET "+watchPath+" HTTP/1.0\r\nHost: localhost\r\n\r\n", 1)[0]; a.status != 400 || !strings.Contains(a.body, "HTTP/1.1") {
		t.Errorf("answer %+v", a)
	}
}

func TestLogsAsLinesAndAsEvents(t *testing.T) {
	backend := newFake()
	backend.onLogs = func(_ context.Context, function spec.FunctionName, tail int, follow bool, emit func(wire.LogLine) error) error {
		if function != "bill" || tail != 5 || !follow {
			t.Errorf("asked for %s, %d, %t", function, tail, follow)
		}
		return errors.Join(emit(wire.LogLine{Text: "one"}), emit(wire.LogLine{Text: "two"}))
	}
	s := serve(t, backend, api.Config{})
	const path = "/v1/apps/shop/logs?function=bill&tail=5&follow=1"
	lines := readAnswer(t, s.open(path))
	if lines.header.Get("Content-Type") != "application/jsonl" || strings.Count(lines.body, "\n") != 2 || !strings.Contains(lines.body, `"text":"two"}`) {
		t.Errorf("lines %+v", lines)
	}
	events := readAnswer(t, s.open(path, "Accept: text/event-stream"))
	if events.header.Get("Content-Type") != "text/event-stream" || !strings.HasPrefix(events.body, "event: log\ndata: {") {
		t.Errorf("events %+v", events)
	}
}
