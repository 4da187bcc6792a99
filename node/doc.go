// Package node is one process of Pheromone: it wires the parts together and owns
// their start and stop. It opens the store, joins the control group, starts the
// raft groups and a leader for each, the executors, and serves the API.
//
// node.go starts and stops; apps.go, objects.go, sessions.go and watch.go answer
// what the API asks (package api's Backend) by finding the shard that owns a
// thing and asking its leader; mail.go carries mail between shards, and blobs.go has
// the bytes of large objects kept on all replicas.
//
// It may import everything but cmd; nothing but cmd, internal/cli and tests
// imports it.
package node
