package spec_test

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pheromone-run/pheromone/spec"
)

func init() {
	spec.RegisterPrimitive(spec.CustomPrimitive{Name: "acme.known", Scope: spec.ScopeBucket, Fires: "when it likes to"})
}

func drawOptions(t *rapid.T) spec.Options {
	number := rapid.OneOf(
		rapid.Map(rapid.IntRange(-1<<53, 1<<53), func(n int) any { return float64(n) }),
		rapid.Map(rapid.Float64().Filter(func(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) && (f != 0 || !math.Signbit(f)) }),
			func(f float64) any { return f }),
	)
	scalar := rapid.OneOf(number, rapid.Map(rapid.Bool(), func(b bool) any { return b }), rapid.Map(drawText, func(s string) any { return s }))
	options := rapid.MapOfN(drawName, rapid.OneOf(scalar, rapid.Map(rapid.SliceOfN(scalar, 0, 3), func(l []any) any {
		if l == nil {
			return []any{}
		}
		return l
	})), 0, 4).Draw(t, "options")
	if len(options) == 0 {
		return nil
	}
	return options
}

func custom(primitive, options string) string {
	return head + "buckets:\n  b:\n    triggers:\n      - name: a\n        primitive: " + primitive + "\n        target: [f, g]\n        options: " + options + "\n"
}

func TestOptionsOfACustomPrimitiveAreKeptAsTheyAre(t *testing.T) {
	app := parse(t, custom("acme.known", `{quiet: 500ms, ratio: 0.25, most: 12, loud: true, of: [a, 1, false], none: []}`))
	tr := app.Buckets["b"].Triggers[0]
	want := spec.Options{"quiet": "500ms", "ratio": 0.25, "most": 12.0, "loud": true, "of": []any{"a", 1.0, false}, "none": []any{}}
	if !reflect.DeepEqual(tr.Options, want) {
		t.Errorf("options are %#v", tr.Options)
	}
	if tr.Scope != spec.ScopeBucket {
		t.Errorf("the scope is %s, which is not what the primitive registered", tr.Scope)
	}
	if tr := parse(t, custom("acme.known", "{}")).Buckets["b"].Triggers[0]; tr.Options != nil {
		t.Errorf("no options are %#v", tr.Options)
	}
}

func TestAnOptionIsADifference(t *testing.T) {
	old, updated := parse(t, custom("acme.known", "{quiet: 1s, a: [x]}")), parse(t, custom("acme.known", "{quiet: 2s, b: true}"))
	expectChanges(t, spec.Diff(old, updated), []string{
		`remove buckets.b.triggers.a.options.a: ["x"] -> `,
		"add buckets.b.triggers.a.options.b:  -> true",
		"change buckets.b.triggers.a.options.quiet: 1s -> 2s",
	})
}

// messages returns the faults of a manifest without and with the warning.
func messages(manifest string, check spec.TriggerCheck) (faults, warnings []string) {
	_, all, _ := spec.ParseChecked("app.yaml", []byte(manifest), spec.FormatYAML, check)
	for _, f := range all {
		if f.Warning {
			warnings = append(warnings, f.String())
		} else {
			faults = append(faults, f.String())
		}
	}
	return faults, warnings
}

func TestAPrimitiveThatOnlyNodesKnowIsAWarning(t *testing.T) {
	faults, warnings := messages(custom("acme.knwon", "{quiet: 1s}"), nil)
	want := []string{`10:20: buckets.b.triggers[0].primitive: custom primitive "acme.knwon" is not part of this program: it is known only to nodes that have it compiled in, and they check its options: did you mean "acme.known"?`}
	if len(faults) != 0 || !slices.Equal(warnings, want) {
		t.Errorf("faults %q, warnings %q", faults, warnings)
	}
	if _, warnings := messages(custom("acme.known", "{}"), nil); len(warnings) != 0 {
		t.Errorf("a primitive of this program: %q", warnings)
	}
}

func TestFaultsOfCustomPrimitivesAreTold(t *testing.T) {
	long := strings.Repeat("x", spec.MaxOptionTextBytes+1)
	for manifest, want := range map[string]string{
		custom("acme.", "{}"):                         `10:20: buckets.b.triggers[0].primitive: bad primitive "acme.": the name of a custom primitive is two or more names joined by dots`,
		custom("Acme.x", "{}"):                        `10:20: buckets.b.triggers[0].primitive: bad primitive "Acme.x"`,
		custom("immediate", "{a: 1}"):                 `12:9: buckets.b.triggers[0].options: options is for custom primitives: those of immediate stand beside its name`,
		custom("acme.known", "[a]"):                   `12:18: buckets.b.triggers[0].options: must be a mapping from names to values, not a list`,
		custom("acme.known", "{A: 1}"):                `12:19: buckets.b.triggers[0].options.A: bad option name "A"`,
		custom("acme.known", "{a: {b: 1}}"):           `12:22: buckets.b.triggers[0].options.a: must be text, a number, true, false or a list of these, not a mapping`,
		custom("acme.known", "{a: [[1]]}"):            `12:23: buckets.b.triggers[0].options.a[0]: must be text, a number, true or false, not a list`,
		custom("acme.known", "{a: }"):                 `buckets.b.triggers[0].options.a: must be text, a number, true, false or a list of these, not nothing`,
		custom("acme.known", "{a: 0x10}"):             `12:22: buckets.b.triggers[0].options.a: 0x10 is no number that can be told from another one`,
		custom("acme.known", "{a: 1_000}"):            `12:22: buckets.b.triggers[0].options.a: 1_000 is no number`,
		custom("acme.known", "{a: 010}"):              `12:22: buckets.b.triggers[0].options.a: 010 is no number`,
		custom("acme.known", "{a: .inf}"):             `12:22: buckets.b.triggers[0].options.a: .inf is no number`,
		custom("acme.known", "{a: 9007199254740993}"): `12:22: buckets.b.triggers[0].options.a: 9007199254740993 is larger than what a number holds exactly (2^53)`,
		custom("acme.known", "{a: "+long+"}"):         `12:22: buckets.b.triggers[0].options.a: must have at most 4096 bytes, not 4097`,
		custom("acme.known", "{}\n        count: 3"):  `13:9: buckets.b.triggers[0].count: count is an option of by_batch_size, not of acme.known`,
	} {
		faults, _ := messages(manifest, nil)
		if len(faults) != 1 || !strings.Contains(faults[0], want) {
			t.Errorf("faults are %q, want %q", faults, want)
		}
	}
	var many []string
	for i := range 20 {
		many = append(many, fmt.Sprintf("o%d: %s", i, long[1:]))
	}
	if faults, _ := messages(custom("acme.known", "{"+strings.Join(many, ", ")+"}"), nil); len(faults) != 1 || !strings.Contains(faults[0], "at most 64KiB in all") {
		t.Errorf("faults of 80 KiB of options: %d", len(faults))
	}
}

