// Package form makes nodes a cluster and keeps its members in step: from a node's
// first start, when it knows no more than some addresses, to its removal.
//
// The way of a node: its Record (record.go), durable in its store, tells whether it
// belongs to a cluster already. If not, Former.Run (former.go) asks the nodes at the
// addresses it was given who they are (hello.go), again and again, until one of
// three things comes true: a node there belongs to a cluster that this one is a
// founder or member of, and it takes the cluster's id over; a node there belongs to
// a cluster, and takes this one in (join.go); or all that are needed are there, none
// has a cluster, and this node is the one that decides (found.go). What stands in
// the way and can't go away by waiting ends Run (obstacle.go); the rest is told by
// Waiting, and logged once in a while. Once the control group is open, Keeper
// (keeper.go) announces the node, notices its removal, and on the leader of the
// group makes the founders members, places the shards and takes others in.
//
// What it promises: of nodes with the same addresses only the one at the first of
// them decides who founds the cluster, once, and writes it down before it says so:
// so there is one founding however the nodes are killed meanwhile, and each one that
// is started again comes to it. A node never changes its cluster, and its name in a
// cluster is never another data folder's.
//
// The network is the caller's: a way to ask the node at an address.
//
// Imports spec, store, node/peer and raft/control.
package form
