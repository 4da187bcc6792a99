// Package api serves the HTTP API on fasthttp: it turns requests into calls of a
// Backend (the node) and answers into HTTP, and holds every limit on what comes
// from outside: sizes, counts and times are checked before a body is read.
//
// A request goes: server.go (limits and lifetime) → handle.go (hosts and origins
// in origin.go, the route by raw path segments in path.go and routes.go, the
// body's headers in body.go, the parameters in query.go; recovery and metrics) →
// one handler file for each kind of thing → Backend. What lasts goes out through
// stream.go, objects through transfer.go. Errors become JSON bodies in one place,
// errors.go, which is also the reference of codes and statuses.
//
// Promises: what a handler sees of a path is decoded exactly once and valid; a
// body beyond its limit is not read, one that broke off is never taken for
// whole; a client that goes ends what the node does for it; a handler that
// panics costs its own request alone.
//
// Imports spec and spec/wire.
package api
