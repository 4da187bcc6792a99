package cli_test

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

func at(ms int) time.Time { return now.Add(time.Duration(ms) * time.Millisecond) }

func invocationOf(id, function, bucket, trigger, state string, queued int, attempts []wire.Attempt, inputs ...wire.Input) wire.Invocation {
	i := wire.Invocation{ID: "s1." + id, Function: spec.FunctionName(function), Bucket: spec.BucketName(bucket), Trigger: spec.TriggerName(trigger),
		State: state, QueuedAt: at(queued), Attempts: attempts, Inputs: inputs, InputCount: len(inputs)}
	if n := len(attempts); n > 0 {
		i.EndedAt = attempts[n-1].EndedAt
	}
	return i
}

func attempt(number, from, to int) wire.Attempt {
	a := wire.Attempt{Number: number, StartedAt: at(from)}
	if to > 0 {
		a.EndedAt = at(to)
	}
	return a
}

func someHistory() wire.History {
	failed := attempt(1, 12, 13)
	failed.Error = &wire.FunctionError{Kind: "failed", Message: "disk\nfull"}
	return wire.History{
		Session: wire.Session{Session: "s1", App: "a", AppVersion: 3, Status: wire.SessionRunning, CreatedAt: now,
			Origin: wire.Origin{Kind: "put", Bucket: "documents", Key: "x"}, Invocations: 4, Objects: 5,
			Waiting: []wire.Waiting{{Bucket: "counts", Trigger: "all", Primitive: spec.DynamicJoin, Have: 1, Need: 1, Missing: []spec.Key{"part-1"}}}},
		Invocations: []wire.Invocation{
			invocationOf("1", "split", "documents", "on-document", "succeeded", 1, []wire.Attempt{attempt(1, 2, 10)}, wire.Input{Key: "x", Revision: 1}),
			invocationOf("2", "count", "parts", "count-part", "succeeded", 10, []wire.Attempt{failed, attempt(2, 20, 30)}, wire.Input{Key: "part-0", Revision: 2, Producer: "s1.1"}),
			invocationOf("3", "count", "parts", "count-part", "running", 11, []wire.Attempt{attempt(1, 15, 0)}, wire.Input{Key: "part-1", Revision: 3, Producer: "s1.1"}),
			invocationOf("4", "note", "counts", "each", "queued", 31, nil, wire.Input{Key: "part-0", Revision: 4, Producer: "s1.2"}),
		},
	}
}

func TestSessionShowDrawsTheTreeOfWhatRanAndWhy(t *testing.T) {
	h := someHistory()
	s := newShell(t, map[string]http.HandlerFunc{
		"GET /v1/apps/a/sessions/s1":         reply(200, h.Session),
		"GET /v1/apps/a/sessions/s1/history": reply(200, h),
	})
	want := strings.Join([]string{
		"session s1  running  a version 3",
		"started " + now.Local().Format("2006-01-02 15:04:05.000") + " by put documents/x",
		"4 invocations, 5 objects",
		"└─ #1 split  succeeded  queued +1ms, started +2ms, took 8ms, ended +10ms",
		"   │  fired by documents/on-document with x",
		"   ├─ #2 count  succeeded  queued +10ms, started +20ms, took 10ms, 2 attempts, ended +30ms",
		"   │  │  fired by parts/count-part with part-0 from #1",
		`   │  │  attempt 1 failed: disk\nfull`,
		"   │  └─ #4 note  queued  queued +31ms",
		"   │        fired by counts/each with part-0 from #2",
		"   └─ #3 count  running  queued +11ms, started +15ms",
		"         fired by parts/count-part with part-1 from #1",
		"triggers that wait",
		"  counts/all  dynamic_join  has 1, needs 1 more: part-1",
		"",
	}, "\n")
	if o := s.run("session", "show", "a", "s1"); o.stdout != want || o.code != 0 {
		t.Errorf("session show:\n%s\nwant\n%s", o.stdout, want)
	}
}

func TestSessionLsIsATableWithTheNewestFirst(t *testing.T) {
	s := newShell(t, map[string]http.HandlerFunc{"GET /v1/apps/a/sessions": reply(200, wire.SessionList{Items: []wire.Session{
		{Session: "s2", Status: wire.SessionRunning, CreatedAt: now.Add(-3 * time.Second), Invocations: 4, PendingInvocations: 1, Origin: wire.Origin{Kind: "invoke", Bucket: "@f"}},
		{Session: "s4", Status: wire.SessionCancelled, CreatedAt: now.Add(-4 * time.Second), Invocations: 1, Origin: wire.Origin{Kind: "child", Bucket: "@f", Key: "input", Session: "s2"}},
		{Session: "s3", Status: wire.SessionRunning, CreatedAt: now.Add(-5 * time.Second), Origin: wire.Origin{Kind: "delete", Bucket: "b", Key: "k"}},
		{Session: "s1", Status: wire.SessionCompleted, CreatedAt: now.Add(-3 * time.Minute), EndedAt: now.Add(-3*time.Minute + 1234*time.Millisecond), Invocations: 9, Origin: wire.Origin{Kind: "put", Bucket: "b", Key: "k"}},
	}})})
	want := "SESSION  STATUS     AGE    TOOK  INVOCATIONS    STARTED BY\n" +
		"s2       running    3s     -     4 (1 pending)  invoke f\n" +
		"s4       cancelled  4s     -     1              child of s2\n" +
		"s3       running    5s     -     0              deletion of b/k\n" +
		"s1       completed  3m00s  1.2s  9              put b/k\n"
	if o := s.run("session", "ls", "a"); o != (outcome{0, want, ""}) {
		t.Errorf("session ls:\n%s%s\nwant\n%s", o.stdout, o.stderr, want)
	}
	if o := s.run("session", "ls", "a", "--limit", "1", "-o", "name"); o.stdout != "s2\n" {
		t.Errorf("--limit 1: %+v", o)
	}
}

