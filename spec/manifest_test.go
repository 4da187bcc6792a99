package spec_test

import (
	"bytes"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"pgregory.net/rapid"
)

// wordcount is the example of the documentation.
const wordcount = `apiVersion: pheromone/v1
app: wordcount
functions:
  split:
    runtime: process
    command: [python3, app.py]     # beside the manifest; the folder is uploaded as the artifact
    timeout: 30s
    retry: {max_attempts: 4, backoff: 100ms, max_backoff: 10s}
  count: {runtime: process, command: [python3, app.py], concurrency: 4}
  merge: {runtime: process, command: [python3, app.py], dead_letter: failed}
buckets:
  documents: {triggers: [{name: on-document, primitive: immediate, target: split}]}
  parts:     {durability: pipelined, triggers: [{name: count-part, primitive: immediate, target: count}]}
  counts:
    triggers:
      - {name: all-counted, primitive: dynamic_join, target: merge}
  failed: {}
`

// everyOption has each trigger option of the documentation.
const everyOption = `apiVersion: pheromone/v1
app: all
functions:
  f: {command: [run], env: {MODE: fast}, emit: atomic}
  map: {runtime: inproc}
buckets:
  x:
    triggers:
      - {name: a, primitive: immediate,     target: f}
      - {name: b, primitive: by_name,       target: f, keys: [yes, also]}
      - {name: b2, primitive: by_name,      target: f, match: "img-*", when: 'object.size < 1000 && object.meta.region == "eu"'}
      - {name: c, primitive: by_set,        target: f, keys: [left, right]}
      - {name: d, primitive: by_batch_size, target: f, count: 100, max_wait: 2s, scope: bucket}
      - {name: e, primitive: by_time,       target: f, every: 1s, slide: 250ms, allow_empty: false}
      - {name: e2, primitive: by_time,      target: f, cron: "0 6 * * 1-5", timezone: Europe/Paris}
      - {name: g, primitive: redundant,     target: f, k: 3, n: 4, cancel_rest: true}
      - {name: h, primitive: dynamic_join,  target: [f, map]}
      - {name: i, primitive: dynamic_group, target: f, group_by: {prefix: ":"}, until: {functions: [map]}}
      - {name: i2, primitive: dynamic_group, target: f, group_by: {meta: region}, until: {keys: ["ctrl:0", "ctrl:1"]}}
      - {name: j, primitive: acme.known, target: f, options: {quiet: 500ms, ratio: 0.25, most: 12, loud: true, of: [a, 1, false]}}
  y:
retention: 0
limits: {max_object_size: 1MiB, max_pending: 10, max_session_objects: 20}
`

func parse(t *testing.T, manifest string) *spec.App {
	t.Helper()
	app, _, err := spec.Parse("app.yaml", []byte(manifest), spec.FormatYAML)
	if err != nil {
		t.Fatalf("parse: %v", err)
	}
	return app
}

func TestWhatAManifestLeavesOutHasItsDefault(t *testing.T) {
	app := parse(t, `apiVersion: pheromone/v1
app: shop
functions:
  f: {command: [run]}
buckets:
  b:
    triggers:
      - {name: size, primitive: by_batch_size, target: f, count: 2}
      - {name: time, primitive: by_time, target: f, every: 1m30s}
      - {name: cron, primitive: by_time, target: f, cron: "0 6 * * *"}
`)
	want := &spec.App{
		Name:      "shop",
		Retention: time.Hour, Durability: spec.Durable,
		Limits: spec.Limits{MaxObjectBytes: 256 << 20, MaxPending: 1_000_000, MaxSessionObjects: 1_000_000},
		Functions: map[spec.FunctionName]*spec.Function{"f": {
			Name: "f", Runtime: spec.RuntimeProcess, Command: []string{"run"}, Timeout: 30 * time.Second,
			Retry: spec.Retry{MaxAttempts: 4, Backoff: 100 * time.Millisecond, MaxBackoff: 10 * time.Second},
			Emit:  spec.EmitStream,
		}},
		Buckets: map[spec.BucketName]*spec.Bucket{"b": {
			Name: "b", Durability: spec.Durable, Triggers: []*spec.Trigger{
				{Name: "size", Primitive: spec.ByBatchSize, Target: []spec.FunctionName{"f"}, Scope: spec.ScopeBucket, On: spec.OnPut, Count: 2},
				{Name: "time", Primitive: spec.ByTime, Target: []spec.FunctionName{"f"}, Scope: spec.ScopeBucket, On: spec.OnPut,
					Every: 90 * time.Second, Slide: 90 * time.Second},
				{Name: "cron", Primitive: spec.ByTime, Target: []spec.FunctionName{"f"}, Scope: spec.ScopeBucket, On: spec.OnPut,
					Cron: "0 6 * * *", Timezone: "UTC"},
			},
		}},
	}
	if !reflect.DeepEqual(app, want) {
		t.Errorf("got %s want %s", app.Manifest(), want.Manifest())
	}
}

