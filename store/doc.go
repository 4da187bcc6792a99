// Package store keeps all state of a node in one Pebble database: the layout of
// its keys, the versioned encoding of its records, batches, range scans, range
// deletion, range hashes and range snapshots, and the chunks of large objects.
//
// Every key starts with the shard that owns it, so a shard is one contiguous
// range and a bucket is one contiguous range inside it; snapshot, hash, move and
// drop are scans of one range. Shard 0 is not a raft group: it holds what belongs
// to the node and to the control group. The state machines (raft/shard) write
// here; the leaders (leader) read, and make the batches that are replicated.
//
// What it promises: keys order as their parts do; a record written by this
// version or an older one decodes, any other bytes give an error and never a
// panic; a batch is applied whole or not at all; what survives a power cut is a
// prefix of the batches in the order in which they were applied.
//
// Imports spec.
package store
