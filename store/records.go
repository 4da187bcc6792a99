package store

import (
	"math"

	"github.com/pheromone-run/pheromone/spec"
)

// Micros is a point in time in microseconds since 1970, UTC; 0 is "none".
type Micros int64

// Object is the record of an object: what is known of it and its bytes, or where
// they are. Exactly one of Inline and Blob holds the bytes; an empty object has
// neither.
type Object struct {
	Revision    spec.Revision
	Created     Micros
	Expires     Micros         // key-value objects with a time to live
	Deliver     Micros         // objects that are counted only from then on; 0 once they are
	Producer    uint64         // number of the invocation that put it; 0 if it came from outside
	Session     spec.SessionID // of a key-value object: the session its put drove; of a held object: its session
	Key         spec.Key       // of a held object only: its key
	Size        int64          // of the bytes as they were put
	ContentType string
	Meta        map[string]string
	Output      bool
	Inline      []byte
	Blob        *Blob
	// Deleted says that the object stands for the deletion of a key-value object: the
	// triggers with on: delete count it, and no others.
	Deleted bool
}

// Blob names the bytes of a large object, stored in chunks beside the records.
type Blob struct {
	ID     [16]byte
	Size   int64 // uncompressed
	Chunks uint32
	Codec  Codec
	CRC    uint32 // CRC-32C of the uncompressed bytes
	Sum    Sum    // what tells equal bytes from others
}

// Sum is the first half of the SHA-256 of the uncompressed bytes.
type Sum [16]byte

// Codec says how the chunks of a blob are compressed.
type Codec uint8

const (
	CodecNone Codec = iota
	CodecZstd
	CodecS2
)

// SessionState is where a session stands.
type SessionState uint8

const (
	SessionRunning SessionState = iota + 1
	SessionCompleted
	SessionFailed
	SessionCancelled
)

// Session is the record of a session.
type Session struct {
	AppVersion uint64
	State      SessionState
	Created    Micros
	Ended      Micros
	Purge      Micros // when it is to be deleted
	Origin     Origin

	Invocations uint64 // made so far; the next one has the next number
	Pending     uint64 // of them not ended
	Timers      uint64 // armed timers that keep the session running
	Mail        uint64 // messages to other shards not acknowledged yet
	Objects     uint64
	Outputs     uint64
	Blobs       uint64   // objects whose bytes are blobs
	Held        uint64   // held inputs of its invocations
	Machines    uint64   // trigger states it has or had
	Failure     *Failure // the first failure that nothing handled
	// Buckets lists the buckets that hold objects of the session, so that they are
	// found again when it is purged.
	Buckets []spec.BucketName
	// OutputBuckets lists those of them that hold outputs.
	OutputBuckets []spec.BucketName
	// Functions counts, for apps that need it (dynamic_group until functions),
	// the session's invocations by function.
	Functions []FunctionCount

	Deadline Micros  // when it fails if it has not ended; 0 for never
	Parent   *Parent // of a child session
	Children uint64  // sessions that its functions have started
	Awaited  uint64  // of them those that have not ended and whose result it waits for
}

// Parent is what a child session knows of the session that started it.
type Parent struct {
	Session spec.SessionID
	Awaited bool   // it waits for the child's result
	Depth   uint32 // 1 for the child of a session that is no child itself
}

// Child is what a session keeps of a session that one of its functions started.
type Child struct {
	Function spec.FunctionName
	Started  Micros
	Ended    Micros
	State    SessionState // as far as the parent knows
	Awaited  bool
	Bucket   spec.BucketName // where the result of an awaited child goes
	Key      spec.Key
	Producer uint64 // number of the invocation that started it
}

// FunctionCount counts the invocations of one function in a session, and names
// the functions whose invocations were seen to cause them.
type FunctionCount struct {
	Function spec.FunctionName
	Pending  uint64
	Total    uint64
	Parents  []spec.FunctionName
}

// Origin says what started a session.
type Origin struct {
	Kind     OriginKind
	Bucket   spec.BucketName
	Key      spec.Key
	Revision spec.Revision // of the key-value object
	Trigger  spec.TriggerName
	Session  spec.SessionID
}

// OriginKind is the kind of an Origin.
type OriginKind uint8

const (
	OriginPut OriginKind = iota + 1 // a key-value put
	OriginInvoke
	OriginTrigger // a firing of scope bucket
	OriginSession // a put into a session that was not there
	OriginRerun
	OriginChild  // started by a function of another session
	OriginDelete // the deletion of a key-value object
)

// InvocationState is where an invocation stands.
type InvocationState uint8

const (
	InvocationQueued   InvocationState = iota + 1 // waits for an executor or runs
	InvocationRetrying                            // waits for Next
	InvocationSucceeded
	InvocationFailed
	InvocationCancelled
)

// Invocation is the record of an invocation, pending or in the history.
type Invocation struct {
	Function    spec.FunctionName
	State       InvocationState
	Bucket      spec.BucketName // what fired it
	Trigger     spec.TriggerName
	Group       string
	Window      Micros
	Inputs      []InputRef
	Queued      Micros
	Ended       Micros
	Next        Micros // when the next attempt is due, while retrying
	Tries       uint32 // attempts that count against the function's max_attempts
	Lost        uint32 // attempts that ended with their node
	Attempts    []Attempt
	Joins       []uint64 // sequence numbers of the sets it has named
	Handled     bool     // failed, and its dead letter was put
	Traceparent string
	Expects     []Expect
}

