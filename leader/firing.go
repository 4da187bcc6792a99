package leader

import (
	"fmt"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
	"github.com/pheromone-run/pheromone/triggers"
)

// What a round writes for each input of its firings, besides the input's key: the
// references in the invocation's record, and in scope bucket the copies that move
// and what is deleted behind them.
const (
	inputBytes     = 64
	heldInputBytes = 320
)

// defaultFiringBytes bounds what the firings of a round write. Raft refuses an
// entry above 64 MiB, for ever, so that what can't be written must not be tried.
const defaultFiringBytes = 48 << 20

// overflows tells whether a firing is too large for the round, and counts it if
// it is not.
func (t *tx) overflows(inputs []triggers.Object, each int) bool {
	size := 0
	for i := range inputs {
		size += each + 2*len(inputs[i].Key)
	}
	if t.batch.Len()+t.firing+size > t.leader.cfg.FiringBytes {
		return true
	}
	t.firing += size
	return false
}

// refuseFiring records a firing that is too large as a failed invocation.
func (t *tx) refuseFiring(s *session, target spec.FunctionName, bucket spec.BucketName, trigger spec.TriggerName, f *triggers.Firing, inputs []store.InputRef) {
	inv := t.invoke(s, target, bucket, trigger, f, inputs)
	failure := &exec.Failure{Kind: exec.Refused, Message: fmt.Sprintf("a firing with %d objects, whose names and copies take more than one entry of the log holds (%s): let the trigger fire with fewer",
		len(f.Inputs), spec.FormatSize(int64(t.leader.cfg.FiringBytes)))}
	t.tell(inv, failure)
	t.giveUp(inv, failure)
}