// debounce is what a factory does with options.
func debounce(tr *spec.Trigger) error {
	if !tr.Primitive.Custom() {
		return errors.New("checked as well")
	}
	o := tr.Options.Read()
	o.Duration("quiet", time.Second, 10*time.Millisecond, time.Hour)
	o.Int("most", 3, 1, 10)
	o.Float("ratio", 0.5, 0, 1)
	o.Bool("loud", false)
	o.Text("mode", "slow")
	if len(o.Texts("of")) > 1 {
		o.Fault("of", "at most one")
	}
	return o.Err()
}

func TestWhatACheckTellsHasItsPlace(t *testing.T) {
	faults, warnings := messages(custom("acme.anything", `{quiet: 5ms, most: 2.5, ratio: 2, loud: 1, mode: true, of: [a, 1], qiuet: 1s, else: 1}`)+
		"      - {name: b, primitive: acme.anything, target: f, options: {quiet: 1, most: 0, of: [a, b]}}\n"+
		"      - {name: c, primitive: acme.anything, target: f, options: {quiet: 0, of: a}}\n"+
		"      - {name: d, primitive: acme.anything, target: nobody}\n"+
		"      - {name: e, primitive: immediate, target: f}\n"+
		"      - {name: g, primitive: immediate, target: f, cuont: 1}\n", debounce)
	want := []string{
		`12:26: buckets.b.triggers[0].options.quiet: must be from 10ms to 1h, not 5ms`,
		`12:37: buckets.b.triggers[0].options.most: must be a whole number from 1 to 10, not the number 2.5`,
		`12:49: buckets.b.triggers[0].options.ratio: must be a number from 0 to 1, not the number 2`,
		`12:58: buckets.b.triggers[0].options.loud: must be true or false, not the number 1`,
		`12:67: buckets.b.triggers[0].options.mode: must be text, not true`,
		`12:77: buckets.b.triggers[0].options.of: must be a list of texts: item 1 is the number 1`,
		`12:92: buckets.b.triggers[0].options.qiuet: unknown option: did you mean "quiet"?`,
		`12:102: buckets.b.triggers[0].options.else: unknown option: there is quiet, most, ratio, loud, mode or of`,
		`13:73: buckets.b.triggers[1].options.quiet: must be a duration, not the number 1`,
		`13:82: buckets.b.triggers[1].options.most: must be a whole number from 1 to 10, not the number 0`,
		`13:89: buckets.b.triggers[1].options.of: at most one`,
		`14:73: buckets.b.triggers[2].options.quiet: must be from 10ms to 1h, not 0`,
		`15:53: buckets.b.triggers[3].target: unknown function "nobody"`,
		`16:9: buckets.b.triggers[4]: checked as well`,
		`17:52: buckets.b.triggers[5].cuont: unknown field "cuont"`,
	}
	if len(faults) != len(want) || len(warnings) != 0 {
		t.Fatalf("warnings %q, %d faults:\n%s", warnings, len(faults), strings.Join(faults, "\n"))
	}
	for i := range want {
		if !strings.HasPrefix(faults[i], want[i]) {
			t.Errorf("fault is  %s\nshould be %s", faults[i], want[i])
		}
	}
}

func TestACheckThatNamesAFieldIsToldThere(t *testing.T) {
	check := func(*spec.Trigger) error {
		return spec.Errorf(spec.CodeInvalid, "not known").WithField("primitive").WithHint("there are others")
	}
	faults, _ := messages(custom("acme.anything", "{}"), check)
	if len(faults) != 1 || faults[0] != `10:20: buckets.b.triggers[0].primitive: not known: there are others` {
		t.Errorf("faults are %q", faults)
	}
}

func TestRegisteringAPrimitiveTwiceOrUnderABadNamePanics(t *testing.T) {
	for _, p := range []spec.CustomPrimitive{{Name: "acme.known"}, {Name: "nodot"}, {Name: ".x"}, {Name: "acme.other", Scope: "all"}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%+v is taken", p)
				}
			}()
			spec.RegisterPrimitive(p)
		}()
	}
}