func TestPutFollowTellsEachAttemptOnceHoweverFastItWas(t *testing.T) {
	var polls atomic.Int64
	s := newShell(t, map[string]http.HandlerFunc{
		"PUT /v1/apps/a/buckets/documents/objects/x": reply(200, wire.PutResult{Session: "s1"}),
		"GET /v1/apps/a/sessions/s1/history": func(w http.ResponseWriter, r *http.Request) {
			h := someHistory()
			h.Invocations[0].EndedAt, h.Invocations[1].EndedAt = at(10), at(30)
			switch polls.Add(1) {
			case 1:
				h.Invocations = h.Invocations[:1]
				h.Invocations[0].State, h.Invocations[0].Attempts, h.Invocations[0].EndedAt = "queued", nil, time.Time{}
			case 2, 3:
				h.Invocations = h.Invocations[:1]
			case 4: // all of #2, and #3 in the middle of it
				h.Invocations = h.Invocations[:3]
				h.Children = []wire.Child{childOf("s1m8kwrd53a2pbn", "running", 16, 0)}
			default:
				h.Invocations = h.Invocations[:3]
				h.Invocations[2].State, h.Invocations[2].EndedAt = "cancelled", at(40)
				h.Session.Status = wire.SessionCompleted
				h.Children = []wire.Child{childOf("s1m8kwrd53a2pbn", "failed", 16, 35), childOf("s1m8short", "completed", 17, 34)}
			}
			reply(200, h)(w, r)
		},
		"GET /v1/apps/a/sessions/s1/result": reply(200, wire.Result{Session: "s1", Status: wire.SessionCompleted, Outputs: []wire.Output{{Data: []byte("done")}}}),
	})
	o := s.run("put", "a", "documents/x", "text", "--follow")
	want := strings.Join([]string{
		"     +1ms  queued     #1 split  documents/on-document",
		"     +2ms  started    #1 split  documents/on-document",
		"    +10ms  succeeded  #1 split  took 8ms",
		"    +12ms  started    #2 count  parts/count-part",
		`    +13ms  failed     #2 count  took 1ms: disk\nfull`,
		"    +15ms  started    #3 count  parts/count-part",
		"    +16ms  started    child s1m8…pbn price  by #1",
		"    +20ms  started    #2 count  attempt 2",
		"    +30ms  succeeded  #2 count  took 10ms",
		"    +17ms  started    child s1m8short price  by #1",
		"    +34ms  completed  child s1m8short price  into prices/of-s1m8short",
		"    +35ms  failed     child s1m8…pbn price  into prices/of-s1m8kwrd53a2pbn",
		"    +40ms  cancelled  #3 count",
		"",
	}, "\n")
	if o != (outcome{0, "done", want}) {
		t.Errorf("%+v, want %q", o, want)
	}
}

func TestVerbsOnASessionAskForThatAndPrintWhatCameOfIt(t *testing.T) {
	var from recorded
	s := newShell(t, map[string]http.HandlerFunc{
		"POST /v1/apps/a/sessions/s1/cancel": reply(200, wire.Session{Session: "s1", Status: wire.SessionCancelled}),
		"POST /v1/apps/a/sessions/s1/rerun":  from.then(reply(202, wire.PutResult{Bucket: "b", Key: "k", Revision: 1, Session: "s2"})),
		"GET /v1/apps/a/sessions/s1/history": reply(200, someHistory()),
		"GET /v1/apps/a/sessions/s1/result":  reply(200, wire.Result{Session: "s1", Status: wire.SessionCancelled}),
	})
	if o := s.run("session", "cancel", "a", "s1"); o.stdout != "session s1  cancelled\n" {
		t.Errorf("cancel: %+v", o)
	}
	ended := newShell(t, map[string]http.HandlerFunc{"POST /v1/apps/a/sessions/s1/cancel": reply(200, wire.Session{Session: "s1", Status: wire.SessionCompleted})})
	if o := ended.run("session", "cancel", "a", "s1"); o.stdout != "session s1  completed  (it had ended before: there was nothing to cancel)\n" || o.code != 0 {
		t.Errorf("cancel of an ended session: %+v", o)
	}
	if o := s.run("session", "rerun", "a", "s1", "--from", "b/k", "-o", "name"); o.stdout != "s2\n" || from.request.URL.RawQuery != "from=b%2Fk" {
		t.Errorf("rerun: %+v", o)
	}
	fired := newShell(t, map[string]http.HandlerFunc{"POST /v1/apps/a/sessions/s1/rerun": reply(202, wire.PutResult{Bucket: "b", Session: "s2"})})
	if o := fired.run("session", "rerun", "a", "s1"); o != (outcome{0, "session s2\n", ""}) {
		t.Errorf("rerun of a session that a firing started: %+v", o)
	}
	if o := s.run("session", "history", "a", "s1"); !strings.Contains(o.stdout, `failed: disk\nfull`) || strings.Count(o.stdout, "\n") != 6 {
		t.Errorf("history: %+v", o)
	}
	if o := s.run("session", "result", "a", "s1"); o.code != 1 || !strings.Contains(o.stderr, "was cancelled") {
		t.Errorf("result: %+v", o)
	}
}
