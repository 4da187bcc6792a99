package hostile

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// TestBadFunctionsFailWithAReasonAndHarmNobodyElse: a function that crashes,
// hangs, floods or lies fails its own attempts, with a reason that its author can
// act on; meanwhile another app's sessions go on and the node's memory is bounded.
func TestBadFunctionsFailWithAReasonAndHarmNobodyElse(t *testing.T) {
	t.Parallel()
	node := nodetest.Start(t)
	node.CLI(0, "apply", "-f", "testdata/healthy/app.yaml")
	node.CLI(0, "apply", "-f", "testdata/evil/app.yaml")
	others := startOthers(node)

	for _, c := range []struct {
		function string
		kind     string // of the failure; "" for a function that only does no harm
		says     []string
	}{
		{"exits", "crashed", []string{"exit status 3", "last words"}},
		{"segfaults", "crashed", []string{"segmentation fault"}},
		{"kills_itself", "crashed", []string{"killed"}},
		{"hangs", "timeout", []string{"300ms", "timeout"}},
		{"floods", "", nil},
		{"large", "refused", []string{"67108864 bytes", "8388608"}},
		{"large_by_force", "refused", []string{"67108864 bytes", "8388608"}},
		{"huge_by_force", "refused", []string{"314572829 bytes, at most"}},
		{"frames_on_stdout", "", nil},
		{"garbage", "refused", []string{"executor protocol"}},
		{"closes", "crashed", []string{"Bad file descriptor"}},
		{"descriptors", "failed", []string{"Too many open files", "descriptors"}},
		{"recursion", "failed", []string{"RecursionError", "in recursion"}},
		{"many", "", nil},
		{"nowhere", "refused", []string{`no bucket "nowhere"`}},
		{"to_nobody", "refused", []string{`no function "nobody"`}},
		{"joins_nothing", "refused", []string{"no-such-trigger"}},
		{"starts_nobody", "refused", []string{`no function "nobody"`}},
		{"starts_into_nowhere", "refused", []string{`no bucket "nowhere"`}},
		{"starts_large", "refused", []string{"67108864 bytes", "8388608"}},
		{"starts_bad_text", "refused", []string{"no function", `\xff`}},
		{"starts_for_ever", "refused", []string{"365 days"}},
		{"verbose", "failed", []string{"ValueError"}},
		{"bad_key", "refused", []string{"UTF-8"}},
		{"bad_bucket", "refused", []string{"no bucket"}},
		{"bad_text", "failed", []string{"ValueError"}},
		{"memory", "failed", []string{"MemoryError"}},
		{"unknown", "refused", []string{"unknown", "does not register"}},
	} {
		t.Run(c.function, func(t *testing.T) {
			before := others.done.Load()
			session := invoke(t, node, c.function, c.kind == "")
			if c.kind != "" {
				failure(t, node, session, c.function, c.kind, c.says)
			}
			others.goOn(t, before)
		})
	}
	t.Run("a function that ignores every signal is cancelled", func(t *testing.T) { cancelStubborn(t, node) })
	t.Run("what was printed is bounded and valid", func(t *testing.T) { printed(t, node) })
	t.Run("a function that puts other bytes under a taken key conflicts", func(t *testing.T) { contradict(t, node) })
	t.Run("a function may start processes", func(t *testing.T) { forkChildren(t, node) })

	others.stop(t)
	const bound = 1 << 30
	most := resident(t, node, "VmHWM")
	t.Logf("the node took at most %d MiB", most>>20)
	if most > bound {
		t.Errorf("bad functions brought the node to %d MiB, more than %d", most>>20, bound>>20)
	}
	node.Stop()
	nodetest.Eventually(t, "executors and their children end with the node", func() bool { return len(node.Executors()) == 0 })
}

// invoke runs a function and returns its session, which must end well or not.
func invoke(t *testing.T, node *nodetest.Node, function string, well bool) string {
	t.Helper()
	a := call(t, node, http.MethodPost, "/v1/apps/evil/functions/"+function+"/invoke?wait=40s", strings.NewReader("x"))
	if ok := a.status == http.StatusOK; ok != well || !ok && a.status != http.StatusInternalServerError {
		t.Fatalf("status %d: %.2000s", a.status, a.body)
	}
	if !well && a.problem(t).Cause == nil {
		t.Errorf("no cause in %s", a.body)
	}
	return a.header.Get(wire.HeaderSession)
}

// failure checks that a failure is in the history and on the screen.
func failure(t *testing.T, node *nodetest.Node, session, function, kind string, says []string) {
	t.Helper()
	a := call(t, node, http.MethodGet, "/v1/apps/evil/sessions/"+session+"/history", nil)
	var h wire.History
	if err := json.Unmarshal(a.body, &h); err != nil || len(h.Invocations) != 1 || len(h.Invocations[0].Attempts) == 0 {
		t.Fatalf("history %.2000s (%v)", a.body, err)
	}
	inv := h.Invocations[0]
	for _, attempt := range inv.Attempts {
		if attempt.Error == nil || attempt.Error.Kind != kind {
			t.Fatalf("attempt %+v failed with %+v, want kind %s", attempt, attempt.Error, kind)
		}
		text := attempt.Error.Message + "\n" + attempt.Error.Detail
		for _, s := range says {
			if !strings.Contains(text, s) {
				t.Errorf("the failure does not say %q: %.2000s", s, text)
			}
		}
		if len(text) > 64<<10 || !utf8.ValidString(text) {
			t.Errorf("the failure has %d bytes, or is no UTF-8", len(text))
		}
	}
	if inv.State != "failed" || string(inv.Function) != function {
		t.Errorf("invocation %s of %s is %s", inv.ID, inv.Function, inv.State)
	}
	shown, _ := node.CLI(0, "session", "show", "evil", session)
	if !strings.Contains(shown, function) || !strings.Contains(shown, "failed") || strings.Contains(shown, "\x1b") {
		t.Errorf("session show says\n%s", shown)
	}
}

