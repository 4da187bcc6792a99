// Package triggers holds the primitives: pure state machines that decide which
// objects of a bucket are passed to functions, and when.
//
// A Machine is the state of one trigger in one scope: of a session, or of a
// bucket across sessions. Its owner (package leader) steps it with events, one
// at a time, each stamped with the owner's clock. A step does no I/O, starts no
// goroutine and reads no clock; what it wants done it returns as an Outcome:
// functions to fire, objects to keep for later, the time to be stepped again.
//
// State survives as data. A machine's state is a small header, rewritten after a
// step that changed it, and one item for each object it keeps, added and dropped
// one by one, so that counting an object costs the same whether ten or a million
// wait. Header and items become durable in the entry that makes the firings
// durable. Restore makes the same machine again from both, also after the options
// of the trigger have changed; the Tick that follows then settles what waits.
//
// What a step may fire is bounded, because its owner makes all of it durable at
// once: a window with a million objects fires in parts, and the groups of a stage
// some at a time. A machine that has more to fire asks for a Tick at once.
//
// Register adds custom primitives beside the built-in ones.
//
// Imports spec.
package triggers
