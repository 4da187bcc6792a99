package leader

import (
	"context"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// requestKept is how long a request with an idempotency key is remembered.
const requestKept = 24 * time.Hour

// Put is a put from outside. Which fields are set makes it a key-value put
// (Session empty), a put into a session, or, with New, one that starts Session.
type Put struct {
	App         spec.AppName
	Session     spec.SessionID
	New         bool
	Origin      store.Origin // of a new session
	Bucket      spec.BucketName
	Key         spec.Key
	Body        io.Reader `json:"-"`
	ContentType string
	Meta        map[string]string
	TTL         time.Duration
	// SessionTimeout bounds the session that the put starts; 0 leaves it to the app.
	SessionTimeout time.Duration
	DeliverAfter   time.Duration
	IfRevision     *spec.Revision // 0: must not be there
	IfExists       bool
	// Deleted has an object of a session stand for a deletion, as the one that it is
	// a copy of.
	Deleted bool
	// Request is the idempotency key, empty for none.
	Request     string
	Traceparent string
}

// PutResult tells what a put did.
type PutResult struct {
	Revision spec.Revision
	Session  spec.SessionID // the one that the put drives; empty if there is nothing to drive
	Key      spec.Key
	Existed  bool // it was there before, or the request was repeated: nothing was done
}

// Put stores an object and everything that follows from it at once: the firings,
// invocations and timers. It returns once that is durable, or evaluated if the bucket is
// ephemeral.
func (l *Leader) Put(ctx context.Context, p Put) (PutResult, error) {
	app, _, ok := l.cfg.Apps.App(p.App, 0)
	switch {
	case !ok && !l.Leading():
		return PutResult{}, errNotTaken(l.cfg.Shard) // this node may lag: the leader knows
	case !ok:
		return PutResult{}, spec.NoApp(p.App, l.cfg.Apps.Names())
	}
	if _, ok := app.Bucket(p.Bucket); !ok && p.Session == "" { // before its bytes are read
		return PutResult{}, errNoBucket(app, p.Bucket)
	}
	if err := l.cfg.DB.Writable(); err != nil {
		return PutResult{}, err
	}
	if here, known, _ := l.cfg.Replica.Led(); known && !here {
		return PutResult{}, errNotTaken(l.cfg.Shard) // before its bytes are read
	}
	body, err := l.stage(ctx, app, p.Bucket, p.Body)
	if err != nil {
		return PutResult{}, err
	}
	c := &put{Put: p, payload: body}
	err = l.doSpread(ctx, p.App, body, c, len(body.inline))
	l.letGo(p.App, body, undecided(err))
	if err != nil {
		return PutResult{}, err // the command may still be with the loop
	}
	return c.result, nil
}

// put is the command of a Put.
type put struct {
	Put
	payload *payload
	result  PutResult
}

// lingers tells whether the put's answer waits for no commit.
func (c *put) lingers(t *tx) bool {
	p := t.newest[c.App]
	if p == nil || !p.hastens {
		return false
	}
	if c.Session != "" {
		if s := t.session(sessionName{c.App, c.Session}); s != nil {
			p = s.plan
		}
	}
	return c.fleeting(p)
}

// fleeting tells whether nobody waits for the object's commit, nor did for its bytes.
func (c *put) fleeting(p *plan) bool {
	return p.ephemeral(c.Bucket) && (c.payload.blob == nil || c.payload.writing != nil)
}

func (c *put) evaluate(t *tx) error {
	p, err := t.deployed(c.App)
	if err != nil {
		return err
	}
	fingerprint := c.fingerprint()
	if done, err := t.repeated(c.App, c.Request, fingerprint, &c.result); done || err != nil {
		return err
	}
	if err := t.staged(c.App, c.payload); err != nil {
		return err
	}
	if err := t.overloaded(p.app, c.Bucket, spec.OnPut); err != nil {
		return err
	}
	t.trace = c.Traceparent
	defer func() { t.trace = "" }()
	if c.Session == "" {
		err = c.intoBucket(t, p)
	} else {
		err = c.intoSession(t, p)
	}
	if err != nil {
		return err
	}
	t.remember(c.App, c.Request, fingerprint, c.Bucket, &c.result)
	return nil
}

// intoBucket puts a key-value object and starts the session that it drives.
func (c *put) intoBucket(t *tx, p *plan) error {
	b, ok := p.app.Bucket(c.Bucket)
	if !ok {
		return errNoBucket(p.app, c.Bucket)
	}
	at := store.AppendKVKey(nil, t.shard(), c.App, c.Bucket, c.Key)
	old, over, err := t.condition(at, c.Bucket, c.Key, c.IfRevision, c.IfExists)
	if err != nil {
		return err
	}
	if err := t.roomInOutbox(p.app, c.Bucket); err != nil {
		return err
	}
	if over != nil { // its timer comes too late, and finds that
		t.deleteKV(store.EventExpire, c.App, c.Bucket, c.Key, over)
	}
	rec := store.Object{
		Revision:    t.revision(),
		Created:     t.at,
		Size:        c.payload.size,
		ContentType: c.ContentType,
		Meta:        c.Meta,
		Inline:      c.payload.inline,
		Blob:        c.payload.blob,
	}
	if c.TTL > 0 {
		rec.Expires = t.at + store.Micros(c.TTL.Microseconds())
		t.arm(rec.Expires, expiry(c.App, c.Bucket, c.Key, rec.Revision))
	}
	if rec.Blob != nil {
		t.adopt(c.App, c.payload)
	}
	if old != nil {
		t.replaced(c.App, c.Bucket, c.Key, old)
	}
	if drives(b, spec.OnPut) {
		rec.Session = spec.NewSessionID(spec.KeySlot(c.App, c.Bucket, c.Key), timeOf(t.at))
	}
	t.putObject(at, &rec)
	lingers := c.fleeting(p)
	t.lazy = t.lazy || lingers
	t.urgent = t.urgent || !lingers || t.leader.hub.awaitsChange()
	t.event(store.EventPut, c.App, c.Bucket, c.Key, &rec)
	c.result = PutResult{Revision: rec.Revision, Session: rec.Session, Key: c.Key}
	if rec.Session == "" {
		return nil
	}
	s := t.newSession(sessionName{c.App, rec.Session}, p, store.Origin{Kind: store.OriginPut, Bucket: c.Bucket, Key: c.Key, Revision: rec.Revision})
	c.announce(t, s)
	c.limit(t, s)
	copied := rec
	copied.Session, copied.Expires = "", 0
	if copied.Blob != nil {
		t.share(c.App, copied.Blob)
	}
	if c.DeliverAfter > 0 {
		copied.Deliver = t.at + store.Micros(c.DeliverAfter.Microseconds())
	}
	t.insert(s, c.Bucket, c.Key, &copied)
	return nil
}

// intoSession puts an object into a session, and starts the session if it is not
// there.
func (c *put) intoSession(t *tx, p *plan) error {
	s := t.session(sessionName{c.App, c.Session})
	if s != nil {
		if purging(&s.rec) {
			return spec.Errorf(spec.CodeUnavailable, "session %s is being deleted just now: its name is free again in a moment", c.Session)
		}
		p = s.plan
	}
	if _, ok := p.app.Bucket(c.Bucket); !ok {
		return errNoBucket(p.app, c.Bucket)
	}
	o := &incoming{
		bucket: c.Bucket, key: c.Key, payload: c.payload, contentType: c.ContentType, meta: c.Meta,
		output: c.Bucket == spec.OutputBucket, deleted: c.Deleted,
	}
	if c.DeliverAfter > 0 {
		o.deliver = t.at + store.Micros(c.DeliverAfter.Microseconds())
	}
	if s != nil {
		existing, err := t.place(s, o)
		if err != nil {
			return err
		}
		if existing != nil {
			c.result = PutResult{Revision: existing.Revision, Session: c.Session, Key: c.Key, Existed: true}
			return nil
		}
		if err := t.roomInOutbox(p.app, c.Bucket); err != nil {
			return err
		}
		if limit := p.app.Limits.MaxSessionObjects; limit > 0 && s.rec.Objects >= uint64(limit) {
			return spec.Errorf(spec.CodeOverloaded, "session %s has %d objects, which is the app's limit (limits.max_session_objects)", c.Session, limit)
		}
		if err := t.reopen(s); err != nil {
			return err
		}
	} else {
		if err := t.roomInOutbox(p.app, c.Bucket); err != nil {
			return err
		}
		origin := c.Origin
		if !c.New {
			origin = store.Origin{Kind: store.OriginSession, Bucket: c.Bucket, Key: c.Key}
		}
		s = t.newSession(sessionName{c.App, c.Session}, p, origin)
		c.announce(t, s)
		c.limit(t, s)
	}
	rec := t.store(s, o)
	c.result = PutResult{Revision: rec.Revision, Session: c.Session, Key: c.Key}
	return nil
}

// announce lets those who ask know of a session that the put starts and answers for
// before that is committed.
func (c *put) announce(t *tx, s *session) {
	if c.lingers(t) {
		t.announce(s, nil)
	}
}

// limit gives a session that the put starts the deadline that the request asks for.
func (c *put) limit(t *tx, s *session) {
	if c.SessionTimeout > 0 {
		t.setDeadline(s, t.at+store.Micros(c.SessionTimeout.Microseconds()))
	}
}

func errNoBucket(app *spec.App, bucket spec.BucketName) error {
	if f, ok := spec.FunctionOfInbox(bucket); ok {
		return spec.Errorf(spec.CodeNotFound, "app %q has no function %q%s", app.Name, f, spec.DidYouMean(string(f), names(app.Functions))).WithField("bucket")
	}
	return spec.Errorf(spec.CodeNotFound, "app %q has no bucket %q%s", app.Name, bucket, spec.DidYouMean(string(bucket), names(app.Buckets))).WithField("bucket")
}

func names[K ~string, V any](m map[K]V) []string {
	list := make([]string, 0, len(m))
	for k := range m {
		list = append(list, string(k))
	}
	slices.Sort(list)
	return list
}

// fingerprint is what an idempotency key stands for. A session that the put
// starts is no part of it: its id may be made for each request.
func (c *put) fingerprint() uint64 {
	if c.Request == "" {
		return 0
	}
	parts := []string{string(c.Bucket), string(c.Key), c.ContentType, c.TTL.String(), c.DeliverAfter.String()}
	if c.SessionTimeout > 0 {
		parts = append(parts, "session_timeout", c.SessionTimeout.String())
	}
	if !c.New {
		parts = append(parts, string(c.Session))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Meta)) {
		parts = append(parts, name, c.Meta[name])
	}
	h := xxhash.New()
	for _, part := range parts {
		_, _ = h.WriteString(part)
		_, _ = h.Write([]byte{0})
	}
	if c.payload.blob != nil {
		_, _ = h.Write(c.payload.blob.Sum[:])
	} else {
		_, _ = h.Write(c.payload.inline)
	}
	return h.Sum64()
}

