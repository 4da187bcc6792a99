package spec_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/pheromone-run/pheromone/spec"
)

func compile(t testing.TB, source string) *spec.Condition {
	t.Helper()
	c, err := spec.CompileCondition(source)
	if err != nil {
		t.Fatalf("%.200s: %v", source, err)
	}
	return c
}

func TestAConditionHoldsOrNot(t *testing.T) {
	object := spec.ConditionInput{
		Bucket: "orders", Session: "s1", Key: "img-12/a.png", Size: 120, ContentType: "application/json",
		Meta:  map[string]string{"region": "eu", "x-kind": "new"},
		Value: []byte(`{"total": 120.5, "count": 3, "big": 9007199254740993, "urgent": true, "none": null, "tags": ["a", "b"], "by": {"name": "Zoë"}}`),
	}
	for source, want := range map[string]bool{
		`object.size < 1000 && object.meta.region == "eu"`:                      true,
		`object.size >= 1000 || object.meta["x-kind"] != "new"`:                 false,
		`object.bucket == "orders" && object.session == "s1"`:                   true,
		`object.content_type.startsWith("application/")`:                        true,
		`object.key.matches("^img-[0-9]+/.*[.]png$")`:                           true,
		`object.key.split("/")[0] == "img-12"`:                                  true,
		`object.key.substring(4, 6).trim() == "12"`:                             true,
		`"IMG".lowerAscii() + "-" == object.key.substring(0, 4)`:                true,
		`has(object.meta.owner)`:                                                false,
		`has(object.meta.owner) && object.meta.owner == "me"`:                   false,
		`"x-kind" in object.meta`:                                               true,
		`object.meta.all(k, object.meta[k] != "")`:                              true,
		`object.value.total > 100`:                                              true,
		`object.value.count == 3`:                                               true,
		`object.value.count + 1.0 == 4.0`:                                       true,
		`int(object.value.count) % 2 == 1`:                                      true,
		`object.value.big == 9007199254740992`:                                  true, // numbers are doubles
		`object.value.urgent`:                                                   true,
		`object.value.none == null`:                                             true,
		`has(object.value.missing)`:                                             false,
		`"a" in object.value.tags && !("c" in object.value.tags)`:               true,
		`object.value.tags.exists(t, t == "b")`:                                 true,
		`object.value.tags.exists_one(t, t.startsWith("a"))`:                    true,
		`object.value.tags.map(t, t + "!") == ["a!", "b!"]`:                     true,
		`object.value.tags.filter(t, t > "a").size() == 1`:                      true,
		`object.value.by.name == "Zoë"`:                                         true,
		`object.value.by == {"name": "Zoë"} && object.value.tags != [1]`:        true,
		`timestamp("2024-05-06T07:08:09Z").getHours("Europe/Paris") == 9`:       true,
		`duration("90s") > duration("1m")`:                                      true,
		"object.size > 0 // all but the empty ones\n && object.size < 1000":     true,
		`object.size == 120 ? object.meta.region == "us" : true`:                false,
		`object.size > 1000 && object.value.nothing.like["this"] == 1 || !true`: false,
	} {
		got, err := compile(t, source).Eval(object)
		if err != nil || got != want {
			t.Errorf("%s: %v, %v; want %v", source, got, err, want)
		}
	}
}

func TestAConditionWithoutAnAnswerSaysWhy(t *testing.T) {
	deep := strings.Repeat("[", 65) + strings.Repeat("]", 65)
	tests := []struct{ name, source, value, want string }{
		{"metadata that is not there", `object.meta.region == "eu"`, ``, "no such key: region"},
		{"a field that is not there", `object.value.total > 1`, `{}`, "no such key: total"},
		{"an index beyond the end", `object.value[2] == 1`, `[1]`, "index out of bounds: 2"},
		{"a value of another type", `object.value > 1`, `"2"`, "no such overload"},
		{"a number where a whole one is needed", `object.value.n + 1 == 2`, `{"n": 1}`, "no such overload"},
		{"a remainder of what is no whole number", `object.value.n % 2 == 1`, `{"n": 1}`, "% can't be applied to values of these types"},
		{"an answer that is none", `object.value.ok`, `{"ok": 1}`, "the result is of type double, not true or false"},
		{"a division by zero", `1 / object.size == 1`, ``, "division by zero"},
		{"an object that is not JSON", `object.value == 1`, `{"a"`, "object.value: not JSON: unexpected end of JSON input"},
		{"an object that is no single JSON value", `object.value == 1`, `1 2`, "object.value: not JSON: invalid character '2' after top-level value"},
		{"an empty object", `object.value == 1`, ``, "object.value: not JSON: unexpected end of JSON input"},
		{"a number that no double holds", `object.value == 1`, `1e999`, "object.value: not JSON: json: cannot unmarshal number 1e999 into Go value of type float64"},
		{"an object that is too large", `object.value == 1`, strings.Repeat(" ", 64<<10) + "1", "object.value: the object has 65537 bytes, at most 64KiB are read"},
		{"an object that is nested too deep", `object.value == []`, deep, "object.value: the JSON is nested more than 64 deep"},
		{"a key that floods the message", `object.value[object.value.k] == 1`, `{"k": "` + strings.Repeat("é", 1000) + `"}`,
			"no such key: " + strings.Repeat("é", 93) + "…"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			holds, err := compile(t, tt.source).Eval(spec.ConditionInput{Key: "k", Value: []byte(tt.value)})
			var why *spec.ConditionError
			if holds || !errors.As(err, &why) || why.Message != tt.want {
				t.Errorf("%v, %v; want %s", holds, err, tt.want)
			}
		})
	}
}

