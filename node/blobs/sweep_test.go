package blobs_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// aged is how far ahead a clock is by which copies are old enough to be swept.
const aged = 11 * time.Minute

// copied is a blob that n1 has staged, with a copy on n2 that is old enough to go.
func copied(t *testing.T) (n1, n2 *node, blob store.Blob) {
	t.Helper()
	c := newCluster(t, "n1", "n2")
	n1, n2 = c.nodes["n1"], c.nodes["n2"]
	blob = n1.stage(noise(1, 100<<10))
	if err := n1.spread(blob); err != nil {
		t.Fatal(err)
	}
	n2.behave(behavior{ahead: aged})
	return n1, n2, blob
}

func TestACopyIsSweptOnlyOnceNoEntryCanCome(t *testing.T) {
	for _, x := range []struct {
		name  string
		first func(n1, n2 *node, blob store.Blob)
		stays bool
	}{
		{"at work at the node that staged it", func(_, _ *node, _ store.Blob) {}, true},
		{"released there, and undecided", func(n1, _ *node, blob store.Blob) { n1.db.ReleaseBlob(blob) }, true},
		{"discarded there", func(n1, _ *node, blob store.Blob) { _ = n1.db.DiscardBlob(1, "a", blob) }, false},
		{"swept there by a new leader", func(n1, _ *node, blob store.Blob) { n1.db.ReleaseBlob(blob); _ = n1.db.SweepStaged(1) }, false},
		{"not old enough", func(n1, n2 *node, blob store.Blob) { _ = n1.db.DiscardBlob(1, "a", blob); n2.behave(behavior{}) }, true},
		{"its node does not answer", func(n1, _ *node, blob store.Blob) { _ = n1.db.DiscardBlob(1, "a", blob); n1.cut("n1") }, true},
		{"its node is not a member any more", func(n1, _ *node, _ store.Blob) {
			n1.cut("n1")
			n1.mu.Lock()
			defer n1.mu.Unlock()
			delete(n1.members, "n1")
		}, false},
		{"the replica is not caught up", func(n1, n2 *node, blob store.Blob) {
			_ = n1.db.DiscardBlob(1, "a", blob)
			n2.behave(behavior{ahead: aged, caughtUp: func() error { return errAway }})
		}, true},
		{"its entry comes when the replica catches up", func(n1, n2 *node, blob store.Blob) {
			n1.adopt(blob, 1)
			n1.db.ReleaseBlob(blob)
			n2.behave(behavior{ahead: aged, caughtUp: func() error { n2.adopt(blob, 1); return nil }})
		}, true},
	} {
		t.Run(x.name, func(t *testing.T) {
			n1, n2, blob := copied(t)
			x.first(n1, n2, blob)
			n2.blobs.Sweep(t.Context())
			if n2.has(blob) != x.stays {
				t.Errorf("it is there: %v", !x.stays)
			}
			n1.mend()
		})
	}
}

func TestANodeSweepsWhatAnEarlierProcessOfItHasStaged(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	n1 := c.nodes["n1"]
	kept := n1.stage(noise(1, 100<<10))
	left := n1.stage(noise(2, 100<<10))
	n1.db.ReleaseBlob(left)
	n1.behave(behavior{ahead: aged})
	n1.blobs.Sweep(t.Context())
	if !n1.has(kept) || n1.has(left) {
		t.Errorf("at work: %v, released: %v", n1.has(kept), n1.has(left))
	}
}

