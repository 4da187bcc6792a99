package triggers

import (
	"time"

	"github.com/pheromone-run/pheromone/spec"
)

// Object is an object as a trigger sees it.
type Object struct {
	// Position identifies the object within the machine's scope and grows from
	// object to object. A machine takes a position that is not above the last
	// one it took for a repetition, and does nothing.
	Position uint64
	Key      spec.Key
	// Group is the object's group for dynamic_group with group_by.meta: the value
	// of that metadata field, "" if it is not there. Others ignore it.
	Group string
}

// Item is an object that a machine keeps until it fires or drops it.
type Item struct {
	Object
	Time time.Time // when it was counted
}

// EventKind says what happened.
type EventKind uint8

const (
	// ObjectArrived: Event.Object was put into the bucket.
	ObjectArrived EventKind = iota + 1
	// SetNamed: a function named the set Event.Keys for a dynamic_join. The owner
	// passes on each naming once; the same set named twice is two sets.
	SetNamed
	// StageDone: all invocations of the until.functions of a dynamic_group are done.
	StageDone
	// Tick: the time asked for by the last Outcome.Timer has come, or the owner
	// starts (for triggers of scope bucket), or has restored the machine.
	Tick
)

// Event is one step's input. Now never has to be monotonic: machines cope with
// clocks that jump.
type Event struct {
	Kind   EventKind
	Now    time.Time
	Object Object
	Keys   []spec.Key
	// Limit bounds what the step fires.
	Limit Limit
	// Room is memory for a firing of one object; nil if there is none. Who passes it
	// uses it again once it is done with the Outcome.
	Room *Room
}

// Room is memory for what most steps want: one firing with one object.
type Room struct {
	firing [1]Firing
	input  [1]Object
}

// fire returns a firing with an object, in the room if there is one.
func (r *Room) fire(o Object) []Firing {
	if r == nil {
		r = &Room{}
	}
	r.input[0] = o
	r.firing[0] = Firing{Inputs: r.input[:]}
	return r.firing[:]
}

// Firing asks for one invocation of each target function with these objects, in
// this order. Group is the name of the group for dynamic_group. The firings of one
// step may share the memory of their Inputs: read it, don't write to it.
type Firing struct {
	Inputs []Object
	Group  string
	// Window is the end of the window for by_time, zero for others.
	Window time.Time
}

// Outcome is what a step wants done. The zero Outcome means nothing changed.
type Outcome struct {
	Firings []Firing
	// Keep lists the items to be stored: the object of this step, if it has not all
	// its firings behind it.
	Keep []Item
	// Drop lists positions of items kept by earlier steps that are not needed any
	// more: fired or dropped. An object that never was kept is not listed.
	Drop []uint64
	// DropsFirst says that Drop is in order and lists the first of all items that
	// were kept: none stands before or between them.
	DropsFirst bool
	// Rejected lists objects of this step or of earlier ones that will never be
	// part of a firing (late, not named, beyond k, control objects of a stage that is
	// complete), for the owner to let go of.
	// Positions in Rejected that were kept are in Drop too.
	Rejected []uint64
	// Changed says that the header differs from before the step.
	Changed bool
	// Timer is when the machine wants a Tick, zero for never. It always holds the
	// machine's present wish and replaces the one before, also in the Outcome of a
	// repetition.
	Timer time.Time
	// CancelRest asks to cancel the work whose objects will not be used any more.
	CancelRest bool
}

// Waiting is what a machine waits for, for people.
type Waiting struct {
	Have     int        // objects counted that have not fired
	Need     int        // objects still missing; 0 if not known
	Missing  []spec.Key // at most 100 of the missing keys, in order
	Deadline time.Time  // when it fires by timer; zero if it does not
	Done     bool       // it will not fire any more in this scope
	Armed    bool       // whether it waits for anything: it has counted or named something that has not fired
}

// Machine is one trigger in one scope. It is not safe for concurrent use.
//
// It is pure: the same events make the same outcomes. What is in a header and in
// the items is all that survives; a machine restored from them behaves as the old
// one would have. A machine that panics is thrown away, and its trigger stalled.
type Machine interface {
	// Step takes one event. It must not keep ev.Keys. Kinds of events that it has no
	// use for leave it as it is. It may fire objects that it keeps and the one that
	// has just arrived, and drop what it keeps, each once.
	Step(ev Event) Outcome
	// Header appends the machine's header, a versioned encoding, to dst. An empty
	// header means the machine's first state: nothing needs to be stored. It is
	// written whole whenever a step says Changed, so it should be small.
	Header(dst []byte) []byte
	// Waiting describes the state for people.
	Waiting() Waiting
}
