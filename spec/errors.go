package spec

import (
	"errors"
	"fmt"
)

// Code classifies an error for programs. Codes are stable and documented.
type Code string

const (
	CodeInvalid       Code = "invalid"                // 400: the request is malformed or out of bounds
	CodeUnauthorized  Code = "unauthorized"           // 401
	CodeForbidden     Code = "forbidden"              // 403
	CodeNotFound      Code = "not_found"              // 404
	CodeNotAllowed    Code = "method_not_allowed"     // 405
	CodeTimeout       Code = "timeout"                // 504: the wait is over, the work goes on
	CodeConflict      Code = "conflict"               // 409: something else holds the name
	CodeGone          Code = "gone"                   // 410: it was there, and is not kept any more
	CodePrecondition  Code = "precondition_failed"    // 412
	CodeTooLarge      Code = "too_large"              // 413
	CodeUnsupported   Code = "unsupported_media_type" // 415
	CodeBadManifest   Code = "bad_manifest"           // 422
	CodeHashMismatch  Code = "hash_mismatch"          // 422
	CodeOverloaded    Code = "overloaded"             // 429: try again after RetryAfter
	CodeInternal      Code = "internal"               // 500
	CodeSessionFailed Code = "session_failed"         // 500: the workflow failed; the error is the function's
	CodeCancelled     Code = "session_cancelled"      // 409: the session was cancelled
	CodeUnavailable   Code = "unavailable"            // 503: no leader just now, stopping, disk full
)

// Error is what crosses package borders and, as JSON, the API: what was wrong
// with which field. Faults lists every fault of a bad manifest.
type Error struct {
	Code    Code
	Message string
	Field   string
	Hint    string
	Faults  []Fault
	cause   error
}

// Errorf makes an Error; a %w in format is kept as its cause.
func Errorf(code Code, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: err.Error(), cause: errors.Unwrap(err)}
}

// WithField returns a copy of e that names the field at fault.
func (e *Error) WithField(field string) *Error { c := *e; c.Field = field; return &c }

// WithHint returns a copy of e that tells what to do.
func (e *Error) WithHint(hint string) *Error { c := *e; c.Hint = hint; return &c }

func (e *Error) Error() string { return e.Message }
func (e *Error) Unwrap() error { return e.cause }

// CodeOf returns the code of the first Error in err's chain, CodeInternal if
// there is none, "" for nil.
func CodeOf(err error) Code {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return CodeInternal
}

// Fault is one thing wrong with a manifest.
type Fault struct {
	Path    string `json:"path"`   // as in functions.split.timeout or buckets.parts.triggers[0].keys
	Line    int    `json:"line"`   // from 1; 0 if the place is not in the text
	Column  int    `json:"column"` // from 1
	Message string `json:"message"`
	// Warning marks what is odd and still applied.
	Warning bool `json:"warning,omitempty"`
}

func (f Fault) String() string {
	if f.Path == "" {
		return fmt.Sprintf("%d:%d: %s", f.Line, f.Column, f.Message)
	}
	return fmt.Sprintf("%d:%d: %s: %s", f.Line, f.Column, f.Path, f.Message)
}
