package spec

import "time"

// App is a validated manifest with every default filled in. It is immutable
// once built: a change of the app is a new App with the next version.
type App struct {
	Name      AppName                    `json:"app"`
	Functions map[FunctionName]*Function `json:"functions"`
	Buckets   map[BucketName]*Bucket     `json:"buckets"`
	// Retention is how long a finished session is kept; 0 deletes it at once.
	Retention time.Duration `json:"retention"`
	// SessionTimeout is how long a session may run; 0 is for ever. A request may
	// set another one for its session.
	SessionTimeout time.Duration `json:"session_timeout,omitempty"`
	// Durability is that of the implied buckets: inboxes, and the output bucket.
	Durability Durability `json:"durability"`
	// Artifact is the SHA-256 (hex) of the uploaded folder; empty when no
	// function of the app runs from files.
	Artifact string `json:"artifact,omitempty"`
	Limits   Limits `json:"limits"`
}

// Function is user code and how its attempts are run.
type Function struct {
	Name    FunctionName `json:"name"`
	Runtime Runtime      `json:"runtime"`
	// Command starts the executor process, run in the artifact's folder.
	// Functions of one app with equal Command and Env share processes.
	Command []string          `json:"command,omitempty"`
	Env     map[string]string `json:"env,omitempty"`
	// File is the module of runtime wasm, in the artifact's folder. Functions of one
	// app with equal File and Memory share processes.
	File string `json:"file,omitempty"`
	// Memory bounds the memory of one instance of the module, in bytes.
	Memory int64 `json:"memory,omitempty"`
	// Timeout bounds one attempt.
	Timeout time.Duration `json:"timeout"`
	Retry   Retry         `json:"retry"`
	// Concurrency bounds the attempts of this function that run at once on a
	// node; 0 leaves it to the executors' capacity.
	Concurrency int `json:"concurrency,omitempty"`
	// MaxPending bounds the invocations of this function that are pending on one
	// shard; 0 leaves it to the app's limit.
	MaxPending int `json:"max_pending,omitempty"`
	// DeadLetter names the bucket that gets the failure as an object when the
	// function gives up; empty fails the session.
	DeadLetter BucketName `json:"dead_letter,omitempty"`
	Emit       Emit       `json:"emit"`
}

// Retry says how often and when a failed attempt is followed by another one.
// The wait before attempt n+1 is Backoff·2^(n-1), at most MaxBackoff, with full
// jitter over its upper half.
type Retry struct {
	MaxAttempts int           `json:"max_attempts"`
	Backoff     time.Duration `json:"backoff"`
	MaxBackoff  time.Duration `json:"max_backoff"`
}

// Bucket is a named place for objects and the triggers on it.
type Bucket struct {
	Name       BucketName `json:"name"`
	Durability Durability `json:"durability"`
	Triggers   []*Trigger `json:"triggers,omitempty"`
}

// Trigger is a rule on one bucket: a primitive, its options, its targets.
// Options that do not belong to the primitive are zero.
type Trigger struct {
	Name      TriggerName    `json:"name"`
	Primitive Primitive      `json:"primitive"`
	Target    []FunctionName `json:"target"`
	Scope     Scope          `json:"scope"`
	// On says what the trigger counts: objects that are put, or the deletion of
	// key-value objects, by request or because their time to live is over.
	On On `json:"on"`
	// When says which objects of the bucket the trigger sees; nil for all.
	When *Condition `json:"when,omitempty"`
	// Rerun says which functions the trigger's objects come from, and when one that
	// has put none is run again.
	Rerun []Rerun `json:"rerun,omitempty"`

	Keys  []Key  `json:"keys,omitempty"`  // by_name, by_set
	Match string `json:"match,omitempty"` // by_name: a glob over the whole key, as MatchKey takes it

	Count   int           `json:"count,omitempty"`    // by_batch_size
	MaxWait time.Duration `json:"max_wait,omitempty"` // by_batch_size; 0 waits for ever

	Every      time.Duration `json:"every,omitempty"`    // by_time: length of a window
	Slide      time.Duration `json:"slide,omitempty"`    // by_time: distance of window starts; equals Every for tumbling windows
	Cron       string        `json:"cron,omitempty"`     // by_time: instead of Every, five fields
	Timezone   string        `json:"timezone,omitempty"` // by_time: IANA name for Cron; default UTC
	AllowEmpty bool          `json:"allow_empty,omitempty"`

	K          int  `json:"k,omitempty"` // redundant
	N          int  `json:"n,omitempty"` // redundant
	CancelRest bool `json:"cancel_rest,omitempty"`

	GroupBy GroupBy `json:"group_by,omitzero"` // dynamic_group
	Until   Until   `json:"until,omitzero"`    // dynamic_group

	Options Options `json:"options,omitempty"` // custom primitives
}

