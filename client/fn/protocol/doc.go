// Package protocol is the executor protocol in Go: the frames that a node and
// an executor process exchange over the descriptor inherited as number 3. It is
// used at both ends: by the Go function SDK (client/fn) and by the node
// (exec/process). docs/executor-protocol.md describes the protocol for those who
// write an SDK in another language.
//
// Bytes come in through a Reader, which hands out one Frame at a time and
// allocates nothing on the word of a header: a claimed length is checked against
// a bound first, and a large body grows as its bytes arrive. Frames go out
// through a Batch, so that what belongs together leaves with one system call.
//
// Imports the standard library alone.
package protocol
