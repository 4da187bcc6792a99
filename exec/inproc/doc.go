// Package inproc runs attempts of Go functions that the program which embeds the
// node has registered: the same handlers as in a program of its own (client/fn),
// without the process around them.
//
// Each attempt is a goroutine. What it emits is collected and handed over with
// its result, or after a millisecond if it goes on, as the SDKs do. A panic fails
// the attempt; a deadline or a cancellation ends the task at once and cancels the
// attempt's context. A goroutine that does not listen can't be stopped: what it
// emits and returns is dropped, and it keeps its place until it ends. So register
// what you trust.
//
// Promises: each task ends with exactly one Done, and nothing reaches the sink
// after it.
//
// Imports spec, exec and client/fn.
package inproc
