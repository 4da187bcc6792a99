// Command bench measures Pheromone: the workloads of a chain, a fan-out, large
// objects, start and memory, and the key-value store, on a real node over its
// real API, beside the disk's own fdatasync and a bare commit of the raft log.
//
//	go run ./bench                        all workloads, all runtimes
//	go run ./bench -only A,B -runtimes go the chain alone, with the Go SDK
//	go run ./bench -json report.json      the same figures for programs
//
// Absolute times differ from machine to machine: compare the ratios to the
// commits measured in the same run.
package main
