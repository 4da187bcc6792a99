package spec_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/spec"
	"pgregory.net/rapid"
)

const before = `apiVersion: pheromone/v1
app: shop
functions:
  f: {command: [run], timeout: 3s, env: {A: x}}
  g: {command: [run]}
buckets:
  b:
    triggers:
      - {name: one, primitive: by_set, target: f, keys: [x, y]}
      - {name: two, primitive: immediate, target: f}
  c: {triggers: [{name: three, primitive: immediate, target: g}]}
`

func TestADifferenceIsToldFieldByField(t *testing.T) {
	tests := []struct {
		name, from, to string // replaced in the manifest
		want           []string
	}{
		{"nothing", "", "", nil},
		{"a default that is written out", "app: shop\n", "app: shop\nretention: 60m\n", nil},
		{"an app's own field", "app: shop\n", "app: shop\nretention: 2h\n", []string{"change retention: 1h -> 2h"}},
		{"a limit", "app: shop\n", "app: shop\nlimits: {max_pending: 5}\n", []string{"change limits.max_pending: 1000000 -> 5"}},
		{"a field of a function", "timeout: 3s", "timeout: 4s", []string{"change functions.f.timeout: 3s -> 4s"}},
		{"a nested field", "timeout: 3s", "timeout: 3s, retry: {max_attempts: 1}", []string{"change functions.f.retry.max_attempts: 4 -> 1"}},
		{"a list", "[run], timeout", "[run, -v], timeout", []string{`change functions.f.command: ["run"] -> ["run","-v"]`}},
		{"a field that comes", "timeout: 3s", "timeout: 3s, dead_letter: c", []string{"add functions.f.dead_letter:  -> c"}},
		{"a field that goes", "{A: x}", "{B: y}", []string{"remove functions.f.env.A: x -> ", "add functions.f.env.B:  -> y"}},
		{"a function that comes", "  g:", "  h: {command: [run]}\n  g:", []string{"add functions.h:  -> "}},
		{"an option of a trigger", "keys: [x, y]", "keys: [x]", []string{`change buckets.b.triggers.one.keys: ["x","y"] -> ["x"]`}},
		{"a condition that comes", "name: one,", "name: one, when: object.size < 5,", []string{
			"add buckets.b.triggers.one.when:  -> object.size < 5"}},
		{"another primitive", "by_set, target: f, keys: [x, y]", "by_batch_size, target: f, count: 3", []string{
			"add buckets.b.triggers.one.count:  -> 3",
			`remove buckets.b.triggers.one.keys: ["x","y"] -> `,
			"add buckets.b.triggers.one.max_wait:  -> 0s",
			"change buckets.b.triggers.one.primitive: by_set -> by_batch_size",
			"change buckets.b.triggers.one.scope: session -> bucket"}},
		{"the order of triggers", "name: one", "name: zero", []string{
			"remove buckets.b.triggers.one:  -> ", "add buckets.b.triggers.zero:  -> "}},
		{"a bucket that goes", "  c: {triggers: [{name: three, primitive: immediate, target: g}]}\n", "", []string{
			"remove buckets.c:  -> ", "remove buckets.c.triggers.three:  -> "}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			old := parse(t, before)
			expectChanges(t, spec.Diff(old, parse(t, strings.Replace(before, tt.from, tt.to, 1))), tt.want)
		})
	}
}

func TestTheOrderOfTriggersIsADifference(t *testing.T) {
	old, updated := parse(t, before), parse(t, before)
	slices.Reverse(updated.Buckets["b"].Triggers)
	expectChanges(t, spec.Diff(old, updated), []string{"change buckets.b.triggers: one, two -> two, one"})
}

func TestAnotherArtifactIsADifference(t *testing.T) {
	old, updated := parse(t, before), parse(t, before)
	updated.Artifact = "abc"
	expectChanges(t, spec.Diff(old, updated), []string{"add artifact:  -> abc"})
}

func TestANewAppIsOneLineForEachFunctionBucketAndTrigger(t *testing.T) {
	app := parse(t, before)
	want := []string{
		"functions.f", "functions.g", "buckets.b", "buckets.b.triggers.one", "buckets.b.triggers.two",
		"buckets.c", "buckets.c.triggers.three",
	}
	for action, changes := range map[string][]spec.Change{"add": spec.Diff(nil, app), "remove": spec.Diff(app, nil)} {
		var lines []string
		for _, path := range want {
			lines = append(lines, action+" "+path+":  -> ")
		}
		expectChanges(t, changes, lines)
	}
}

func TestAppsWithoutADifferenceHaveOneManifest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawApp(t), drawApp(t)
		if rapid.Bool().Draw(t, "same name") {
			b.Name, b.Limits, b.Retention = a.Name, a.Limits, a.Retention
		}
		same := bytes.Equal(a.Manifest(), b.Manifest())
		if none := len(spec.Diff(a, b)) == 0; none != same {
			t.Fatalf("no change: %v, same manifest: %v\n%s\n%s", none, same, a.Manifest(), b.Manifest())
		}
		if changes := spec.Diff(a, a); len(changes) != 0 {
			t.Fatalf("an app differs from itself: %v", changes)
		}
	})
}

func expectChanges(t *testing.T, changes []spec.Change, want []string) {
	t.Helper()
	var got []string
	for _, c := range changes {
		got = append(got, fmt.Sprintf("%s %s: %s -> %s", c.Action, c.Path, c.From, c.To))
	}
	if !slices.Equal(got, want) {
		t.Errorf("changes are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
