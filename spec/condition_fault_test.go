package spec_test

import (
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/spec"
)

func TestABadConditionIsToldWithItsPlaceInTheManifest(t *testing.T) {
	on := func(when string) string {
		return head + "buckets:\n  b:\n    triggers:\n      - {name: a, primitive: immediate, target: [f, g], when: " + when + "}\n"
	}
	const path = "buckets.b.triggers[0].when: "
	tests := []struct{ name, when, want string }{
		{"an unknown field with a near one", `'object.siz < 3'`, `9:71: ` + path + `unknown field "siz": did you mean "size"?`},
		{"an unknown field with no near one", `'object.colour == 3'`, `9:71: ` + path +
			`unknown field "colour": the fields of object are key, size, content_type, meta, bucket, session and value`},
		{"an unknown name with a near one", `'objct.size < 3'`, `9:64: ` + path + `unknown name "objct": did you mean "object"?`},
		{"an unknown name with no near one", `'object.meta.region == eu'`, `9:86: ` + path +
			`unknown name "eu": a condition can look at the fields of object; text stands in quotes`},
		{"an unknown function", `'object.key.startWith("a")'`, `9:75: ` + path + `unknown name "startWith": did you mean "startsWith"?`},
		{"types that do not compare", `'object.key == 3'`, `9:75: ` + path + `== can't be applied to (string, int)`},
		{"no answer of true or false", `object.size`, `9:63: ` + path + `must be true or false, this is of type int`},
		{"an end in the middle", `'object.size <'`, `9:77: ` + path + `not a condition: the expression ends in the middle`},
		{"a sign too many", `'object.size === 3'`, `9:78: ` + path + `not a condition: nothing that can stand here: '= '`},
		{"object alone", `'object == 3'`, `9:64: ` + path + `object is no value by itself: use one of its fields, ` +
			`object.key, object.size, object.content_type, object.meta, object.bucket, object.session or object.value`},
		{"a field that is always there", `'has(object.key)'`, `9:68: ` + path +
			`has(object.key) is always true: ask for a field in it, such as has(object.meta.region)`},
		{"a function that is not taken", `'object.key.replace("a", "b") == ""'`, `9:75: ` + path +
			`replace can't be used in a condition: compare the parts instead, with split or substring`},
		{"a function in a library that is not taken", `'strings.quote(object.key) == ""'`, `9:64: ` + path +
			`strings.quote can't be used in a condition: compare the text itself`},
		{"a bad pattern", `'object.key.matches("[a")'`, `9:83: ` + path + "bad pattern: missing closing ]: `[a`"},
		{"a pattern that is not known", `'object.key.matches(object.meta.p)'`, `9:94: ` + path +
			`matches takes its pattern as text in quotes, not as a value that is known only later`},
		{"a bad duration", `'duration("1x") > duration("1s")'`, `9:73: ` + path + `invalid duration argument`},
		{"nothing", `""`, `9:64: ` + path + `an empty condition: write an expression that is true or false, such as object.size < 1000`},
		{"a flag", `true`, `9:63: ` + path + `must be a condition, as text: write "true" in quotes`},
		{"a list", `[a]`, `9:63: ` + path + `must be a condition, not a list`},
		{"two faults at once", `'object.siz < 3 && object.kye == "a"'`, `9:71: ` + path + `unknown field "siz": did you mean "size"?` +
			"\n" + `9:89: ` + path + `unknown field "kye": did you mean "key"?`},

		{"plain text", `object.siz < 3`, `9:70: ` + path + `unknown field "siz": did you mean "size"?`},
		{"behind a quote that is written twice", `'object.key == ''é'' && object.siz < 3'`, `9:94: ` + path + `unknown field "siz": did you mean "size"?`},
		{"behind escapes", `"object.key == \"\u00e9\x41\ud83d\ude00\"\t&&\n object.siz < 3"`, `9:118: ` + path + `unknown field "siz": did you mean "size"?`},
		{"behind spaces", `'   object . siz < 3'`, `9:76: ` + path + `unknown field "siz": did you mean "size"?`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			expectFaults(t, on(tt.when), spec.FormatYAML, strings.Split(tt.want, "\n"))
		})
	}
}

func TestAFaultIsFoundHoweverTheConditionIsWritten(t *testing.T) {
	start := head + "buckets:\n  b:\n    triggers:\n      - name: a\n        primitive: immediate\n        target: [f, g]\n        when: "
	tests := []struct{ name, when, place string }{
		{"a block", "|\n          object.size < 3 &&\n          object.siz < 3\n", "14:18"},
		{"a block with a comment and an empty line", "|-  # a comment\n\n          // object.siz\n          object.size < 3\n            && object.siz < 3\n", "16:23"},
		{"a folded block", ">-\n          object.size < 3 &&\n          object.siz < 3\n", "14:18"},
		{"a folded block with an indentation", ">2-\n          object.key == 'a   b' &&\n          object.siz < 3\n", "14:18"},
		{"plain text on two lines", "object.size < 3 &&\n          object.siz < 3\n", "13:18"},
		{"quoted text on two lines", "'object.size < 3 &&\n\n          object.siz < 3'\n", "14:18"},
		{"quoted text with a line that goes on", "\"object.size < 3 && \\\n          object.siz < 3\"\n", "13:18"},
		{"an end of a block", "|\n          object.size <\n          object\n            .siz\n", "15:14"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			want := tt.place + `: buckets.b.triggers[0].when: unknown field "siz": did you mean "size"?`
			expectFaults(t, start+tt.when, spec.FormatYAML, []string{want})
		})
	}
	t.Run("JSON", func(t *testing.T) {
		manifest := `{"apiVersion": "pheromone/v1", "app": "shop", "functions": {"f": {"command": ["run"]}}, "buckets": {"b": {"triggers": [
	{"name": "a", "primitive": "immediate", "target": "f", "when": "object.key == \"é\ud83d\ude00\" && object.siz < 3"}]}}}`
		expectFaults(t, manifest, spec.FormatJSON, []string{
			`2:108: buckets.b.triggers[0].when: unknown field "siz": did you mean "size"?`})
	})
}
