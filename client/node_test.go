package client_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/internal/nodetest"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

func TestMain(m *testing.M) { nodetest.Main(m) }

func apply(t *testing.T, c *client.Client, app spec.AppName, manifest, folder string) {
	t.Helper()
	var o client.ApplyOptions
	if folder != "" {
		packed, err := client.Pack(folder, client.PackOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.UploadArtifact(t.Context(), app, packed); err != nil {
			t.Fatal(err)
		}
		o.Artifact = packed.Sum
	}
	if _, err := c.Apply(t.Context(), app, []byte(manifest), o); err != nil {
		t.Fatal(err)
	}
}

func TestAWatchOverTheRestartOfARealNodeTellsEveryPutOnce(t *testing.T) {
	const puts = 200
	n := nodetest.Start(t)
	c := n.Client()
	defer c.Close()
	apply(t, c, "app", "apiVersion: pheromone/v1\napp: app\nbuckets: {b: {}}\n", "")
	put := func(key string) {
		if _, err := c.Put(t.Context(), "app", "b", spec.Key(key), strings.NewReader(key), client.PutOptions{}); err != nil {
			t.Errorf("put %s: %v", key, err)
		}
	}
	var seen []string
	started, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for e, err := range c.Watch(t.Context(), "app", "b", client.WatchOptions{}) {
			switch {
			case err != nil:
				t.Errorf("the watch ended: %v", err)
				return
			case strings.HasPrefix(string(e.Object.Key), "start"):
				select {
				case <-started:
				default:
					close(started)
				}
			default:
				seen = append(seen, string(e.Object.Key))
			}
			if len(seen) > 0 && seen[len(seen)-1] == "end" {
				return
			}
		}
	}()
	tries := 0
	nodetest.Eventually(t, "the watch is there", func() bool {
		tries++
		put(fmt.Sprintf("start%d", tries))
		select {
		case <-started:
			return true
		case <-ended:
			return true
		default:
			return false
		}
	})
	for i := range puts {
		if i == puts/4 || i == puts/2 {
			n.Kill()
			n.Launch() // and the next puts wait for it
		}
		put(fmt.Sprintf("k%d", i))
	}
	put("end")
	select {
	case <-ended:
	case <-time.After(2 * time.Minute):
		t.Fatal("the watch does not come to the end")
	}
	if len(seen) != puts+1 {
		t.Fatalf("%d events, want %d", len(seen), puts+1)
	}
	for i, key := range seen[:puts] {
		if key != fmt.Sprintf("k%d", i) {
			t.Fatalf("event %d is of %s", i, key)
		}
	}
}

func TestAResultIsWaitedForOverTheRestartOfARealNode(t *testing.T) {
	n := nodetest.Start(t)
	c := n.Client()
	defer c.Close()
	folder := t.TempDir()
	began, finish := filepath.Join(folder, "began"), filepath.Join(folder, "finish")
	program := fmt.Sprintf(`import os, time
from pheromone import function, main

@function
def slow(ctx, objects):
    open(%q, "w").close()
    while not os.path.exists(%q):
        time.sleep(0.01)
    ctx.output("done")

main()
`, began, finish)
	app := t.TempDir()
	if err := os.WriteFile(filepath.Join(app, "app.py"), []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	apply(t, c, "app", "apiVersion: pheromone/v1\napp: app\nfunctions: {slow: {runtime: process, command: [python3, app.py], timeout: 2m}}\n", app)
	started, err := c.Invoke(t.Context(), "app", "slow", strings.NewReader("x"), client.InvokeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	type outcome struct {
		result wire.Result
		err    error
	}
	done := make(chan outcome, 1)
	go func() {
		r, err := c.Result(t.Context(), "app", started.Session, client.ResultOptions{Wait: 2 * time.Minute})
		done <- outcome{r, err}
	}()
	nodetest.Eventually(t, "the function runs", func() bool { _, err := os.Stat(began); return err == nil })
	n.Kill()
	n.Restart()
	if err := os.WriteFile(finish, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := <-done; got.err != nil || got.result.Status != wire.SessionCompleted || len(got.result.Outputs) != 1 {
		t.Errorf("Result = %+v, %v", got.result, got.err)
	}
}
