package leader

import (
	"errors"
	"fmt"
	"time"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/raft/shard"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
	"github.com/pheromone-run/pheromone/triggers"
)

// admits tells whether a trigger's condition lets an object be counted. It is
// asked once, when the object is counted; what it says is in the same entry.
//
// A condition that can't be evaluated does not stop the shard: each target gets
// an invocation that has failed, so that the failure is in the session's history,
// goes to the function's dead-letter bucket, or fails the session.
func (t *tx) admits(s *session, bucket spec.BucketName, tr *spec.Trigger, key spec.Key, rec *store.Object) bool {
	in := spec.ConditionInput{
		Bucket: bucket, Session: s.name.session, Key: key,
		Size: rec.Size, ContentType: rec.ContentType, Meta: rec.Meta,
	}
	if tr.When.NeedsValue() && rec.Size <= spec.MaxConditionValueBytes {
		value, err := t.bytesOf(s.name.app, rec)
		if err != nil {
			t.unread(err)
			return false
		}
		in.Value = value
	}
	ok, err := tr.When.Eval(in)
	if err == nil {
		return ok
	}
	failure := &exec.Failure{Kind: exec.Condition, Message: fmt.Sprintf("the condition of trigger %q on object %q: %s", tr.Name, key, err)}
	inputs := []store.InputRef{{Bucket: bucket, Key: key, Revision: rec.Revision}}
	t.chain++
	defer func() { t.chain-- }()
	for _, target := range tr.Target {
		inv := t.invoke(s, target, bucket, tr.Name, &triggers.Firing{}, inputs)
		t.tell(inv, failure)
		if t.chain > conditionChain {
			t.abort(inv, t.failure(inv, failure))
			continue
		}
		t.giveUp(inv, failure)
	}
	return false
}

// unread gives the term up because bytes can't be read. If they are on other
// replicas that are away, that is no fault of this node: the next term tries again.
func (t *tx) unread(err error) {
	if spec.CodeOf(err) != spec.CodeUnavailable || t.leader.cfg.DB.Err() != nil {
		t.broken(err)
		return
	}
	select {
	case <-time.After(roomEvery):
	case <-t.term.Done():
	}
	t.broken(errors.Join(shard.ErrTermOver, err))
}

// conditionChain bounds how many dead letters may follow from one another at once
// because a condition fails on each: a dead-letter bucket may lead back to itself.
const conditionChain = 4
