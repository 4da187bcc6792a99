package spec_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/spec"
)

// head starts every manifest of the table, so that faults begin on line 6.
const head = `apiVersion: pheromone/v1
app: shop
functions:
  f: {command: [run]}
  g: {command: [run]}
`

func TestAFaultSaysWhatIsWrongWhereAndWhatWouldBeRight(t *testing.T) {
	on := func(trigger string) string {
		return head + "buckets:\n  b:\n    triggers:\n      - " + trigger + "\n      - {name: all, primitive: immediate, target: [f, g]}\n"
	}
	function := func(fields string) string {
		return head + "  h:\n    command: [run]\n    " + fields + "\nbuckets:\n  b: {triggers: [{name: all, primitive: immediate, target: [f, g, h]}]}\n"
	}
	bare := "apiVersion: pheromone/v1\napp: shop\n"
	tests := []struct {
		name, manifest string
		want           []string
	}{
		{"an unknown field with a near one", function("tiemout: 3s"), []string{
			`8:5: functions.h.tiemout: unknown field "tiemout": did you mean "timeout"?`}},
		{"an unknown field with no near one", function("colour: red"), []string{
			`8:5: functions.h.colour: unknown field "colour": the fields of a function are runtime, command, env, file, memory, timeout, retry, concurrency, max_pending, dead_letter and emit`}},
		{"a duration without a unit", function("timeout: 30"), []string{
			`8:14: functions.h.timeout: 30 has no unit: durations are written as "500ms", "2s" or "1h30m" (units h, m, s, ms)`}},
		{"a duration with a strange unit", function("timeout: 3 days"), []string{
			`8:14: functions.h.timeout: bad duration "3 days": durations are written as "500ms", "2s" or "1h30m" (units h, m, s, ms)`}},
		{"a duration out of bounds", function("timeout: 25h"), []string{
			`8:14: functions.h.timeout: must be from 1ms to 24h, not 25h`}},
		{"a size without a unit", bare + "limits: {max_object_size: 1000000}\n", []string{
			`3:27: limits.max_object_size: 1000000 has no unit: sizes are written as "64KiB" or "256MiB" (units B, KiB, MiB, GiB)`}},
		{"a size out of bounds", bare + "limits: {max_object_size: 2GiB}\n", []string{
			`3:27: limits.max_object_size: must be from 1KiB to 1GiB, not 2GiB`}},
		{"a retention that is too long", bare + "retention: 721h\n", []string{
			`3:12: retention: must be from 0 to 720h, not 721h`}},
		{"a number that is text", function(`concurrency: "3"`), []string{
			`8:18: functions.h.concurrency: must be a whole number from 0 to 10000, not the text "3"`}},
		{"a number that people read in two ways", function("concurrency: 010"), []string{
			`8:18: functions.h.concurrency: must be a whole number from 0 to 10000, not the number 010`}},
		{"text that is a number", function("env: {PORT: 8080}"), []string{
			`8:17: functions.h.env.PORT: must be text: write "8080" in quotes`}},
		{"an environment variable of the platform", function("env: {PHEROMONE_X: a}"), []string{
			`8:11: functions.h.env.PHEROMONE_X: bad environment variable "PHEROMONE_X": names that start with PHEROMONE_ are the platform's`}},
		{"a field that is there twice", function("timeout: 1s\n    timeout: 2s"), []string{
			`9:5: functions.h.timeout: duplicate: "timeout" is set on line 8 already`}},
		{"a function that is there twice", head + "  f: {command: [run]}\n", []string{
			`6:3: functions.f: duplicate: "f" is set on line 4 already`}},
		{"a bad function name", head + "  Split: {command: [run]}\n", []string{
			`6:3: functions.Split: bad function name "Split": use lower-case letters, digits, '-' and '_', starting with a letter, at most 63 bytes`}},
		{"a bad app name", "apiVersion: pheromone/v1\napp: my app\n", []string{
			`2:6: app: bad app name "my app": use lower-case letters, digits, '-' and '_', starting with a letter, at most 63 bytes`}},
		{"a name that no path could hold", bare + "buckets:\n  \"@f\": {}\n", []string{
			`4:3: buckets["@f"]: bad bucket name "@f": use lower-case letters, digits, '-' and '_', starting with a letter, at most 63 bytes`}},
		{"another version of the language", "apiVersion: v1\napp: shop\n", []string{
			`1:13: apiVersion: unknown "v1": use pheromone/v1`}},
		{"nothing that is needed", "{}", []string{
			`1:1: apiVersion: missing: write apiVersion: pheromone/v1`,
			`1:1: app: missing: the app's name`}},
		{"a list in place of a mapping", bare + "functions: [f]\n", []string{
			`3:12: functions: must be a mapping from names to functions, not a list`}},
		{"a function without a command", head + "  h: {timeout: 1s}\n", []string{
			`6:6: functions.h.command: missing: runtime process needs the command to start, such as [python3, app.py]`}},
		{"a command of a function in the node's program", head + "  h: {runtime: inproc, command: [run]}\n", []string{
			`6:33: functions.h.command: runtime inproc has no command: it is a Go function of the program that embeds the node`}},
		{"a backoff beyond its bound", function("retry: {backoff: 20s}"), []string{
			`8:22: functions.h.retry: backoff (20s) is longer than max_backoff (10s): make one of them fit`}},
		{"a dead letter to no bucket", function("dead_letter: bb"), []string{
			`8:18: functions.h.dead_letter: unknown bucket "bb": did you mean "b"?`}},

		{"a module without a file", head + "  h: {runtime: wasm}\n", []string{
			`6:6: functions.h.file: missing: runtime wasm needs the module to run, such as app.wasm`}},
		{"a module that is a process too", head + "  h: {runtime: wasm, file: a.wasm, command: [run], env: {A: b}}\n", []string{
			`6:45: functions.h.command: runtime wasm has no command: name the module in file`,
			`6:52: functions.h.env: runtime wasm has no environment: a module gets what it needs as objects`}},
		{"a module outside of the folder", head + "  h: {runtime: wasm, file: ../a.wasm, memory: 3GiB}\n", []string{
			`6:28: functions.h.file: bad file "../a.wasm": use the path of a file in the manifest's folder, such as app.wasm`,
			`6:47: functions.h.memory: must be from 1MiB to 2GiB, not 3GiB`}},
		{"a process with what modules have", function("file: a.wasm\n    memory: 1MiB"), []string{
			`8:5: functions.h.file: belongs to runtime wasm, not to process`,
			`9:5: functions.h.memory: belongs to runtime wasm, not to process`}},

		{"what comes later: a runtime", head + "  h: {runtime: endpoint}\n", []string{
			`6:16: functions.h.runtime: "endpoint" is not available in this version; use process, with a command that calls the endpoint`}},
		{"an unknown durability", head + "durability: durabel\nbuckets:\n  b: {durability: volatile}\n", []string{
			`6:13: durability: unknown "durabel": did you mean "durable"?`,
			`8:19: buckets.b.durability: unknown "volatile": use durable, pipelined or ephemeral`}},
		{"a rule of an unknown function", on(`{name: a, primitive: immediate, target: f, rerun: [{source: nope, timeout: 1s}]}`), []string{
			`9:69: buckets.b.triggers[0].rerun[0].source: unknown function "nope": declare it under functions`}},
		{"a rule without a time", on(`{name: a, primitive: immediate, target: f, rerun: [{source: f, max: 0}]}`), []string{
			`9:60: buckets.b.triggers[0].rerun[0].timeout: missing: how long to wait for its object`,
			`9:77: buckets.b.triggers[0].rerun[0].max: must be a whole number from 1 to 100, not the number 0`}},

		{"a trigger without anything", on(`{}`), []string{
			`9:9: buckets.b.triggers[0].name: missing: the trigger's name`,
			`9:9: buckets.b.triggers[0].primitive: missing: immediate, by_name, by_set, by_batch_size, by_time, redundant, dynamic_join or dynamic_group`,
			`9:9: buckets.b.triggers[0].target: missing: the function to fire, or a list of them`}},
		{"an unknown primitive", on(`{name: a, primitive: by_sets, target: f}`), []string{
			`9:30: buckets.b.triggers[0].primitive: unknown "by_sets": did you mean "by_set"?`}},
		{"two triggers of one name", on(`{name: all, primitive: immediate, target: f}`), []string{
			`10:16: buckets.b.triggers[1].name: duplicate: triggers[0] is named "all" already`}},
		{"an unknown target", on(`{name: a, primitive: immediate, target: [f, ff]}`), []string{
			`9:53: buckets.b.triggers[0].target[1]: unknown function "ff": did you mean "f"?`}},
		{"a target far from any", on(`{name: a, primitive: immediate, target: resize}`), []string{
			`9:49: buckets.b.triggers[0].target: unknown function "resize": declare it under functions`}},
		{"a target twice", on(`{name: a, primitive: immediate, target: [f, f]}`), []string{
			`9:53: buckets.b.triggers[0].target[1]: "f" is in the list twice, at [0] too`}},
		{"an option of another primitive", on(`{name: a, primitive: immediate, target: f, count: 3}`), []string{
			`9:52: buckets.b.triggers[0].count: count is an option of by_batch_size, not of immediate`}},
		{"an option of two other primitives", on(`{name: a, primitive: immediate, target: f, keys: [x]}`), []string{
			`9:52: buckets.b.triggers[0].keys: keys is an option of by_name and by_set, not of immediate`}},
		{"both keys and match", on(`{name: a, primitive: by_name, target: f, keys: [x], match: "*"}`), []string{
			`9:68: buckets.b.triggers[0].match: there is keys already: use one of keys and match`}},
		{"neither keys nor match", on(`{name: a, primitive: by_name, target: f}`), []string{
			`9:9: buckets.b.triggers[0]: needs keys or match`}},
		{"a bad glob", on(`{name: a, primitive: by_name, target: f, match: "[a"}`), []string{
			`9:57: buckets.b.triggers[0].match: bad glob "[a": '[' without its ']'; write "\\[" for the character`}},
		{"a set without keys", on(`{name: a, primitive: by_set, target: f}`), []string{
			`9:9: buckets.b.triggers[0].keys: missing: by_set needs keys, the keys to wait for`}},
		{"an empty set", on(`{name: a, primitive: by_set, target: f, keys: []}`), []string{
			`9:55: buckets.b.triggers[0].keys: must have from 1 to 10000 keys, not 0`}},
		{"a key twice", on(`{name: a, primitive: by_set, target: f, keys: [x, y, x]}`), []string{
			`9:62: buckets.b.triggers[0].keys[2]: "x" is in the list twice, at [0] too`}},
		{"a key that is a number", on(`{name: a, primitive: by_set, target: f, keys: [1]}`), []string{
			`9:56: buckets.b.triggers[0].keys[0]: must be a key: write "1" in quotes`}},
		{"a batch without its size", on(`{name: a, primitive: by_batch_size, target: f}`), []string{
			`9:9: buckets.b.triggers[0].count: missing: by_batch_size needs count, how many objects make a batch`}},
		{"a batch of none", on(`{name: a, primitive: by_batch_size, target: f, count: 0}`), []string{
			`9:63: buckets.b.triggers[0].count: must be a whole number from 1 to 100000, not the number 0`}},
		{"a window that slides past its end", on(`{name: a, primitive: by_time, target: f, every: 1s, slide: 2s}`), []string{
			`9:68: buckets.b.triggers[0].slide: 2s is longer than every (1s): objects in between would be in no window`}},
		{"a slide that does not divide", on(`{name: a, primitive: by_time, target: f, every: 1s, slide: 300ms}`), []string{
			`9:68: buckets.b.triggers[0].slide: 300ms does not divide every (1s) into equal parts`}},
		{"a slide that makes too many windows", on(`{name: a, primitive: by_time, target: f, every: 1h, slide: 1s}`), []string{
			`9:68: buckets.b.triggers[0].slide: 1s puts each object into 3600 windows, 1000 are allowed: use at least 3s600ms`}},
		{"both every and cron", on(`{name: a, primitive: by_time, target: f, every: 1s, cron: "* * * * *"}`), []string{
			`9:67: buckets.b.triggers[0].cron: there is every already: use one of every and cron`}},
		{"a cron of another kind", on(`{name: a, primitive: by_time, target: f, cron: "@daily"}`), []string{
			`9:56: buckets.b.triggers[0].cron: bad cron "@daily": write five fields: minute, hour, day of month, month, day of week, such as "0 6 * * 1-5"`}},
		{"a cron out of bounds", on(`{name: a, primitive: by_time, target: f, cron: "0 24 * * *"}`), []string{
			`9:56: buckets.b.triggers[0].cron: bad cron "0 24 * * *": hour: "24" is not from 0 to 23`}},
		{"a cron that never comes", on(`{name: a, primitive: by_time, target: f, cron: "0 0 30 2 *"}`), []string{
			`9:56: buckets.b.triggers[0].cron: bad cron "0 0 30 2 *": there is no such day in these months, it would never fire`}},
		{"an unknown time zone", on(`{name: a, primitive: by_time, target: f, cron: "0 6 * * *", timezone: Paris}`), []string{
			`9:79: buckets.b.triggers[0].timezone: unknown time zone "Paris": use an IANA name such as Europe/Paris or UTC`}},
		{"a time zone without a cron", on(`{name: a, primitive: by_time, target: f, every: 1s, timezone: UTC}`), []string{
			`9:71: buckets.b.triggers[0].timezone: belongs to cron: windows of every have no time of day`}},
		{"a session that would never end", on(`{name: a, primitive: by_time, target: f, every: 1s, allow_empty: true, scope: session}`), []string{
			`9:74: buckets.b.triggers[0].allow_empty: needs scope bucket: a session in which empty windows fire would never end`}},
		{"more than there can be", on(`{name: a, primitive: redundant, target: f, k: 4, n: 3}`), []string{
			`9:55: buckets.b.triggers[0].k: 4 of 3 can never be there: k is at most n`}},
		{"cancelling the work of others", on(`{name: a, primitive: redundant, target: f, k: 1, n: 3, cancel_rest: true, scope: bucket}`), []string{
			`9:77: buckets.b.triggers[0].cancel_rest: needs scope session: with scope bucket it would cancel the work of others`}},
		{"a group by two things", on(`{name: a, primitive: dynamic_group, target: f, group_by: {prefix: ":", meta: m}, until: {keys: [e]}}`), []string{
			`9:86: buckets.b.triggers[0].group_by.meta: there is prefix already: use one of prefix and meta`}},
		{"a group without an end", on(`{name: a, primitive: dynamic_group, target: f, group_by: {prefix: ":"}}`), []string{
			`9:9: buckets.b.triggers[0].until: missing: dynamic_group needs until, {functions: [name]} or {keys: [key]}`}},
		{"a stage of a whole bucket", on(`{name: a, primitive: dynamic_group, target: f, group_by: {meta: m}, until: {functions: [g]}, scope: bucket}`), []string{
			`9:84: buckets.b.triggers[0].until.functions: needs scope session: across a bucket there is no end of a function's invocations; use until: {keys: [key]}`}},
		{"a stage of an unknown function", on(`{name: a, primitive: dynamic_group, target: f, group_by: {meta: m}, until: {functions: [gg]}}`), []string{
			`9:97: buckets.b.triggers[0].until.functions[0]: unknown function "gg": did you mean "g"?`}},

		{"every fault at once, in the order of the text", head + "  h: {command: [], timeout: 0s}\nbuckets:\n  B: {durable: true}\nretntion: 1h\n", []string{
			`6:16: functions.h.command: must have from 1 to 100 arguments, not 0`,
			`6:29: functions.h.timeout: must be from 1ms to 24h, not 0s`,
			`8:3: buckets.B: bad bucket name "B": use lower-case letters, digits, '-' and '_', starting with a letter, at most 63 bytes`,
			`8:7: buckets.B.durable: unknown field "durable": the fields of a bucket are durability and triggers`,
			`9:1: retntion: unknown field "retntion": did you mean "retention"?`}},

		{"text that is not YAML", "app: [a\nb: c\n", []string{`2:1: not YAML: ',' or ']' must be specified`}},
		{"an alias", "app: &a shop\napiVersion: *a\n", []string{`1:6: a YAML anchor (&name) can't be used in a manifest: write the value out`}},
		{"a merge key", "<<: {app: shop}\n", []string{`1:1: a YAML merge key (<<) can't be used in a manifest: write the value out`}},
		{"a tag", "app: !!str shop\n", []string{`1:6: a YAML tag (!name) can't be used in a manifest: write the value out`}},
		{"two documents", bare + "---\n" + bare, []string{`4:11: the manifest is one YAML document; there is a second one here`}},
		{"an empty text", "# nothing\n", []string{`1:1: the manifest is empty`}},
		{"bytes that are no text", "app: \xff", []string{`1:6: the manifest is not UTF-8`}},
		{"a control character", "app: a\nx: \x00", []string{`2:4: a control character stands here`}},
		{"lists in lists in lists", "app: " + strings.Repeat("[", 100_000), []string{`1:22: nested more than 16 deep`}},
		{"dashes behind dashes", strings.Repeat("- ", 100_000), []string{`1:33: nested more than 16 deep`}},
		{"too many fields", strings.Repeat("a: b\n", 100_000), []string{`1001:2: a mapping has at most 1000 fields`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { expectFaults(t, tt.manifest, spec.FormatYAML, tt.want) })
	}
}

func TestAFaultInJSONHasItsPlaceToo(t *testing.T) {
	tests := []struct {
		name, manifest string
		want           []string
	}{
		{"behind tabs", "{\n\t\"apiVersion\": \"pheromone/v1\",\n\t\"app\": \"shop\",\n\t\"retention\":\t30\n}", []string{
			`4:15: retention: 30 has no unit: durations are written as "500ms", "2s" or "1h30m" (units h, m, s, ms)`}},
		{"behind characters of many bytes", `{"é": 1, "apiVersion": "pheromone/v1", "app": "Ä"}`, []string{
			`1:2: ["é"]: unknown field "é": the fields of an app are apiVersion, app, functions, buckets, retention, session_timeout, durability and limits`,
			`1:47: app: bad app name "Ä": use lower-case letters, digits, '-' and '_', starting with a letter, at most 63 bytes`}},
		{"a field twice", "{\"apiVersion\": \"pheromone/v1\", \"app\": \"shop\",\n \"app\": \"shop\"}", []string{
			`2:2: app: duplicate: "app" is set on line 1 already`}},
		{"YAML in place of JSON", "{app: shop}", []string{`1:2: not JSON: invalid character 'a'`}},
		{"a comma too many", "{\"app\": \"shop\",\n}", []string{`2:1: not JSON: invalid character '}' looking for beginning of object key string`}},
		{"an end in the middle", `{"app": "shop"`, []string{`1:15: not JSON: the text ends in the middle`}},
		{"more behind it", "{}\n{}", []string{`2:1: the manifest is one JSON object; there is more behind it`}},
		{"an empty text", "", []string{`1:1: not JSON: the text ends in the middle`}},
		{"lists in lists in lists", strings.Repeat("[", 500_000), []string{`1:18: nested more than 16 deep`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) { expectFaults(t, tt.manifest, spec.FormatJSON, tt.want) })
	}
}

func expectFaults(t *testing.T, manifest string, format spec.Format, want []string) {
	t.Helper()
	app, faults, err := spec.Parse("app.yaml", []byte(manifest), format)
	var got []string
	for _, f := range faults {
		if !f.Warning {
			got = append(got, f.String())
		}
	}
	if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
		t.Errorf("faults of\n%.500s\nare\n%s\nwant\n%s", manifest, g, w)
	}
	var e *spec.Error
	if !errors.As(err, &e) || e.Code != spec.CodeBadManifest || len(e.Faults) != len(faults) {
		t.Errorf("error %#v, want code %s and all %d faults", err, spec.CodeBadManifest, len(faults))
	}
	if app != nil {
		t.Error("a bad manifest made an app")
	}
}

