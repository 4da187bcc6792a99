package spec

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
)

// node is a piece of a manifest without its notation: YAML and JSON are both
// read into nodes, the canonical manifest and the schema are printed from them.
type node struct {
	kind    nodeKind
	text    string // of text; the literal of a number or boolean
	items   []*node
	entries []entry // in the order of the text; a key may be there twice
	at      place
}

type nodeKind uint8

const (
	nullNode nodeKind = iota
	boolNode
	numberNode
	textNode
	listNode
	mapNode
)

// entry is one field of a mapping.
type entry struct {
	key   string
	keyAt place
	value *node
}

// place is where something stands in the text, both counted from 1, columns in
// characters. The zero place is none.
type place struct{ line, column int }

// get returns the value of the first entry named key, nil if there is none.
func (n *node) get(key string) *node {
	if n == nil {
		return nil
	}
	for i := range n.entries {
		if n.entries[i].key == key {
			return n.entries[i].value
		}
	}
	return nil
}

// has reports whether the mapping n has an entry named key.
func (n *node) has(key string) bool { return n.get(key) != nil }

func textOf(s string) *node { return &node{kind: textNode, text: s} }

func numberOf[N int | int64](v N) *node {
	return &node{kind: numberNode, text: strconv.FormatInt(int64(v), 10)}
}

func boolOf(v bool) *node { return &node{kind: boolNode, text: strconv.FormatBool(v)} }

func listOf(items ...*node) *node { return &node{kind: listNode, items: items} }

// textsOf returns a list of texts.
func textsOf[S ~string](all []S) *node {
	out := listOf()
	for _, s := range all {
		out.items = append(out.items, textOf(string(s)))
	}
	return out
}

// mapOf returns an empty mapping, to be filled with set.
func mapOf() *node { return &node{kind: mapNode} }

// set adds an entry and returns n. A nil value is left out.
func (n *node) set(key string, value *node) *node {
	if value != nil {
		n.entries = append(n.entries, entry{key: key, value: value})
	}
	return n
}

// json prints n on many lines, ending with a line break.
func (n *node) json() []byte {
	var out bytes.Buffer
	if err := json.Indent(&out, n.appendJSON(nil), "", "  "); err != nil {
		panic("spec: printed JSON that is not JSON: " + err.Error())
	}
	out.WriteByte('\n')
	return out.Bytes()
}

// appendJSON prints n on one line.
func (n *node) appendJSON(dst []byte) []byte {
	switch n.kind {
	case nullNode:
		return append(dst, "null"...)
	case boolNode, numberNode:
		return append(dst, n.text...)
	case textNode:
		return appendQuoted(dst, n.text)
	case listNode:
		dst = append(dst, '[')
		for i, item := range n.items {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = item.appendJSON(dst)
		}
		return append(dst, ']')
	default:
		dst = append(dst, '{')
		for i, e := range n.entries {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendQuoted(dst, e.key)
			dst = append(dst, ':')
			dst = e.value.appendJSON(dst)
		}
		return append(dst, '}')
	}
}

// appendQuoted keeps '<', '>' and '&' as they are: the text is for people.
func appendQuoted(dst []byte, s string) []byte {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		panic("spec: text that JSON can't hold: " + err.Error())
	}
	return append(dst, bytes.TrimSuffix(out.Bytes(), []byte("\n"))...)
}

// plain returns n for a line of output: a text as it is, anything else as JSON.
func (n *node) plain() string {
	switch {
	case n == nil:
		return ""
	case n.kind == textNode:
		return n.text
	default:
		return string(n.appendJSON(nil))
	}
}

// describe says what n is, for a fault.
func (n *node) describe() string {
	switch n.kind {
	case nullNode:
		return "nothing"
	case boolNode:
		return n.text
	case numberNode:
		return "the number " + clip(n.text)
	case textNode:
		return "the text " + strconv.Quote(clip(n.text))
	case listNode:
		return "a list"
	default:
		return "a mapping"
	}
}

// clip keeps what a user wrote from flooding a message.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
