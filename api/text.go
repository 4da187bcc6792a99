package api

import (
	"errors"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/pheromone-run/pheromone/spec"
)

// clip bounds what of a request is repeated in a message about it.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	cut := most
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}

func isControl(r rune) bool { return unicode.IsControl(r) }

// oneOf lists words as in "a, b or c".
func oneOf(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	last := len(words) - 1
	return strings.Join(words[:last], ", ") + " or " + words[last]
}

// inField names the field that err is about, where err does not.
func inField(field string, err error) error {
	e, ok := errors.AsType[*spec.Error](err)
	if !ok {
		e = spec.Errorf(spec.CodeInvalid, "%w", err)
	}
	if e.Field != "" {
		return e
	}
	return e.WithField(field)
}

// didYouMean returns `: did you mean "x"?` for the nearest word, or "" if none
// is near. Words are few and short.
func didYouMean(wrote string, words []string) string {
	const longest = 32
	if wrote == "" || len(wrote) > longest {
		return ""
	}
	best, bestDistance := "", 1+max(1, len(wrote)/3)
	for _, w := range words {
		d := editDistance(strings.ToLower(wrote), w)
		if d < bestDistance || d == bestDistance && best != "" && w < best {
			best, bestDistance = w, d
		}
	}
	if best == "" {
		return ""
	}
	return `: did you mean "` + best + `"?`
}

// editDistance counts the insertions, deletions, replacements and swaps of
// neighbours that make a into b.
func editDistance(a, b string) int {
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j]+cost, last[j+1]+1, row[j]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}
