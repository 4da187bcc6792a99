// Package wire holds the messages of the HTTP API (version 1), shared by the
// server, the Go client and the command line. Times are RFC 3339 with
// microseconds, in UTC; durations are text such as "1h30m".
//
// It imports spec alone.
package wire

import (
	"encoding/json"
	"time"

	"github.com/pheromone-run/pheromone/spec"
)

// Headers of objects and sessions.
const (
	HeaderSession        = "Pheromone-Session"
	HeaderRevision       = "Pheromone-Revision"
	HeaderAge            = "Pheromone-Age"   // of what ?stale=1 read, in milliseconds
	HeaderMetaPrefix     = "Pheromone-Meta-" // object metadata, one header a field
	HeaderProducer       = "Pheromone-Producer"
	HeaderDeleted        = "Pheromone-Deleted" // "1" for an object that stands for a deletion
	HeaderCreated        = "Pheromone-Created"
	HeaderDeliverAfter   = "Pheromone-Deliver-After"
	HeaderIdempotencyKey = "Idempotency-Key"
	HeaderRequestID      = "Pheromone-Request-Id" // of every answer; the node's log names it
	HeaderBucket         = "Pheromone-Bucket"     // of the parts of a multipart result
	HeaderKey            = "Pheromone-Key"        // of the parts of a multipart result, percent-encoded
)

// ErrorBody is the JSON body of every answer that is not a success.
type ErrorBody struct {
	Error Error `json:"error"`
}

// Error says what was wrong. Faults is set for a bad manifest.
type Error struct {
	Code    spec.Code    `json:"code"`
	Message string       `json:"message"`
	Field   string       `json:"field,omitempty"`
	Hint    string       `json:"hint,omitempty"`
	Faults  []spec.Fault `json:"faults,omitempty"`
	// Session is set when the error leaves a session behind: one that goes on,
	// failed or was cancelled.
	Session spec.SessionID `json:"session,omitempty"`
	// Cause is why the session failed.
	Cause *FunctionError `json:"cause,omitempty"`
}

// ApplyResult tells what applying a manifest changed.
type ApplyResult struct {
	App      spec.AppName `json:"app"`
	Version  uint64       `json:"version"` // unchanged if nothing differs
	DryRun   bool         `json:"dry_run,omitempty"`
	Changes  []Change     `json:"changes"`
	Warnings []spec.Fault `json:"warnings,omitempty"`
}

// Change is one difference between two versions of an app.
type Change = spec.Change

// App is a deployed app.
type App struct {
	Name      spec.AppName    `json:"app"`
	Version   uint64          `json:"version"`
	AppliedAt time.Time       `json:"applied_at"`
	Artifact  string          `json:"artifact,omitempty"`
	Spec      json.RawMessage `json:"spec,omitempty"`     // the manifest with every default filled in
	Manifest  string          `json:"manifest,omitempty"` // as it was applied
}

// AppList answers GET /v1/apps and …/versions.
type AppList struct {
	Items []App  `json:"items"`
	Next  string `json:"next,omitempty"`
}

// Object describes an object; Data is there only where an answer says so.
type Object struct {
	Bucket      spec.BucketName   `json:"bucket"`
	Key         spec.Key          `json:"key"`
	Session     spec.SessionID    `json:"session,omitempty"` // empty for a key-value object
	Revision    spec.Revision     `json:"revision"`
	Size        int64             `json:"size"`
	ContentType string            `json:"content_type,omitempty"`
	Meta        map[string]string `json:"meta,omitempty"`
	Producer    string            `json:"producer,omitempty"` // invocation id; empty if it came from outside
	CreatedAt   time.Time         `json:"created_at"`
	ExpiresAt   time.Time         `json:"expires_at,omitzero"`
	Output      bool              `json:"output,omitempty"`
	// Deleted says that the object, of a session, stands for the deletion of the
	// key-value object whose bytes it has.
	Deleted bool `json:"deleted,omitempty"`
	// Age is how many milliseconds ago the replica that a stale read asked was known
	// to have everything: what was acknowledged before is in it.
	Age  *int64 `json:"age,omitempty"`
	Data []byte `json:"data,omitempty"`
}

