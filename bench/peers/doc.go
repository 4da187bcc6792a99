// Command peers runs the workloads of a chain, a fan-out, large objects and the
// key-value store on other systems, written by hand as somebody who knows them
// would write them, so that Pheromone's figures have something to stand beside:
//
//	etcd        a function is a watch on a prefix; it moves its session on in one
//	            transaction that deletes its input and puts the next one
//	nats        a function is a consumer of a JetStream work queue; it publishes
//	            the next message and then acknowledges its own; every write synced
//	nats-default  the same as users run it: synced every two minutes
//
// The server, the functions and the clients are one process and speak over
// loopback TCP. There are no retries with backoff, histories, timeouts or results
// to ask for later: these systems are floors under what a step must cost, not
// substitutes.
//
// It is a module of its own so that nothing of it gets into the product's. `make
// bench` builds and runs it; by itself it writes its figures as JSON, in the form
// of bench/report:
//
//	go run . -system etcd -only A,B -span 2s
package main
