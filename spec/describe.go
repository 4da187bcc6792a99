package spec

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of what goes with an object, however it comes. A request's headers, which
// hold the metadata there, have as many bytes as metadata may have.
const (
	MaxContentTypeBytes = 256
	MaxMetaFields       = 64
	MaxMetaBytes        = 16 << 10 // of all names and values together
)

// ValidContentType says what is wrong with an object's content type, which may be empty.
func ValidContentType(t string) error {
	if len(t) > MaxContentTypeBytes || strings.ContainsFunc(t, unicode.IsControl) {
		return Errorf(CodeInvalid, "bad content type %q: at most %d bytes without control characters", clip(t), MaxContentTypeBytes)
	}
	return nil
}

// ValidMeta says what is wrong with an object's metadata.
func ValidMeta(meta map[string]string) error {
	if len(meta) > MaxMetaFields {
		return Errorf(CodeInvalid, "%d metadata fields, at most %d are allowed: put them into the object", len(meta), MaxMetaFields)
	}
	size := 0
	for name, value := range meta {
		switch size += len(name) + len(value); {
		case size > MaxMetaBytes:
			return Errorf(CodeInvalid, "metadata of more than %d bytes: put it into the object", MaxMetaBytes)
		case name == "":
			return Errorf(CodeInvalid, "a metadata field without a name")
		case !utf8.ValidString(name) || !utf8.ValidString(value):
			return Errorf(CodeInvalid, "metadata field %q is not UTF-8", clip(name))
		}
	}
	return nil
}
