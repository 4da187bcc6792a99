package spec

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// kind is a kind of value in a manifest: how it is read, printed and described.
// The fields of fields.go are made of kinds, so that parser, canonical manifest,
// difference and schema can't drift apart.
type kind[V any] interface {
	// read returns the value of n, or false after it has told a fault.
	read(r *reader, path string, n *node) (V, bool)
	// print returns the value as read takes it; nil if there is nothing to write.
	print(v V) *node
	// schema describes the kind in JSON Schema.
	schema() *node
}

// duration is a time.Duration from least to most, both included. With zero set
// it may be 0, too.
type duration struct {
	least, most time.Duration
	zero        bool
}

func (k duration) read(r *reader, path string, n *node) (time.Duration, bool) {
	if n.kind == numberNode && !(k.zero && n.text == "0") {
		r.fault(n.at, path, "%s has no unit: %s", clip(n.text), durationRule)
		return 0, false
	}
	if n.kind != textNode && n.kind != numberNode {
		r.fault(n.at, path, "must be a duration, not %s: %s", n.describe(), durationRule)
		return 0, false
	}
	d, err := ParseDuration(n.text)
	if err != nil {
		r.fault(n.at, path, "%s", err)
		return 0, false
	}
	if d == 0 && k.zero || k.least <= d && d <= k.most {
		return d, true
	}
	low, or := FormatDuration(k.least), ""
	switch {
	case k.least == 0:
		low = "0"
	case k.zero:
		or = ", or 0"
	}
	r.fault(n.at, path, "must be from %s to %s%s, not %s", low, FormatDuration(k.most), or, clip(n.text))
	return 0, false
}

func (k duration) print(d time.Duration) *node { return textOf(FormatDuration(d)) }

func (k duration) schema() *node {
	text := mapOf().set("type", textOf("string")).
		set("pattern", textOf(`^([0-9]+(\.[0-9]+)?h)?([0-9]+(\.[0-9]+)?m)?([0-9]+(\.[0-9]+)?s)?([0-9]+(\.[0-9]+)?ms)?$|^0$`)).
		set("minLength", numberOf(1))
	if !k.zero {
		return text
	}
	return mapOf().set("anyOf", listOf(text, mapOf().set("const", numberOf(0))))
}

// size is a number of bytes.
type size struct{ least, most int64 }

func (k size) read(r *reader, path string, n *node) (int64, bool) {
	switch n.kind {
	case numberNode:
		r.fault(n.at, path, "%s has no unit: %s", clip(n.text), sizeRule)
		return 0, false
	case textNode:
	default:
		r.fault(n.at, path, "must be a size, not %s: %s", n.describe(), sizeRule)
		return 0, false
	}
	v, err := ParseSize(n.text)
	if err != nil {
		r.fault(n.at, path, "%s", err)
		return 0, false
	}
	if v < k.least || v > k.most {
		r.fault(n.at, path, "must be from %s to %s, not %s", FormatSize(k.least), FormatSize(k.most), clip(n.text))
		return 0, false
	}
	return v, true
}

func (k size) print(v int64) *node { return textOf(FormatSize(v)) }

func (k size) schema() *node {
	return mapOf().set("type", textOf("string")).set("pattern", textOf(`^[0-9]+(B|KiB|MiB|GiB)$`))
}

// count is a whole number.
type count struct{ least, most int }

func (k count) read(r *reader, path string, n *node) (int, bool) {
	if n.kind == numberNode && isDecimal(n.text) {
		if v, err := strconv.Atoi(n.text); err == nil && k.least <= v && v <= k.most {
			return v, true
		}
	}
	r.fault(n.at, path, "must be a whole number from %d to %d, not %s", k.least, k.most, n.describe())
	return 0, false
}

// isDecimal leaves out what YAML takes for a number and people read as another
// one: 010, 1_000, 0x10, +1.
func isDecimal(s string) bool {
	digits := strings.TrimPrefix(s, "-")
	return digits != "" && strings.Trim(digits, "0123456789") == "" && (digits == "0" || digits[0] != '0')
}

func (k count) print(v int) *node { return numberOf(v) }

func (k count) schema() *node {
	return mapOf().set("type", textOf("integer")).
		set("minimum", numberOf(k.least)).set("maximum", numberOf(k.most))
}

// flag is true or false.
type flag struct{}

func (flag) read(r *reader, path string, n *node) (bool, bool) {
	if n.kind != boolNode {
		r.fault(n.at, path, "must be true or false, not %s", n.describe())
		return false, false
	}
	return n.text == "true", true
}

func (flag) print(v bool) *node { return boolOf(v) }
func (flag) schema() *node      { return mapOf().set("type", textOf("boolean")) }

// text is a string that check accepts.
type text[S ~string] struct {
	what    string // for faults: must be what
	most    int    // bytes; 0 leaves it to check
	check   func(string) error
	pattern string // for the schema
}

