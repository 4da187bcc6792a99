// Package process runs attempts in programs that speak the executor protocol
// (docs/executor-protocol.md) on a socket inherited as descriptor 3.
//
// Functions of one app with the same artifact, command and environment form a
// group and share its processes. A task that finds a process with room is written
// to its socket on the goroutine that submitted it; one goroutine per process
// reads what comes back and calls the sinks. Other tasks wait in the group, in
// order for each function and in turn between functions, until a running attempt
// ends or another process has started. Processes stay warm, and end when they
// have been idle for a while.
//
// A program may be forked instead of started again: then a group has a parent, a
// process that has loaded the program and runs no attempts.
//
// A process belongs to us until we have reaped it: it leads a process group that
// is killed with it, it dies with the node (the thread that starts processes never
// ends before), and it inherits nothing but /dev/null, two pipes and its socket.
// What it sends is checked before it is believed; what it can make the node hold
// is bounded.
//
// Promises: each task ends with exactly one Done; nothing that comes after it
// reaches the sink; no process, goroutine or scratch folder is left after Close.
// exec/DESIGN.md tells the reasons.
//
// Imports spec, exec, client/fn/protocol and client/python (the SDK's file).
package process
