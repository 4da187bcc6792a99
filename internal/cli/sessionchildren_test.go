package cli_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

func childOf(name, status string, from, to int) wire.Child {
	c := wire.Child{Session: spec.SessionID(name), Function: "price", Invocation: "s1.1", Status: wire.SessionStatus(status), StartedAt: at(from),
		Awaited: true, Bucket: "prices", Key: spec.Key("of-" + name)}
	if to > 0 {
		c.EndedAt = at(to)
	}
	return c
}

func TestSessionShowTellsParentDeadlineAndChildren(t *testing.T) {
	h := wire.History{Session: someSession()}
	h.Session.Status, h.Session.Origin = wire.SessionRunning, wire.Origin{Kind: "child", Bucket: "@f", Key: "input", Session: "s0"}
	h.Session.DeadlineAt, h.Session.Children, h.Session.Awaited = now.Add(90*time.Second), 150, 2
	h.Session.Waiting = []wire.Waiting{{Bucket: "prices", Trigger: "all", Primitive: spec.BySet, Have: 1, Stalled: "its state is damaged"}}
	alone := childOf("c4", "running", 3, 0)
	alone.Function, alone.Awaited, alone.Bucket, alone.Key = "audit", false, "", ""
	h.Children = []wire.Child{childOf("c1", "completed", 1, 9), childOf("c2", "failed", 1, 8), childOf("c3", "running", 2, 0), alone}
	got := showOf(t, h)
	want := []string{
		"session s1  running  a version 0",
		"started " + now.Local().Format("2006-01-02 15:04:05.000") + " as child of s0",
		"deadline " + now.Add(90*time.Second).Local().Format("2006-01-02 15:04:05.000") + ", 1m30s after its start, in 1m30s",
		"0 invocations, 0 objects, 150 child sessions (2 awaited)",
		"child sessions",
		"  c1 price  completed  started +1ms, took 8ms, by #1, result into prices/of-c1",
		"  c2 price  failed  started +1ms, took 7ms, by #1, result into prices/of-c2",
		"  c3 price  running  started +2ms, by #1, result into prices/of-c3",
		"  c4 audit  independent  started +3ms, by #1",
		"  … and 146 more child sessions",
		"triggers that wait",
		"  prices/all  by_set  has 1, stalled: its state is damaged",
	}
	if !slices.Equal(got, want) {
		t.Errorf("session show:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	h.Session.Status, h.Session.EndedAt = wire.SessionFailed, now.Add(90*time.Second)
	h.Session.Error = &wire.FunctionError{Kind: "timeout", Message: "it did not end in time"}
	text := strings.Join(showOf(t, h), "\n")
	if !strings.Contains(text, "1m30s after its start\n") || !strings.Contains(text, "\nerror: timeout: it did not end in time\n") {
		t.Errorf("a session that has failed at its deadline:\n%s", text)
	}
}

func TestChildrenAlikeAreElidedAndThoseThatDifferAreNot(t *testing.T) {
	h := wire.History{Session: someSession()}
	for n := range 60 {
		status := "completed"
		if n == 40 {
			status = "failed"
		}
		h.Children = append(h.Children, childOf(fmt.Sprintf("c%d", n+1), status, n, n+1))
	}
	h.Session.Children = len(h.Children)
	text := strings.Join(showOf(t, h), "\n")
	for _, want := range []string{"  c8 price  completed", "  c41 price  failed", "  … 51 more price completed"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "  c9 ") {
		t.Errorf("the ninth child alike is shown:\n%s", text)
	}
	if full := strings.Join(showOf(t, h, "--full"), "\n"); strings.Contains(full, "…") || strings.Count(full, "result into") != 60 {
		t.Errorf("--full:\n%s", full)
	}
}
