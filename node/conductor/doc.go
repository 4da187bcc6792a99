// Package conductor is what the leader of the control group does to keep shards
// placed and led well: it watches which nodes live, gives each shard the replicas
// that are wanted, moves them off nodes that are dead or drained, spreads the
// leaders, and keeps as many voters in the control group as its size asks for.
//
// The way of a change: collect.go asks every member where its replicas stand and
// makes a View of it; Plan (plan.go), a pure function, looks at which nodes each
// shard should be on (target.go) and gives the next step of each shard on its way
// there (step.go), of its leaders (lead.go) and of the control group's servers
// (servers.go); carry.go carries the actions out, by the control group's commands
// and by requests to the nodes that lead the shards (handle.go); then it looks
// again. Nothing is remembered that matters: a new conductor goes on from where the
// last one was killed, at any step, because a step is read off the state that the
// one before left.
//
// What it promises: a replica is removed only when as many others as are wanted
// have the data and run, unless its own data is lost; one that joins votes only once
// it has the bytes of all large objects, if others have them; no change leaves a raft
// group without a quorum of live voters that had one; a change is made only on the
// members that it was planned on, so that two conductors at once do no harm; when
// nothing happens any more, Plan is empty. A dead node's replicas are counted on
// for a grace, because a node that is started again is cheaper than a copy.
//
// Imports spec, raft/control, raft/shard and node/peer.
package conductor
