package fn

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync/atomic"
	"time"

	"github.com/pheromone-run/pheromone/client/fn/protocol"
)

// Object is an object passed to a function or read by it. Its bytes must not be
// changed.
type Object struct {
	Bucket      string
	Key         string
	Session     string
	ContentType string
	Meta        map[string]string
	Deleted     bool // it stands for the deletion of a key-value object, with the bytes that this had
	data        []byte
	lent        *lent // what data is lent with; nil: it stays
}

// The names and bounds of package spec that functions meet. They stand here once
// more so that a function's program carries nothing of the manifest's language.
const (
	outputBucket = "@"
	maxKeyBytes  = 1024
	maxNameBytes = 63

	maxContentTypeBytes = 256
	maxMetaFields       = 64
	maxMetaBytes        = 16 << 10 // of all names and values of an object together

	minSessionTimeout = time.Millisecond
	maxSessionTimeout = 365 * 24 * time.Hour
)

// NewObject makes an object of data, for those who run attempts and for tests.
func NewObject(bucket, key, session string, data []byte) Object {
	return Object{Bucket: bucket, Key: key, Session: session, data: data}
}

// Bytes returns the object's data. It stays as long as anything refers to it: of a
// large object the first call makes a copy, which the next ones return as well.
//
// The first call has to come before the handler returns; after that it panics for a
// large object.
func (o Object) Bytes() []byte {
	if o.lent == nil {
		return o.data
	}
	return o.lent.kept(o.data)
}

// View returns the object's data where it is, without a copy. It is valid until the
// handler returns: then the memory of a large object is used for another one. That
// memory can't be written to, and an attempt that tries fails.
func (o Object) View() []byte { return o.data }

// Size is the length of the object's data.
func (o Object) Size() int64 { return int64(len(o.data)) }

// Invocation describes what an attempt is for.
type Invocation struct {
	ID       string // "session.number", the same on every attempt
	Function string
	Session  string
	Attempt  int    // from 1
	Bucket   string // the bucket and trigger that fired
	Trigger  string
	Group    string    // of a dynamic_group
	Window   time.Time // of a by_time
	// Traceparent is the W3C trace context of the invocation; empty if it has none.
	Traceparent    string
	MaxObjectBytes int64
}

// Emission is one thing that a function puts, sends, names or starts.
type Emission struct {
	Bucket       string
	Key          string // empty: the platform makes one up
	Data         []byte
	ContentType  string
	Meta         map[string]string
	Output       bool
	DeliverAfter time.Duration

	JoinTrigger string // set: JoinKeys is the set of this dynamic_join on Bucket
	JoinKeys    []string

	StartFunction string        // set: the object is the input of a child session of this function
	StartTimeout  time.Duration // of the child session; 0: the app's

	place *place // where Data is in the memory shared with the node; nil if it is not
}

// Transport carries what an attempt emits to whoever runs it. Its methods may be
// called from several goroutines.
type Transport interface {
	// Emit takes e; its Data stays the caller's.
	Emit(e Emission) error
	// EmitOwned is Emit for Data that nobody will change.
	EmitOwned(e Emission) error
	Get(ctx context.Context, bucket, key string) (Object, error)
	Log(text string)
}

// creator is a Transport with memory of its own for large objects.
type creator interface {
	// create returns memory of size zero bytes, nil if there is no room.
	create(size int) ([]byte, *place)
}

// Context is an attempt's view of the platform. Its methods may be called from
// several goroutines, until the handler returns.
type Context struct {
	ctx       context.Context
	inv       Invocation
	transport Transport
	ended     atomic.Bool
}

// NewContext makes the Context of an attempt, for those who run attempts. ctx
// carries the attempt's deadline and is cancelled when it is to stop.
func NewContext(ctx context.Context, inv Invocation, t Transport) *Context {
	return &Context{ctx: ctx, inv: inv, transport: t}
}

func (c *Context) end() { c.ended.Store(true) }

// ErrEnded is returned by the methods of a Context whose handler has returned.
var ErrEnded = errors.New("the attempt has ended: its handler returned")

// ErrNotFound is what Get returns, wrapped, for an object that is not there.
var ErrNotFound = errors.New("object not found")

