package leader_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
	"github.com/pheromone-run/pheromone/store"
)

// manifest puts the lines that every manifest of these tests has before the others.
func manifest(lines string) string { return "apiVersion: pheromone/v1\napp: demo\n" + lines }

// patience is how long a test waits for what has to come: much longer than it takes on
// a machine that is slow and busy, since a test that passes never waits for its end.
const patience = time.Minute

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	eventuallyIn(t, patience, what, ok)
}

// eventuallyIn is eventually with a limit of its own. What is costly to look at is
// looked at less often, so that it leaves the machine to what it waits for.
func eventuallyIn(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for began := time.Now(); !ok(); began = time.Now() {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
		<-time.After(max(2*time.Millisecond, time.Since(began)))
	}
}

// into puts an object into a session.
func (w *world) into(session, bucket, key, value string) leader.PutResult {
	w.t.Helper()
	res, err := w.tryInto(session, bucket, key, value)
	if err != nil {
		w.t.Fatalf("put %s/%s into session %s: %v", bucket, key, session, err)
	}
	return res
}

func (w *world) tryInto(session, bucket, key, value string) (leader.PutResult, error) {
	return w.tryPut(leader.Put{
		Session: spec.SessionID(session), Bucket: spec.BucketName(bucket), Key: spec.Key(key), Body: strings.NewReader(value),
	})
}

func (w *world) home(session spec.SessionID) *leader.Leader {
	return w.of(spec.SessionSlot("demo", session))
}

// sessionOn names the n-th session of a shard.
func (w *world) sessionOn(shard spec.ShardID, n int) spec.SessionID {
	for i := 0; ; i++ {
		id := spec.SessionID(fmt.Sprintf("run-%d-%d-%d", shard, n, i))
		if w.ShardOf(spec.SessionSlot("demo", id)) == shard {
			return id
		}
	}
}

func (w *world) homeOf(bucket, key string) *leader.Leader {
	return w.of(spec.KeySlot("demo", spec.BucketName(bucket), spec.Key(key)))
}

func (w *world) get(bucket, key string) (leader.Object, error) {
	return w.homeOf(bucket, key).GetKV(context.Background(), "demo", spec.BucketName(bucket), spec.Key(key), false)
}

func (w *world) session(id spec.SessionID) wire.Session {
	w.t.Helper()
	s, err := w.home(id).Session(context.Background(), "demo", id)
	if err != nil {
		w.t.Fatalf("session %s: %v", id, err)
	}
	return s
}

// sessions lists all sessions of all shards, newest first on each.
func (w *world) sessions(status wire.SessionStatus) []wire.Session {
	w.t.Helper()
	var all []wire.Session
	for i := range w.shards {
		page, err := w.leaders[spec.ShardID(i+1)].Sessions(context.Background(), "demo", status, "", 0, "", 10000)
		if err != nil {
			w.t.Fatalf("list sessions: %v", err)
		}
		all = append(all, page.Items...)
	}
	return all
}

// quiet waits until no session runs.
func (w *world) quiet() {
	w.t.Helper()
	eventually(w.t, "no session runs", func() bool { return len(w.sessions(wire.SessionRunning)) == 0 })
}

// completed waits for a session's end and checks its outputs, in any order.
func (w *world) completed(id spec.SessionID, want ...string) {
	w.t.Helper()
	res := w.result(id)
	if res.Status != wire.SessionCompleted {
		w.t.Fatalf("session %s ended as %s: %+v", id, res.Status, res.Error)
	}
	got := outputs(res)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		w.t.Fatalf("session %s has outputs %q, want %q", id, got, want)
	}
}

// failed waits for a session's end and returns why it has failed.
func (w *world) failed(id spec.SessionID) *wire.FunctionError {
	w.t.Helper()
	res := w.result(id)
	if res.Status != wire.SessionFailed || res.Error == nil {
		w.t.Fatalf("session %s ended as %s with error %+v, want a failure", id, res.Status, res.Error)
	}
	return res.Error
}

// states tells of each invocation of a session its function, state and the kinds
// of its attempts' failures.
func (w *world) states(id spec.SessionID) []string {
	w.t.Helper()
	var out []string
	for _, inv := range w.history(id).Invocations {
		line := fmt.Sprintf("%s %s", inv.Function, inv.State)
		for _, a := range inv.Attempts {
			if a.Error != nil {
				line += " " + a.Error.Kind
			}
		}
		out = append(out, line)
	}
	return out
}

func wantCode(t testing.TB, err error, code spec.Code, parts ...string) {
	t.Helper()
	if spec.CodeOf(err) != code {
		t.Fatalf("error is %v (%s), want code %s", err, spec.CodeOf(err), code)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the message %q does not name %q", err, part)
		}
	}
}

func wantLines(t testing.TB, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Fatalf("got:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// tables that stay when everything that apps have is gone: the shard's own records
// and its change log.
const shardsOwn = "\x01\x02\x03\x05\x61\x80"

// left lists the keys that apps have in the store.
func (w *world) left() []string {
	w.t.Helper()
	var keys []string
	for i := range w.shards {
		lower, upper := store.ShardRange(spec.ShardID(i + 1))
		err := w.db.Scan(lower, upper, func(k, _ []byte) bool {
			if !strings.Contains(shardsOwn, string(k[4:5])) {
				keys = append(keys, fmt.Sprintf("%x %q", k[4], bytes.ToValidUTF8(k[5:], []byte("·"))))
			}
			return true
		})
		if err != nil {
			w.t.Fatalf("scan: %v", err)
		}
	}
	return keys
}

// leftOf lists the keys in the store that name something.
func (w *world) leftOf(name string) []string {
	w.t.Helper()
	return slices.DeleteFunc(w.left(), func(k string) bool { return !strings.Contains(k, name) })
}

// nothingLeft waits until the store holds no key of apps.
func (w *world) nothingLeft() {
	w.t.Helper()
	var left []string
	defer func() {
		if w.t.Failed() {
			w.t.Logf("left in the store:\n%s", strings.Join(left, "\n"))
		}
	}()
	eventually(w.t, "the store is empty", func() bool { left = w.left(); return len(left) == 0 })
}

// noise is bytes that don't compress.
func noise(size int, seed uint64) string {
	rng := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	b := make([]byte, size)
	_, _ = rng.Read(b)
	return string(b)
}

// waitFor blocks a function until a channel is closed or the attempt is to stop.
func (c *call) waitFor(gate <-chan struct{}) error {
	select {
	case <-gate:
		return nil
	case <-c.ctx.Done():
		return errors.New("told to stop")
	}
}

func dataOf(in []exec.Input) []string {
	var out []string
	for _, i := range in {
		out = append(out, string(i.Data))
	}
	return out
}
