// Package control replicates what every node must agree on: the members of the
// cluster, apps and their versions, artifacts, the placement of slots on shards
// and of shards on nodes, and settings. One raft group, on hashicorp/raft, with
// its log in the node's store.
//
// The way of a change: Group.Apply encodes a Command (command.go) and proposes
// it, or forwards it to the node that leads (change.go); once a majority has it
// on disk, the state machine of every node (fsm.go) makes the next State of it
// (apply.go, member.go, placement.go), which is a pure function; Changed wakes
// whoever watches, and State gives the newest copy without a lock. A State never
// changes: readers keep one as long as they like.
//
// What it promises: after Apply returns, the change is durable, was made once,
// and is in State on this node; all nodes see the same States in the same order,
// though one that watches may see only the last of several; versions of an app
// and numbers of replicas grow and are never given out twice, not even when the
// app is deleted and comes again or the replica moves back; the replicas of a
// shard are on different nodes, and the last one with the data stays. State may
// lag behind the other nodes: ReadBarrier waits until it has what they were told.
//
// One voter is a whole group, and leads within a moment of Open. Three or five
// make a group together, and any number of nodes without a vote follow them. Who
// belongs to the raft group (servers.go) is another matter than who is a member
// in State: the first is for those that replicate it, the second for those that
// hold shards. The node's owner keeps both in step. A server is called by its
// name, and looked up at each connection, so that it may come back elsewhere
// (transport.go); one with another's address does not answer for it.
//
// The network is the caller's: a listener, and a way to dial, which authenticate.
// This package believes who comes through them.
//
// A write or sync of the log that fails ends the node, by the store's Fatal: a
// leader that can't write would go on with its heartbeats and keep the others
// from electing another.
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