// RefusedError says that a limit or a rule was broken by what the function
// emitted. A handler that returns it fails its attempt as refused.
type RefusedError struct{ Message string }

func (e *RefusedError) Error() string { return e.Message }

// Context returns the context.Context of the attempt, for calls that take one.
func (c *Context) Context() context.Context { return c.ctx }

// Invocation returns the id of the invocation: the same on every attempt, so
// that it serves as an idempotency key for effects outside the platform.
func (c *Context) Invocation() string { return c.inv.ID }

// Info returns all that is known of the invocation.
func (c *Context) Info() Invocation { return c.inv }

// Session returns the session that the attempt belongs to.
func (c *Context) Session() string { return c.inv.Session }

// Attempt returns the number of the attempt, from 1.
func (c *Context) Attempt() int { return c.inv.Attempt }

// Deadline returns the time at which the attempt is given up.
func (c *Context) Deadline() time.Time {
	t, _ := c.ctx.Deadline()
	return t
}

// Cancelled tells whether the attempt is to stop: its result counts no more.
func (c *Context) Cancelled() bool {
	if p, ok := c.transport.(interface{ Poll() }); ok {
		p.Poll()
	}
	return c.ctx.Err() != nil
}

// Put puts an object into the session. The same key again with the same data
// does nothing; with other data it fails the attempt.
func (c *Context) Put(bucket, key string, data []byte, opts ...Option) error {
	if err := checkKey(key); err != nil {
		return err
	}
	return c.emit(Emission{Bucket: bucket, Key: key, Data: data}, opts)
}

// PutNew puts an object under a key that the platform makes up: another one for
// each call, and the same one on each attempt.
func (c *Context) PutNew(bucket string, data []byte, opts ...Option) error {
	return c.emit(Emission{Bucket: bucket, Data: data}, opts)
}

// Send puts an object into the inbox of another function, which runs it.
func (c *Context) Send(function string, data []byte, opts ...Option) error {
	return c.emit(Emission{Bucket: "@" + function, Data: data}, opts)
}

// Output makes data an output of the session, outside of any declared bucket.
func (c *Context) Output(data []byte, opts ...Option) error {
	return c.emit(Emission{Bucket: outputBucket, Data: data, Output: true}, opts)
}

// Join names the set of keys that the dynamic_join trigger on bucket waits for.
func (c *Context) Join(bucket, trigger string, keys ...string) error {
	if trigger == "" {
		return &RefusedError{"join needs the name of a dynamic_join trigger"}
	}
	size := 0
	for _, key := range keys {
		if err := checkKey(key); err != nil {
			return err
		}
		size += 4 + len(key)
	}
	if size > protocol.MaxFieldBytes-1024 {
		return &RefusedError{fmt.Sprintf("join with %d keys of %d bytes together, at most %d bytes fit", len(keys), size, protocol.MaxFieldBytes-1024)}
	}
	return c.emit(Emission{Bucket: bucket, JoinTrigger: trigger, JoinKeys: keys}, nil)
}

// Get reads an object of the session, or an error that wraps ErrNotFound. It
// sees what this attempt has put before, but for a function with emit: atomic, whose
// objects are there only once it has succeeded.
func (c *Context) Get(bucket, key string) (Object, error) {
	if c.ended.Load() {
		return Object{}, ErrEnded
	}
	if err := checkKey(key); err != nil {
		return Object{}, err
	}
	if err := checkBucket(bucket); err != nil {
		return Object{}, err
	}
	return c.transport.Get(c.ctx, bucket, key)
}

// Create returns a buffer of size zero bytes, to be filled in place and committed
// before the handler returns. A large one is in memory that the node reads: nothing
// is copied on the way to it.
func (c *Context) Create(bucket, key string, size int, opts ...Option) (*Buffer, error) {
	if err := checkKey(key); err != nil {
		return nil, err
	}
	if size < 0 || c.inv.MaxObjectBytes > 0 && int64(size) > c.inv.MaxObjectBytes {
		return nil, c.tooLarge(int64(size), bucket, key)
	}
	e := Emission{Bucket: bucket, Key: key}
	if t, ok := c.transport.(creator); ok && !c.ended.Load() {
		e.Data, e.place = t.create(size)
	}
	if e.Data == nil {
		e.Data = make([]byte, size)
	}
	return &Buffer{ctx: c, emission: e, opts: opts}, nil
}

