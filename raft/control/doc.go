// Package control replicates what every node must agree on: apps and their
// versions, artifacts, the placement of slots on shards and of shards on nodes,
// and settings. One raft group, on hashicorp/raft, with its log in the node's
// store.
//
// The way of a change: Group.Apply encodes a Command (command.go) and proposes
// it; once a majority has it on disk, the state machine of every node (fsm.go)
// makes the next State of it (apply.go), which is a pure function; Changed wakes
// whoever watches, and State gives the newest copy without a lock. A State never
// changes: readers keep one as long as they like.
//
// What it promises: after Apply returns, the change is durable and in State on
// this node; all nodes see the same States in the same order, though one that
// watches may see only the last of several; versions of an app grow and are
// never given out twice, not even when the app is deleted and comes again.
//
// One voter is a whole group, and leads within a moment of Open. The same code
// serves three or five. Only the leader takes changes; the others say who it is.
//
// Why hashicorp/raft and not one more dragonboat shard: members join and leave
// this group by themselves, and it must work when no data shard does. Why no log
// store from elsewhere: the one for bolt does not build with this version of the
// library, and the node's store is one database that is synced already; the log
// store (log.go) is a page. Snapshots are files: they are written once and read
// whole, and the library's store for them is durable.
//
// Imports spec and store.
package control
