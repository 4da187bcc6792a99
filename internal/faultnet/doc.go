// Package faultnet is a network between the nodes of a cluster that a test can
// break: a proxy in front of each node's address for other nodes, which takes what
// two nodes say to each other through rules.
//
// The nodes know each other by the proxies' addresses (Network.Front gives one).
// A connection begins with the caller's greeting (package node/peer), which names
// it; so a proxy knows from whom to whom each byte goes, and a Fault holds for one
// ordered pair of nodes: the bytes from one to the other, on connections that
// either of them has opened. A network that loses packets looks to programs like
// bytes that come late, or a connection that breaks, and that is what they get.
//
// It works without rights and on any machine, at the price of two limits: a
// connection is taken by the proxy before the node takes it, and what is said
// under TLS hides the caller's name. It imports nothing of ours; only tests
// import it.
package faultnet
