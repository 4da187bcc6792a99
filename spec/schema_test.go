package spec_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/pheromone-run/pheromone/spec"
)

func readSchema(t *testing.T) map[string]any {
	t.Helper()
	var schema map[string]any
	if err := json.Unmarshal(spec.Schema(), &schema); err != nil {
		t.Fatalf("the schema is no JSON: %v", err)
	}
	return schema
}

func document(t *testing.T, manifest string) any {
	t.Helper()
	asJSON, err := yaml.YAMLToJSON([]byte(manifest))
	if err != nil {
		t.Fatal(err)
	}
	var doc any
	if err := json.Unmarshal(asJSON, &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

func TestTheSchemaIsTheSameEachTime(t *testing.T) {
	if !bytes.Equal(spec.Schema(), spec.Schema()) {
		t.Error("two schemas differ")
	}
	if got := readSchema(t)["$schema"]; got != "https://json-schema.org/draft/2020-12/schema" {
		t.Errorf("$schema is %v", got)
	}
}

func TestTheSchemaTakesWhatTheParserTakes(t *testing.T) {
	schema := readSchema(t)
	for _, manifest := range []string{wordcount, everyOption, string(parse(t, wordcount).Manifest()), string(parse(t, everyOption).Manifest())} {
		if problem := violates(schema, document(t, manifest), "manifest"); problem != "" {
			t.Errorf("%s\nin\n%s", problem, manifest)
		}
	}
}

func TestTheSchemaRefusesWhatTheParserRefuses(t *testing.T) {
	schema := readSchema(t)
	trigger := func(s string) string { return head + "buckets:\n  b:\n    triggers: [" + s + "]\n" }
	for _, manifest := range []string{
		"{}",
		head + "retntion: 1h\n",
		head + "retention: 30\n",
		head + "retention: 3 days\n",
		head + "retention: \"\"\n",
		head + "limits: {max_pending: 0}\n",
		head + "  h: {command: [run], tiemout: 3s}\n",
		head + "  H: {command: [run]}\n",
		head + "  h: {runtime: endpoint}\n",
		head + "  h: {command: []}\n",
		head + "buckets: {b: {durability: volatile}}\n",
		trigger(`{name: a, primitive: immediate}`),
		trigger(`{name: a, primitive: immediate, target: []}`),
		trigger(`{name: a, primitive: immediate, target: f, count: 3}`),
		trigger(`{name: a, primitive: by_set, target: f, match: x}`),
		trigger(`{name: a, primitive: by_sets, target: f}`),
		trigger(`{name: a, primitive: acme., target: f}`),
		trigger(`{name: a, primitive: acme.x, target: f, count: 3}`),
		trigger(`{name: a, primitive: acme.x, target: f, options: {a: {b: 1}}}`),
		trigger(`{name: a, primitive: immediate, target: f, options: {}}`),
	} {
		if violates(schema, document(t, manifest), "manifest") == "" {
			t.Errorf("the schema takes\n%s", manifest)
		}
		if _, _, err := spec.Parse("app.yaml", []byte(manifest), spec.FormatYAML); err == nil {
			t.Errorf("the parser takes\n%s", manifest)
		}
	}
}

// The fields that the parser knows are told by its fault about an unknown one.
func TestTheSchemaAndTheParserKnowTheSameFieldsAndDescribeEach(t *testing.T) {
	schema := readSchema(t)
	properties := func(s any) map[string]any {
		p, _ := s.(map[string]any)["properties"].(map[string]any)
		return p
	}
	app := properties(schema)
	function := app["functions"].(map[string]any)["additionalProperties"]
	bucket := app["buckets"].(map[string]any)["additionalProperties"]
	trigger := properties(bucket)["triggers"].(map[string]any)["items"]
	tests := []struct {
		object   string
		schema   any
		manifest string
	}{
		{"an app", schema, "%s: 1"},
		{"limits", app["limits"], "limits: {%s: 1}"},
		{"a function", function, "functions: {f: {%s: 1}}"},
		{"retry", properties(function)["retry"], "functions: {f: {retry: {%s: 1}}}"},
		{"a bucket", bucket, "buckets: {b: {%s: 1}}"},
		{"a trigger", trigger, "buckets: {b: {triggers: [{%s: 1}]}}"},
		{"group_by", properties(trigger)["group_by"], "buckets: {b: {triggers: [{group_by: {%s: 1}}]}}"},
		{"until", properties(trigger)["until"], "buckets: {b: {triggers: [{until: {%s: 1}}]}}"},
	}
	for _, tt := range tests {
		const unknown = "zzzzzzzzzzzzzzzz"
		_, faults, _ := spec.Parse("", fmt.Appendf(nil, tt.manifest, unknown), spec.FormatYAML)
		var known []string
		for _, f := range faults {
			if _, list, ok := strings.Cut(f.Message, `unknown field "`+unknown+`": the fields of `+tt.object+" are "); ok {
				known = strings.Split(strings.ReplaceAll(list, " and ", ", "), ", ")
			}
		}
		inSchema := properties(tt.schema)
		if got, want := slices.Sorted(maps.Keys(inSchema)), slices.Sorted(slices.Values(known)); !slices.Equal(got, want) {
			t.Errorf("%s: the schema has %v, the parser %v", tt.object, got, want)
		}
		for name, p := range inSchema {
			if description, _ := p.(map[string]any)["description"].(string); len(description) < 10 {
				t.Errorf("%s: %s is not described", tt.object, name)
			}
		}
	}
}

// violates checks doc against the part of JSON Schema that ours uses, and
// returns the first violation. A keyword that it does not know is one too.
func violates(schema, doc any, path string) string {
	if allowed, ok := schema.(bool); ok {
		if allowed {
			return ""
		}
		return path + " is not allowed"
	}
	s := schema.(map[string]any)
	for _, keyword := range slices.Sorted(maps.Keys(s)) {
		if problem := violatesKeyword(s, keyword, doc, path); problem != "" {
			return problem
		}
	}
	return ""
}

func violatesKeyword(s map[string]any, keyword string, doc any, path string) string {
	object, _ := doc.(map[string]any)
	array, isArray := doc.([]any)
	text, isText := doc.(string)
	number, isNumber := doc.(float64)
	arg := s[keyword]
	failed := fmt.Sprintf("%s: %v violates %s %v", path, doc, keyword, arg)
	bad := false
	switch keyword {
	case "$schema", "title", "description", "default", "then":
	case "type":
		bad = !slices.ContainsFunc(listed(arg), func(want any) bool { return hasType(doc, want.(string)) })
	case "const":
		bad = !reflect.DeepEqual(doc, arg)
	case "enum":
		bad = !slices.Contains(arg.([]any), doc)
	case "pattern":
		bad = isText && !regexp.MustCompile(arg.(string)).MatchString(text)
	case "minLength":
		bad = isText && float64(len(text)) < arg.(float64)
	case "maxLength":
		bad = isText && float64(len(text)) > arg.(float64)
	case "minimum":
		bad = isNumber && number < arg.(float64)
	case "maximum":
		bad = isNumber && number > arg.(float64)
	case "minItems":
		bad = isArray && float64(len(array)) < arg.(float64)
	case "maxItems":
		bad = isArray && float64(len(array)) > arg.(float64)
	case "maxProperties":
		bad = float64(len(object)) > arg.(float64)
	case "required":
		bad = object != nil && slices.ContainsFunc(arg.([]any), func(name any) bool { _, ok := object[name.(string)]; return !ok })
	case "anyOf":
		bad = !slices.ContainsFunc(arg.([]any), func(one any) bool { return violates(one, doc, path) == "" })
	case "allOf":
		for _, one := range arg.([]any) {
			if problem := violates(one, doc, path); problem != "" {
				return problem
			}
		}
	case "if":
		if violates(arg, doc, path) == "" {
			return violates(s["then"], doc, path)
		}
	case "items":
		for i, item := range array {
			if problem := violates(arg, item, fmt.Sprintf("%s[%d]", path, i)); problem != "" {
				return problem
			}
		}
	case "propertyNames":
		for name := range object {
			if problem := violates(arg, name, path); problem != "" {
				return problem
			}
		}
	case "properties", "additionalProperties":
		known, _ := s["properties"].(map[string]any)
		for name, value := range object {
			sub, ok := known[name]
			if keyword == "additionalProperties" {
				sub, ok = arg, !ok
			}
			if !ok {
				continue
			}
			if problem := violates(sub, value, path+"."+name); problem != "" {
				return problem
			}
		}
	default:
		return path + ": the schema uses " + keyword + ", which this test does not know"
	}
	if bad {
		return failed
	}
	return ""
}

func listed(v any) []any {
	if all, ok := v.([]any); ok {
		return all
	}
	return []any{v}
}

func hasType(doc any, want string) bool {
	switch v := doc.(type) {
	case nil:
		return want == "null"
	case bool:
		return want == "boolean"
	case string:
		return want == "string"
	case float64:
		return want == "number" || want == "integer" && v == float64(int64(v))
	case []any:
		return want == "array"
	default:
		return want == "object"
	}
}
