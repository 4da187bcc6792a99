// Package peer is the network between the nodes of a cluster: one address for
// each node, and on it the channels of the parts that talk to each other.
//
// A connection begins with a greeting: who calls, on which channel, in which
// version of the protocol, of which cluster. The one who is called answers that
// it is taken, or why it is not, so that a node of another cluster or version is
// told so before a byte of it is believed. Then the connection belongs to the
// channel: Channel is a net.Listener there, Dial a connection.
//
// What it promises: what one channel accepts was dialled by a node of the same
// cluster on the same channel; Close ends every connection that was accepted or
// dialled, whoever holds it.
//
// Imports spec.
package peer