// ObjectList is a page of objects in key order.
type ObjectList struct {
	Items []Object `json:"items"`
	Next  string   `json:"next,omitempty"` // pass as after= for the next page
}

// PutResult answers the put of an object.
type PutResult struct {
	Bucket   spec.BucketName `json:"bucket"`
	Key      spec.Key        `json:"key"`
	Revision spec.Revision   `json:"revision"`
	Session  spec.SessionID  `json:"session"` // the session that the put drives or belongs to
	// Existed says that the same object was there before: nothing was done.
	Existed bool `json:"existed,omitempty"`
}

// WatchEvent is one event of a bucket's watch. The SSE "id" of an event is an
// opaque position to watch on from.
type WatchEvent struct {
	Type     string `json:"type"` // put, delete, expire
	Object   Object `json:"object"`
	Position string `json:"position"`
}

// SessionStatus says where a session stands.
type SessionStatus string

const (
	SessionRunning   SessionStatus = "running"
	SessionCompleted SessionStatus = "completed"
	SessionFailed    SessionStatus = "failed"
	SessionCancelled SessionStatus = "cancelled"
)

// Session is one run of a workflow.
type Session struct {
	Session            spec.SessionID `json:"session"`
	App                spec.AppName   `json:"app"`
	AppVersion         uint64         `json:"app_version"`
	Status             SessionStatus  `json:"status"`
	Origin             Origin         `json:"origin"`
	CreatedAt          time.Time      `json:"created_at"`
	EndedAt            time.Time      `json:"ended_at,omitzero"`
	ExpiresAt          time.Time      `json:"expires_at,omitzero"` // when it is purged
	Invocations        int            `json:"invocations"`
	PendingInvocations int            `json:"pending_invocations"`
	Objects            int            `json:"objects"`
	Error              *FunctionError `json:"error,omitempty"`
	// DeadlineAt is when the session fails if it has not ended.
	DeadlineAt time.Time `json:"deadline_at,omitzero"`
	// Children counts the sessions that functions of this one have started, Awaited
	// those of them that it waits for.
	Children int `json:"children,omitempty"`
	Awaited  int `json:"awaited,omitempty"`
	// Waiting tells, for each armed trigger, what has come and what has not.
	Waiting []Waiting `json:"waiting,omitempty"`
}

// Child is a session that a function of another one has started.
type Child struct {
	Session    spec.SessionID    `json:"session"`
	Function   spec.FunctionName `json:"function"`
	Invocation string            `json:"invocation"` // that started it
	Status     SessionStatus     `json:"status"`     // running also for one that is not awaited: its end is not told
	Awaited    bool              `json:"awaited,omitempty"`
	Bucket     spec.BucketName   `json:"bucket,omitempty"` // where the result of an awaited one goes
	Key        spec.Key          `json:"key,omitempty"`
	StartedAt  time.Time         `json:"started_at"`
	EndedAt    time.Time         `json:"ended_at,omitzero"`
}

// Origin says what started a session.
type Origin struct {
	Kind    string           `json:"kind"` // put, delete, invoke, trigger, session, child, rerun
	Bucket  spec.BucketName  `json:"bucket,omitempty"`
	Key     spec.Key         `json:"key,omitempty"`
	Trigger spec.TriggerName `json:"trigger,omitempty"`
	Session spec.SessionID   `json:"session,omitempty"` // of a rerun: the session it repeats; of a child: its parent
}

// Waiting is what an armed trigger still waits for.
type Waiting struct {
	Bucket    spec.BucketName  `json:"bucket"`
	Trigger   spec.TriggerName `json:"trigger"`
	Primitive spec.Primitive   `json:"primitive"`
	Have      int              `json:"have"`              // objects counted and not yet fired
	Need      int              `json:"need,omitempty"`    // objects still missing, if that is known
	Missing   []spec.Key       `json:"missing,omitempty"` // at most 100 of them
	Deadline  time.Time        `json:"deadline,omitzero"` // when it fires by timer
	// Stalled says why the trigger's state can't be read; what it has counted stays.
	Stalled string `json:"stalled,omitempty"`
}

// SessionList is a page of sessions, newest first.
type SessionList struct {
	Items []Session `json:"items"`
	Next  string    `json:"next,omitempty"`
}

