package node_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/client/fn"
	"github.com/pheromone-run/pheromone/exec/inproc"
	"github.com/pheromone-run/pheromone/node"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

const notes = `
apiVersion: pheromone/v1
app: notes
functions: {gone: {runtime: inproc}}
buckets:
  plain: {}
  kept: {triggers: [{name: gone, primitive: immediate, on: delete, target: gone}]}
`

// served is a node over HTTP, with the app notes, whose function says what it got.
func served(t *testing.T, shards int, manifest string) (*node.Node, *client.Client) {
	t.Helper()
	functions := inproc.New(inproc.Settings{})
	functions.Register("notes", "gone", func(ctx *fn.Context, in []fn.Object) error {
		return ctx.Output([]byte("gone: " + string(in[0].Bytes())))
	})
	n, err := node.Start(t.Context(), node.Config{DataDir: filepath.Join(t.TempDir(), "data"), Listen: "127.0.0.1:0", Shards: shards, Inproc: functions})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	c, err := client.New(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	deploy(t, c, manifest)
	return n, c
}

func deploy(t *testing.T, c *client.Client, manifest string) {
	t.Helper()
	if _, err := c.Apply(t.Context(), "notes", []byte(manifest), client.ApplyOptions{}); err != nil {
		t.Fatal(err)
	}
}

func put(t *testing.T, c *client.Client, bucket spec.BucketName, key spec.Key, value string) wire.PutResult {
	t.Helper()
	r, err := c.Put(t.Context(), "notes", bucket, key, strings.NewReader(value), client.PutOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func wants(t *testing.T, err error, code spec.Code, says ...string) *client.Error {
	t.Helper()
	e, ok := errors.AsType[*client.Error](err)
	if !ok || e.Err.Code != code {
		t.Fatalf("the error is %v, want %s", err, code)
	}
	for _, s := range says {
		if !strings.Contains(e.Error()+e.Err.Hint, s) {
			t.Errorf("%q does not say %q", e.Error(), s)
		}
	}
	return e
}

func TestADeleteOverHTTPNamesTheSessionThatItDrives(t *testing.T) {
	n, c := served(t, 3, notes)
	for i := range 12 { // over all shards
		key := spec.Key(fmt.Sprint("k/", i))
		put(t, c, "kept", key, "v")
		r, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, n.URL()+"/v1/apps/notes/buckets/kept/objects/"+string(key), nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		session := spec.SessionID(answer.Header.Get(wire.HeaderSession))
		if answer.StatusCode != http.StatusOK || session == "" {
			t.Fatalf("status %d, session %q", answer.StatusCode, session)
		}
		if o, err := c.GetSessionObject(t.Context(), "notes", session, "kept", key); err != nil || !o.Deleted || string(o.Data) != "v" {
			t.Errorf("the session's object: %+v, %v", o, err)
		}
		again, err := c.Rerun(t.Context(), "notes", session, "")
		if err != nil {
			t.Fatalf("run it again: %v", err)
		}
		for _, id := range []spec.SessionID{session, again.Session} {
			result, err := c.Result(t.Context(), "notes", id, client.ResultOptions{Wait: time.Minute})
			if err != nil || len(result.Outputs) != 1 || string(result.Outputs[0].Data) != "gone: v" {
				t.Errorf("result of %s: %+v, %v", id, result, err)
			}
		}
	}
	put(t, c, "plain", "k", "v")
	if r, err := c.Delete(t.Context(), "notes", "plain", "k", client.DeleteOptions{}); err != nil || r.Session != "" || r.Revision == 0 {
		t.Errorf("a delete that drives nothing: %+v, %v", r, err)
	}
}

func TestTheAnswerOfARepeatedRequestOutlivesItsSession(t *testing.T) {
	n, c := served(t, 1, notes)
	invoke := func(wait time.Duration) (wire.Result, error) {
		return c.Invoke(t.Context(), "notes", "gone", strings.NewReader("v"), client.InvokeOptions{Wait: wait, IdempotencyKey: "once"})
	}
	first, err := invoke(time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Purge(t.Context(), "notes", first.Session); err != nil {
		t.Fatal(err)
	}
	if again, err := invoke(0); err != nil || again.Session != first.Session {
		t.Errorf("repeated: %+v, %v, want session %s", again, err, first.Session)
	}
	_, err = invoke(time.Minute)
	wants(t, err, spec.CodeNotFound, string(first.Session), "has ended", "no longer kept", "idempotency key")

	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, n.URL()+"/v1/apps/notes/functions/gone/invoke?wait=10s", strings.NewReader("v"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set(wire.HeaderIdempotencyKey, "once")
	r.Header.Set("Content-Type", "application/octet-stream")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(answer.Body)
	_ = answer.Body.Close()
	if err != nil || answer.StatusCode != http.StatusNotFound || answer.Header.Get(wire.HeaderSession) != string(first.Session) || !strings.Contains(string(body), "no longer kept") {
		t.Errorf("over HTTP: %d %s, %v", answer.StatusCode, body, err)
	}
}

func TestAWatchEndsWhenItsAppIsDeletedAndSaysWhereToGoOn(t *testing.T) {
	for _, shards := range []int{1, 3} {
		t.Run(fmt.Sprint(shards, " shards"), func(t *testing.T) {
			_, c := served(t, shards, notes)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			watch := func(from string, each func(wire.WatchEvent) bool) error {
				for e, err := range c.Watch(ctx, "notes", "plain", client.WatchOptions{From: from}) {
					if err != nil {
						return err
					}
					if !each(e) {
						return nil
					}
				}
				return ctx.Err()
			}
			put(t, c, "plain", "first", "v")
			var before string
			seen, ended := make(chan struct{}), make(chan error, 1)
			go func() {
				ended <- watch("", func(e wire.WatchEvent) bool {
					if before == "" {
						before = e.Position
						close(seen)
					}
					return true
				})
			}()
			for waiting := true; waiting; { // a watch from now on begins when it is connected
				put(t, c, "plain", "seen", "v")
				select {
				case <-seen:
					waiting = false
				default:
				}
			}
			if err := c.DeleteApp(ctx, "notes"); err != nil {
				t.Fatal(err)
			}
			e := wants(t, <-ended, spec.CodeGone, "the app was deleted")
			wants(t, watch(before, func(wire.WatchEvent) bool { return true }), spec.CodeNotFound)
			deploy(t, c, notes)
			put(t, c, "plain", "again", "v")
			late := wants(t, watch(before, func(wire.WatchEvent) bool { return true }), spec.CodeGone, "the app was deleted")
			if late.Status != http.StatusGone {
				t.Errorf("a watch from before the deletion is answered %d", late.Status)
			}
			var got []string
			err := watch(e.Err.Hint, func(e wire.WatchEvent) bool {
				got = append(got, e.Type+" "+string(e.Object.Key))
				return false
			})
			if err != nil || len(got) != 1 || got[0] != "put again" {
				t.Errorf("from the hint: %q, %v", got, err)
			}
		})
	}
}

func TestAnAppThatIsNotThereIsAnsweredWithASuggestion(t *testing.T) {
	_, c := served(t, 1, notes)
	ctx := t.Context()
	for name, call := range map[string]func() error{
		"get": func() error { _, err := c.Get(ctx, "nots", "plain", "k", client.GetOptions{}); return err },
		"put": func() error {
			_, err := c.Put(ctx, "nots", "plain", "k", strings.NewReader(""), client.PutOptions{})
			return err
		},
		"delete":   func() error { _, err := c.Delete(ctx, "nots", "plain", "k", client.DeleteOptions{}); return err },
		"invoke":   func() error { _, err := c.Invoke(ctx, "nots", "gone", nil, client.InvokeOptions{}); return err },
		"app":      func() error { _, err := c.App(ctx, "nots", 0); return err },
		"versions": func() error { _, err := c.AppVersions(ctx, "nots"); return err },
		"rollback": func() error { _, err := c.Rollback(ctx, "nots", 1); return err },
		"sessions": func() error { _, err := c.Session(ctx, "nots", "s1"); return err },
		"result":   func() error { _, err := c.Result(ctx, "nots", "s1", client.ResultOptions{}); return err },
		"history":  func() error { _, err := c.History(ctx, "nots", "s1", client.HistoryOptions{}); return err },
		"cancel":   func() error { _, err := c.Cancel(ctx, "nots", "s1"); return err },
		"purge":    func() error { return c.Purge(ctx, "nots", "s1") },
		"app rm":   func() error { return c.DeleteApp(ctx, "nots") },
	} {
		t.Run(name, func(t *testing.T) {
			wants(t, call(), spec.CodeNotFound, `there is no app "nots"`, `did you mean "notes"?`)
		})
	}
}

func TestASlowClientGetsALargeObjectWholeThoughItIsReplaced(t *testing.T) {
	n, c := served(t, 1, notes)
	old := make([]byte, 48<<20) // more than the sockets between take
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(old)
	replace := []func() error{
		func() error {
			_, err := c.Put(t.Context(), "notes", "plain", "k", strings.NewReader("short"), client.PutOptions{})
			return err
		},
		func() error {
			_, err := c.Delete(t.Context(), "notes", "plain", "k", client.DeleteOptions{})
			return err
		},
	}
	for _, f := range replace {
		put(t, c, "plain", "k", string(old))
		answer, err := http.Get(n.URL() + "/v1/apps/notes/buckets/plain/objects/k")
		if err != nil {
			t.Fatal(err)
		}
		head := make([]byte, 1000)
		if _, err := io.ReadFull(answer.Body, head); err != nil {
			t.Fatal(err)
		}
		if err := f(); err != nil {
			t.Fatal(err)
		}
		rest, err := io.ReadAll(answer.Body)
		_ = answer.Body.Close()
		if err != nil || string(head)+string(rest) != string(old) {
			t.Errorf("read %d bytes of %d, %v", len(head)+len(rest), len(old), err)
		}
	}
}
