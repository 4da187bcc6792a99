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
// A step's way through it: a leader builds keys (AppendPendingKey and its like)
// and records (AppendInvocation) into a Batch; its Repr is the body of a raft
// entry; the state machine gives the bodies to DB.Apply, which checks that they
// keep to the shard and commits them with the shard's meta in one batch, without
// a sync; DB.Sync makes all of it durable when raft asks for it. A large object
// comes first by another way: StageBlob writes and syncs its chunks, and the
// entry that refers to it adopts them.
//
// Chunks are not kept in Pebble, which would write them to its log, to a table, and again
// when tables are merged, but in a log of their own (package bytelog, blob_log.go), and
// the database has their places. They are durable before a record says where they are.
// What no record refers to any more is garbage, and goes when the log is swept
// (log_sweep.go). Chunks of one kind stay in Pebble: those that entries bring themselves,
// for objects that triggers of buckets hold; and those that earlier versions have stored.
//
// With several replicas the chunks reach the others by ExportBlob and StageCopy
// (blob_stream.go). A blob has four keys besides its chunks. Entries decide on two:
// its record, which is there from the entry that adopts it to the one that lets go
// of it, and the count of its references. The other two are each replica's own: where
// its chunks are, or that they are arriving, and that it is staged. So a replica that missed
// the bytes knows it, by a record without the chunks, and RepairBlob gets them from
// another one. What is staged and never adopted is removed by sweeps (blob_sweep.go);
// package node/blobs says which replica may remove what, and when. HashRange is over
// what entries decide, HashBlobs over the chunks of adopted blobs.
//
// What it promises: keys order as their parts do; a record written by this
// version or an older one decodes, any other bytes give an error and never a
// panic; a batch is applied whole or not at all; what survives a power cut is a
// prefix of the batches in the order in which they were applied; a shard that was
// half restored from a snapshot says so; a replica that lacks the bytes of a blob
// knows it, also one that was restored from a snapshot of another that does; after
// a sync that failed, or a write other than of a large object, the store takes nothing
// more and has the node stopped.
//
// Imports spec and store/bytelog.
package store