// Rerun is a re-execution rule: if an invocation of Source has not put an object
// into the trigger's bucket Timeout after it was fired, it is run again, at most
// Max times; then the session fails. These are the re-execution rules of
// "Following the Data, Not the Function" (NSDI '23).
type Rerun struct {
	Source  FunctionName  `json:"source"`
	Timeout time.Duration `json:"timeout"`
	Max     int           `json:"max"`
}

// GroupBy says which group an object of a dynamic_group belongs to: the part of
// its key before the first Prefix delimiter (the whole key if there is none), or
// the value of its metadata field Meta. Exactly one is set.
type GroupBy struct {
	Prefix string `json:"prefix,omitempty"`
	Meta   string `json:"meta,omitempty"`
}

// Until says when the stage of a dynamic_group is complete: once all control
// Keys have come (they belong to no group), or once all invocations of
// Functions in the session are done. Exactly one is set.
type Until struct {
	Keys      []Key          `json:"keys,omitempty"`
	Functions []FunctionName `json:"functions,omitempty"`
}

// Limits bounds what an app may use.
type Limits struct {
	MaxObjectBytes    int64 `json:"max_object_bytes"`    // default 256 MiB
	MaxPending        int   `json:"max_pending"`         // invocations of the app pending on one shard; default 1,000,000
	MaxSessionObjects int   `json:"max_session_objects"` // default 1,000,000
}

type (
	// Runtime says what runs a function.
	Runtime string
	// Durability says what a bucket's objects survive.
	Durability string
	// Emit says when the objects of an attempt become visible.
	Emit string
	// Primitive names a trigger's rule.
	Primitive string
	// Scope says whether a trigger counts per session or across the bucket.
	Scope string
	// On says what a trigger counts.
	On string
)

const (
	RuntimeProcess  Runtime = "process"
	RuntimeInproc   Runtime = "inproc"
	RuntimeWasm     Runtime = "wasm"
	RuntimeEndpoint Runtime = "endpoint" // refused at apply until it is there

	Durable   Durability = "durable"
	Pipelined Durability = "pipelined"
	Ephemeral Durability = "ephemeral"

	EmitStream Emit = "stream"
	EmitAtomic Emit = "atomic"

	Immediate    Primitive = "immediate"
	ByName       Primitive = "by_name"
	BySet        Primitive = "by_set"
	ByBatchSize  Primitive = "by_batch_size"
	ByTime       Primitive = "by_time"
	Redundant    Primitive = "redundant"
	DynamicJoin  Primitive = "dynamic_join"
	DynamicGroup Primitive = "dynamic_group"

	ScopeSession Scope = "session"
	ScopeBucket  Scope = "bucket"

	OnPut    On = "put"
	OnDelete On = "delete"
)

// Inbox is the bucket that every function has: an object put there fires it.
func Inbox(f FunctionName) BucketName { return BucketName("@" + string(f)) }

// OutputBucket holds what functions hand to Output: results with no other home.
const OutputBucket BucketName = "@"

// FunctionOfInbox returns the function whose inbox b is.
func FunctionOfInbox(b BucketName) (FunctionName, bool) {
	if len(b) > 1 && b[0] == '@' {
		return FunctionName(b[1:]), true
	}
	return "", false
}

// Bucket returns the declared or implied bucket named b. A function's inbox is
// implied, with one immediate trigger named "inbox"; so is the output bucket.
func (a *App) Bucket(b BucketName) (*Bucket, bool) {
	if d, ok := a.Buckets[b]; ok {
		return d, true
	}
	if b == OutputBucket {
		return &Bucket{Name: b, Durability: a.Durability}, true
	}
	if f, ok := FunctionOfInbox(b); ok && a.Functions[f] != nil {
		return &Bucket{Name: b, Durability: a.Durability, Triggers: []*Trigger{{
			Name: "inbox", Primitive: Immediate, Target: []FunctionName{f}, Scope: ScopeSession, On: OnPut,
		}}}, true
	}
	return nil, false
}
