// Package blobs keeps the bytes of large objects on all replicas of their shards.
//
// They do not travel in the raft log. Who leads a shard stages them in its store,
// has a majority of the replicas that vote hold them (spread.go), and then proposes
// the entry that refers to them. So an entry that is applied anywhere refers to bytes
// that a majority has on disk, like the entry itself.
//
// A replica that was down or cut off when bytes were spread lacks them. Who reads
// them there gets them from another replica first, and what nobody reads is found
// and brought in the background (repair.go). Copies that no entry came to refer to
// are removed (sweep.go). serve.go answers the other nodes.
//
// # When members change
//
// Those that vote are the raft group's, as the leader's replica has applied them. They
// may be others when the entry is evaluated: its leader asks once more then, and has
// the bytes spread again if they are not on a majority (enough). A change that is in
// the log before the entry and not applied yet adds or removes one voter, as raft makes
// one change at a time, and a majority before it has a replica in common with each
// quorum behind it. What later changes do to the bytes of entries is the conductor's
// care: it gives a replica its vote only when it lacks nothing, and takes one away
// only when those that stay lack nothing.
//
// # Who may remove what, and when
//
// A copy that is marked as staged may be removed only when no entry can come that
// refers to it; otherwise the entry could be committed with its bytes on fewer
// replicas than a majority. Only the node that has staged a blob proposes such an
// entry, and it does so in a term that it leads itself.
//
//   - The node that staged it removes it, and has the copies removed, when it knows
//     that it has not proposed the entry and will not: the command was refused.
//   - If it does not know what became of the entry, its own copy goes when it has
//     claimed the shard anew. The claim is in the log behind all it has proposed, and
//     behind it nothing of an earlier epoch is applied: what is still marked then was
//     never adopted. What its process has at work, for a command that is still to be
//     evaluated, is left alone.
//   - A new leader does not touch what other nodes have staged: one of them may lead
//     again a moment later, with the command in its hands.
//   - Any other replica removes a copy only when three things are so, in this order:
//     the mark is older than ten minutes; the node that staged the blob has no mark
//     of it any more and has not got it at work, or is not a member any more; and the
//     replica has then confirmed that it has applied all that is committed. The mark at
//     the stager goes by the entry that adopts the blob, or by one of the decisions
//     above. In the first case the replica has applied that entry when it is caught up,
//     and keeps the bytes; in the others there is none. Of a node that was removed
//     whatever it proposed is in the log before its removal, or refused by the epoch of
//     the next leader. A node that does not answer is asked again later.
//   - A node sweeps marks of its own in the same way while it does not lead: they are of
//     an earlier process, whose connections have ended with it.
//
// The mark goes last when a copy is made, so a copy that is marked is whole. Chunks
// of a copy that was cut short have neither mark nor record, and go at any time.
//
// Imports spec, store and node/peer.
package blobs
