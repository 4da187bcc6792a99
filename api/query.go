package api

import (
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/pheromone-run/pheromone/spec"
)

// query holds the query parameters of a request, each known to its route and
// there at most once.
type query []struct{ name, value string }

// maxQueryValueBytes bounds one value: the longest is a page's position.
const maxQueryValueBytes = 4 << 10

func parseQuery(raw string, known []string) (query, error) {
	var q query
	for raw != "" {
		var pair string
		pair, raw, _ = strings.Cut(raw, "&")
		if pair == "" {
			continue
		}
		rawName, rawValue, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(rawName)
		if err != nil {
			return nil, spec.Errorf(spec.CodeInvalid, "bad escape in query parameter %q", clip(rawName))
		}
		if !slices.Contains(known, name) {
			return nil, unknownParameter(name, known)
		}
		if q.has(name) {
			return nil, spec.Errorf(spec.CodeInvalid, "query parameter %q is there twice: give it once", name).WithField(name)
		}
		value, err := url.QueryUnescape(rawValue)
		switch {
		case err != nil:
			return nil, spec.Errorf(spec.CodeInvalid, "bad escape in %s=%q: '%%' is followed by two hexadecimal digits", name, clip(rawValue)).WithField(name)
		case len(value) > maxQueryValueBytes:
			return nil, spec.Errorf(spec.CodeInvalid, "%s has %d bytes: at most %d", name, len(value), maxQueryValueBytes).WithField(name)
		case !utf8.ValidString(value) || strings.ContainsFunc(value, isControl):
			return nil, spec.Errorf(spec.CodeInvalid, "bad %s %q: use UTF-8 without control characters", name, clip(value)).WithField(name)
		}
		q = append(q, struct{ name, value string }{name, value})
	}
	return q, nil
}

func unknownParameter(name string, known []string) error {
	hint := "this path takes no query parameters"
	if len(known) > 0 {
		hint = "this path takes " + strings.Join(known, ", ")
	}
	return spec.Errorf(spec.CodeInvalid, "unknown query parameter %q%s", clip(name), spec.DidYouMean(name, known)).
		WithField(clip(name)).WithHint(hint)
}

func (q query) has(name string) bool {
	_, ok := q.lookup(name)
	return ok
}

func (q query) get(name string) string {
	value, _ := q.lookup(name)
	return value
}

func (q query) lookup(name string) (string, bool) {
	for i := range q {
		if q[i].name == name {
			return q[i].value, true
		}
	}
	return "", false
}

// flag reads a switch: "1", "true" or the bare name set it.
func (q query) flag(name string) (bool, error) {
	value, ok := q.lookup(name)
	if !ok {
		return false, nil
	}
	switch value {
	case "1", "true", "":
		return true, nil
	case "0", "false":
		return false, nil
	}
	return false, spec.Errorf(spec.CodeInvalid, "bad %s=%q: use 1 or 0", name, clip(value)).WithField(name)
}

// number reads a whole number from low to high; missing is otherwise.
func (q query) number(name string, otherwise, low, high uint64) (uint64, error) {
	value, ok := q.lookup(name)
	if !ok {
		return otherwise, nil
	}
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil || n < low || n > high {
		return 0, spec.Errorf(spec.CodeInvalid, "bad %s=%q: use a whole number from %d to %d", name, clip(value), low, high).WithField(name)
	}
	return n, nil
}

// duration reads a duration up to high; missing is 0.
func (q query) duration(name string, high time.Duration) (time.Duration, error) {
	value, ok := q.lookup(name)
	if !ok {
		return 0, nil
	}
	return parseDuration(name, value, high)
}

// sessionTimeout reads how long the session that a request starts may run;
// missing is 0, the app's.
func (q query) sessionTimeout() (time.Duration, error) {
	const name = "session_timeout"
	d, err := q.duration(name, spec.MaxSessionTimeout)
	if err == nil && d < spec.MinSessionTimeout && q.has(name) {
		return 0, spec.Errorf(spec.CodeInvalid, "%s is %s: at least %s; leave it out for the app's", name, clip(q.get(name)), spec.MinSessionTimeout).WithField(name)
	}
	return d, err
}

func parseDuration(field, value string, high time.Duration) (time.Duration, error) {
	d, err := spec.ParseDuration(value)
	if err != nil {
		return 0, inField(field, err)
	}
	if d > high {
		return 0, spec.Errorf(spec.CodeInvalid, "%s is %s: at most %s", field, value, shortDuration(high)).WithField(field)
	}
	return d, nil
}

// shortDuration prints "10m" for what Duration.String calls "10m0s".
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

const (
	defaultPage = 100
	maxPage     = 1000
)

func (q query) limit() (int, error) {
	n, err := q.number("limit", defaultPage, 1, maxPage)
	return int(n), err
}

// choice reads one of some words; missing is "".
func (q query) choice(name string, words ...string) (string, error) {
	value, ok := q.lookup(name)
	if !ok || slices.Contains(words, value) {
		return value, nil
	}
	return "", spec.Errorf(spec.CodeInvalid, "bad %s=%q%s: use %s", name, clip(value), spec.DidYouMean(value, words), oneOf(words)).WithField(name)
}
