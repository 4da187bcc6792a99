// Package fn is the SDK for functions written in Go. A program registers its
// functions and hands over:
//
//	func main() {
//		fn.Handle("count", func(ctx *fn.Context, in []fn.Object) error {
//			return ctx.Put("counts", in[0].Key, tally(in[0].Bytes()))
//		})
//		fn.Main()
//	}
//
// Main speaks the executor protocol (docs/executor-protocol.md) with the node
// that started the program. Attempts run at once, each on a goroutine; what an
// attempt puts is collected and leaves with its result in one write, or after a
// millisecond if the attempt goes on, so that a short function costs the node one
// commit.
//
// A handler may run more than once for one invocation, and what it emits counts
// once: Context.Invocation names the invocation, the same on every attempt, as
// an idempotency key for effects on the outside world. A handler that returns an
// error, or panics, fails its attempt, which is tried again by the function's
// retry policy; Permanent says that there is no use in that.
//
// Imports the standard library, spec and client/fn/protocol.
package fn
