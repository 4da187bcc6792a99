package spec_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/pheromone-run/pheromone/spec"
)

var (
	numbers = "[" + strings.Repeat("1,", 32_000) + "1]"
	letters = `"` + strings.Repeat("a", 65_000) + `"`
	lists   = "[" + strings.Repeat("[1,1,1,1,1,1,1,1],", 3_600) + "1]"
	both    = `{"l": [` + strings.Repeat("1,", 9_000) + `1], "s": "` + strings.Repeat("a", 40_000) + `"}`
)

// Each of these would take from a second to hours if the limit did not hold: a
// test that does not end is one that fails.
func TestAConditionThatTakesTooLongEndsWithAnError(t *testing.T) {
	ten := func(inner string) string { return "[1,2,3,4,5,6,7,8,9,0].map(x, " + inner + ")" }
	tests := []struct{ name, source, value string }{
		{"a loop in a loop", `object.value.all(a, object.value.all(b, a == b))`, numbers},
		{"a list of lists", `object.value.map(a, object.value.map(b, b)) == []`, numbers},
		{"a loop that compares all of the value", `object.value.all(a, object.value == object.value)`, numbers},
		{"a loop that compares it inside a list", `object.value.all(a, [object.value] == [object.value])`, lists},
		{"a loop that looks all of it through", `object.value.all(a, object.value[1] in object.value || true)`, lists},
		{"one comparison of a value that is there a thousand times", ten(ten(ten("object.value"))) + " == " + ten(ten(ten("object.value"))), numbers},
		{"one look through a value that is there a thousand times", `[object.value.l, 2] in object.value.l.map(x, [object.value.l, 1])`, both},
		{"one look through a value that is there a million times", `[object.value.map(x, object.value)].all(y, [y, 2] in [[y, 0]` + strings.Repeat(", [y, 1]", 100) + `])`,
			"[" + strings.Repeat("1,", 7_000) + "1]"},
		{"a list added to itself", "(" + strings.Repeat("object.value +", 40) + "object.value) == []", numbers},
		{"text added in a loop", `object.value.l.all(x, (object.value.s + object.value.s) != "")`, both},
		{"text counted in a loop", `object.value.l.all(x, size(object.value.s) > 1)`, both},
		{"text converted in a loop", `object.value.l.all(x, int(object.value.s) == 1 || true)`, both},
		{"text split in a loop", `object.value.l.all(x, object.value.s.split("") != [])`, both},
		{"text searched in a loop", `object.value.l.all(x, object.value.s.contains(object.value.s))`, both},
		{"a pattern in a loop", `object.value.l.all(x, object.value.s.matches("(a?){20}b") || true)`, both},
		{"many patterns", strings.Repeat(`object.value.matches("(a?){20}b") || `, 50) + "false", letters},
		{"a time zone looked up in a loop", `object.value.l.all(x, timestamp(0).getHours("Europe/Paris") >= 0)`, both},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			holds, err := compile(t, tt.source).Eval(spec.ConditionInput{Value: []byte(tt.value)})
			if want := "it takes more than 100000 steps for this object"; holds || err == nil || err.Error() != want {
				t.Errorf("%v, %v; want %s", holds, err, want)
			}
		})
	}
}

func TestWhatUsersWriteIsWithinTheLimit(t *testing.T) {
	items := `{"items": [` + strings.Repeat(`{"sku": "a-1", "tags": ["x", "y", "z"]},`, 999) + `{"sku": "b-2", "tags": ["new"]}]}`
	for _, source := range []string{
		`object.value.items.exists(i, i.sku == "b-2")`,
		`object.value.items.exists(i, i.tags.exists(t, t == "new"))`,
		`object.value.items.exists(i, "new" in i.tags)`,
		`object.value.items.exists(i, i.sku.matches("^b-[0-9]+$"))`,
		`object.value.items.filter(i, i.sku.startsWith("b")).size() == 1`,
		`object.value == object.value`,
	} {
		holds, err := compile(t, source).Eval(spec.ConditionInput{Value: []byte(items)})
		if !holds || err != nil {
			t.Errorf("%s: %v, %v", source, holds, err)
		}
	}
}

func TestWhatIsTooMuchIsRefusedBeforeItRuns(t *testing.T) {
	long := "object.size < 1" + strings.Repeat(" ", spec.MaxConditionBytes) + "|| true"
	for source, want := range map[string]string{
		long: "1:1: a condition has at most 4096 bytes",
		strings.Repeat("(", 60) + "true" + strings.Repeat(")", 60):         "1:1: nested more than 50 deep",
		strings.Repeat("[", 2000):                                          "1:1: nested more than 50 deep",
		"object.size" + strings.Repeat(" + 1", 100) + " > 1":               "1:1: nested more than 50 deep",
		`object.key.matches("(a?){30}a{30}b")`:                             "1:20: regex program size 153 exceeds limit of 100",
		`object.key.matches("((a{1,50}){1,50}){1,50}")`:                    "1:20: bad pattern: invalid repeat count",
		`object.value.exists(a, a.exists(b, b.exists(c, a == b && b==c)))`: "1:1: it could take far too long for one object",
	} {
		_, err := spec.CompileCondition(source)
		if err == nil || !strings.HasPrefix(err.Error(), "bad condition: "+want) {
			t.Errorf("%.60s: %v, want %s", source, err, want)
		}
	}
}

func TestTheConditionsOfAnAppAreBounded(t *testing.T) {
	manifest := func(conditions int, condition func(i int) string) string {
		var b strings.Builder
		b.WriteString(head + "buckets:\n")
		for i := range conditions {
			if i%spec.MaxTriggersPerBucket == 0 {
				fmt.Fprintf(&b, "  b%d:\n    triggers:\n", i)
			}
			fmt.Fprintf(&b, "      - {name: t%d, primitive: immediate, target: [f, g], when: %q}\n", i, condition(i))
		}
		return b.String()
	}
	tests := []struct {
		name   string
		count  int
		when   func(i int) string
		faults int
	}{
		{"many triggers with one condition", 3000, func(int) string { return "object.size < 5" }, 0},
		{"as many conditions as there may be", spec.MaxConditions, func(i int) string { return fmt.Sprintf("object.size < %d", i) }, 0},
		{"more conditions", spec.MaxConditions + 2, func(i int) string { return fmt.Sprintf("object.size < %d", i) }, 2},
		{"longer conditions", 17, func(i int) string { return fmt.Sprintf("object.size < %d //", i) + strings.Repeat("x", 4000) }, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, faults, _ := spec.Parse("app.yaml", []byte(manifest(tt.count, tt.when)), spec.FormatYAML)
			if len(faults) != tt.faults {
				t.Fatalf("%d faults, want %d: %.300v", len(faults), tt.faults, faults)
			}
			for _, f := range faults {
				if f.Message != "an app has at most 1000 conditions, with 64KiB of text in all" {
					t.Errorf("fault %s", f)
				}
			}
		})
	}
}
