package cli_test

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/spec/wire"
)

// showOf runs session show for a history that is served in pages.
func showOf(t *testing.T, h wire.History, args ...string) []string {
	t.Helper()
	h.Session.Invocations = len(h.Invocations)
	s := newShell(t, map[string]http.HandlerFunc{
		"GET /v1/apps/a/sessions/s1": reply(200, h.Session),
		"GET /v1/apps/a/sessions/s1/history": func(w http.ResponseWriter, r *http.Request) {
			from, _ := strconv.Atoi(r.URL.Query().Get("after"))
			limit, _ := strconv.Atoi(r.URL.Query().Get("limit"))
			page := wire.History{Session: h.Session, Invocations: h.Invocations[from:min(from+limit, len(h.Invocations))]}
			if from == 0 {
				page.Children = h.Children
			}
			if from+limit < len(h.Invocations) {
				page.Next = strconv.Itoa(from + limit)
			}
			reply(200, page)(w, r)
		},
	})
	o := s.run(append([]string{"session", "show", "a", "s1"}, args...)...)
	if o.code != 0 {
		t.Fatalf("session show: %+v", o)
	}
	return strings.Split(strings.TrimRight(o.stdout, "\n"), "\n")
}

func someSession() wire.Session {
	return wire.Session{Session: "s1", App: "a", Status: wire.SessionCompleted, CreatedAt: now, Origin: wire.Origin{Kind: "put", Bucket: "b", Key: "k"}}
}

// chain is invocations of which each was fired by the one before.
func chain(n int) wire.History {
	h := wire.History{Session: someSession()}
	producer := ""
	for i := range n {
		id := strconv.Itoa(i + 1)
		h.Invocations = append(h.Invocations, invocationOf(id, "again", "b", "t", "succeeded", i, []wire.Attempt{attempt(1, i, i+1)}, wire.Input{Key: "k", Revision: 1, Producer: producer}))
		producer = "s1." + id
	}
	return h
}

func TestALongChainIsShownFlatBelowTheEighthLevelAndElided(t *testing.T) {
	h := chain(300)
	h.Invocations[299].State = "failed"
	lines := showOf(t, h)
	all := strings.Join(lines, "\n")
	for _, want := range []string{
		"                     ├─ #8 again  succeeded", "                     ├─ #15 again", "fired by b/t with k from #14",
		"                     ├─ #300 again  failed", "                     └─ … 284 more again succeeded",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in\n%s", want, all)
		}
	}
	if strings.Contains(all, "#16 ") || len(lines) > 40 {
		t.Errorf("%d lines:\n%s", len(lines), all)
	}
	full := showOf(t, h, "--full")
	if len(full) != 3+2*300 || strings.Contains(strings.Join(full, "\n"), "…") {
		t.Errorf("--full shows %d lines, want %d", len(full), 3+2*300)
	}
	for _, line := range full {
		if len([]rune(line)) > 120 {
			t.Fatalf("indented with the depth: %q", line)
		}
	}
}

func TestSiblingsAlikeAreElidedAndThoseThatDifferAreNot(t *testing.T) {
	h := wire.History{Session: someSession()}
	input := func(producer string) wire.Input { return wire.Input{Key: "k", Revision: 1, Producer: producer} }
	h.Invocations = append(h.Invocations, invocationOf("1", "split", "b", "t", "succeeded", 0, nil, input("")))
	for n := 2; n <= 33; n++ {
		state := "succeeded"
		if n == 20 {
			state = "failed"
		}
		h.Invocations = append(h.Invocations, invocationOf(strconv.Itoa(n), "count", "b", "t", state, 0, nil, input("s1.1")))
	}
	for n := 34; n <= 65; n++ { // one below each
		state := "succeeded"
		if n == 65 { // below #33, which would be left out
			state = "failed"
		}
		h.Invocations = append(h.Invocations, invocationOf(strconv.Itoa(n), "note", "b", "t", state, 0, nil, input(fmt.Sprintf("s1.%d", n-32))))
	}
	all := strings.Join(showOf(t, h), "\n")
	for _, want := range []string{"#9 count", "#20 count  failed", "#33 count", "#65 note  failed", "└─ … 22 more count succeeded, with 22 below them"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in\n%s", want, all)
		}
	}
	if strings.Contains(all, "#10 ") {
		t.Errorf("the ninth sibling alike is shown:\n%s", all)
	}
	if full := strings.Join(showOf(t, h, "--full"), "\n"); strings.Contains(full, "…") || !strings.Contains(full, "#10 ") {
		t.Errorf("--full:\n%s", full)
	}
}

func TestShowFetchesTheFirstInvocationsOnlyAndTellsOfTheRest(t *testing.T) {
	lines := showOf(t, chain(1200))
	if last := lines[len(lines)-1]; last != "… and 700 more invocations: this shows the first 500, --full all" {
		t.Errorf("the last line is %q", last)
	}
	if full := showOf(t, chain(1200), "--full"); len(full) != 3+2*1200 {
		t.Errorf("--full shows %d lines", len(full))
	}
}

func TestShowTellsTheDetailOfTheLastFailedAttempt(t *testing.T) {
	var stack []string
	for n := range 20 {
		stack = append(stack, fmt.Sprintf("frame %d", n+1))
	}
	failed := func(n int) wire.Attempt {
		a := attempt(n, n, n+1)
		a.Error = &wire.FunctionError{Kind: "failed", Message: "no disk", Detail: strings.Join(stack, "\n") + "\n\x1b[31mValueError\n", Invocation: "s1.1"}
		return a
	}
	h := wire.History{Session: someSession()}
	h.Session.Status, h.Session.Error = wire.SessionFailed, failed(2).Error
	h.Invocations = []wire.Invocation{invocationOf("1", "store", "b", "t", "failed", 0, []wire.Attempt{failed(1), failed(2)}, wire.Input{Key: "k"})}
	got := showOf(t, h)
	want := []string{
		"      attempt 1 failed: no disk", "      attempt 2 failed: no disk",
		"        … 6 lines before, --full shows them", "        frame 7",
	}
	for n, line := range want {
		if got[6+n] != line {
			t.Errorf("line %d is %q, want %q", 6+n, got[6+n], line)
		}
	}
	if last := got[len(got)-1]; last != `        \x1b[31mValueError` || len(got) != 6+3+15 {
		t.Errorf("%d lines, the last is %q", len(got), last)
	}
	if full := showOf(t, h, "--full"); strings.Count(strings.Join(full, "\n"), "frame 1\n") != 2 {
		t.Errorf("--full:\n%s", strings.Join(full, "\n"))
	}
	h.Session.Error = failed(2).Error
	h.Session.Error.Invocation = "s1.9000"
	if far := strings.Join(showOf(t, h), "\n"); !strings.Contains(far, "error: failed: no disk\n  … 6 lines before") {
		t.Errorf("the detail of a failure that is not among those shown is not told:\n%s", far)
	}
}
