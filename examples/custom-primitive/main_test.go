package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/client"
	"github.com/pheromone-run/pheromone/spec"
)

func TestTheProgramIndexesTheNewestDrafts(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), "", "127.0.0.1:0", false, &out); err != nil {
		t.Fatal(err)
	}
	// A machine that is slow enough for a pause between two saves has older drafts indexed, too.
	for _, want := range []string{"indexed essay: On nature\n", "indexed poem: O wild west wind\n"} {
		if strings.Count(out.String(), want) != 1 {
			t.Errorf("the program says %q", out.String())
		}
	}
}

// index notes what is indexed, and by which start of the node.
type index struct {
	mu    sync.Mutex
	start string
	done  []string
}

func (i *index) begin(start string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.start = start
}

func (i *index) note(document string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.done = append(i.done, document+" by the "+i.start)
}

func (i *index) all() []string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return slices.Clone(i.done)
}

func TestABurstThatARestartInterruptsFiresOnceWithItsNewestObject(t *testing.T) {
	for quiet := 5 * time.Second; ; quiet *= 2 {
		took, indexed := interruptedBurst(t, quiet)
		if took >= quiet && quiet < time.Minute {
			t.Logf("two starts took %s: the burst may have been over", took)
			continue
		}
		if want := []string{"essay: x by the third start", "poem: abc by the third start"}; !slices.Equal(indexed, want) {
			t.Errorf("indexed %q, want %q", indexed, want)
		}
		return
	}
}

// interruptedBurst saves documents before and after a restart of the node, and lets a
// third start index them. It returns how long saving and both ends of the node took.
func interruptedBurst(t *testing.T, quiet time.Duration) (took time.Duration, indexed []string) {
	t.Helper()
	defer func(whole []byte) { manifest = whole }(manifest)
	manifest = bytes.Replace(manifest, []byte("quiet: 500ms, max_wait: 10s"), fmt.Appendf(nil, "quiet: %s, max_wait: %s", quiet, 2*quiet), 1)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	data := t.TempDir()
	idx := &index{}
	put := func(url string, drafts ...string) {
		t.Helper()
		c, err := client.New(url)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for _, draft := range drafts {
			name, text, _ := strings.Cut(draft, ": ")
			if _, err := c.Put(ctx, "search", "drafts", spec.Key(name), strings.NewReader(text), client.PutOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	var began time.Time
	for _, s := range []struct {
		name   string
		drafts []string
	}{{"first start", []string{"poem: a", "poem: ab", "essay: x"}}, {"second start", []string{"poem: abc"}}, {"third start", nil}} {
		idx.begin(s.name)
		n, err := start(ctx, data, "127.0.0.1:0", idx.note)
		if err != nil {
			t.Fatal(err)
		}
		if began.IsZero() {
			began = time.Now()
		}
		put(n.URL(), s.drafts...)
		for s.drafts == nil && len(idx.all()) < 2 {
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
				t.Fatalf("indexed so far: %q", idx.all())
			}
		}
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
		if s.drafts != nil {
			took = time.Since(began)
		}
	}
	indexed = idx.all()
	slices.Sort(indexed)
	return took, indexed
}
