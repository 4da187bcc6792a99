// Package shard replicates data shards: one raft group for each, on dragonboat,
// with a state machine over the node's store. No type of dragonboat leaves it.
//
// The way of a batch: the shard's leader claims an epoch (Shard.Lead), which
// gives a Term; it hands write batches to Term.Propose, which numbers them and
// wraps them as entries (entry.go); dragonboat writes the entry to the logs of a
// majority; the state machine of every replica (machine.go) applies it if the
// fence lets it through; the Term then calls the batch's done. DESIGN.md walks
// through this and says why it is not simpler.
//
// What it promises: a batch is applied on all replicas or on none, at most once,
// in the order of Propose and with no hole before it; done(nil) is called only
// after the batch is on the disks of a majority and can be read from the local
// store; after Lead returns, nothing of an earlier epoch is ever applied; after
// ReadIndex returns, local reads see all that was acknowledged before the call.
// It does not rest on clocks or leases for any of this. A replica that has lost some
// of what it promised is not started (ErrLost). A snapshot on its way to a replica
// outlives its connections (outgoing.go, incoming.go) and is never served in part.
//
// Imports spec, store and internal/failpoint.
package shard