// repeated answers a request that was done before.
func (t *tx) repeated(app spec.AppName, request string, fingerprint uint64, result *PutResult) (bool, error) {
	if request == "" {
		return false, nil
	}
	value, ok := t.get(store.AppendRequestKey(t.scratch.key(), t.shard(), app, request))
	if !ok {
		return false, nil
	}
	rec, err := store.DecodeRequest(value)
	if err != nil {
		t.broken(err)
		return false, err
	}
	if rec.Fingerprint != fingerprint {
		return false, spec.Errorf(spec.CodeConflict, "idempotency key %q was used for another request", request).WithField("Idempotency-Key")
	}
	*result = PutResult{Revision: rec.Revision, Session: rec.Session, Key: rec.Key, Existed: true}
	return true, nil
}

func (t *tx) remember(app spec.AppName, request string, fingerprint uint64, bucket spec.BucketName, result *PutResult) {
	if request == "" {
		return
	}
	rec := store.Request{
		Session: result.Session, Bucket: bucket, Key: result.Key, Revision: result.Revision,
		Expires: t.at + store.Micros(requestKept.Microseconds()), Fingerprint: fingerprint,
	}
	t.put(store.AppendRequestKey(t.scratch.key(), t.shard(), app, request), t.slab.keep(store.AppendRequest(t.slab.room(), &rec)))
	t.arm(rec.Expires, store.Timer{Kind: store.TimerRequest, App: app, Key: spec.Key(request)})
}

