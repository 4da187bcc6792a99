package spec

import (
	"bytes"
	"strings"
	"unicode"
	"unicode/utf8"

	_ "time/tzdata" // a manifest must be read alike on a machine without time zones
)

// Format is the notation of a manifest.
type Format string

const (
	FormatYAML Format = "yaml"
	FormatJSON Format = "json"
)

// Parse reads a manifest. name is what messages call it, such as its file.
//
// It tells every fault at once: with any, the error is an *Error of code
// bad_manifest that lists them and the warnings, sorted by place. Otherwise the
// app is complete, with every default filled in, and the faults returned are
// warnings. Time and memory grow with the manifest's size and no faster.
//
// A trigger may have a custom primitive that this program does not know; that is
// a warning. ParseChecked is for those who have to run the triggers.
func Parse(name string, data []byte, format Format) (*App, []Fault, error) {
	return ParseChecked(name, data, format, nil)
}

// ParseChecked is Parse with a further check of each trigger that has no fault
// otherwise. What it tells is among the faults, with its place.
func ParseChecked(name string, data []byte, format Format, check TriggerCheck) (*App, []Fault, error) {
	r := newReader()
	r.check = check
	root := readManifest(r, data, format)
	if root == nil {
		faults, err := r.result(name)
		return nil, faults, err
	}
	app, _ := appObject.read(r, "", root)
	checkReferences(r, root)
	faults, err := r.result(name)
	if err != nil {
		return nil, faults, err
	}
	if app.Functions == nil {
		app.Functions = map[FunctionName]*Function{}
	}
	if app.Buckets == nil {
		app.Buckets = map[BucketName]*Bucket{}
	}
	return &app, faults, nil
}

// Manifest returns the manifest of a, in JSON, with every default filled in. It
// is the same for equal apps, and Parse makes an equal app of it. The artifact
// is no part of it.
func (a *App) Manifest() []byte { return appObject.print(*a).json() }

// readManifest returns the manifest's text as a tree, nil after a fault.
func readManifest(r *reader, data []byte, format Format) *node {
	if len(data) > MaxManifestBytes {
		r.fault(place{1, 1}, "", "a manifest has at most %s, this one %d bytes", FormatSize(MaxManifestBytes), len(data))
		return nil
	}
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if at, problem := unreadable(data); problem != "" {
		r.fault(at, "", "%s", problem)
		return nil
	}
	r.source = string(data)
	switch format {
	case FormatYAML:
		return readYAML(r, r.source)
	case FormatJSON:
		return readJSON(r, data)
	}
	r.fault(place{1, 1}, "", "unknown format %q: use yaml or json", clip(string(format)))
	return nil
}

// unreadable looks for what neither notation allows, and parsers treat in ways
// of their own.
func unreadable(data []byte) (place, string) {
	at := place{1, 1}
	for i := 0; i < len(data); {
		c, width := utf8.DecodeRune(data[i:])
		switch {
		case c == utf8.RuneError && width == 1:
			return at, "the manifest is not UTF-8"
		case c == '\n':
			at = place{at.line + 1, 0}
		case unicode.IsControl(c) && !strings.ContainsRune("\t\r\u0085", c):
			return at, "a control character stands here"
		}
		at.column++
		i += width
	}
	return place{}, ""
}