func TestTheErrorSummarisesTheFaults(t *testing.T) {
	_, _, err := spec.Parse("app.yaml", []byte("apiVersion: pheromone/v1\n"), spec.FormatYAML)
	if want := "app.yaml:1:1: app: missing: the app's name"; err == nil || err.Error() != want {
		t.Errorf("one fault: %v, want %s", err, want)
	}
	_, _, err = spec.Parse("", []byte("{}"), spec.FormatYAML)
	if want := "manifest: 2 faults, the first at 1:1: apiVersion: missing: write apiVersion: pheromone/v1"; err == nil || err.Error() != want {
		t.Errorf("two faults: %v, want %s", err, want)
	}
}

func TestWarningsDoNotKeepAnAppFromBeingApplied(t *testing.T) {
	app, faults, err := spec.Parse("app.yaml", []byte(`apiVersion: pheromone/v1
app: shop
functions:
  lonely: {command: [run]}
  again: {command: [run], dead_letter: failed}
buckets:
  failed: {triggers: [{name: a, primitive: immediate, target: again}]}
`), spec.FormatYAML)
	if err != nil || app == nil {
		t.Fatalf("refused: %v", err)
	}
	want := []string{
		`4:3: functions.lonely: no trigger targets it: it runs only when it is invoked, sent to or started`,
		`5:40: functions.again.dead_letter: its own failures fire it again: a session that always fails never ends`,
	}
	var got []string
	for _, f := range faults {
		if !f.Warning {
			t.Errorf("not a warning: %s", f)
		}
		got = append(got, f.String())
	}
	if g, w := strings.Join(got, "\n"), strings.Join(want, "\n"); g != w {
		t.Errorf("warnings are\n%s\nwant\n%s", g, w)
	}
}

func TestAManifestFullOfFaultsIsToldInBounds(t *testing.T) {
	var b strings.Builder
	b.WriteString(head + "buckets:\n  b:\n    triggers:\n")
	for range 10_000 {
		b.WriteString("      - {name: a, x: y, primitive: immediate, target: u}\n")
	}
	_, faults, err := spec.Parse("app.yaml", []byte(b.String()), spec.FormatYAML)
	if len(faults) != spec.MaxFaults || spec.CodeOf(err) != spec.CodeBadManifest {
		t.Errorf("%d faults and %v, want %d", len(faults), err, spec.MaxFaults)
	}
	_, faults, err = spec.Parse("app.yaml", make([]byte, spec.MaxManifestBytes+1), spec.FormatYAML)
	if want := "1:1: a manifest has at most 1MiB, this one 1048577 bytes"; err == nil || len(faults) != 1 || faults[0].String() != want {
		t.Errorf("faults of a manifest that is too large: %v, want %s", faults, want)
	}
}
