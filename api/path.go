package api

import (
	"maps"
	"slices"
	"strings"

	"github.com/pheromone-run/pheromone/spec"
)

// routeTree finds a route by the raw segments of a path. Segments are cut at
// the slashes of the raw path and then decoded, each exactly once, so that an
// encoded slash stays part of its segment, and dots and empty segments have no
// meaning of their own: what is checked is what is used.
type routeTree struct {
	root node
	all  []*route
}

// node is what may follow one prefix of a path: one of some words, or a
// parameter. The parameter key takes all that is left.
type node struct {
	words  map[string]*node
	param  string
	child  *node // of param
	routes []*route
}

const keyParam = "key"

func newRouteTree(all []*route) *routeTree {
	t := &routeTree{all: all}
	for _, r := range all {
		n := &t.root
		for segment := range strings.SplitSeq(strings.TrimPrefix(r.pattern, "/"), "/") {
			switch {
			case segment == "":
			case segment[0] == '{':
				n.param = strings.Trim(segment, "{}")
				if n.child == nil {
					n.child = &node{}
				}
				n = n.child
			default:
				if n.words == nil {
					n.words = make(map[string]*node)
				}
				if n.words[segment] == nil {
					n.words[segment] = &node{}
				}
				n = n.words[segment]
			}
		}
		n.routes = append(n.routes, r)
	}
	return t
}

// find walks path and gives every parameter on the way to set.
func (t *routeTree) find(path string, set func(param, value string) error) (*node, error) {
	if path == "" || path[0] != '/' {
		return nil, spec.Errorf(spec.CodeInvalid, "bad request target %q: a path starts with '/'", clip(path))
	}
	n, rest, more := &t.root, path[1:], len(path) > 1
	for more {
		raw := rest
		if n.param == keyParam {
			more = false
		} else {
			raw, rest, more = strings.Cut(rest, "/")
		}
		segment, err := decodeSegment(raw)
		if err != nil {
			return nil, err
		}
		next := n.words[segment]
		if next == nil {
			if n.param == "" {
				return nil, noSuchPath(path, segment, n)
			}
			if err := set(n.param, segment); err != nil {
				return nil, err
			}
			next = n.child
		}
		n = next
	}
	if len(n.routes) == 0 {
		return nil, noSuchPath(path, "", n)
	}
	return n, nil
}

func noSuchPath(path, segment string, at *node) error {
	words := slices.Sorted(maps.Keys(at.words))
	err := spec.Errorf(spec.CodeNotFound, "no such path %q%s", clip(path), spec.DidYouMean(segment, words))
	return err.WithHint("GET / lists what there is")
}

// decodeSegment undoes percent-encoding, once. A plus sign is a plus sign.
func decodeSegment(raw string) (string, error) {
	if strings.IndexByte(raw, '%') < 0 {
		return raw, nil
	}
	out := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); i++ {
		if raw[i] != '%' {
			out = append(out, raw[i])
			continue
		}
		if i+2 >= len(raw) || !isHex(raw[i+1]) || !isHex(raw[i+2]) {
			return "", spec.Errorf(spec.CodeInvalid,
				"bad escape in path segment %q: '%%' is followed by two hexadecimal digits, and a percent sign itself is written %%25", clip(raw))
		}
		out = append(out, unhex(raw[i+1])<<4|unhex(raw[i+2]))
		i += 2
	}
	return string(out), nil
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c&^0x20 - 'A' + 10
}
