package cli

import (
	"fmt"
	"strings"

	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
	"github.com/spf13/pflag"
)

const maxConfigBytes = 1 << 20

// fillSettings sets the flags that were not given from the environment, and what
// is not there either from the file.
func (c *cli) fillSettings(flags []*pflag.Flag, file string) error {
	known := make(map[string]*pflag.Flag, len(flags))
	for _, f := range flags {
		known[f.Name] = f
	}
	inFile, err := readSettings(file, known)
	if err != nil {
		return err
	}
	for _, f := range flags {
		if f.Changed {
			continue
		}
		variable := "PHEROMONE_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if value := c.Getenv(variable); value != "" {
			if err := f.Value.Set(value); err != nil {
				return usage("%s=%q: %w", variable, value, err)
			}
			continue
		}
		if s, ok := inFile[f.Name]; ok {
			if err := f.Value.Set(s.value); err != nil {
				return usage("%s:%d: %s: %w", file, s.line, f.Name, err)
			}
		}
	}
	return nil
}

// setting is a value of the file, as a flag would have it.
type setting struct {
	value string
	line  int
}

// readSettings reads a mapping of settings to plain values or lists of them.
func readSettings(file string, known map[string]*pflag.Flag) (map[string]setting, error) {
	if file == "" {
		return nil, nil
	}
	data, err := readFile(file, maxConfigBytes)
	if err != nil {
		return nil, err
	}
	parsed, err := parser.ParseBytes(data, 0)
	if err != nil {
		return nil, usage("%s: %w", file, err)
	}
	settings := map[string]setting{}
	for _, document := range parsed.Docs {
		entries, err := mappingEntries(document.Body)
		if err != nil {
			return nil, usage("%s: %w", file, err)
		}
		for _, entry := range entries {
			name, line := entry.Key.GetToken().Value, entry.Key.GetToken().Position.Line
			if known[name] == nil {
				return nil, usage("%s:%d: unknown setting %q%s", file, line, name, suggestion(name, known))
			}
			if _, twice := settings[name]; twice {
				return nil, usage("%s:%d: %s is set twice", file, line, name)
			}
			value, err := plainValue(entry.Value)
			if err != nil {
				return nil, usage("%s:%d: %s: %w", file, line, name, err)
			}
			settings[name] = setting{value: value, line: line}
		}
	}
	return settings, nil
}

func mappingEntries(body ast.Node) ([]*ast.MappingValueNode, error) {
	switch n := body.(type) {
	case nil, *ast.NullNode, *ast.CommentGroupNode:
		return nil, nil
	case *ast.MappingNode:
		return n.Values, nil
	case *ast.MappingValueNode:
		return []*ast.MappingValueNode{n}, nil
	}
	return nil, fmt.Errorf("settings are lines of the form name: value")
}

func plainValue(node ast.Node) (string, error) {
	switch n := node.(type) {
	case *ast.SequenceNode:
		var parts []string
		for _, item := range n.Values {
			part, err := plainValue(item)
			if err != nil {
				return "", err
			}
			parts = append(parts, part)
		}
		return strings.Join(parts, ","), nil
	case *ast.StringNode, *ast.IntegerNode, *ast.BoolNode, *ast.FloatNode:
		return node.GetToken().Value, nil
	}
	return "", fmt.Errorf("use a plain value or a list of them")
}

// suggestion finds the setting that was probably meant.
func suggestion(name string, known map[string]*pflag.Flag) string {
	folded := strings.ReplaceAll(strings.ToLower(name), "_", "-")
	for candidate := range known {
		if candidate == folded || strings.ReplaceAll(candidate, "-", "") == strings.ReplaceAll(folded, "-", "") {
			return fmt.Sprintf("; did you mean %q?", candidate)
		}
	}
	names := make([]string, 0, len(known))
	for candidate := range known {
		names = append(names, candidate)
	}
	return "; settings have the names of `pheromone serve`'s flags: " + sortedList(names)
}
