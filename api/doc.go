// Package api serves the HTTP API on fasthttp: it turns requests into calls of a
// Backend (the node) and answers into HTTP, and holds every limit on what comes
// from outside: sizes, counts and times are checked before a body is read.
//
// A request goes: server.go (limits, recovery, metrics) → routes.go (raw path
// segments to a handler, so that an encoded slash stays part of its key) → one
// handler file for each kind of thing → Backend. Errors become JSON bodies in
// one place, errors.go.
//
// Imports spec and spec/wire.
package api
