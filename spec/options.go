package spec

import (
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// Options are what a manifest says under options: to a custom primitive. Each is
// a string, a float64, a bool, or a []any of these; a duration is a string. They
// are never changed. Read takes them apart.
type Options map[string]any

// optionsField is the field of a trigger that holds them.
const optionsField = "options"

// Read begins to read the options.
func (o Options) Read() *OptionReader { return &OptionReader{options: o} }

// OptionReader reads the options of a custom primitive one by one. What is not
// there has its default; what is wrong is noted, and told by Err all at once.
type OptionReader struct {
	options Options
	known   []string
	faults  []Fault
}

// Err returns what is wrong with the options, those included that were never
// asked for; nil if they are right. It comes last. In a factory's New it becomes
// the faults of the manifest.
func (r *OptionReader) Err() error {
	for _, name := range sortedKeys(r.options) {
		if slices.Contains(r.known, name) {
			continue
		}
		hint := DidYouMean(name, r.known)
		if hint == "" {
			hint = ": there is " + oneOf(r.known)
		}
		r.fault(name, "unknown option%s", hint)
	}
	if len(r.faults) == 0 {
		return nil
	}
	first := r.faults[0]
	return &Error{Code: CodeInvalid, Field: first.Path, Message: first.Path + ": " + first.Message, Faults: r.faults}
}

// Duration reads a duration from least to most. Its default, as that of others,
// may be outside of the bounds, so that being absent can be told.
func (r *OptionReader) Duration(name string, def, least, most time.Duration) time.Duration {
	v, ok := r.get(name)
	if !ok {
		return def
	}
	s, isText := v.(string)
	if v == 0.0 {
		s, isText = "0", true
	}
	if !isText {
		r.fault(name, "must be a duration, not %s: %s", describeOption(v), durationRule)
		return def
	}
	d, err := ParseDuration(s)
	switch {
	case err != nil:
		r.fault(name, "%s", err)
		return def
	case d < least || d > most:
		r.fault(name, "must be from %s to %s, not %s", FormatDuration(least), FormatDuration(most), clip(s))
		return def
	}
	return d
}

// Int reads a whole number from least to most.
func (r *OptionReader) Int(name string, def, least, most int) int {
	v, ok := r.get(name)
	if !ok {
		return def
	}
	f, isNumber := v.(float64)
	if !isNumber || f != math.Trunc(f) || f < float64(least) || f > float64(most) {
		r.fault(name, "must be a whole number from %d to %d, not %s", least, most, describeOption(v))
		return def
	}
	return int(f)
}

// Float reads a number from least to most.
func (r *OptionReader) Float(name string, def, least, most float64) float64 {
	v, ok := r.get(name)
	if !ok {
		return def
	}
	f, isNumber := v.(float64)
	if !isNumber || f < least || f > most {
		r.fault(name, "must be a number from %g to %g, not %s", least, most, describeOption(v))
		return def
	}
	return f
}

// Bool reads true or false.
func (r *OptionReader) Bool(name string, def bool) bool {
	v, ok := r.get(name)
	if !ok {
		return def
	}
	b, isBool := v.(bool)
	if !isBool {
		r.fault(name, "must be true or false, not %s", describeOption(v))
		return def
	}
	return b
}

// Text reads a text.
func (r *OptionReader) Text(name, def string) string {
	v, ok := r.get(name)
	if !ok {
		return def
	}
	s, isText := v.(string)
	if !isText {
		r.fault(name, "must be text, not %s", describeOption(v))
		return def
	}
	return s
}

// Texts reads a list of texts; one may stand without its list.
func (r *OptionReader) Texts(name string) []string {
	v, ok := r.get(name)
	if !ok {
		return nil
	}
	items, isList := v.([]any)
	if !isList {
		items = []any{v}
	}
	var texts []string
	for i, item := range items {
		s, isText := item.(string)
		if !isText {
			r.fault(name, "must be a list of texts: item %d is %s", i, describeOption(item))
			return nil
		}
		texts = append(texts, s)
	}
	return texts
}

// Fault notes something wrong with an option that only its reader can tell.
func (r *OptionReader) Fault(name, format string, args ...any) {
	r.known = append(r.known, name)
	r.fault(name, format, args...)
}

func (r *OptionReader) fault(name, format string, args ...any) {
	r.faults = append(r.faults, Fault{Path: optionsField + "." + name, Message: fmt.Sprintf(format, args...)})
}

func (r *OptionReader) get(name string) (any, bool) {
	r.known = append(r.known, name)
	v, ok := r.options[name]
	return v, ok
}

func describeOption(v any) string { return optionNode(v).describe() }

// options is the kind of Options.
type options struct{}

func (options) read(r *reader, path string, n *node) (Options, bool) {
	all, ok := table[string, any]{what: "values", most: MaxOptions, key: validOptionName, value: option{lists: true}}.read(r, path, n)
	if ok && len(options{}.print(all).appendJSON(nil)) > MaxOptionsBytes {
		r.fault(n.at, path, "options have at most %s in all, as JSON", FormatSize(MaxOptionsBytes))
		return nil, false
	}
	return all, ok
}

func validOptionName(s string) error {
	if isName(s) {
		return nil
	}
	return Errorf(CodeInvalid, "bad option name %q: use %s", clip(s), nameRule)
}

func (options) print(o Options) *node {
	out := mapOf()
	for _, name := range sortedKeys(o) {
		out.set(name, optionNode(o[name]))
	}
	return out
}

func (options) schema() *node {
	return table[string, any]{what: "values", most: MaxOptions, names: namePattern, value: option{lists: true}}.schema()
}

// option is the kind of one of them.
type option struct{ lists bool }

func (k option) read(r *reader, path string, n *node) (any, bool) {
	switch n.kind {
	case boolNode:
		return n.text == "true", true
	case textNode:
		return text[string]{what: "text", most: MaxOptionTextBytes}.read(r, path, n)
	case numberNode:
		return optionNumber(r, path, n)
	case listNode:
		if !k.lists {
			break
		}
		all, ok := list[any]{item: option{}, what: "values", most: MaxOptionItems}.read(r, path, n)
		if all == nil {
			all = []any{}
		}
		return all, ok
	}
	want := "text, a number, true or false"
	if k.lists {
		want = "text, a number, true, false or a list of these"
	}
	r.fault(n.at, path, "must be %s, not %s", want, n.describe())
	return nil, false
}

// maxWhole is up to where a float64 holds every whole number.
const maxWhole = 1 << 53

// optionNumber takes numbers as JSON writes them, which YAML and people read alike.
func optionNumber(r *reader, path string, n *node) (any, bool) {
	f, err := strconv.ParseFloat(n.text, 64)
	switch {
	case err != nil || !jsonNumber.MatchString(n.text):
		r.fault(n.at, path, "%s is no number that can be told from another one: write it plainly, as in 12 or 0.5, or in quotes", clip(n.text))
		return nil, false
	case isDecimal(n.text) && !exact(n.text):
		r.fault(n.at, path, "%s is larger than what a number holds exactly (2^53): write it in quotes", clip(n.text))
		return nil, false
	case f == 0:
		f = 0 // and not -0
	}
	return f, true
}

func exact(whole string) bool {
	i, err := strconv.ParseInt(whole, 10, 64)
	return err == nil && -maxWhole <= i && i <= maxWhole
}

var jsonNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$`)

func (option) print(v any) *node { return optionNode(v) }

func (k option) schema() *node {
	some := textsOf([]string{"string", "number", "boolean"})
	s := mapOf().set("type", some)
	if !k.lists {
		return s
	}
	items := mapOf().set("type", textOf("array")).set("items", s).set("maxItems", numberOf(MaxOptionItems))
	return mapOf().set("anyOf", listOf(s, items))
}

// optionNode returns a value of Options as it is printed.
func optionNode(v any) *node {
	switch v := v.(type) {
	case string:
		return textOf(v)
	case bool:
		return boolOf(v)
	case float64:
		if v == math.Trunc(v) && math.Abs(v) <= maxWhole {
			return numberOf(int64(v))
		}
		return &node{kind: numberNode, text: strconv.FormatFloat(v, 'g', -1, 64)}
	case []any:
		out := listOf()
		for _, item := range v {
			out.items = append(out.items, optionNode(item))
		}
		return out
	}
	return &node{}
}
