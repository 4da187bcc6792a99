package api

import (
	"strconv"
	"strings"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/valyala/fasthttp"
)

// An object's entity tag is its revision in quotes: "12".
func etag(revision spec.Revision) string {
	return `"` + strconv.FormatUint(uint64(revision), 10) + `"`
}

// condition is what a write asks of the object that is there.
type condition struct {
	revision *spec.Revision // 0: none must be there
	exists   bool
}

// writeCondition reads If-Match and If-None-Match of a request that writes.
func (r *request) writeCondition() (condition, error) {
	match, err := r.header(fasthttp.HeaderIfMatch)
	if err != nil {
		return condition{}, err
	}
	noneMatch, err := r.header(fasthttp.HeaderIfNoneMatch)
	switch {
	case err != nil:
		return condition{}, err
	case match != "" && noneMatch != "":
		return condition{}, spec.Errorf(spec.CodeInvalid, "both If-Match and If-None-Match: send one of them").WithField(fasthttp.HeaderIfMatch)
	case match == "*":
		return condition{exists: true}, nil
	case match != "":
		revision, ok := parseETag(match)
		if !ok || revision == 0 {
			return condition{}, spec.Errorf(spec.CodeInvalid, `bad If-Match %s: use one revision as in "12", or *; for a key that must be new, use If-None-Match: *`, clip(match)).
				WithField(fasthttp.HeaderIfMatch)
		}
		return condition{revision: &revision}, nil
	case noneMatch == "*":
		return condition{revision: new(spec.Revision)}, nil
	case noneMatch != "":
		return condition{}, spec.Errorf(spec.CodeInvalid, "bad If-None-Match %s: a write takes * alone, for a key that must be new", clip(noneMatch)).
			WithField(fasthttp.HeaderIfNoneMatch)
	}
	return condition{}, nil
}

// noCondition refuses conditions where there is nothing to compare with.
func (r *request) noCondition() error {
	for _, name := range []string{fasthttp.HeaderIfMatch, fasthttp.HeaderIfNoneMatch} {
		if value, err := r.header(name); err != nil || value != "" {
			return spec.Errorf(spec.CodeInvalid, "%s means nothing inside a session: its objects are written once", name).WithField(name)
		}
	}
	return nil
}

// parseETag reads one revision, with or without quotes.
func parseETag(s string) (spec.Revision, bool) {
	s = strings.TrimSpace(s)
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = s[1 : len(s)-1]
	}
	n, err := strconv.ParseUint(s, 10, 64)
	return spec.Revision(n), err == nil
}

// unchanged says whether a reader's If-None-Match has the current revision.
func unchanged(noneMatch string, current spec.Revision) bool {
	if noneMatch == "*" {
		return true
	}
	for tag := range strings.SplitSeq(noneMatch, ",") {
		tag = strings.TrimPrefix(strings.TrimSpace(tag), "W/")
		if revision, ok := parseETag(tag); ok && revision == current {
			return true
		}
	}
	return false
}

// byteRange is a piece of an object, from the byte first on.
type byteRange struct{ first, length int64 }

// parseRange reads a single range of an object of size bytes. Any other that
// was sent counts as none, as HTTP allows: the answer is the whole object.
func parseRange(header string, size int64) (byteRange, bool) {
	spec, ok := strings.CutPrefix(header, "bytes=")
	if !ok || size == 0 {
		return byteRange{}, false
	}
	from, to, ok := strings.Cut(strings.TrimSpace(spec), "-")
	if !ok {
		return byteRange{}, false
	}
	if from == "" {
		last, err := strconv.ParseUint(to, 10, 63)
		if err != nil || last == 0 {
			return byteRange{}, false
		}
		n := min(int64(last), size)
		return byteRange{size - n, n}, true
	}
	first, err := strconv.ParseUint(from, 10, 63)
	if err != nil || int64(first) >= size {
		return byteRange{}, false
	}
	end := uint64(size - 1)
	if to != "" {
		if end, err = strconv.ParseUint(to, 10, 63); err != nil || end < first {
			return byteRange{}, false
		}
	}
	return byteRange{int64(first), min(int64(end), size-1) - int64(first) + 1}, true
}
