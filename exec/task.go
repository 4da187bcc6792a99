package exec

import (
	"context"
	"time"

	"github.com/pheromone-run/pheromone/spec"
)

// Task is one attempt of an invocation, to be run by an executor.
type Task struct {
	App      spec.AppName
	Version  uint64 // of the app
	Artifact string // SHA-256 (hex) of the app's folder; "" if it has none
	Function *spec.Function

	Invocation spec.InvocationID
	Attempt    int // from 1
	Shard      spec.ShardID
	Epoch      uint64 // of the shard's leader that dispatched the attempt

	Bucket      spec.BucketName // the bucket and trigger that fired it
	Trigger     spec.TriggerName
	Group       string    // of a dynamic_group firing
	Window      time.Time // of a by_time firing
	Traceparent string

	// Timeout bounds the attempt from the moment that it is handed to an executor.
	Timeout time.Duration
	// MaxObjectBytes bounds an object that the attempt emits; 0 leaves it to the
	// runtime's own bound.
	MaxObjectBytes int64
	// Source has the inputs. If it is not Portable, the attempt can only run here.
	Source Source
	// SizeAtMost is a bound of the inputs' bytes that takes no read; 0 if there is none.
	SizeAtMost int64
	Sink       Sink
}

// Source has the inputs of a task.
type Source interface {
	// Load reads them. It is called once an executor is free, so that what waits
	// costs no memory.
	Load(ctx context.Context) ([]Input, error)
	// Size tells how many bytes Load will return: the pool takes them from its
	// budget before it has them read.
	Size(ctx context.Context) (int64, error)
}

// Portable is a Source of inputs that other nodes can read too.
type Portable interface {
	Source
	// Reference names to another node what Load reads.
	Reference() ([]byte, error)
}

// TaskRef names a task. The epoch is part of it: after a change of the leader an
// attempt may have the number of one that is being stopped.
type TaskRef struct {
	App        spec.AppName
	Invocation spec.InvocationID
	Attempt    int
	Epoch      uint64
}

// Ref names the task.
func (t *Task) Ref() TaskRef { return TaskRef{t.App, t.Invocation, t.Attempt, t.Epoch} }

// Input is an object passed to a function.
type Input struct {
	Bucket      spec.BucketName
	Key         spec.Key
	Session     spec.SessionID
	ContentType string
	Meta        map[string]string
	Data        []byte
	Deleted     bool // it stands for the deletion of a key-value object, with the bytes that this had
}

// Emission is something an attempt put, sent or named, in the order of Seq.
type Emission struct {
	// Seq counts the emissions of the attempt from 1. (invocation, Seq) names an
	// emission over all attempts.
	Seq uint64
	// Bucket is where the object goes: a bucket, the inbox of a function, or
	// spec.OutputBucket.
	Bucket spec.BucketName
	// Key is empty when the platform is to make one up.
	Key          spec.Key
	Data         []byte
	ContentType  string
	Meta         map[string]string
	Output       bool
	DeliverAfter time.Duration
	// Lent says that Data is in memory which the function's program can still write
	// to, and which is given back when the call of the sink returns: each byte is to
	// be read once, and what is kept is to be copied. Only large objects are lent.
	Lent bool

	// Join names the set Keys for the dynamic_join JoinTrigger on Bucket, instead
	// of putting an object.
	JoinTrigger spec.TriggerName
	JoinKeys    []spec.Key

	// Child starts a child session with the object, instead of putting it.
	Child *ChildStart
}

// ChildStart says which function of the app a child session begins with. If the
// emission has a Bucket, the session that starts it waits for the child's end and
// gets its result as an object there, under Key or, if that is empty, the child's id.
type ChildStart struct {
	Function spec.FunctionName
	Timeout  time.Duration // of the child session; 0: the app's
}

// Kinds of Failure, in the words of wire.FunctionError.
const (
	Failed    = "failed"
	Permanent = "permanent"
	TimedOut  = "timeout"
	Crashed   = "crashed"
	Lost      = "lost"
	Conflict  = "conflict"
	Start     = "start"
	Refused   = "refused"
	Cancelled = "cancelled"
	Condition = "condition" // of no attempt: the trigger's condition could not be evaluated
	Trigger   = "trigger"   // of no attempt: a trigger of the session is stalled
)

// Failure is why an attempt failed. A nil *Failure is success.
type Failure struct {
	Kind    string
	Message string
	Detail  string // stack or last output; at most 16 KiB
}

// Sink hears what comes of a task. Calls for one task come one at a time, in
// order; Done is the last. Implementations must not block for long: they hand
// over to the shard's loop, which bounds what it takes by making Emit wait.
type Sink interface {
	// Started tells that an executor took the task.
	Started(t *Task, executor string)
	// Emit hands over emissions while the attempt runs. An error ends the attempt:
	// it has been superseded, or what it put was refused.
	Emit(t *Task, e []Emission) error
	// Get reads an object of the task's session; an Error with CodeNotFound if it
	// is not there.
	Get(ctx context.Context, t *Task, bucket spec.BucketName, key spec.Key) (Input, error)
	// Done ends the task. The emissions that came together with the result are
	// handed over here, so that a step takes one commit.
	Done(t *Task, e []Emission, f *Failure)
}

// Runtime runs the tasks of the functions of one kind.
type Runtime interface {
	// Submit takes a task. It never blocks and never refuses: what can't run yet
	// waits, in order of arrival for each function.
	Submit(t *Task)
	// Cancel asks the attempt to stop, cooperatively first, by force after a grace
	// time. The task still ends with Done. Unknown tasks are ignored.
	Cancel(ref TaskRef)
	// Close stops everything: running attempts are ended without Done being
	// waited for by their functions, processes are killed, none is left over.
	Close() error
}

// Room tells how many more attempts of a function would begin at once.
type Room struct {
	Free   int  `json:"free,omitempty"`
	Cold   bool `json:"cold,omitempty"`   // but only once an executor has been started
	Absent bool `json:"absent,omitempty"` // none ever will: the function is not here
}

// Lender is a Runtime whose tasks another node may run instead.
type Lender interface {
	// Room tells how much room there is for tasks like t: of its app, artifact and
	// function, which is all that counts of it.
	Room(t *Task) Room
	// Withdraw takes back a task that no executor has taken, as if it had never been
	// submitted: its sink hears nothing. It returns nil for every other one.
	Withdraw(ref TaskRef) *Task
}
