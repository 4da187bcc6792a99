// Package leader is the data leader: one loop for each shard led here, which
// joins triggers, store, raft/shard and exec.
//
// Commands of a shard (a put, an attempt's result, a timer that is due, a
// cancel, mail from another shard) reach its loop. The loop is the only writer:
// it takes all commands that wait, evaluates each against its working state
// (dedupe, store, triggers, firings, invocations, timers, outbox), and proposes
// what they changed as one raft entry. Once an entry is applied its effects run:
// waiting clients are answered, watchers told, invocations dispatched to
// executors. Nothing outside hears of a change before it is durable.
//
// Followers only apply. A new leader claims its epoch, loads what was pending in
// its range, re-arms timers, dispatches again, and then takes commands. A leader
// whose proposal is lost throws its memory away and claims again: the store is
// the truth, memory is a cache of it and of what is in flight.
//
// The way of a command: leader.go (Leader.Do) → reign.go (the loop, batches) →
// the command's evaluate (put.go, attempt.go, …) → object.go and trigger.go
// (what counting an object causes) → tx.go (writes and effects) → raft/shard.
//
// Imports spec, spec/wire, triggers, store, raft/shard, exec and internal/failpoint.
package leader