// Log writes a line to the function's log.
func (c *Context) Log(text string) {
	if !c.ended.Load() {
		c.transport.Log(text)
	}
}

// Logf writes a formatted line to the function's log.
func (c *Context) Logf(format string, args ...any) { c.Log(fmt.Sprintf(format, args...)) }

// Buffer is an object that is being written in place.
type Buffer struct {
	ctx       *Context
	emission  Emission
	opts      []Option
	committed bool
}

// Bytes returns the memory to fill. It must not be touched after Commit.
func (b *Buffer) Bytes() []byte { return b.emission.Data }

// Commit puts the object.
func (b *Buffer) Commit() error {
	if b.committed {
		return errors.New("the buffer is committed already")
	}
	b.committed = true
	return b.ctx.send(b.emission, b.opts, b.ctx.transport.EmitOwned)
}

func (c *Context) emit(e Emission, opts []Option) error {
	return c.send(e, opts, c.transport.Emit)
}

func (c *Context) send(e Emission, opts []Option, emit func(Emission) error) error {
	if c.ended.Load() {
		return ErrEnded
	}
	for _, opt := range opts {
		opt(&e)
	}
	if size := int64(len(e.Data)); c.inv.MaxObjectBytes > 0 && size > c.inv.MaxObjectBytes {
		if e.StartFunction != "" {
			return &RefusedError{fmt.Sprintf("the input of a child session of function %q has %d bytes, at most %d are allowed", e.StartFunction, size, c.inv.MaxObjectBytes)}
		}
		return c.tooLarge(size, e.Bucket, e.Key)
	}
	if e.StartFunction == "" || e.Bucket != "" { // the bucket of a start may be left out
		if err := checkBucket(e.Bucket); err != nil {
			return err
		}
	}
	if len(e.ContentType) > maxContentTypeBytes {
		return &RefusedError{fmt.Sprintf("a content type has at most %d bytes, this one has %d", maxContentTypeBytes, len(e.ContentType))}
	}
	if len(e.Meta) > maxMetaFields {
		return &RefusedError{fmt.Sprintf("%d metadata fields, at most %d are allowed: put them into the object", len(e.Meta), maxMetaFields)}
	}
	meta := 0
	for name, value := range e.Meta {
		meta += len(name) + len(value)
	}
	if meta > maxMetaBytes {
		return &RefusedError{fmt.Sprintf("metadata of %d bytes, at most %d are allowed: put it into the object", meta, maxMetaBytes)}
	}
	return emit(e)
}

func (c *Context) tooLarge(size int64, bucket, key string) error {
	return &RefusedError{fmt.Sprintf("object %q for bucket %q has %d bytes, at most %d are allowed", key, bucket, size, c.inv.MaxObjectBytes)}
}

func checkKey(key string) error {
	if key == "" || len(key) > maxKeyBytes {
		return &RefusedError{fmt.Sprintf("a key has 1 to %d bytes, this one has %d", maxKeyBytes, len(key))}
	}
	return nil
}

func checkBucket(bucket string) error {
	if bucket == "" || len(bucket) > maxNameBytes+1 {
		return &RefusedError{fmt.Sprintf("%.80q is not the name of a bucket", bucket)}
	}
	return nil
}

// Option adds to what is put.
type Option func(*Emission)

// ContentType sets the content type of the object.
func ContentType(mediaType string) Option { return func(e *Emission) { e.ContentType = mediaType } }

// Meta adds a metadata field to the object.
func Meta(name, value string) Option {
	return func(e *Emission) {
		e.Meta = maps.Clone(e.Meta)
		if e.Meta == nil {
			e.Meta = make(map[string]string)
		}
		e.Meta[name] = value
	}
}

// AsOutput makes the object an output of the session.
func AsOutput() Option { return func(e *Emission) { e.Output = true } }

// DeliverAfter holds the object back from triggers for d.
func DeliverAfter(d time.Duration) Option { return func(e *Emission) { e.DeliverAfter = d } }
