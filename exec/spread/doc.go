// Package spread runs attempts on other nodes while the executors of the leader's
// node are busy. Its Runtime stands before the node's exec.Pool: an attempt that
// finds an executor there runs there, next to the data. One that has to wait is
// offered to other nodes once its wait passes what forwarding it would cost:
// first to nodes with a replica of its shard, which read its inputs from their own
// copy, then to any other. While no node has room it stays queued here.
//
// The node that takes an attempt runs it in its own Pool. Between the two nodes is
// one call for each attempt, with a stream each way: what the attempt emits, asks
// for and comes to in order on one, answers and the wish to cancel it on the other.
// Silence of either side ends the attempt there, and here as lost. DESIGN.md of
// package exec tells the reasons.
//
// What it promises: a task ends exactly once, with Sink.Done, wherever it ran; the
// sink's calls come in order, none twice; nothing comes from an attempt that was
// given up.
//
// Imports spec and exec. The network, the inputs, the deployed apps and the
// placement come in as functions and small interfaces (Config).
package spread
