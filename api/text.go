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
