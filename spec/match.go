package spec

import (
	"strings"
	"unicode/utf8"
)

// MaxPatternBytes bounds a glob, and with it the time of a match.
const MaxPatternBytes = 256

// MatchKey reports whether the glob pattern matches the whole of key: '*' stands
// for any characters or none ('/' is one like any other), '?' for any one,
// '[a-z]' and '[^a-z]' for one of, or none of, a class, and '\' takes the
// character behind it as it is. Everything else stands for itself.
//
// It takes no more memory than its arguments and at most as many steps as
// pattern has bytes for each byte of key. A pattern that ValidPattern refuses
// matches nothing.
func MatchKey(pattern string, key Key) bool {
	s := string(key)
	// After a mismatch only the last '*' has to give way: whatever an earlier one
	// could take, the last one can take as well.
	starPattern, starKey := -1, 0
	p, k := 0, 0
	for k < len(s) {
		if p < len(pattern) && pattern[p] == '*' {
			p++
			starPattern, starKey = p, k
			continue
		}
		if p < len(pattern) {
			r, width := utf8.DecodeRuneInString(s[k:])
			next, ok, err := matchOne(pattern, p, r)
			if err != "" {
				return false
			}
			if ok {
				p, k = next, k+width
				continue
			}
		}
		if starPattern < 0 {
			return false
		}
		_, width := utf8.DecodeRuneInString(s[starKey:])
		starKey += width
		p, k = starPattern, starKey
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// ValidPattern returns an error that says what is wrong with a glob.
func ValidPattern(pattern string) error {
	switch {
	case pattern == "":
		return Errorf(CodeInvalid, "an empty glob matches no key: write \"*\" for every key")
	case len(pattern) > MaxPatternBytes:
		return Errorf(CodeInvalid, "a glob has at most %d bytes, this one %d", MaxPatternBytes, len(pattern))
	case !utf8.ValidString(pattern):
		return Errorf(CodeInvalid, "a glob is UTF-8 text")
	}
	for p := 0; p < len(pattern); {
		if pattern[p] == '*' {
			p++
			continue
		}
		next, _, problem := matchOne(pattern, p, 0)
		if problem != "" {
			return Errorf(CodeInvalid, "bad glob %q: %s", pattern, problem)
		}
		p = next
	}
	return nil
}

// matchOne matches r with the element of pattern at p, which is no '*', and
// returns where the next one starts.
func matchOne(pattern string, p int, r rune) (next int, ok bool, problem string) {
	switch pattern[p] {
	case '?':
		return p + 1, true, ""
	case '[':
		return matchClass(pattern, p+1, r)
	}
	c, next, problem := literal(pattern, p)
	return next, c == r, problem
}

// matchClass matches r with the class whose inside starts at p.
func matchClass(pattern string, p int, r rune) (next int, ok bool, problem string) {
	negated := p < len(pattern) && pattern[p] == '^'
	if negated {
		p++
	}
	for first := true; ; first = false {
		if p >= len(pattern) {
			return 0, false, "'[' without its ']'; write \"\\\\[\" for the character"
		}
		if pattern[p] == ']' {
			if first {
				return 0, false, "an empty class \"[]\""
			}
			return p + 1, ok != negated, ""
		}
		low, after, problem := literal(pattern, p)
		if problem != "" {
			return 0, false, problem
		}
		high := low
		if after+1 < len(pattern) && pattern[after] == '-' && pattern[after+1] != ']' {
			if high, after, problem = literal(pattern, after+1); problem != "" {
				return 0, false, problem
			}
			if high < low {
				return 0, false, "a range that runs backwards"
			}
		}
		ok = ok || low <= r && r <= high
		p = after
	}
}

// literal reads one character of pattern, which may have a '\' before it.
func literal(pattern string, p int) (c rune, next int, problem string) {
	if pattern[p] == '\\' {
		if p++; p == len(pattern) {
			return 0, 0, "'\\' at the end; write \"\\\\\\\\\" for the character"
		}
	}
	c, width := utf8.DecodeRuneInString(pattern[p:])
	return c, p + width, ""
}
