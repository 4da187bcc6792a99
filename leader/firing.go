package leader

import (
	"fmt"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
	"github.com/pheromone-run/pheromone/triggers"
)

// Raft refuses an entry above MaxEntryBytes, for ever: it would come again with each
// new reign, and the shard would stand still. So nothing may make one. Rounds are
// closed long before (full); one step of a trigger fires a part of what an entry
// holds (partOf); and a firing that can't be divided and does not fit is refused
// where people see it.
const (
	// MaxEntryBytes is what raft takes.
	MaxEntryBytes = 64 << 20
	// defaultFiringBytes bounds a round with its firings. The rest of an entry is for
	// what a round writes besides.
	defaultFiringBytes = 48 << 20
	// stepsOfFirings is how many full steps fit into FiringBytes.
	stepsOfFirings = 3
	// roundsOfFirings is the part of FiringBytes that closes a round: invocations beyond
	// it are left to the next one.
	roundsOfFirings = 12
)

// What records and keys have besides the names in them, generously.
const (
	inputBytes      = 64  // a reference to an input
	keyExtra        = 32  // a key: shard, table, lengths, numbers
	blobRefBytes    = 220 // counting and letting go of a blob, besides the app's name
	invocationExtra = 768 // an invocation with an attempt, and what a session of its own needs
)

// full tells whether the round is large enough: what can wait is left to the next one.
func (t *tx) full() bool {
	return t.batch.Len() >= entryBytes || t.firing >= t.leader.cfg.FiringBytes/roundsOfFirings
}

// refBytes is what an invocation's record takes for an input, apart from the key.
func refBytes(bucket spec.BucketName) int { return inputBytes + len(bucket) }

// itemBytes is what the deletion of an item takes.
func (n machineName) itemBytes() int {
	return keyExtra + len(n.app) + len(n.session) + len(n.bucket) + len(n.trigger)
}

// partOf bounds what a step of a machine fires.
func (t *tx) partOf(name machineName, m *machine) triggers.Limit {
	targets := max(1, len(m.spec.Target))
	each := name.itemBytes() + targets*refBytes(name.bucket)
	once := targets * invocationExtra
	if name.session == "" {
		each += name.itemBytes() + blobRefBytes + len(name.app) + targets*(m.widest+2*keyExtra+len(name.app)+spec.MaxSessionIDBytes)
	}
	bytes := t.leader.cfg.FiringBytes / stepsOfFirings
	return triggers.Limit{
		Objects:  max(1, min(triggers.MaxFiringObjects, bytes/each)),
		KeyBytes: max(1, min(triggers.MaxFiringKeyBytes, bytes/(2*targets))),
		Firings:  max(1, min(triggers.MaxFirings, bytes/once)),
		Full:     t.full(),
	}
}

// fits tells whether a firing that writes so many bytes now, and ref for its
// invocation at the end of the round, still has a place in the entry. The deletion of
// what has fired comes on top, in what is left of the entry.
func (t *tx) fits(now, ref int) bool {
	return t.batch.Len()+t.firing+now+ref <= t.leader.cfg.FiringBytes
}

// Bounds of the sets that functions name for a dynamic_join. Those that have not
// fired are in the header of its machine, which is written whole.
const (
	joinKeys  = 100_000 // of a set
	joinBytes = 8 << 20 // of their keys, with a few bytes for each
	joinsOpen = 16 << 20
)

// joinFault tells why a set can't be named, "" if it can.
func (t *tx) joinFault(s *session, bucket spec.BucketName, tr *spec.Trigger, keys []spec.Key) string {
	size := setBytes(keys)
	if len(keys) > joinKeys || size > joinBytes {
		return fmt.Sprintf("a set of %d keys with %s: at most %d keys with %s are joined",
			len(keys), spec.FormatSize(int64(size)), joinKeys, spec.FormatSize(joinBytes))
	}
	if tr.Scope != spec.ScopeSession {
		return ""
	}
	m := t.machine(s, machineName{s.name.app, s.name.session, bucket, tr.Name}, tr)
	if m != nil && m.headerBytes+size > joinsOpen {
		return fmt.Sprintf("the sets that were named and are not complete take more than %s", spec.FormatSize(joinsOpen))
	}
	return ""
}

func setBytes(keys []spec.Key) int {
	size := 0
	for _, k := range keys {
		size += len(k) + 3
	}
	return size
}

// refs is what the invocation of a firing writes.
func refs(bucket spec.BucketName, f *triggers.Firing) int {
	size := 0
	for i := range f.Inputs {
		size += refBytes(bucket) + len(f.Inputs[i].Key)
	}
	return size
}

// refuseFiring records a firing that is too large as a failed invocation.
func (t *tx) refuseFiring(s *session, target spec.FunctionName, bucket spec.BucketName, trigger spec.TriggerName, f *triggers.Firing, inputs []store.InputRef) {
	inv := t.invoke(s, target, bucket, trigger, f, inputs)
	failure := &exec.Failure{Kind: exec.Refused, Message: fmt.Sprintf("a firing with %d objects, whose names and copies take more than one entry of the log holds (%s): let the trigger fire with fewer",
		len(f.Inputs), spec.FormatSize(int64(t.leader.cfg.FiringBytes)))}
	t.tell(inv, failure)
	t.giveUp(inv, failure)
}
