package api

import (
	"context"
	"io"
	"time"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
)

// Backend is the node as the API sees it. Errors are *spec.Error; anything else
// is an internal error, logged and answered without its text.
type Backend interface {
	Apps
	Objects
	Sessions
	Status
	Members
}

// Apps deploys.
type Apps interface {
	// Apply validates and applies a manifest. Name is the app in the request's
	// path, which the manifest must agree with. A bad manifest is an Error with
	// CodeBadManifest and Faults.
	Apply(ctx context.Context, name spec.AppName, manifest []byte, o ApplyOptions) (wire.ApplyResult, error)
	ListApps(ctx context.Context) ([]wire.App, error)
	GetApp(ctx context.Context, app spec.AppName, version uint64) (wire.App, error) // 0: the newest
	AppVersions(ctx context.Context, app spec.AppName) ([]wire.App, error)          // newest first
	Rollback(ctx context.Context, app spec.AppName, version uint64, idempotencyKey string) (wire.ApplyResult, error)
	DeleteApp(ctx context.Context, app spec.AppName) error
	// PutArtifact stores what body holds if its SHA-256 is sum (hex). It answers
	// whether it was there already.
	PutArtifact(ctx context.Context, app spec.AppName, sum string, body io.Reader) (existed bool, err error)
	HasArtifact(ctx context.Context, app spec.AppName, sum string) (bool, error)
}

// ApplyOptions goes with a manifest.
type ApplyOptions struct {
	DryRun   bool
	Artifact string // SHA-256 of an uploaded folder, for process functions
	// IdempotencyKey, if there is one, has what is applied again under it answered as
	// it was the first time.
	IdempotencyKey string
}

// Objects puts, gets, lists and watches.
type Objects interface {
	// Put puts a key-value object (Session empty) or an object into a session.
	Put(ctx context.Context, p Put) (wire.PutResult, error)
	// Get opens an object. The caller closes Body.
	Get(ctx context.Context, g Get) (Object, error)
	Delete(ctx context.Context, d Delete) (wire.PutResult, error)
	// List lists the key-value objects of a bucket, or with Session its objects
	// there, in key order.
	List(ctx context.Context, l List) (wire.ObjectList, error)
	// Watch calls emit for every event after from ("": from now on) until ctx ends
	// or emit fails. The first call may come with a zero event that only carries
	// the position. CodeGone, with a Hint that holds the position to restart from,
	// says that from is compacted.
	Watch(ctx context.Context, w Watch, emit func(wire.WatchEvent) error) error
}

// Put is a request to put an object.
type Put struct {
	App            spec.AppName
	Session        spec.SessionID // empty: a key-value object
	Bucket         spec.BucketName
	Key            spec.Key
	Body           io.Reader // read to its end; bounded by the app's limit
	Size           int64     // of Body if known, -1 if not
	ContentType    string
	Meta           map[string]string
	TTL            time.Duration // key-value objects only; 0: none
	DeliverAfter   time.Duration
	SessionTimeout time.Duration  // of the session that the put starts; 0: the app's
	IfRevision     *spec.Revision // If-Match; 0 asks that it is not there (If-None-Match: *)
	IfExists       bool           // If-Match: *
	IdempotencyKey string
	Traceparent    string
}

// Get is a request to read an object.
type Get struct {
	App      spec.AppName
	Session  spec.SessionID // empty: a key-value object
	Bucket   spec.BucketName
	Key      spec.Key
	Stale    bool // need not be the newest
	HeadOnly bool
}

// Object is an object on its way out.
type Object struct {
	wire.Object
	Body io.ReadCloser // nil for HeadOnly
}

// Delete is a request to delete a key-value object.
type Delete struct {
	App            spec.AppName
	Bucket         spec.BucketName
	Key            spec.Key
	IfRevision     *spec.Revision
	IdempotencyKey string
	Traceparent    string
}

// List is a request for a page of objects.
type List struct {
	App     spec.AppName
	Session spec.SessionID
	Bucket  spec.BucketName
	Prefix  string
	After   string
	Limit   int // 1 to 1000
}

// Watch is a request to follow a bucket's key-value objects.
type Watch struct {
	App    spec.AppName
	Bucket spec.BucketName
	Prefix string
	From   string
}

// Sessions runs workflows.
type Sessions interface {
	// Invoke puts body into the function's inbox and so starts a session. With
	// Session set it puts into that session.
	Invoke(ctx context.Context, i Invoke) (wire.PutResult, error)
	ListSessions(ctx context.Context, l ListSessions) (wire.SessionList, error)
	GetSession(ctx context.Context, app spec.AppName, session spec.SessionID) (wire.Session, error)
	// Result waits at most wait for the session's end (or, with untilOutput, its
	// first output) and answers what is there then, with Status running if it has not ended.
	Result(ctx context.Context, app spec.AppName, session spec.SessionID, wait time.Duration, untilOutput bool) (wire.Result, error)
	History(ctx context.Context, app spec.AppName, session spec.SessionID, after string, limit int) (wire.History, error)
	Cancel(ctx context.Context, app spec.AppName, session spec.SessionID) (wire.Session, error)
	// Rerun starts a new session from the object that started this one, or from
	// the stored object from ("bucket/key").
	Rerun(ctx context.Context, app spec.AppName, session spec.SessionID, from string) (wire.PutResult, error)
	Purge(ctx context.Context, app spec.AppName, session spec.SessionID) error
	// Logs calls emit for what the app's functions printed, oldest first; with
	// follow it goes on until ctx ends.
	Logs(ctx context.Context, app spec.AppName, function spec.FunctionName, tail int, follow bool, emit func(wire.LogLine) error) error
}

// Invoke is a request to run a function.
type Invoke struct {
	App            spec.AppName
	Function       spec.FunctionName
	Body           io.Reader
	Size           int64 // -1 if not known
	ContentType    string
	Meta           map[string]string
	SessionTimeout time.Duration // of the session that it starts; 0: the app's
	IdempotencyKey string
	Traceparent    string
}

// ListSessions is a request for a page of sessions, newest first.
type ListSessions struct {
	App      spec.AppName
	Status   wire.SessionStatus // empty: any
	Function spec.FunctionName  // empty: any; else sessions that function ran in
	After    string
	Limit    int // 1 to 1000
}

// Status tells of the node.
type Status interface {
	Ready() error // nil when every shard led here takes commands
	Cluster(ctx context.Context) (wire.Cluster, error)
	// ShardHash hashes what this node's replica of a shard holds.
	ShardHash(ctx context.Context, shard spec.ShardID) (wire.ShardHash, error)
}

// Members changes who belongs to the cluster. All but the first two answer once the
// cluster has agreed.
type Members interface {
	// InitCluster founds a cluster of the nodes that are there.
	InitCluster(ctx context.Context, voters []string) error
	// JoinCluster has a node that belongs to no cluster join that of the node at an
	// address.
	JoinCluster(ctx context.Context, address string) error
	// DrainNode says whether a node is to be rid of its replicas.
	DrainNode(ctx context.Context, node string, drain bool) error
	// RemoveNode makes a node a member no more. It is refused while the node has
	// replicas, unless it is forced.
	RemoveNode(ctx context.Context, node string, force bool) error
	// Rebalance asks for replicas and leaders to be spread evenly.
	Rebalance(ctx context.Context) error
}