func (k text[S]) read(r *reader, path string, n *node) (S, bool) {
	switch n.kind {
	case textNode:
	case numberNode, boolNode:
		r.fault(n.at, path, "must be %s: write %s in quotes", k.what, strconv.Quote(clip(n.text)))
		return "", false
	default:
		r.fault(n.at, path, "must be %s, not %s", k.what, n.describe())
		return "", false
	}
	switch {
	case k.most > 0 && len(n.text) > k.most:
		r.fault(n.at, path, "must have at most %d bytes, not %d", k.most, len(n.text))
		return "", false
	case strings.IndexByte(n.text, 0) >= 0 || !utf8.ValidString(n.text):
		r.fault(n.at, path, "must be UTF-8 text without NUL")
		return "", false
	}
	if k.check != nil {
		if err := k.check(n.text); err != nil {
			r.fault(n.at, path, "%s", err)
			return "", false
		}
	}
	return S(n.text), true
}

func (k text[S]) print(v S) *node {
	if v == "" {
		return nil
	}
	return textOf(string(v))
}

func (k text[S]) schema() *node {
	s := mapOf().set("type", textOf("string"))
	if k.pattern != "" {
		s.set("pattern", textOf(k.pattern))
	}
	if k.most > 0 {
		s.set("maxLength", numberOf(k.most))
	}
	return s
}

// choice is one of a few words. The words in later are known and refused.
type choice[S ~string] struct {
	words []S
	later map[S]string
}

func (k choice[S]) read(r *reader, path string, n *node) (S, bool) {
	var words []string
	for _, w := range k.words {
		if n.kind == textNode && n.text == string(w) {
			return w, true
		}
		words = append(words, string(w))
	}
	if n.kind != textNode {
		r.fault(n.at, path, "must be %s, not %s", oneOf(words), n.describe())
		return "", false
	}
	if instead, ok := k.later[S(n.text)]; ok {
		r.fault(n.at, path, "%q is not available in this version; %s", n.text, instead)
		return "", false
	}
	if hint := r.suggest.didYouMean(n.text, words); hint != "" {
		r.fault(n.at, path, "unknown %q%s", clip(n.text), hint)
	} else {
		r.fault(n.at, path, "unknown %q: use %s", clip(n.text), oneOf(words))
	}
	return "", false
}

func (k choice[S]) print(v S) *node { return text[S]{}.print(v) }

func (k choice[S]) schema() *node { return mapOf().set("enum", textsOf(k.words)) }

// list is a list of least to most items. With single set, one item may stand
// without its list.
type list[V any] struct {
	item        kind[V]
	what        string
	least, most int
	single      bool
}

func (k list[V]) read(r *reader, path string, n *node) ([]V, bool) {
	if k.single && n.kind != listNode {
		v, ok := k.item.read(r, path, n)
		return []V{v}, ok
	}
	if n.kind != listNode {
		r.fault(n.at, path, "must be a list of %s, not %s", k.what, n.describe())
		return nil, false
	}
	if len(n.items) < k.least || len(n.items) > k.most {
		r.fault(n.at, path, "must have from %d to %d %s, not %d", k.least, k.most, k.what, len(n.items))
		return nil, false
	}
	var all []V // nil if there are none, so that apps compare
	ok := true
	for i, item := range n.items {
		v, itemOK := k.item.read(r, index(path, i), item)
		all, ok = append(all, v), ok && itemOK
	}
	return all, ok
}

func (k list[V]) print(all []V) *node {
	if len(all) == 0 {
		return nil
	}
	out := listOf()
	for _, v := range all {
		out.items = append(out.items, k.item.print(v))
	}
	return out
}

func (k list[V]) schema() *node {
	s := mapOf().set("type", textOf("array")).set("items", k.item.schema())
	if k.least > 0 {
		s.set("minItems", numberOf(k.least))
	}
	s.set("maxItems", numberOf(k.most))
	if !k.single {
		return s
	}
	return mapOf().set("anyOf", listOf(k.item.schema(), s))
}

// table is a mapping from names to values.
type table[K ~string, V any] struct {
	what  string // what it maps, in the plural
	most  int
	key   func(string) error
	names string // pattern of the keys, for the schema
	value kind[V]
	// named tells a value its name.
	named func(V, K)
}

func (k table[K, V]) read(r *reader, path string, n *node) (map[K]V, bool) {
	entries, ok := r.entries(path, n, "a mapping from names to "+k.what)
	if !ok {
		return nil, false
	}
	if len(entries) > k.most {
		r.fault(n.at, path, "must have at most %d %s, not %d", k.most, k.what, len(entries))
		return nil, false
	}
	if len(entries) == 0 {
		return nil, true
	}
	all := make(map[K]V, len(entries))
	for _, e := range entries {
		at := join(path, e.key)
		if err := k.key(e.key); err != nil {
			r.fault(e.keyAt, at, "%s", err)
			ok = false
		}
		v, valueOK := k.value.read(r, at, e.value)
		if k.named != nil {
			k.named(v, K(e.key))
		}
		all[K(e.key)], ok = v, ok && valueOK
	}
	return all, ok
}

func (k table[K, V]) print(all map[K]V) *node {
	if len(all) == 0 {
		return nil
	}
	out := mapOf()
	for _, name := range sortedKeys(all) {
		out.set(string(name), k.value.print(all[name]))
	}
	return out
}

func (k table[K, V]) schema() *node {
	return mapOf().set("type", listOf(textOf("object"), textOf("null"))).
		set("propertyNames", mapOf().set("pattern", textOf(k.names))).
		set("additionalProperties", k.value.schema()).
		set("maxProperties", numberOf(k.most))
}
