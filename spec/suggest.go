package spec

import (
	"slices"
	"strings"
)

// suggester finds what a user may have meant. Its budget bounds the comparisons
// for one manifest, so that a manifest full of mistakes costs no more than a
// large one without.
type suggester struct{ budget int }

const (
	suggestBudget   = 20_000
	suggestMaxBytes = 64
)

// didYouMean returns `: did you mean "x"?` for the nearest candidate, or "" if
// none is near.
func (s *suggester) didYouMean(wrote string, candidates []string) string {
	if len(wrote) > suggestMaxBytes {
		return ""
	}
	best, bestDistance := "", 1+max(1, len(wrote)/3)
	for _, c := range candidates {
		if s.budget--; s.budget < 0 {
			break
		}
		if d := editDistance(strings.ToLower(wrote), strings.ToLower(c), bestDistance); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	if best == "" {
		return ""
	}
	return `: did you mean "` + best + `"?`
}

// DidYouMean returns `: did you mean "x"?` for the candidate that is nearest to
// what a user wrote, or "" if none is near.
func DidYouMean(wrote string, candidates []string) string {
	return (&suggester{budget: suggestBudget}).didYouMean(wrote, candidates)
}

// NoApp is the error for an app that is not deployed, with a suggestion from those
// that the caller may know of.
func NoApp(name AppName, known []AppName) *Error {
	names := make([]string, len(known))
	for i, k := range known {
		names[i] = string(k)
	}
	return Errorf(CodeNotFound, "there is no app %q%s", name, DidYouMean(string(name), names))
}

// editDistance counts the insertions, deletions, replacements and swaps of
// neighbours that make a into b. From limit on it may return any larger number.
func editDistance(a, b string, limit int) int {
	if d := len(a) - len(b); max(d, -d) >= limit || len(b) > suggestMaxBytes {
		return limit
	}
	var before, last, row [suggestMaxBytes + 1]int
	for j := range len(b) + 1 {
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
		before, last = last, row
	}
	return last[len(b)]
}

// oneOf lists what may be written, sorted as given: `a, b or c`.
func oneOf(all []string) string {
	switch len(all) {
	case 0:
		return "nothing"
	case 1:
		return all[0]
	}
	return strings.Join(all[:len(all)-1], ", ") + " or " + all[len(all)-1]
}

func sortedKeys[K ~string, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
