// Command bench measures Pheromone beside other systems: the workloads of a chain,
// a fan-out, large objects, start and memory, long chains and wide fan-outs, the
// key-value store, clusters, failures, floods and fairness, on real nodes over their
// real API, next to the disk's own fdatasync and a bare commit of the raft log.
//
//	go run ./bench                        A to F and K, all runtimes, with the peers
//	go run ./bench -only A,B -runtimes go the chain alone, with the Go SDK
//	go run ./bench -only L                clusters of three and five nodes; leaders killed
//	go run ./bench -only G                a failing attempt: a rule against running the workflow again
//	go run ./bench -only flood            a million puts: rate, memory, disk, refusals
//	go run ./bench -only fair             one app at full speed beside a modest one
//	go run ./bench -only scale            a million of all that can wait: memory, disk, restart
//	go run ./bench -only retention        ten million sessions, deleted soon: does the node get slower
//	go run ./bench -only primitives       a million objects counted by each trigger primitive
//
// What all systems have in common is measured in rounds, one system after the
// other (measureAll), so that what else the machine does hits them alike; recorder
// keeps the figures, and package bench/report makes medians, verdicts, text and
// plots of them. The peers are programs of the module bench/peers. The functions
// are in bench/work and, in Python, in bench/functions.
//
// Absolute times differ from machine to machine: compare the ratios to the
// commits measured in the same run. docs/performance.md tells how.
package main
