// Command bench measures Pheromone: the workloads of a chain, a fan-out, large
// objects, start and memory, the key-value store, failures, floods and fairness,
// on a real node over its real API, beside the disk's own fdatasync and a bare
// commit of the raft log.
//
//	go run ./bench                        all workloads, all runtimes
//	go run ./bench -only A,B -runtimes go the chain alone, with the Go SDK
//	go run ./bench -only G                a failing attempt: a rule against running the workflow again
//	go run ./bench -only flood            a million puts: rate, memory, disk, refusals
//	go run ./bench -only fair             one app at full speed beside a modest one
//	go run ./bench -only primitives       a million objects counted by each trigger primitive
//	go run ./bench -json report.json      the same figures for programs
//
// Absolute times differ from machine to machine: compare the ratios to the
// commits measured in the same run.
package main