func contradict(t *testing.T, node *nodetest.Node) {
	node.CLI(0, "put", "evil", "out/same", "held", "--session", "contradiction")
	node.CLI(0, "put", "evil", "@contradicts/in", "x", "--session", "contradiction")
	node.CLI(1, "session", "result", "evil", "contradiction", "--wait", "20s")
	failure(t, node, "contradiction", "contradicts", "conflict", []string{"same", "put by a client"})
	if a := call(t, node, http.MethodGet, "/v1/apps/evil/sessions/contradiction/buckets/out/objects/same", nil); string(a.body) != "held" {
		t.Errorf("the object is now %q", a.body)
	}
}

func cancelStubborn(t *testing.T, node *nodetest.Node) {
	a := call(t, node, http.MethodPost, "/v1/apps/evil/functions/stubborn/invoke", nil)
	session := a.header.Get(wire.HeaderSession)
	nodetest.Eventually(t, "the stubborn function runs", func() bool {
		return call(t, node, http.MethodGet, "/v1/apps/evil/sessions/"+session+"/buckets/out/objects/started", nil).status == http.StatusOK
	})
	before := len(node.Executors())
	node.CLI(0, "session", "cancel", "evil", session)
	out, _ := node.CLI(0, "session", "show", "evil", session)
	if !strings.Contains(out, "cancelled") {
		t.Errorf("session show says\n%s", out)
	}
	nodetest.Eventually(t, "its process is killed", func() bool { return len(node.Executors()) < before })
}

// printed looks at the logs after functions flooded them and printed no text.
func printed(t *testing.T, node *nodetest.Node) {
	a := call(t, node, http.MethodGet, "/v1/apps/evil/logs?tail=10000", nil)
	if a.status != http.StatusOK || !utf8.Valid(a.body) || len(a.body) > 32<<20 {
		t.Fatalf("status %d, %d bytes", a.status, len(a.body))
	}
	dropped := false
	for line := range bytes.Lines(a.body) {
		var l wire.LogLine
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatalf("%v: %.300q", err, line)
		}
		dropped = dropped || strings.HasPrefix(l.Text, "dropped ")
	}
	if !dropped {
		t.Error("nothing says that output was dropped")
	}
	out, _ := node.CLI(0, "logs", "evil", "bad_text")
	if strings.Contains(out, "\x1b") || !strings.Contains(out, "red") {
		t.Errorf("logs prints %q", out)
	}
}

// forkChildren has a function start processes that do not end, one of them in a
// process group of its own.
func forkChildren(t *testing.T, node *nodetest.Node) {
	a := call(t, node, http.MethodPost, "/v1/apps/evil/functions/forks/invoke?wait=60s", nil)
	for text := range strings.FieldsSeq(string(a.body)) {
		pid, err := strconv.Atoi(text)
		if err != nil {
			t.Fatalf("forks answers %d %s", a.status, a.body)
		}
		// A program that is just being started has no environment yet.
		nodetest.Eventually(t, "process "+text+" runs", func() bool { return slices.Contains(node.Executors(), pid) })
	}
}

// others are the sessions of the healthy app, one after the other.
type others struct {
	done   atomic.Int64
	cancel context.CancelFunc
	failed chan error
}

func startOthers(node *nodetest.Node) *others {
	ctx, cancel := context.WithCancel(context.Background())
	o := &others{cancel: cancel, failed: make(chan error, 1)}
	c := node.Client()
	go func() {
		defer c.Close()
		o.failed <- o.run(ctx, c)
	}()
	return o
}

func (o *others) run(ctx context.Context, c *client.Client) error {
	for i := 0; ; i++ {
		r, err := c.Invoke(ctx, "healthy", "double", strings.NewReader(strconv.Itoa(i)), client.InvokeOptions{Wait: time.Minute})
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return fmt.Errorf("session %d: %w", i, err)
		case len(r.Outputs) != 1 || string(r.Outputs[0].Data) != strconv.Itoa(2*i):
			return fmt.Errorf("session %d came to %+v", i, r)
		}
		o.done.Add(1)
	}
}

// goOn waits until two more sessions have ended.
func (o *others) goOn(t *testing.T, before int64) {
	t.Helper()
	nodetest.Eventually(t, "sessions of the healthy app go on", func() bool { return o.done.Load() >= before+2 || len(o.failed) > 0 })
	if len(o.failed) > 0 {
		err := <-o.failed
		o.failed <- err
		t.Fatalf("the healthy app: %v", err)
	}
}

func (o *others) stop(t *testing.T) {
	t.Helper()
	o.cancel()
	if err := <-o.failed; err != nil {
		t.Errorf("the healthy app: %v", err)
	}
	t.Logf("%d sessions of the healthy app ended meanwhile", o.done.Load())
}
