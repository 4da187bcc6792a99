package node_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/pheromone-run/pheromone/api"
	"github.com/pheromone-run/pheromone/spec/wire"
)

func notesWith(buckets string) []byte {
	return []byte("apiVersion: pheromone/v1\napp: notes\nbuckets: {" + buckets + "}\n")
}

// Who was not told the outcome asks again, and does not know what others have done.
func TestARepeatedApplyUndoesNothingThatOthersApplied(t *testing.T) {
	ctx, dir := context.Background(), filepath.Join(t.TempDir(), "data")
	n := start(t, dir)
	apply := func(buckets, key string) wire.ApplyResult {
		t.Helper()
		r, err := n.Apply(ctx, "notes", notesWith(buckets), api.ApplyOptions{IdempotencyKey: key})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	rollBack := func(version uint64, key string) wire.ApplyResult {
		t.Helper()
		r, err := n.Rollback(ctx, "notes", version, key)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	expect := func(what string, r wire.ApplyResult, version uint64, changes int, newest uint64) {
		t.Helper()
		if app, err := n.GetApp(ctx, "notes", 0); err != nil || app.Version != newest || r.Version != version || len(r.Changes) != changes {
			t.Errorf("%s: version %d with the changes %v, and the newest is %d, %v", what, r.Version, r.Changes, app.Version, err)
		}
	}
	expect("the first one", apply("a: {}", "k1"), 1, len(apply("a: {}", "k1").Changes), 1)
	expect("one that changes nothing", apply("a: {}", "k2"), 1, 0, 1)
	expect("somebody else's", apply("a: {}, b: {}", ""), 2, 1, 2)
	for _, when := range []string{"at once", "after a restart"} {
		if when == "after a restart" {
			if err := n.Close(); err != nil {
				t.Fatal(err)
			}
			n = start(t, dir)
		}
		if r := apply("a: {}", "k1"); r.Version != 1 || len(r.Changes) == 0 {
			t.Errorf("%s the first one is answered %+v", when, r)
		}
		expect("the one that changed nothing, "+when, apply("a: {}", "k2"), 1, 0, 2)
	}
	expect("a rollback", rollBack(1, "k3"), 3, 1, 3)
	expect("somebody else's", apply("a: {}, c: {}", ""), 4, 1, 4)
	expect("the rollback again", rollBack(1, "k3"), 3, 1, 4)
	expect("another one under its key", rollBack(2, "k3"), 5, 2, 5)
	expect("one without a key", apply("a: {}", ""), 6, 1, 6)
}
