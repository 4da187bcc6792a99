package leader_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

const wordcount = `
apiVersion: pheromone/v1
app: demo
functions:
  split: {runtime: inproc}
  count: {runtime: inproc}
  merge: {runtime: inproc}
buckets:
  documents: {triggers: [{name: on-document, primitive: immediate, target: split}]}
  parts: {triggers: [{name: count-part, primitive: immediate, target: count}]}
  counts: {triggers: [{name: all-counted, primitive: dynamic_join, target: merge}]}
`

var wordcountFunctions = map[string]function{
	"split": func(c *call) error {
		var keys []spec.Key
		for i, word := range strings.Fields(string(c.in[0].Data)) {
			key := fmt.Sprintf("part-%d", i)
			c.put("parts", key, word)
			keys = append(keys, spec.Key(key))
		}
		c.join("counts", "all-counted", keys...)
		return nil
	},
	"count": func(c *call) error {
		c.put("counts", string(c.in[0].Key), fmt.Sprint(len(c.in[0].Data)))
		return nil
	},
	"merge": func(c *call) error {
		var all []string
		for _, in := range c.in {
			all = append(all, string(in.Data))
		}
		c.output("total", strings.Join(all, "+"))
		return nil
	},
}

func TestAPutDrivesAFanOutAndTheJoinOfItsResults(t *testing.T) {
	for _, shards := range []int{1, 3} {
		t.Run(fmt.Sprint(shards, " shards"), func(t *testing.T) {
			w := newWorld(t, shards, wordcount, wordcountFunctions)
			for i := range 10 {
				res := w.result(w.put("documents", fmt.Sprint("doc-", i), "a bb ccc dddd"))
				if res.Status != wire.SessionCompleted {
					t.Fatalf("session ended as %s: %+v", res.Status, res.Error)
				}
				if got, want := outputs(res), []string{"total=1+2+3+4"}; !slices.Equal(got, want) {
					t.Fatalf("outputs %q, want %q", got, want)
				}
			}
			if got := w.run.count("count"); got != 40 {
				t.Errorf("count ran %d times, want 40", got)
			}
		})
	}
}

func TestHistoryTellsWhyEachFunctionFired(t *testing.T) {
	w := newWorld(t, 1, wordcount, wordcountFunctions)
	id := w.put("documents", "doc", "x yy")
	w.result(id)
	var got []string
	for _, inv := range w.history(id).Invocations {
		var in []string
		for _, i := range inv.Inputs {
			in = append(in, string(i.Key))
		}
		got = append(got, fmt.Sprintf("%s %s %s/%s %v attempts=%d", inv.Function, inv.State, inv.Bucket, inv.Trigger, in, len(inv.Attempts)))
	}
	want := []string{
		"split succeeded documents/on-document [doc] attempts=1",
		"count succeeded parts/count-part [part-0] attempts=1",
		"count succeeded parts/count-part [part-1] attempts=1",
		"merge succeeded counts/all-counted [part-0 part-1] attempts=1",
	}
	if !slices.Equal(got, want) {
		t.Errorf("history:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
