package triggers_test

import (
	"testing"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/triggers"
)

// These tests hold the primitives to "Following the Data, Not the Function:
// Rethinking Function Orchestration in Serverless Computing" (NSDI'23), §4, which
// sorts them into direct, conditional and dynamic ones.

// play puts objects with these keys, a second apart, and returns what fired.
func play(o *owner, keys ...spec.Key) string {
	for _, k := range keys {
		o.last++
		o.step(triggers.Event{
			Kind:   triggers.ObjectArrived,
			Now:    epoch.Add(time.Duration(o.last) * time.Second),
			Object: triggers.Object{Position: o.last, Key: k},
		})
	}
	return inputsOf(o)
}

// inputsOf returns the keys of all firings so far: "a b | c".
func inputsOf(o *owner) string {
	s := ""
	for i, f := range o.firings {
		if i > 0 {
			s += " |"
		}
		if f.Group != "" {
			s += " " + f.Group + ":"
		}
		for _, in := range f.Inputs {
			s += " " + string(in.Key)
		}
	}
	return s
}

func wantFired(t *testing.T, got, want string) {
	t.Helper()
	if got != want {
		t.Fatalf("fired%s, should have fired%s", got, want)
	}
}

func TestPaperSection4DirectImmediatePassesEachObjectOn(t *testing.T) {
	o := newOwner(t, &spec.Trigger{Primitive: spec.Immediate})
	wantFired(t, play(o, "a", "b"), " a | b")
}

func TestPaperSection4ConditionalByNameIsAChoiceByKey(t *testing.T) {
	o := newOwner(t, &spec.Trigger{Primitive: spec.ByName, Keys: []spec.Key{"yes"}})
	wantFired(t, play(o, "no", "yes", "maybe"), " yes")
}

func TestPaperSection4ConditionalBySetIsAnAssemblyOfBranches(t *testing.T) {
	o := newOwner(t, &spec.Trigger{Primitive: spec.BySet, Scope: spec.ScopeSession, Keys: []spec.Key{"left", "right"}})
	wantFired(t, play(o, "right"), "")
	wantFired(t, play(o, "left"), " left right")
}

func TestPaperSection4ConditionalByBatchSizeCollectsSoManyObjects(t *testing.T) {
	o := newOwner(t, &spec.Trigger{Primitive: spec.ByBatchSize, Scope: spec.ScopeBucket, Count: 2})
	wantFired(t, play(o, "a", "b", "c", "d", "e"), " a b | c d")
}

func TestPaperSection4ConditionalByTimeCollectsForSoLong(t *testing.T) {
	o := newOwner(t, &spec.Trigger{Primitive: spec.ByTime, Scope: spec.ScopeBucket, Every: 10 * time.Second})
	wantFired(t, play(o, "a", "b"), "")
	o.step(triggers.Event{Kind: triggers.Tick, Now: o.timer})
	wantFired(t, inputsOf(o), " a b")
}

func TestPaperSection4ConditionalRedundantTakesTheFirstKOfN(t *testing.T) {
	o := newOwner(t, &spec.Trigger{Primitive: spec.Redundant, Scope: spec.ScopeSession, K: 2, N: 3})
	wantFired(t, play(o, "b", "c", "a"), " b c")
}

func TestPaperSection4DynamicJoinWaitsForASetNamedAtRunTime(t *testing.T) {
	o := newOwner(t, &spec.Trigger{Primitive: spec.DynamicJoin, Scope: spec.ScopeSession})
	play(o, "part-1")
	o.step(triggers.Event{Kind: triggers.SetNamed, Now: epoch, Keys: []spec.Key{"part-0", "part-1", "part-2"}})
	wantFired(t, play(o, "part-2"), "")
	wantFired(t, play(o, "part-0"), " part-0 part-1 part-2")
}

func TestPaperSection4DynamicGroupIsTheShuffleOfAMapReduce(t *testing.T) {
	o := newOwner(t, &spec.Trigger{
		Primitive: spec.DynamicGroup, Scope: spec.ScopeSession,
		GroupBy: spec.GroupBy{Prefix: ":"}, Until: spec.Until{Functions: []spec.FunctionName{"map"}},
	})
	wantFired(t, play(o, "k1:m0", "k2:m0", "k1:m1"), "")
	o.step(triggers.Event{Kind: triggers.StageDone, Now: epoch})
	wantFired(t, inputsOf(o), " k1: k1:m0 k1:m1 | k2: k2:m0")
}
