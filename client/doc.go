// Package client is the Go client of Pheromone's HTTP API: it deploys apps, puts
// and gets objects, runs functions, waits for results, and follows buckets,
// sessions and logs.
//
// A call becomes a request (transport.go: one place for paths, bodies, retries
// and errors), the answer becomes a message of package spec/wire. What may be
// long comes as an iterator that fetches pages, or reconnects, as it goes on.
//
// # Errors
//
// What the server refuses comes back as an *Error, which wraps the *spec.Error
// with its stable code and adds the HTTP status and the session, if one is left
// behind:
//
//	if spec.CodeOf(err) == spec.CodePrecondition { … }
//	if e, ok := errors.AsType[*client.Error](err); ok { log(e.Session) }
//
// # Retries
//
// A call is sent again, with a jittered and growing wait, only where that can't
// do a thing twice: reads, writes that carry an Idempotency-Key (puts, deletes
// and invokes do: the client makes one where the caller names none), and what the
// server certainly did not take: a refused connection or 429. The context bounds
// it all, and Retry the time and the number of attempts (retry.go).
//
// # Several nodes
//
// Any node of a cluster answers any request. Servers.go chooses where to send one:
// to the leader of the slot that it is about, if that is known, else to the node
// that answered last, and to the next one after a failure. Discover.go learns of
// the nodes and leaders, beside the requests. Watches and waits for results go on
// at another node.
//
// Imports spec and spec/wire, the standard library and a zstd encoder. Methods
// may be called from several goroutines.
package client