func TestTheDurabilityOfAnAppIsThatOfBucketsThatDoNotSayTheirs(t *testing.T) {
	app := parse(t, `
apiVersion: pheromone/v1
app: shop
durability: ephemeral
functions:
  f: {command: [run]}
buckets:
  says: {durability: durable}
  silent: {}
`)
	app = parse(t, string(app.Manifest()))
	for bucket, want := range map[spec.BucketName]spec.Durability{
		"says": spec.Durable, "silent": spec.Ephemeral, spec.Inbox("f"): spec.Ephemeral, spec.OutputBucket: spec.Ephemeral,
	} {
		if b, ok := app.Bucket(bucket); !ok || b.Durability != want {
			t.Errorf("bucket %s is %+v, want %s", bucket, b, want)
		}
	}
}

func TestTheExamplesOfTheDocumentationAreRead(t *testing.T) {
	app := parse(t, wordcount)
	if got := app.Functions["merge"].DeadLetter; got != "failed" {
		t.Errorf("dead letter of merge is %q", got)
	}
	app = parse(t, everyOption)
	triggers := app.Buckets["x"].Triggers
	if len(triggers) != 12 || triggers[8].Target[1] != "map" || triggers[5].Slide != 250*time.Millisecond {
		t.Errorf("triggers of x: %s", app.Manifest())
	}
	if got := triggers[1].Keys; !slices.Equal(got, []spec.Key{"yes", "also"}) {
		t.Errorf("keys of b are %q", got)
	}
	if _, ok := app.Buckets["y"]; !ok || app.Retention != 0 {
		t.Errorf("bucket y is there: %v; retention %v", ok, app.Retention)
	}
}

func TestTheCanonicalManifestMakesAnEqualApp(t *testing.T) {
	for _, manifest := range []string{wordcount, everyOption} {
		app := parse(t, manifest)
		again := parse(t, string(app.Manifest()))
		if !reflect.DeepEqual(app, again) {
			t.Errorf("app became\n%s", again.Manifest())
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		app := drawApp(t)
		manifest := app.Manifest()
		for _, format := range []spec.Format{spec.FormatJSON, spec.FormatYAML} {
			again, _, err := spec.Parse("app", manifest, format)
			if err != nil {
				t.Fatalf("as %s: %v\n%s", format, err, manifest)
			}
			if !reflect.DeepEqual(app, again) {
				t.Fatalf("as %s:\n%s\nbecame\n%s", format, manifest, again.Manifest())
			}
			if !bytes.Equal(manifest, again.Manifest()) {
				t.Fatalf("as %s: equal apps have different manifests", format)
			}
		}
	})
}

var (
	drawName = rapid.StringMatching(`[a-z][a-z0-9_-]{0,6}`)
	drawText = rapid.OneOf(
		rapid.StringN(1, 20, 60).Filter(func(s string) bool { return spec.ValidKey(s) == nil && !strings.ContainsRune(s, '\ufeff') }),
		rapid.SampledFrom([]string{"true", "null", "12", "1e3", "~", "- a", "a: b", "#x", "\"", "\\", " x ", "<>&", "{", "é", "😀", "%", "@a", "*"}),
	)
)

var drawDurability = rapid.SampledFrom([]spec.Durability{spec.Durable, spec.Pipelined, spec.Ephemeral})

func drawMillis(t *rapid.T, label string, least, most time.Duration) time.Duration {
	n := rapid.Int64Range(int64(least/time.Millisecond), int64(most/time.Millisecond)).Draw(t, label)
	return time.Duration(n) * time.Millisecond
}