// Expect is an object that a re-execution rule waits for.
type Expect struct {
	Bucket  spec.BucketName
	Trigger spec.TriggerName // whose rule it is
	Due     Micros           // when the invocation is run again; 0 once it has put an object
	Runs    uint32           // how often it has been run again
}

// InputRef names an object that an invocation gets.
type InputRef struct {
	Bucket   spec.BucketName
	Key      spec.Key
	Revision spec.Revision
	Producer uint64
	// Held says that the object is kept for the invocation itself, under its
	// position in Held's table, not as an object of the session: the inputs of a
	// firing of scope bucket, which come from many sessions.
	Held   bool
	Source spec.SessionID // of a held input: the session it comes from
}

// Attempt is one try of an invocation.
type Attempt struct {
	Number   uint32
	Started  Micros
	Ended    Micros
	Executor string
	Failure  *Failure
}

// Failure is why an attempt, an invocation or a session failed; see wire.FunctionError.
type Failure struct {
	Kind       string
	Message    string
	Detail     string
	Function   spec.FunctionName
	Invocation uint64
	Attempts   uint32
}

// TriggerState is the header of a trigger's machine, with its timer.
type TriggerState struct {
	Timer  Micros
	Header []byte
	// Primitive guards against a header being read by another primitive's machine
	// after the trigger was changed.
	Primitive spec.Primitive
	// Stalled is set while no machine can be made from Header: the items from this
	// position on have come since, and no machine has counted them. 0 for none.
	Stalled uint64
}

// Item is an object that a trigger's machine keeps.
type Item struct {
	Key   spec.Key
	Group string
	Time  Micros
}

// NamedSet is a set that was named for a dynamic_join across a bucket while its
// trigger was stalled, and waits among its items.
type NamedSet struct {
	Keys []spec.Key
	Time Micros
}

// Request remembers a request with an idempotency key.
type Request struct {
	Session     spec.SessionID
	Bucket      spec.BucketName
	Key         spec.Key
	Revision    spec.Revision
	Expires     Micros
	Fingerprint uint64 // of what was asked, so that the key can't be used for something else
}

// TimerKind says what a timer is for.
type TimerKind uint8

const (
	TimerRetry    TimerKind = iota + 1 // Session, Number: an invocation's next attempt
	TimerTrigger                       // Session ("" for scope bucket), Bucket, Trigger
	TimerPurge                         // Session
	TimerExpire                        // Bucket, Key, Revision: a key-value object's time to live
	TimerDeliver                       // Session, Bucket, Key: a delayed object
	TimerRequest                       // Key: an idempotency key
	TimerRerun                         // Session, Number, Bucket, Trigger: a re-execution rule
	TimerDeadline                      // Session: its deadline
	TimerFollow                        // Session: what is to be done for others once it has ended
	TimerSweep                         // Bucket, Trigger, Number: held objects up to a position that nobody needs
)

// Timer is the subject of a timer; the time itself stands in its key.
type Timer struct {
	Kind    TimerKind
	App     spec.AppName
	Session spec.SessionID
	Bucket  spec.BucketName
	Trigger spec.TriggerName
	Key     spec.Key
	Number  uint64
}

// Event is an entry of a shard's change log, which watches read.
type Event struct {
	Kind   EventKind
	App    spec.AppName
	Bucket spec.BucketName
	Key    spec.Key
	Object Object // without bytes above 4 KiB; of a delete: the object that was
}

// EventKind is the kind of an Event.
type EventKind uint8

const (
	EventPut EventKind = iota + 1
	EventDelete
	EventExpire
	EventDropped // the app was deleted, with all changes of it before this one
)

// Mail is a message to another shard.
type Mail struct {
	Kind    MailKind
	Slot    spec.Slot // the receiver owns this slot
	App     spec.AppName
	Bucket  spec.BucketName
	Trigger spec.TriggerName
	Session spec.SessionID // the sender
	Object  Object         // with Key set
	Keys    []spec.Key     // of a set

	To       spec.SessionID // of a child's messages: the session it is for
	State    SessionState   // MailEnd: how the child ended
	Deadline Micros         // MailStart: of the child
	Parent   *Parent        // MailStart

	Incarnation uint64 // of the app at the sender
}

// AnyIncarnation is that of messages from before it was told.
const AnyIncarnation = math.MaxUint64

// MailKind says what a message is about.
type MailKind uint8

const (
	MailObject MailKind = iota + 1 // Bucket, Trigger, Object: an object for a trigger of scope bucket
	MailSet                        // Bucket, Trigger, Keys: a set was named for one
	MailStart                      // To, Bucket, Object, Parent: start a child session
	MailEnd                        // To, Session, Object, State: a child session has ended
	MailCancel                     // To: cancel a child session
)

// ShardMeta is the state machine's own record, written with every batch.
type ShardMeta struct {
	Applied uint64 // index of the last entry applied
	Epoch   uint64
	Seq     uint64 // of the last batch applied in Epoch
}

// Counters is the leader's own record: what it counts up over the shard's life.
type Counters struct {
	Revision  spec.Revision // of the last object stored
	Mail      uint64        // sequence number of the last message put into the outbox
	Compacted spec.Revision // events up to this one are gone
}