// FunctionError is why an attempt or a session failed, for the function's author.
type FunctionError struct {
	// Kind is failed (the function said so), permanent (it said not to retry),
	// timeout, crashed (its process ended), lost (its node ended), conflict
	// (it put other bytes under a key that is taken), start (its process could not
	// be started), refused (it broke a limit or the protocol), cancelled,
	// condition (the trigger's condition could not be evaluated: nothing was run), or
	// trigger (a trigger of the session can't go on: its state can't be read, or its
	// primitive is not known or at fault).
	Kind       string            `json:"kind"`
	Message    string            `json:"message"`
	Detail     string            `json:"detail,omitempty"` // stack or last output, bounded
	Function   spec.FunctionName `json:"function,omitempty"`
	Invocation string            `json:"invocation,omitempty"`
	Attempts   int               `json:"attempts,omitempty"`
}

// Result is what a session came to.
type Result struct {
	Session spec.SessionID `json:"session"`
	Status  SessionStatus  `json:"status"`
	Outputs []Output       `json:"outputs"`
	Error   *FunctionError `json:"error,omitempty"`
}

// Output is an object that a function marked as output.
type Output struct {
	Bucket      spec.BucketName `json:"bucket"`
	Key         spec.Key        `json:"key"`
	ContentType string          `json:"content_type"`
	Size        int64           `json:"size"`
	Data        []byte          `json:"data"`
}

// History tells how a session ran, invocations in the order they were queued.
type History struct {
	Session     Session      `json:"session"`
	Invocations []Invocation `json:"invocations"`
	Children    []Child      `json:"children,omitempty"` // on the first page: at most 100 of the child sessions
	Next        string       `json:"next,omitempty"`
}

// Invocation is one function run that a firing or a client asked for.
type Invocation struct {
	ID         string            `json:"id"`
	Function   spec.FunctionName `json:"function"`
	State      string            `json:"state"`  // queued, running, retrying, succeeded, failed, cancelled
	Bucket     spec.BucketName   `json:"bucket"` // the bucket and trigger that fired it
	Trigger    spec.TriggerName  `json:"trigger"`
	Inputs     []Input           `json:"inputs"` // the objects that made it fire; at most 100 here
	InputCount int               `json:"input_count"`
	QueuedAt   time.Time         `json:"queued_at"`
	EndedAt    time.Time         `json:"ended_at,omitzero"`
	NextAt     time.Time         `json:"next_attempt_at,omitzero"`
	Attempts   []Attempt         `json:"attempts"` // the last 20
}

// Input names an object that an invocation got.
type Input struct {
	Key      spec.Key      `json:"key"`
	Revision spec.Revision `json:"revision"`
	Producer string        `json:"producer,omitempty"`
}

// Attempt is one try of an invocation.
type Attempt struct {
	Number    int            `json:"number"`
	StartedAt time.Time      `json:"started_at"`
	EndedAt   time.Time      `json:"ended_at,omitzero"`
	Executor  string         `json:"executor,omitempty"`
	Error     *FunctionError `json:"error,omitempty"`
}

// LogLine is one line that a function printed or logged.
type LogLine struct {
	Time       time.Time         `json:"time"`
	App        spec.AppName      `json:"app"`
	Function   spec.FunctionName `json:"function,omitempty"` // empty if several share the process and it is not known
	Invocation string            `json:"invocation,omitempty"`
	Attempt    int               `json:"attempt,omitempty"`
	Stream     string            `json:"stream"` // stdout, stderr, log
	Text       string            `json:"text"`
}

// Version answers GET /v1/version.
type Version struct {
	Version string `json:"version"`
	API     string `json:"api"`
	Go      string `json:"go"`
}

// Artifact answers the upload of an artifact.
type Artifact struct {
	SHA256  string `json:"sha256"`
	Existed bool   `json:"existed,omitempty"`
}

// StalledTrigger is a trigger of scope bucket that can't go on: its primitive is
// not known, its state can't be read, or its machine is at fault. What comes for it
// is kept.
type StalledTrigger struct {
	App       spec.AppName     `json:"app"`
	Bucket    spec.BucketName  `json:"bucket"`
	Trigger   spec.TriggerName `json:"trigger"`
	Primitive spec.Primitive   `json:"primitive"`
	Reason    string           `json:"reason"`
}