func TestRequestsFromAnywhereAreRefused(t *testing.T) {
	c := newCluster(t, "n1", "n2")
	n1, n2 := c.nodes["n1"], c.nodes["n2"]
	blob := n1.stage(noise(1, mib+100))
	r, err := n1.db.ExportBlob(1, "a", blob)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	record := store.AppendBlob(nil, &blob)
	huge := blob
	huge.Size, huge.Chunks = 1<<60, 1<<31
	put := func(change map[string]any) map[string]any {
		args := map[string]any{"node": "n1", "shard": 1, "app": "a", "blob": record}
		for k, v := range change {
			args[k] = v
		}
		return args
	}
	names := make([]store.BlobName, 5000)
	for _, x := range []struct {
		name, method string
		args         any
		body         io.Reader
		code         spec.Code
	}{
		{"a method that there is not", "blob.eat", nil, nil, spec.CodeUnsupported},
		{"arguments of another kind", "blob.put", []int{1}, bytes.NewReader(whole), spec.CodeInvalid},
		{"a shard that is not here", "blob.put", put(map[string]any{"shard": 7}), bytes.NewReader(whole), spec.CodeUnavailable},
		{"a shard that can't be", "blob.get", put(map[string]any{"shard": json.Number("4294967295")}), nil, spec.CodeUnavailable},
		{"no bytes", "blob.put", put(nil), nil, spec.CodeInvalid},
		{"nobody who staged it", "blob.put", put(map[string]any{"node": ""}), bytes.NewReader(whole), spec.CodeInvalid},
		{"a record that is none", "blob.put", put(map[string]any{"blob": []byte("nonsense")}), bytes.NewReader(whole), spec.CodeInvalid},
		{"a size beyond all limits", "blob.put", put(map[string]any{"blob": store.AppendBlob(nil, &huge)}), bytes.NewReader(whole), spec.CodeTooLarge},
		{"bytes cut short", "blob.put", put(nil), bytes.NewReader(whole[:len(whole)-1]), spec.CodeInternal},
		{"other bytes", "blob.put", put(nil), strings.NewReader(strings.Repeat("x", len(whole))), spec.CodeInternal},
		{"bytes without end", "blob.put", put(nil), io.MultiReader(bytes.NewReader(whole), neverEnds{}), spec.CodeInternal},
		{"a blob that is not there", "blob.get", put(nil), nil, spec.CodeNotFound},
		{"too many names", "blob.drop", map[string]any{"shard": 1, "names": names}, nil, spec.CodeTooLarge},
		{"too many names to look for", "blob.staged", map[string]any{"shard": 1, "names": names}, nil, spec.CodeTooLarge},
		{"names in a shard that can't be", "blob.drop", map[string]any{"shard": json.Number("18446744073709551615")}, nil, spec.CodeInvalid},
	} {
		t.Run(x.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			_, err := n1.call(ctx, "n2", x.method, x.args, x.body, nil)
			if spec.CodeOf(err) != x.code {
				t.Errorf("%s: %v", spec.CodeOf(err), err)
			}
			if n := keys(t, n2.db); n != 0 {
				t.Errorf("%d keys are left", n)
			}
		})
	}
	if err := n1.spread(blob); err != nil || !n2.has(blob) {
		t.Errorf("a good one afterwards: %v", err)
	}
}

type neverEnds struct{}

func (neverEnds) Read(p []byte) (int, error) { return len(p), nil }

func TestReplicasHoldTheSameWhateverTheyMissed(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		c := newCluster(rt, "n1", "n2", "n3")
		defer func() {
			for _, n := range c.nodes {
				n.close()
			}
		}()
		n1 := c.nodes["n1"]
		var log []store.Blob // adopted, in the order of their entries
		applied := map[string]int{}
		apply := func(name string) {
			for ; applied[name] < len(log); applied[name]++ {
				c.nodes[name].adopt(log[applied[name]], uint64(applied[name]+1))
			}
		}
		seed := uint64(0)
		name := rapid.SampledFrom([]string{"n2", "n3"})
		rt.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				seed++
				blob := n1.stage(noise(seed, rapid.IntRange(1, 200<<10).Draw(t, "size")))
				err := n1.spread(blob)
				if err != nil {
					if !errors.Is(err, errAway) {
						t.Fatal(err)
					}
					n1.blobs.Discard(1, "a", blob)
					if err := n1.db.DiscardBlob(1, "a", blob); err != nil {
						t.Fatal(err)
					}
					return
				}
				log = append(log, blob)
				apply("n1")
				n1.db.ReleaseBlob(blob)
			},
			"cut":      func(t *rapid.T) { c.cut(name.Draw(t, "who")) },
			"mend":     func(*rapid.T) { c.mend() },
			"catch up": func(t *rapid.T) { apply(name.Draw(t, "who")) },
			"restart":  func(t *rapid.T) { n := c.nodes[name.Draw(t, "who")]; n.close(); n.start() },
			"look":     func(t *rapid.T) { c.nodes[name.Draw(t, "who")].blobs.Look() },
			"read": func(t *rapid.T) {
				if who := name.Draw(t, "who"); applied[who] > 0 {
					blob := log[rapid.IntRange(0, applied[who]-1).Draw(t, "blob")]
					if _, err := c.nodes[who].db.ReadBlob(1, "a", blob); err != nil && spec.CodeOf(err) != spec.CodeUnavailable {
						t.Fatal(err)
					}
				}
			},
		})
		c.mend()
		for _, n := range []*node{c.nodes["n2"], c.nodes["n3"]} {
			apply(n.name)
			n.close() // transfers under way end
			n.start()
			n.behave(behavior{ahead: aged})
			n.blobs.Look()
			eventually(rt, n.name+" lacks nothing", func() bool {
				_, lacking, err := n.db.HashBlobs(1)
				return err == nil && lacking == 0
			})
			eventually(rt, n.name+" has no copies that nothing refers to", func() bool {
				n.blobs.Sweep(context.Background())
				return n.marks() == 0
			})
		}
		compare(rt, n1, c.nodes["n2"], c.nodes["n3"])
		if a, b := keys(rt, n1.db), keys(rt, c.nodes["n2"].db); a != b {
			rt.Fatalf("n1 has %d keys, n2 %d", a, b)
		}
	})
}