func drawApp(t *rapid.T) *spec.App {
	app := &spec.App{
		Name:      spec.AppName(drawName.Draw(t, "app")),
		Retention: drawMillis(t, "retention", 0, spec.MaxRetention),

		SessionTimeout: drawMillis(t, "session timeout", 0, spec.MaxSessionTimeout),
		Durability:     drawDurability.Draw(t, "durability"),
		Functions:      map[spec.FunctionName]*spec.Function{},
		Buckets:        map[spec.BucketName]*spec.Bucket{},
		Limits: spec.Limits{
			MaxObjectBytes:    rapid.Int64Range(spec.MinMaxObjectBytes, spec.MaxMaxObjectBytes).Draw(t, "max object bytes"),
			MaxPending:        rapid.IntRange(1, spec.MaxMaxPending).Draw(t, "max pending"),
			MaxSessionObjects: rapid.IntRange(1, spec.MaxMaxSessionObjects).Draw(t, "max session objects"),
		},
	}
	buckets := rapid.SliceOfNDistinct(drawName, 0, 3, rapid.ID[string]).Draw(t, "buckets")
	for _, name := range rapid.SliceOfNDistinct(drawName, 1, 3, rapid.ID[string]).Draw(t, "functions") {
		app.Functions[spec.FunctionName(name)] = drawFunction(t, name, buckets)
	}
	functions := slices.Sorted(maps.Keys(app.Functions))
	for _, name := range buckets {
		b := &spec.Bucket{Name: spec.BucketName(name), Durability: drawDurability.Draw(t, "durability")}
		for _, trigger := range rapid.SliceOfNDistinct(drawName, 0, 4, rapid.ID[string]).Draw(t, "triggers") {
			b.Triggers = append(b.Triggers, drawTrigger(t, trigger, functions))
		}
		app.Buckets[b.Name] = b
	}
	return app
}

func drawFunction(t *rapid.T, name string, buckets []string) *spec.Function {
	f := &spec.Function{
		Name:        spec.FunctionName(name),
		Runtime:     rapid.SampledFrom([]spec.Runtime{spec.RuntimeProcess, spec.RuntimeWasm, spec.RuntimeInproc}).Draw(t, "runtime"),
		Timeout:     drawMillis(t, "timeout", spec.MinTimeout, spec.MaxTimeout),
		Concurrency: rapid.IntRange(0, spec.MaxConcurrency).Draw(t, "concurrency"),
		MaxPending:  rapid.IntRange(0, spec.MaxMaxPending).Draw(t, "max pending of a function"),
		Emit:        rapid.SampledFrom([]spec.Emit{spec.EmitStream, spec.EmitAtomic}).Draw(t, "emit"),
		Retry: spec.Retry{
			MaxAttempts: rapid.IntRange(1, spec.MaxMaxAttempts).Draw(t, "max attempts"),
			Backoff:     drawMillis(t, "backoff", spec.MinBackoff, spec.MaxBackoff),
		},
	}
	f.Retry.MaxBackoff = drawMillis(t, "max backoff", f.Retry.Backoff, spec.MaxMaxBackoff)
	if f.Runtime == spec.RuntimeProcess {
		f.Command = rapid.SliceOfN(drawText, 1, 4).Draw(t, "command")
	}
	if f.Runtime == spec.RuntimeWasm {
		f.File = rapid.StringMatching(`[a-z]{1,3}(/[a-z]{1,3})?\.wasm`).Draw(t, "file")
		f.Memory = 1 << 20 * rapid.Int64Range(1, 2048).Draw(t, "memory")
	} else if env := rapid.MapOfN(rapid.StringMatching(`[A-O_][A-Za-z0-9_]{0,5}`), drawText, 0, 3).Draw(t, "env"); len(env) > 0 {
		f.Env = env
	}
	if len(buckets) > 0 && rapid.Bool().Draw(t, "has dead letter") {
		f.DeadLetter = spec.BucketName(rapid.SampledFrom(buckets).Draw(t, "dead letter"))
	}
	return f
}

