package logs_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/exec/logs"
	"github.com/pheromone-run/pheromone/spec"
)

func open(t *testing.T, dir string, s logs.Settings) *logs.Logs {
	t.Helper()
	l, err := logs.Open(dir, s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func record(app, function, text string) exec.LogRecord {
	return exec.LogRecord{Time: time.Unix(1, 0).UTC(), App: spec.AppName(app), Function: spec.FunctionName(function), Stream: exec.StreamLog, Text: text}
}

func tail(t *testing.T, l *logs.Logs, app, function string, n int) string {
	t.Helper()
	got, err := l.Tail(spec.AppName(app), spec.FunctionName(function), n)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	for _, r := range got {
		texts = append(texts, r.Text)
	}
	return strings.Join(texts, " ")
}

func TestTailGivesTheLastRecordsOfAnAppOrFunction(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, logs.Settings{Files: 1})
	for i := range 5 {
		l.Append(record("a", "f", fmt.Sprint("f", i)))
		l.Append(record("a", "g", fmt.Sprint("g", i)))
		l.Append(record("b", "f", fmt.Sprint("b", i)))
	}
	for _, c := range []struct {
		app, function string
		n             int
		want          string
	}{
		{"a", "", 3, "g3 f4 g4"}, {"a", "f", 2, "f3 f4"}, {"b", "", 100, "b0 b1 b2 b3 b4"}, {"c", "", 5, ""}, {"a", "", 0, ""},
	} {
		if got := tail(t, l, c.app, c.function, c.n); got != c.want {
			t.Errorf("tail of %d of %s %s is %q, want %q", c.n, c.app, c.function, got, c.want)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if got := tail(t, open(t, dir, logs.Settings{}), "b", "", 2); got != "b3 b4" {
		t.Errorf("after opening again: %q", got)
	}
}

func TestALogIsBounded(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir, logs.Settings{FileBytes: 1000})
	for i := range 1000 {
		l.Append(record("a", "f", fmt.Sprint(i)))
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Fatalf("%v, %v", entries, err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Size() > 1000 {
			t.Fatalf("%s has %d bytes, %v", e.Name(), info.Size(), err)
		}
	}
	if got := tail(t, l, "a", "", 2); got != "998 999" {
		t.Fatalf("tail %q", got)
	}
}

func TestALineCutShortByACrashIsPassedOver(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a.jsonl"), []byte("{\"text\":\"whole\"}\n{\"text\":\"ha\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, dir, logs.Settings{})
	l.Append(record("a", "f", "next"))
	if got := tail(t, l, "a", "", 10); got != "whole next" {
		t.Fatalf("tail %q", got)
	}
}

func TestAFollowerSeesWhatIsAppendedAndIsToldWhatItMissed(t *testing.T) {
	l := open(t, t.TempDir(), logs.Settings{})
	l.Append(record("a", "f", "before"))
	follow := l.Follow(context.Background(), "a", "f")
	for i := range 3000 {
		l.Append(record("a", "f", fmt.Sprint(i)))
		l.Append(record("a", "g", "other"))
	}
	count, gap := 0, ""
	for r := range follow {
		if r.Stream == exec.StreamNode {
			gap = r.Text
			break
		}
		if r.Text != fmt.Sprint(count) {
			t.Fatalf("record %d is %q", count, r.Text)
		}
		if count++; count == 1024 {
			l.Append(record("a", "f", "after"))
		}
	}
	if gap != "missed 1976 lines: the reader was too slow" {
		t.Fatalf("gap %q after %d", gap, count)
	}
}

func TestAFollowerEndsWithItsContextAndWithTheLogs(t *testing.T) {
	l := open(t, t.TempDir(), logs.Settings{})
	ctx, cancel := context.WithCancel(context.Background())
	first := l.Follow(ctx, "a", "")
	cancel()
	for range first {
		t.Fatal("a record came")
	}
	second := l.Follow(context.Background(), "a", "")
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for range second {
		t.Fatal("a record came")
	}
	for range l.Follow(context.Background(), "a", "") {
		t.Fatal("a record came")
	}
}
