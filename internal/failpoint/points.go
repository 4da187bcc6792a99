package failpoint

import (
	"slices"
	"strings"
)

// Step is a step of a life that a raft entry makes durable.
type Step uint8

// The steps, in about the order in which a life meets them.
const (
	Accepted     Step = iota // an object from outside
	Delivered                // a delayed object is due
	Counted                  // an object, by a trigger of scope session
	Held                     // a copy of an object, by a trigger of scope bucket
	Named                    // a set of a dynamic_join, at run time
	Ticked                   // a trigger's timer
	Fired                    // a trigger, for one target
	Dispatched               // an attempt
	Started                  // an attempt, by an executor
	Stored                   // an object that a function has put
	Retried                  // a failed attempt: its next one is waited for
	Rerun                    // an invocation, by a re-execution rule
	DeadLettered             // an invocation's failure
	Cancelled                // an invocation
	Ended                    // an invocation, one way or another
	SessionEnded             // a session, one way or another
	Purged                   // a session: its ranges are deleted
	Posted                   // a message to another shard
	Taken                    // a message of another shard
	Acknowledged             // a message that another shard has taken
	Lost                     // an attempt that ended with its node
	stepCount
)

var stepNames = [stepCount]string{
	Accepted: "accepted", Delivered: "delivered", Counted: "counted", Held: "held", Named: "named", Ticked: "ticked",
	Fired: "fired", Dispatched: "dispatched", Started: "started", Stored: "stored", Retried: "retried", Rerun: "rerun",
	DeadLettered: "dead-lettered", Cancelled: "cancelled", Ended: "ended", SessionEnded: "session-ended", Purged: "purged",
	Posted: "posted", Taken: "taken", Acknowledged: "acknowledged", Lost: "lost",
}

// Moment is how far an entry has come.
type Moment uint8

const (
	Evaluated Moment = iota // in memory only
	Logged                  // in the raft log on disk, not in the store
	Applied                 // in the store; nobody has been told
	Reported                // its leader has been told; it has had no effect
	Effected                // its callers have been answered, its attempts handed over
	momentCount
)

var momentNames = [momentCount]string{
	Evaluated: "evaluated", Logged: "logged", Applied: "applied", Reported: "reported", Effected: "effected",
}

// Place is a line of the code.
type Place uint8

const (
	Staged     Place = iota // the bytes of a large object are on disk, and nothing refers to them
	Submitting              // an attempt is about to be handed to the executors
	Submitted               // it has been
	Running                 // an executor has taken the attempt
	Emitting                // an attempt has put something while it runs
	Finishing               // an attempt's end has come in and is not evaluated
	Sending                 // a message is about to leave for another shard
	Sent                    // it has been taken there, and that is not noted here
	placeCount
)

var placeNames = [placeCount]string{
	Staged: "staged", Submitting: "submitting", Submitted: "submitted", Running: "running", Emitting: "emitting", Finishing: "finishing",
	Sending: "sending", Sent: "sent",
}

// Points lists the names of all points: each step at each moment, then the places.
func Points() []string {
	var all []string
	for s := range stepCount {
		for m := range momentCount {
			all = append(all, name(s, m))
		}
	}
	return append(all, placeNames[:]...)
}

// Steps lists the names of the steps, Moments and Places those of the others.
func Steps() []string   { return slices.Clone(stepNames[:]) }
func Moments() []string { return slices.Clone(momentNames[:]) }
func Places() []string  { return slices.Clone(placeNames[:]) }

// String returns the name under which a place is armed.
func (p Place) String() string { return placeNames[p] }

func name(s Step, m Moment) string { return stepNames[s] + "/" + momentNames[m] }

func known(point string) bool { return slices.Contains(Points(), point) }

func list() string { return strings.Join(Points(), ", ") }
