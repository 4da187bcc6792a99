package client

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/pheromone-run/pheromone/spec"
)

// IgnoreFile, in an app's folder, names what Pack leaves out, one pattern a
// line: globs as of path.Match, '**' for any folders, a slash at the end for
// folders only, a slash elsewhere to match from the folder's root instead of at
// any depth. Lines that start with '#' are comments.
const IgnoreFile = ".pheromoneignore"

const (
	maxIgnoreBytes = 64 << 10
	maxIgnoreRules = 1000
)

type ignoreRule struct {
	segments []string
	dirOnly  bool
}

type ignoreRules []ignoreRule

func readIgnoreFile(root *os.Root) (ignoreRules, error) {
	f, err := root.Open(IgnoreFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the ignore file: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxIgnoreBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read the ignore file: %w", err)
	}
	if len(text) > maxIgnoreBytes {
		return nil, spec.Errorf(spec.CodeInvalid, "%s is larger than %d KiB", f.Name(), maxIgnoreBytes>>10)
	}
	return parseIgnore(f.Name(), string(text))
}

func parseIgnore(file, text string) (ignoreRules, error) {
	var rules ignoreRules
	number := 0
	for line := range strings.Lines(text) {
		number++
		pattern := strings.TrimSpace(line)
		if pattern == "" || pattern[0] == '#' {
			continue
		}
		if pattern[0] == '!' {
			return nil, spec.Errorf(spec.CodeInvalid, "%s:%d: %q: taking a file back in with '!' is not possible; make the pattern before it narrower", file, number, pattern)
		}
		if len(rules) == maxIgnoreRules {
			return nil, spec.Errorf(spec.CodeInvalid, "%s:%d: more than %d patterns", file, number, maxIgnoreRules)
		}
		whole, dirOnly := strings.CutSuffix(pattern, "/")
		anchored := strings.Contains(whole, "/")
		segments := strings.Split(strings.TrimPrefix(whole, "/"), "/")
		if !anchored {
			segments = append([]string{"**"}, segments...)
		}
		for _, s := range segments {
			if _, err := path.Match(s, ""); err != nil || s == "" {
				return nil, spec.Errorf(spec.CodeInvalid, "%s:%d: %q is not a pattern that can match", file, number, pattern)
			}
		}
		rules = append(rules, ignoreRule{segments: segments, dirOnly: dirOnly})
	}
	return rules, nil
}

func (rules ignoreRules) match(name string, isDir bool) bool {
	segments := strings.Split(name, "/")
	for _, r := range rules {
		if (isDir || !r.dirOnly) && matchSegments(r.segments, segments) {
			return true
		}
	}
	return false
}

// matchSegments backtracks to the last '**' only, so its time is bounded by the
// product of the lengths.
func matchSegments(pattern, name []string) bool {
	star, mark := -1, 0
	p, n := 0, 0
	for n < len(name) {
		switch {
		case p < len(pattern) && pattern[p] == "**":
			star, mark = p, n
			p++
		case p < len(pattern) && matchOne(pattern[p], name[n]):
			p++
			n++
		case star >= 0:
			mark++
			p, n = star+1, mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == "**" {
		p++
	}
	return p == len(pattern)
}

func matchOne(pattern, name string) bool {
	ok, _ := path.Match(pattern, name) // patterns were checked as they were read
	return ok
}
