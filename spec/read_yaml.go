package spec

import (
	"errors"
	"fmt"
	"io"
	"maps"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/goccy/go-yaml/scanner"
	"github.com/goccy/go-yaml/token"
)

// readYAML reads a manifest in YAML: the plain part of the language, without
// what makes a short text a large or surprising one (anchors, aliases, merge
// keys, tags, several documents).
func readYAML(r *reader, text string) (root *node) {
	tokens, ok := yamlTokens(r, text)
	if !ok {
		return nil
	}
	defer func() {
		// The parser recurses over text from outside and has panicked on odd text
		// before; a manifest must never take a node down.
		if p := recover(); p != nil {
			r.fault(place{1, 1}, "", "not YAML that can be read: %v", p)
			root = nil
		}
	}()
	file, err := parser.Parse(tokens, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		var at interface {
			GetToken() *token.Token
			GetMessage() string
		}
		if errors.As(err, &at) {
			r.fault(placeOf(at.GetToken()), "", "not YAML: %s", at.GetMessage())
		} else {
			r.fault(place{1, 1}, "", "not YAML: %v", err)
		}
		return nil
	}
	for _, doc := range file.Docs {
		if doc.Body == nil || doc.Body.Type() == ast.CommentType {
			continue
		}
		if root != nil {
			r.fault(placeOf(doc.Body.GetToken()), "", "the manifest is one YAML document; there is a second one here")
			return nil
		}
		if root = yamlNode(r, doc.Body, 0); root == nil {
			return nil
		}
	}
	if root == nil {
		r.fault(place{1, 1}, "", "the manifest is empty")
	}
	return root
}

// yamlTokens splits text and refuses what the parser must not get: its stack
// grows with each level of nesting and each field of a block mapping, and its
// time with the square of the fields of one mapping.
func yamlTokens(r *reader, text string) (token.Tokens, bool) {
	var s scanner.Scanner
	s.Init(text)
	var tokens token.Tokens
	var shape yamlShape
	for {
		part, err := s.Scan()
		if errors.Is(err, io.EOF) {
			return tokens, true
		}
		for _, tk := range part {
			problem := shape.step(tk)
			if tk.Type == token.InvalidType {
				problem = "not YAML: " + tk.Error
			} else if what := yamlRefused[tk.Type]; what != "" {
				problem = what + " can't be used in a manifest: write the value out"
			}
			if problem != "" {
				r.fault(placeOf(tk), "", "%s", problem)
				return nil, false
			}
		}
		tokens.Add(part...)
		if len(tokens) > maxTokens {
			r.fault(placeOf(tokens[len(tokens)-1]), "", "%s", tooManyParts)
			return nil, false
		}
	}
}

// yamlShape follows the nesting of tokens as far as bounding it takes.
type yamlShape struct {
	open         int // flow collections
	line, column int // the present line, and where its first token stands
	first        bool
	dashes       int // on the present line: each opens a list in a list
	// fields counts those of the block mapping that is open at a column.
	fields map[int]int
}

func (s *yamlShape) step(tk *token.Token) (problem string) {
	if tk.Position.Line != s.line {
		s.line, s.dashes, s.first = tk.Position.Line, 0, true
	}
	if s.first {
		// Fields stand behind the dashes of their line.
		s.first = tk.Type == token.SequenceEntryType
		s.column = tk.Position.Column
		if s.open == 0 {
			maps.DeleteFunc(s.fields, func(column, _ int) bool { return column > s.column })
		}
	}
	switch tk.Type {
	case token.MappingStartType, token.SequenceStartType:
		s.open++
	case token.MappingEndType, token.SequenceEndType:
		s.open--
	case token.SequenceEntryType:
		s.dashes++
	case token.MappingValueType:
		if s.open > 0 {
			break
		}
		if s.fields == nil {
			s.fields = make(map[int]int)
		}
		if s.fields[s.column]++; s.fields[s.column] > maxFields {
			return fmt.Sprintf("a mapping has at most %d fields", maxFields)
		}
	}
	if s.open > maxDepth || s.dashes > maxDepth || len(s.fields) > maxDepth {
		return tooDeep
	}
	return ""
}

var yamlRefused = map[token.Type]string{
	token.AnchorType:     "a YAML anchor (&name)",
	token.AliasType:      "a YAML alias (*name)",
	token.MergeKeyType:   "a YAML merge key (<<)",
	token.TagType:        "a YAML tag (!name)",
	token.DirectiveType:  "a YAML directive (%NAME)",
	token.MappingKeyType: "a YAML complex key (?)",
}

// yamlNode turns a tree of the parser into one of ours, or returns nil after a
// fault.
func yamlNode(r *reader, y ast.Node, depth int) *node {
	n := &node{at: placeOf(y.GetToken())}
	if depth > maxDepth {
		r.fault(n.at, "", "%s", tooDeep)
		return nil
	}
	switch v := y.(type) {
	case *ast.MappingNode:
		n.kind = mapNode
		for i, value := range v.Values {
			if !yamlEntry(r, n, value, depth) {
				return nil
			}
			// The token of a mapping without braces is its first colon.
			if i == 0 && !v.IsFlowStyle {
				n.at = n.entries[0].keyAt
			}
		}
	case *ast.MappingValueNode:
		n.kind = mapNode
		if !yamlEntry(r, n, v, depth) {
			return nil
		}
		n.at = n.entries[0].keyAt
	case *ast.SequenceNode:
		n.kind = listNode
		for _, value := range v.Values {
			item := yamlNode(r, value, depth+1)
			if item == nil {
				return nil
			}
			n.items = append(n.items, item)
		}
	case *ast.NullNode:
	case *ast.BoolNode:
		n.kind, n.text = boolNode, boolOf(v.Value).text
	case *ast.IntegerNode, *ast.FloatNode, *ast.InfinityNode, *ast.NanNode:
		n.kind, n.text = numberNode, y.GetToken().Value
	case *ast.StringNode:
		n.kind, n.text = textNode, v.Value
	case *ast.LiteralNode:
		n.kind, n.text = textNode, v.Value.Value
	default:
		r.fault(n.at, "", "this can't be used in a manifest: a YAML %s", y.Type())
		return nil
	}
	return n
}

func yamlEntry(r *reader, into *node, v *ast.MappingValueNode, depth int) bool {
	e := entry{keyAt: placeOf(v.Key.GetToken())}
	switch key := v.Key.(type) {
	case *ast.StringNode:
		e.key = key.Value
	case *ast.IntegerNode, *ast.FloatNode, *ast.BoolNode, *ast.NullNode, *ast.InfinityNode, *ast.NanNode:
		// A name such as 1 or true is told from others by the text that stands there.
		e.key = v.Key.GetToken().Value
	default:
		r.fault(e.keyAt, "", "a field's name is text, not a YAML %s", v.Key.Type())
		return false
	}
	if e.value = yamlNode(r, v.Value, depth+1); e.value == nil {
		return false
	}
	into.entries = append(into.entries, e)
	return true
}

func placeOf(tk *token.Token) place {
	if tk == nil || tk.Position == nil {
		return place{1, 1}
	}
	return place{tk.Position.Line, tk.Position.Column}
}

const (
	maxDepth  = 16
	maxFields = max(MaxFunctions, MaxBuckets)
)

var (
	tooDeep      = fmt.Sprintf("nested more than %d deep", maxDepth)
	tooManyParts = fmt.Sprintf("the manifest has more than %d parts: names, values and signs", maxTokens)
)