func drawTrigger(t *rapid.T, name string, functions []spec.FunctionName) *spec.Trigger {
	targets := rapid.SliceOfNDistinct(rapid.SampledFrom(functions), 1, len(functions), rapid.ID[spec.FunctionName])
	keys := func() []spec.Key {
		return rapid.SliceOfNDistinct(rapid.Map(drawText, func(s string) spec.Key { return spec.Key(s) }), 1, 4, rapid.ID[spec.Key]).Draw(t, "keys")
	}
	tr := &spec.Trigger{
		Name:   spec.TriggerName(name),
		Target: targets.Draw(t, "target"),
		Scope:  rapid.SampledFrom([]spec.Scope{spec.ScopeSession, spec.ScopeBucket}).Draw(t, "scope"),
		On:     rapid.SampledFrom([]spec.On{spec.OnPut, spec.OnDelete}).Draw(t, "on"),
		Primitive: rapid.SampledFrom([]spec.Primitive{spec.Immediate, spec.ByName, spec.BySet, spec.ByBatchSize,
			spec.ByTime, spec.Redundant, spec.DynamicJoin, spec.DynamicGroup, "acme.known", "acme.un-known.v_2"}).Draw(t, "primitive"),
	}
	if rapid.Bool().Draw(t, "has condition") {
		tr.When = drawCondition(t)
	}
	session := tr.Scope == spec.ScopeSession
	either := rapid.Bool().Draw(t, "either")
	switch tr.Primitive {
	case "acme.known", "acme.un-known.v_2":
		tr.Options = drawOptions(t)
	case spec.ByName:
		if either {
			tr.Keys = keys()
		} else {
			tr.Match = rapid.SampledFrom([]string{"*", "img-*", "[a-z]?", "a\\*b", "é*"}).Draw(t, "match")
		}
	case spec.BySet:
		tr.Keys = keys()
	case spec.ByBatchSize:
		tr.Count = rapid.IntRange(1, spec.MaxBatchCount).Draw(t, "count")
		tr.MaxWait = drawMillis(t, "max wait", 0, spec.MaxWait)
	case spec.ByTime:
		tr.AllowEmpty = !session && rapid.Bool().Draw(t, "allow empty")
		if either {
			tr.Slide = drawMillis(t, "slide", spec.MinWindow, time.Hour)
			tr.Every = tr.Slide * time.Duration(rapid.IntRange(1, 700).Draw(t, "windows"))
		} else {
			tr.Cron = rapid.SampledFrom([]string{"* * * * *", "*/5 0-6 * * MON-FRI", "0 0 29 2 *"}).Draw(t, "cron")
			tr.Timezone = rapid.SampledFrom([]string{"UTC", "Europe/Paris"}).Draw(t, "timezone")
		}
	case spec.Redundant:
		tr.N = rapid.IntRange(1, spec.MaxRedundant).Draw(t, "n")
		tr.K = rapid.IntRange(1, tr.N).Draw(t, "k")
		tr.CancelRest = session && rapid.Bool().Draw(t, "cancel rest")
	case spec.DynamicGroup:
		if either {
			tr.GroupBy.Prefix = ":"
		} else {
			tr.GroupBy.Meta = drawText.Draw(t, "meta")
		}
		if session && rapid.Bool().Draw(t, "until functions") {
			tr.Until.Functions = targets.Draw(t, "until")
		} else {
			tr.Until.Keys = keys()
		}
	}
	return tr
}

func drawCondition(t *rapid.T) *spec.Condition {
	c, err := spec.CompileCondition(rapid.SampledFrom([]string{"true", "object.size < 1000",
		"object.key == \"'é'\"", "object.meta.region == 'eu' // a comment\n && !object.value.done"}).Draw(t, "when"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func FuzzParse(f *testing.F) {
	for _, manifest := range []string{wordcount, everyOption, "", "{}", "a: [", "- - -", "a: |\n  b", "\ta", "? a", "a: 'b\n\nc'", `{"a": "\ud800"}`} {
		f.Add([]byte(manifest), false)
		f.Add([]byte(manifest), true)
	}
	f.Add(parseSeed().Manifest(), true)
	f.Fuzz(func(t *testing.T, data []byte, isJSON bool) {
		format := spec.FormatYAML
		if isJSON {
			format = spec.FormatJSON
		}
		app, faults, err := spec.Parse("fuzz", data, format)
		if len(faults) > spec.MaxFaults {
			t.Fatalf("%d faults", len(faults))
		}
		lines := bytes.Count(data, []byte("\n")) + bytes.Count(data, []byte("\r")) + 1
		for _, fault := range faults {
			if fault.Message == "" || fault.Line < 1 || fault.Line > lines+1 || fault.Column < 1 {
				t.Fatalf("fault without a place in %d lines: %s", lines, fault)
			}
		}
		if err != nil {
			if app != nil || spec.CodeOf(err) != spec.CodeBadManifest {
				t.Fatalf("app %v, error %v", app, err)
			}
			return
		}
		again, _, err := spec.Parse("fuzz", app.Manifest(), spec.FormatJSON)
		if err != nil || !reflect.DeepEqual(app, again) {
			t.Fatalf("the canonical manifest made another app: %v\n%s", err, app.Manifest())
		}
	})
}

func parseSeed() *spec.App {
	app, _, err := spec.Parse("seed", []byte(everyOption), spec.FormatYAML)
	if err != nil {
		panic(fmt.Sprintf("seed: %v", err))
	}
	return app
}
