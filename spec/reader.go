package spec

import (
	"fmt"
	"slices"
	"strconv"
	"time"
)

// reader collects the faults of one manifest while it is read.
type reader struct {
	faults []Fault
	// more counts the faults that were found beyond MaxFaults.
	more    int
	suggest suggester
	// zones remembers which time zones there are: looking one up reads a file.
	zones map[string]bool
	// source is the manifest's text, to find places within a text of it.
	source string
	// conditions are those that were there so far, conditionBytes their length.
	conditions     map[string]bool
	conditionBytes int
	// check is what the caller has to say to each trigger; nil for nothing.
	check TriggerCheck
}

func newReader() *reader {
	return &reader{suggest: suggester{budget: suggestBudget}, zones: map[string]bool{}, conditions: map[string]bool{}}
}

func (r *reader) fault(at place, path, format string, args ...any) {
	r.add(Fault{Path: path, Line: at.line, Column: at.column, Message: fmt.Sprintf(format, args...)})
}

func (r *reader) warn(at place, path, format string, args ...any) {
	r.add(Fault{Path: path, Line: at.line, Column: at.column, Message: fmt.Sprintf(format, args...), Warning: true})
}

func (r *reader) add(f Fault) {
	if len(r.faults) >= MaxFaults {
		r.more++
		return
	}
	r.faults = append(r.faults, f)
}

// result sorts the faults by place and returns the error that they make, nil if
// there are only warnings.
func (r *reader) result(name string) ([]Fault, error) {
	slices.SortStableFunc(r.faults, func(a, b Fault) int {
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		return a.Column - b.Column
	})
	count, first := r.more, -1
	for i, f := range r.faults {
		if f.Warning {
			continue
		}
		count++
		if first < 0 {
			first = i
		}
	}
	if count == 0 {
		return r.faults, nil
	}
	if name == "" {
		name = "manifest"
	}
	if first < 0 { // MaxFaults warnings came before the first fault
		return r.faults, &Error{Code: CodeBadManifest, Message: fmt.Sprintf("%s: %d faults", name, count), Faults: r.faults}
	}
	err := &Error{Code: CodeBadManifest, Faults: r.faults}
	if count == 1 {
		err.Message = fmt.Sprintf("%s:%s", name, r.faults[first])
	} else {
		err.Message = fmt.Sprintf("%s: %d faults, the first at %s", name, count, r.faults[first])
	}
	return r.faults, err
}

// entries returns the entries of a mapping, each key once: a key that is there
// again is a fault, and the first one counts. An empty value is an empty
// mapping, so that "failed:" alone declares a bucket.
func (r *reader) entries(path string, n *node, want string) ([]entry, bool) {
	switch n.kind {
	case nullNode:
		return nil, true
	case mapNode:
	default:
		r.fault(n.at, path, "must be %s, not %s", want, n.describe())
		return nil, false
	}
	seen := make(map[string]int, len(n.entries))
	unique := make([]entry, 0, len(n.entries))
	for _, e := range n.entries {
		if line, twice := seen[e.key]; twice {
			r.fault(e.keyAt, join(path, e.key), "duplicate: %q is set on line %d already", clip(e.key), line)
			continue
		}
		seen[e.key] = e.keyAt.line
		unique = append(unique, e)
	}
	return unique, true
}

// validZone reports whether name is an IANA time zone, which must not depend on
// the machine: "Local" and "" are none.
func (r *reader) validZone(name string) bool {
	ok, known := r.zones[name]
	if !known {
		if name != "" && name != "Local" && len(name) <= suggestMaxBytes {
			_, err := time.LoadLocation(name)
			ok = err == nil
		}
		r.zones[name] = ok
	}
	return ok
}

// join writes the path of a field: buckets.counts, or env["a b"] for a key that
// a path could not be told from.
func join(path, key string) string {
	plain := key != "" && len(key) <= MaxNameBytes
	for i := range len(key) {
		plain = plain && (isAlphanumeric(key[i]) || key[i] == '_' || key[i] == '-')
	}
	switch {
	case !plain:
		return path + "[" + strconv.Quote(clip(key)) + "]"
	case path == "":
		return key
	default:
		return path + "." + key
	}
}

func index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }
