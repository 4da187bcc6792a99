package leader_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/leader"
	"github.com/pheromone-run/pheromone/spec/wire"
)

func conditional(functions, buckets string) string {
	return manifest("functions:\n" + functions + "\nbuckets:\n" + buckets)
}

func TestAConditionKeepsObjectsFromATrigger(t *testing.T) {
	w := newWorld(t, 1, conditional(`
  eu: {runtime: inproc}
  big: {runtime: inproc}
  urgent: {runtime: inproc}`, `
  in:
    triggers:
      - {name: eu, primitive: immediate, target: eu, when: 'has(object.meta.region) && object.meta.region == "eu"'}
      - {name: big, primitive: immediate, target: big, when: 'object.size > 10'}
      - {name: urgent, primitive: immediate, target: urgent, when: 'object.content_type == "application/json" && object.value.urgent'}`),
		map[string]function{"eu": fired, "big": fired, "urgent": fired})
	for _, test := range []struct {
		put  leader.Put
		want []string
	}{
		{leader.Put{Key: "plain", Body: strings.NewReader("x")}, nil},
		{leader.Put{Key: "near", Body: strings.NewReader("x"), Meta: map[string]string{"region": "eu"}}, []string{"eu"}},
		{leader.Put{Key: "large", Body: strings.NewReader("more than ten bytes")}, []string{"big"}},
		{leader.Put{Key: "now", Body: strings.NewReader(`{"urgent":true}`), ContentType: "application/json"}, []string{"big", "urgent"}},
		{leader.Put{Key: "later", Body: strings.NewReader(`{"urgent":false}`), ContentType: "application/json"}, []string{"big"}},
	} {
		test.put.Bucket = "in"
		res, err := w.tryPut(test.put)
		if err != nil {
			t.Fatalf("put %s: %v", test.put.Key, err)
		}
		if status := w.result(res.Session).Status; status != wire.SessionCompleted {
			t.Errorf("%s: the session ended as %s", test.put.Key, status)
		}
		var got []string
		for _, inv := range w.history(res.Session).Invocations {
			got = append(got, string(inv.Function))
		}
		if fmt.Sprint(got) != fmt.Sprint(test.want) {
			t.Errorf("%s fired %v, want %v", test.put.Key, got, test.want)
		}
	}
}

func TestAConditionThatCannotBeEvaluatedFailsWhereTheUserSeesIt(t *testing.T) {
	w := newWorld(t, 1, conditional(`
  f: {runtime: inproc}
  other: {runtime: inproc}`, `
  in:
    triggers:
      - {name: picky, primitive: immediate, target: f, when: 'object.meta.region == "eu"'}
      - {name: all, primitive: immediate, target: other}`),
		map[string]function{"f": fired, "other": fired})
	id := w.put("in", "x", "")
	e := w.failed(id)
	if e.Kind != "condition" || !strings.Contains(e.Message, "picky") || !strings.Contains(e.Message, "no such key") {
		t.Errorf("failed with %+v", e)
	}
	wantLines(t, w.states(id), "f failed", "other succeeded")
	w.restart() // and the shard goes on
	if res := w.result(w.put("in", "y", "")); res.Status != wire.SessionFailed {
		t.Errorf("the next session ended as %s", res.Status)
	}
}

func TestAConditionThatFailsGoesToTheDeadLettersOnceAndNotRoundInCircles(t *testing.T) {
	w := newWorld(t, 1, conditional(`
  f: {runtime: inproc, dead_letter: failed}
  g: {runtime: inproc, dead_letter: failed}`, `
  in: {triggers: [{name: t, primitive: immediate, target: f, when: 'object.meta.region == "eu"'}]}
  failed: {triggers: [{name: t, primitive: immediate, target: g, when: 'object.meta.region == "eu"'}]}`),
		map[string]function{"f": fired, "g": fired})
	e := w.failed(w.put("in", "x", ""))
	if e.Kind != "condition" || e.Function != "g" {
		t.Errorf("failed with %+v, want the condition before g", e)
	}
	if ran := w.run.count("f") + w.run.count("g"); ran != 0 {
		t.Errorf("%d functions ran", ran)
	}
}
