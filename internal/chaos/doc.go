// Package chaos breaks a running cluster and checks that every promise held.
//
// A run is rounds. A round starts loads on a cluster of real processes (package
// nodetest), breaks it by a schedule that follows from a seed (schedule.go,
// faults.go), lets it heal, and then looks at everything that was promised:
//
//   - answers to gets, puts and deletes fit one order of them, and watches show
//     each change once, without a gap (package linear);
//   - each session that was accepted ends, with the result known beforehand, each
//     trigger has fired once for what it was given, and each object was counted
//     once across shards (jobs.go, counted.go);
//   - each object whose put was acknowledged is there, with its bytes, through
//     every node (probe.go);
//   - replicas that have applied the same entries hold the same (replicas.go);
//   - writes are taken again soon after a fault has begun, and after it has ended
//     (probe.go).
//
// Each check is a function over what was seen, tested with what a broken cluster
// would have shown. A report counts what was done; a check that had nothing to
// look at is a fault, too.
//
// The faults need no rights: the network between the nodes goes through package
// faultnet, clocks through PHEROMONE_CLOCK. Those of disks need strace, and a run
// that asks for them without it fails at once.
//
//	go test ./internal/chaos -chaos.nodes 3 -chaos.time 1h -chaos.seed 7 -chaos.faults kill,partition -timeout 2h
//
// It may import client, spec, internal/linear, internal/nodetest and
// internal/faultnet.
package chaos