func TestALargeObjectIsRefusedWithoutItsBytes(t *testing.T) {
	_, err := compile(t, `object.value == 1`).Eval(spec.ConditionInput{Size: 1 << 30})
	if want := "object.value: the object has 1073741824 bytes, at most 64KiB are read"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

func TestTheBytesAreNeededOnlyByConditionsThatLookAtThem(t *testing.T) {
	for source, want := range map[string]bool{
		`object.size < 3 && object.key != "value"`:                    false,
		`object.meta.value == "a"`:                                    false,
		`object.value.n == 1`:                                         true,
		`object.size > 3 || [1].exists(i, i in object.value)`:         true,
		`object.content_type == "text/plain" || has(object.value.ok)`: true,
	} {
		if got := compile(t, source).NeedsValue(); got != want {
			t.Errorf("%s needs the value: %v", source, got)
		}
	}
}

func TestConditionsOfEqualTextAreOne(t *testing.T) {
	a, b := compile(t, `object.size < 77`), compile(t, "  object.size < 77\n")
	if a != b || a.Source() != `object.size < 77` {
		t.Errorf("%p %q and %p %q", a, a.Source(), b, b.Source())
	}
}

func TestATriggerInJSONHasItsConditionAsText(t *testing.T) {
	text, err := json.Marshal(spec.Trigger{Name: "a", When: compile(t, `object.size == 5`)})
	if err != nil || !strings.Contains(string(text), `"when":"object.size == 5"`) {
		t.Fatalf("%s, %v", text, err)
	}
	var back spec.Trigger
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	if holds, err := back.When.Eval(spec.ConditionInput{Size: 5}); !holds || err != nil {
		t.Errorf("after reading it again: %v, %v", holds, err)
	}
	if err := json.Unmarshal([]byte(`{"when": "object.siz == 5"}`), &back); spec.CodeOf(err) != spec.CodeInvalid {
		t.Errorf("a bad condition in JSON: %v", err)
	}
}

func TestAConditionIsSafeForConcurrentUse(t *testing.T) {
	var group sync.WaitGroup
	for worker := range 8 {
		group.Go(func() {
			for i := range 50 {
				c, err := spec.CompileCondition(fmt.Sprintf(`object.size == %d && object.value.n == %d && object.key.matches("^k")`, i, worker))
				if err != nil {
					t.Error(err)
					return
				}
				in := spec.ConditionInput{Size: int64(i), Key: "k", Value: fmt.Appendf(nil, `{"n": %d}`, worker)}
				if holds, err := c.Eval(in); !holds || err != nil {
					t.Errorf("%s: %v, %v", c.Source(), holds, err)
				}
			}
		})
	}
	group.Wait()
}

func FuzzCondition(f *testing.F) {
	for _, source := range []string{
		`object.size < 1000 && object.meta.region == "eu"`, `object.value.exists(a, object.value.exists(b, a == b))`,
		`object.value == [object.value]`, `object.key.matches("(a?){20}b")`, `object.size <`, `"`, `[1].map(x, [x]) == [[1]]`,
		`object.value.all(a, a in object.value || true)`, `has(object.meta.a)`, `{1: 2}[1] == 2u`, "a.b.c\n//", `object . size / 0 == 1`,
		`timestamp("2024-05-06T07:08:09Z").getHours("é") == 9`, `object["é"].é(`,
	} {
		f.Add(source, []byte(`{"n": [1, 2, {"a": null}]}`))
	}
	f.Add(`object.value.all(a, object.value == object.value)`, []byte("["+strings.Repeat("1,", 2000)+"1]"))
	f.Fuzz(func(t *testing.T, source string, value []byte) {
		c, err := spec.CompileCondition(source)
		if err != nil {
			if c != nil || spec.CodeOf(err) != spec.CodeInvalid {
				t.Fatalf("condition %v, error %v", c, err)
			}
			return
		}
		in := spec.ConditionInput{Key: "k", Size: int64(len(value)), Meta: map[string]string{"a": "b"}, Value: value}
		holds, err := c.Eval(in)
		again, errAgain := c.Eval(in)
		if holds != again || (err == nil) != (errAgain == nil) {
			t.Fatalf("%v, %v and then %v, %v", holds, err, again, errAgain)
		}
		if err != nil && (holds || err.Error() == "" || len(err.Error()) > 300) {
			t.Fatalf("%v, error %v", holds, err)
		}
		if compiled, err := spec.CompileCondition(c.Source()); err != nil || compiled != c {
			t.Fatalf("the source %q makes another condition: %v", c.Source(), err)
		}
	})
}

func BenchmarkCondition(b *testing.B) {
	for _, bm := range []struct{ name, source string }{
		{"size-and-meta", `object.size < 1000 && object.meta.region == "eu"`},
		{"key-pattern", `object.key.matches("^img-[0-9]+$")`},
		{"value", `object.value.total > 100 && object.value.items.exists(i, i.sku == "a-3")`},
	} {
		b.Run(bm.name, func(b *testing.B) {
			c := compile(b, bm.source)
			in := spec.ConditionInput{
				Key: "img-12", Size: 120, Meta: map[string]string{"region": "eu"},
				Value: []byte(`{"total": 120.5, "items": [{"sku": "a-1"}, {"sku": "a-2"}, {"sku": "a-3"}]}`),
			}
			b.ReportAllocs()
			for b.Loop() {
				if holds, err := c.Eval(in); !holds || err != nil {
					b.Fatal(holds, err)
				}
			}
		})
	}
}
