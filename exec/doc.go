// Package exec runs attempts: it holds the pool that admits tasks to executors,
// the choice of executor, and the limits; one folder for each runtime
// (exec/process: programs that speak the executor protocol; exec/wasm: modules,
// hosted by such programs; exec/inproc: Go functions registered by an embedding
// program). Beside them, exec/artifact keeps
// the folders that programs run in, exec/logs what functions print, and exec/spread
// has other nodes of a cluster run what waits here.
// DESIGN.md tells the reasons.
//
// The owner (package leader) submits Tasks and hears what comes of them through
// the task's Sink. A task that finds no executor waits in the pool; it is never
// dropped. A task ends exactly once, with Sink.Done, whatever happens to its
// executor.
//
// Imports spec.
package exec
