package spec_test

import (
	"strings"
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"pgregory.net/rapid"
)

func TestNamesKeysAndIDs(t *testing.T) {
	long := strings.Repeat("a", 1025)
	tests := []struct {
		what  string
		valid func(string) error
		good  []string
		bad   []string
	}{
		{"app name", spec.ValidAppName, []string{"a", "word-count_2", long[:63]},
			[]string{"", "A", "1a", "-a", "a b", "a.b", "é", "@a", "a/b", "a\x00", long[:64]}},
		{"bucket of a request", spec.ValidBucketRef, []string{"parts", "@", "@split"}, []string{"", "@@", "@Split", "a@"}},
		{"key", spec.ValidKey, []string{"a", " ", "..", "a/b/../c", "é😀", long[:1024]},
			[]string{"", "a\x00", "\n", "\x7f", "\u0085", "\xff", long}},
		{"session id", spec.ValidSessionID, []string{"a", "7", "A.b_c-D", long[:128]},
			[]string{"", ".", "..", "-a", "_a", "a/b", "a b", "é", "a\x00", long[:129]}},
		{"glob", spec.ValidPattern, []string{"*", "a", "[a-z]", "[^a]", `\*`, `[\]]`, "[a-]", long[:256]},
			[]string{"", "[", "[]", "[a", "[z-a]", `\`, `[\`, "\xff", long[:257]}},
		{"cron", spec.ValidCron, []string{"* * * * *", "0 6 * * 1-5", "*/15 0,12 1-7/2 JAN-mar SUN", "5/20 * * * *", "0 0 29 2 *", "0 0 30 2 1", "0 0 31 1,2 *", "0 0 * * 7"},
			[]string{"", "* * * *", "* * * * * *", "@hourly", "60 * * * *", "* * 0 * *", "* * * 13 *", "* * * * 8", "*/0 * * * *", "a * * * *",
				"5-1 * * * *", ", * * * *", "1,,2 * * * *", "-1 * * * *", "+1 * * * *", "* * * FOO *", "0 0 31 4,6 *", "0 0 L * *", "1/2/3 * * * *",
				strings.Repeat("1,", 200) + "1 * * * *"}},
	}
	for _, tt := range tests {
		for _, s := range tt.good {
			if err := tt.valid(s); err != nil {
				t.Errorf("%s %.40q: %v", tt.what, s, err)
			}
		}
		for _, s := range tt.bad {
			if err := tt.valid(s); err == nil || spec.CodeOf(err) != spec.CodeInvalid {
				t.Errorf("%s %.40q is taken: %v", tt.what, s, err)
			}
		}
	}
}

func TestAnInvocationIDIsReadAsItIsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		id := spec.InvocationID{
			Session: spec.SessionID(rapid.StringMatching(`[A-Za-z0-9][A-Za-z0-9._-]{0,20}`).Draw(t, "session")),
			Number:  rapid.Uint64Min(1).Draw(t, "number"),
		}
		if got, err := spec.ParseInvocationID(id.String()); err != nil || got != id {
			t.Fatalf("%v became %v, %v", id, got, err)
		}
	})
	for _, s := range []string{"", "a", "a.", ".1", "a.0", "a.01", "a.+1", "a.-1", "a. 1", "a.1x", "-a.1", "a.18446744073709551616"} {
		if id, err := spec.ParseInvocationID(s); err == nil {
			t.Errorf("%q is taken for %v", s, id)
		}
	}
}

func TestDurations(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"0": 0, "0s": 0, "500ms": 500 * time.Millisecond, "2s": 2 * time.Second, "1h30m": 90 * time.Minute, "1.5s": 1500 * time.Millisecond,
		"0.001s": time.Millisecond, "1m500ms": time.Minute + 500*time.Millisecond, "90m": 90 * time.Minute, "720h": 720 * time.Hour,
		"0.25h": 15 * time.Minute, "1.50m": 90 * time.Second, "00012s": 12 * time.Second,
	} {
		if got, err := spec.ParseDuration(s); err != nil || got != want {
			t.Errorf("%q is %v, %v, want %v", s, got, err, want)
		}
	}
	const rule = `durations are written as "500ms", "2s" or "1h30m" (units h, m, s, ms)`
	for s, want := range map[string]string{
		"": "an empty duration: " + rule, "30": `"30" has no unit: ` + rule, "1h30": `"1h30" has no unit: ` + rule,
		"-1s": `bad duration "-1s": ` + rule, "1d": `bad duration "1d": ` + rule, "1s1h": `bad duration "1s1h": ` + rule,
		"1s1s": `bad duration "1s1s": ` + rule, " 1s": `bad duration " 1s": ` + rule, "1 s": `bad duration "1 s": ` + rule,
		"0.5ms":       `bad duration "0.5ms": durations have whole milliseconds and at most 292 years`,
		"1.s":         `bad duration "1.s": durations have whole milliseconds and at most 292 years`,
		".5s":         `bad duration ".5s": durations have whole milliseconds and at most 292 years`,
		"1.2.3s":      `bad duration "1.2.3s": durations have whole milliseconds and at most 292 years`,
		"9999999h":    `bad duration "9999999h": durations have whole milliseconds and at most 292 years`,
		"2562047h60m": `bad duration "2562047h60m": durations have at most 292 years`,
	} {
		if got, err := spec.ParseDuration(s); err == nil || err.Error() != want {
			t.Errorf("%q is %v, %v, want %s", s, got, err, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64Range(0, 1<<53/1000).Draw(t, "ms")) * time.Millisecond
		text := spec.FormatDuration(d)
		if got, err := spec.ParseDuration(text); err != nil || got != d {
			t.Fatalf("%v is written %q and read %v, %v", d, text, got, err)
		}
	})
}

func TestSizes(t *testing.T) {
	for s, want := range map[string]int64{"0B": 0, "1B": 1, "64KiB": 64 << 10, "256MiB": 256 << 20, "1GiB": 1 << 30} {
		if got, err := spec.ParseSize(s); err != nil || got != want || spec.FormatSize(want) != s {
			t.Errorf("%q is %v, %v, written %q", s, got, err, spec.FormatSize(want))
		}
	}
	for _, s := range []string{"", "1", "B", "1MB", "1mib", "-1B", "1.5MiB", "1 MiB", "99999999999GiB", "0x1B"} {
		if got, err := spec.ParseSize(s); err == nil || !strings.Contains(err.Error(), "units B, KiB, MiB, GiB") {
			t.Errorf("%q is %v, %v", s, got, err)
		}
	}
}

func TestAGlobMatchesTheWholeKey(t *testing.T) {
	tests := []struct {
		pattern  string
		yes, not []string
	}{
		{"img-*", []string{"img-", "img-1", "img-a/b"}, []string{"img", "xim-1", "ximg-1"}},
		{"*", []string{"a", "a/b", "é"}, nil},
		{"*.png", []string{".png", "a.png", "a/b.png.png"}, []string{"a.png.gz", "png"}},
		{"a*b*c", []string{"abc", "aXbYc", "abbcc", "abcbc"}, []string{"acb", "abcd", "ab"}},
		{"?", []string{"a", "/", "é", "😀"}, []string{"", "ab"}},
		{"part-??", []string{"part-01"}, []string{"part-1", "part-001"}},
		{"[a-cx]1", []string{"a1", "c1", "x1"}, []string{"d1", "1", "a"}},
		{"[^a-c]", []string{"d", "é"}, []string{"a", "b", "de"}},
		{"[à-ü]*", []string{"é1"}, []string{"e1"}},
		{`\*\?`, []string{"*?"}, []string{"a?", "**"}},
		{`[\]a]`, []string{"]", "a"}, []string{`\`}},
		{"[a-]", []string{"a", "-"}, []string{"b"}},
		{"", nil, []string{"a"}},
		{"[", nil, []string{"[", "a"}},
		{"a**b", []string{"ab", "axb"}, []string{"a"}},
	}
	for _, tt := range tests {
		for _, key := range tt.yes {
			if !spec.MatchKey(tt.pattern, spec.Key(key)) {
				t.Errorf("%q does not match %q", tt.pattern, key)
			}
		}
		for _, key := range tt.not {
			if spec.MatchKey(tt.pattern, spec.Key(key)) {
				t.Errorf("%q matches %q", tt.pattern, key)
			}
		}
	}
}

// The model is the definition: a '*' takes nothing, or one more character.
func TestAGlobMatchesWhatItsDefinitionMatches(t *testing.T) {
	var model func(pattern, key string) bool
	model = func(pattern, key string) bool {
		switch {
		case pattern == "":
			return key == ""
		case pattern[0] == '*':
			return model(pattern[1:], key) || key != "" && model(pattern, key[1:])
		case key == "":
			return false
		default:
			return (pattern[0] == '?' || pattern[0] == key[0]) && model(pattern[1:], key[1:])
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.StringMatching(`[ab*?]{1,8}`).Draw(t, "pattern")
		key := rapid.StringMatching(`[ab]{1,10}`).Draw(t, "key")
		if got, want := spec.MatchKey(pattern, spec.Key(key)), model(pattern, key); got != want {
			t.Fatalf("%q on %q: %v, want %v", pattern, key, got, want)
		}
	})
}