// forgetRequest deletes what is remembered of a request, if it is still the one
// that the timer was set for.
func (t *tx) forgetRequest(subject store.Timer, due store.Micros) {
	key := store.AppendRequestKey(nil, t.shard(), subject.App, string(subject.Key))
	value, ok := t.get(key)
	if !ok {
		return
	}
	rec, err := store.DecodeRequest(value)
	if err != nil {
		t.broken(err)
		return
	}
	if rec.Expires == due {
		t.remove(key)
	}
}

// condition reads a key-value object, nil if it is not there, and checks what the
// request demands of it. One whose time to live is over is not there, as for reads,
// which go by the clock: its timer may not have come yet. It is returned as over.
func (t *tx) condition(at []byte, bucket spec.BucketName, key spec.Key, revision *spec.Revision, exists bool) (old, over *store.Object, err error) {
	if value, ok := t.get(at); ok {
		rec, err := store.DecodeObject(value)
		if err != nil {
			t.broken(err)
			return nil, nil, err
		}
		if old = &rec; rec.Expires != 0 && rec.Expires <= micros(t.now()) {
			old, over = nil, &rec
		}
	}
	have := spec.Revision(0)
	if old != nil {
		have = old.Revision
	}
	switch {
	case revision != nil && *revision != have && have == 0:
		return nil, nil, spec.Errorf(spec.CodePrecondition, "object %q in bucket %q is not there, the request expects revision %d", key, bucket, *revision)
	case revision != nil && *revision != have && *revision == 0:
		return nil, nil, spec.Errorf(spec.CodePrecondition, "object %q in bucket %q is there already, with revision %d", key, bucket, have)
	case revision != nil && *revision != have:
		return nil, nil, spec.Errorf(spec.CodePrecondition, "object %q in bucket %q has revision %d, the request expects %d", key, bucket, have, *revision)
	case exists && old == nil:
		return nil, nil, spec.Errorf(spec.CodePrecondition, "object %q in bucket %q is not there", key, bucket)
	}
	return old, over, nil
}

// replaced lets go of a key-value object that is overwritten or deleted.
func (t *tx) replaced(app spec.AppName, bucket spec.BucketName, key spec.Key, old *store.Object) {
	if old.Expires != 0 {
		t.disarm(old.Expires, expiry(app, bucket, key, old.Revision))
	}
	if old.Blob != nil {
		t.release(app, old.Blob)
	}
}

func expiry(app spec.AppName, bucket spec.BucketName, key spec.Key, revision spec.Revision) store.Timer {
	return store.Timer{Kind: store.TimerExpire, App: app, Bucket: bucket, Key: key, Number: uint64(revision)}
}
