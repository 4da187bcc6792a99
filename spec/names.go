package spec

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const nameRule = "lower-case letters, digits, '-' and '_', starting with a letter, at most 63 bytes"

// ValidAppName, ValidFunctionName, ValidBucketName and ValidTriggerName return
// an error that says how such a name is made. Inboxes and the output bucket are
// no names that a manifest can declare: see ValidBucketRef.
func ValidAppName(s string) error      { return validName("app", s) }
func ValidFunctionName(s string) error { return validName("function", s) }
func ValidBucketName(s string) error   { return validName("bucket", s) }
func ValidTriggerName(s string) error  { return validName("trigger", s) }

// ValidBucketRef takes what a request may name: a bucket, the inbox of a
// function ("@split") or the output bucket ("@").
func ValidBucketRef(s string) error {
	if s == string(OutputBucket) {
		return nil
	}
	if f, ok := FunctionOfInbox(BucketName(s)); ok {
		return ValidFunctionName(string(f))
	}
	return ValidBucketName(s)
}

func validName(what, s string) error {
	if isName(s) {
		return nil
	}
	return Errorf(CodeInvalid, "bad %s name %q: use %s", what, clip(s), nameRule)
}

func isName(s string) bool {
	if s == "" || len(s) > MaxNameBytes || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}

// ValidKey returns an error that says what is wrong with an object's key.
func ValidKey(s string) error {
	switch {
	case s == "":
		return Errorf(CodeInvalid, "a key has at least one byte")
	case len(s) > MaxKeyBytes:
		return Errorf(CodeInvalid, "a key has at most %d bytes, this one %d", MaxKeyBytes, len(s))
	case !utf8.ValidString(s):
		return Errorf(CodeInvalid, "bad key %q: it is not UTF-8", clip(s))
	}
	if i := strings.IndexFunc(s, unicode.IsControl); i >= 0 {
		return Errorf(CodeInvalid, "bad key %q: it holds a control character at byte %d", clip(s), i)
	}
	return nil
}

// ValidSessionID returns an error that says how a session id is made.
func ValidSessionID(s string) error {
	right := s != "" && len(s) <= MaxSessionIDBytes && isAlphanumeric(s[0])
	for i := range len(s) {
		right = right && (isAlphanumeric(s[i]) || s[i] == '.' || s[i] == '-' || s[i] == '_')
	}
	if right {
		return nil
	}
	return Errorf(CodeInvalid,
		"bad session id %q: use letters, digits, '.', '-' and '_', starting with a letter or digit, at most %d bytes",
		clip(s), MaxSessionIDBytes)
}

func isAlphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// ParseInvocationID reads the text form of an InvocationID, "session.number".
func ParseInvocationID(s string) (InvocationID, error) {
	const right = "an invocation id is a session id, a dot and a number from 1, such as \"s0123.1\""
	dot := strings.LastIndexByte(s, '.')
	if dot < 0 {
		return InvocationID{}, Errorf(CodeInvalid, "bad invocation id %q: %s", clip(s), right)
	}
	if err := ValidSessionID(s[:dot]); err != nil {
		return InvocationID{}, Errorf(CodeInvalid, "bad invocation id %q: %w", clip(s), err)
	}
	number, err := strconv.ParseUint(s[dot+1:], 10, 64)
	// One invocation has one text form, so "01" and "+1" are none.
	if err != nil || number == 0 || strconv.FormatUint(number, 10) != s[dot+1:] {
		return InvocationID{}, Errorf(CodeInvalid, "bad invocation id %q: %s", clip(s), right)
	}
	return InvocationID{Session: SessionID(s[:dot]), Number: number}, nil
}
