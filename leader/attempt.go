package leader

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/internal/failpoint"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// sink is the reign as its attempts see it. A reign that is over takes nothing
// more: its attempts have been superseded.
type sink reign

var _ exec.Sink = (*sink)(nil)

func (k *sink) Started(task *exec.Task, executor string) {
	failpoint.At(failpoint.Running, task.App)
	r := (*reign)(k)
	r.starts.Lock()
	defer r.starts.Unlock()
	if len(r.starts.list) == 0 {
		r.starts.since = time.Now()
	}
	r.starts.list = append(r.starts.list, start{task.App, task.Invocation, task.Attempt, executor, r.now()})
	r.starts.arm(r, startDelay)
}

func (k *sink) Emit(task *exec.Task, emissions []exec.Emission) error {
	failpoint.At(failpoint.Emitting, task.App)
	_, err := (*reign)(k).handEarly(task, emissions, 0)
	return err
}

func (k *sink) Done(task *exec.Task, emissions []exec.Emission, f *exec.Failure) {
	failpoint.At(failpoint.Finishing, task.App)
	r := (*reign)(k)
	last, err := r.handEarly(task, emissions, handedAtOnce)
	if err == nil {
		err = r.hand(task, last, handedTo{ended: true, failure: f})
	}
	if err == nil || r.ctx.Err() != nil {
		return // of a reign that is over the next one runs the attempt again
	}
	lost := &exec.Failure{Kind: exec.Lost, Message: "what the attempt put could not be stored: " + err.Error()}
	_ = r.hand(task, nil, handedTo{ended: true, failure: lost})
}

func (k *sink) Get(ctx context.Context, task *exec.Task, bucket spec.BucketName, key spec.Key) (exec.Input, error) {
	r := (*reign)(k)
	c := &look{name: sessionName{task.App, task.Invocation.Session}, bucket: bucket, key: key}
	if err := r.leader.do(ctx, c, 0); err != nil {
		return exec.Input{}, err
	}
	data := c.rec.Inline
	if c.rec.Blob != nil {
		var err error
		if data, err = r.behind.read(r.leader.cfg.DB, exec.PlaceFor(ctx, c.rec.Blob.Size), r.leader.cfg.Shard, task.App, c.rec.Blob); err != nil {
			return exec.Input{}, fmt.Errorf("read the bytes of revision %d: %w", c.rec.Revision, err)
		}
	}
	return exec.Input{Bucket: bucket, Key: key, Session: task.Invocation.Session, ContentType: c.rec.ContentType, Meta: c.rec.Meta, Data: data}, nil
}

// attemptName names an attempt.
type attemptName struct {
	app     spec.AppName
	id      spec.InvocationID
	attempt int
}

func attemptOf(task *exec.Task) attemptName {
	return attemptName{task.App, task.Invocation, task.Attempt}
}

// attempt returns the pending invocation whose present attempt this is, nil if
// the attempt has been superseded.
func (t *tx) attempt(app spec.AppName, id spec.InvocationID, attempt int) *invocation {
	s := t.sessions[sessionName{app, id.Session}]
	if s == nil {
		return nil
	}
	s.used = t.seq
	inv := s.pending[id.Number]
	if inv == nil || !inv.dispatched || int(inv.attempt) != attempt {
		return nil
	}
	return inv
}

// emitted is the command for what an attempt put while it runs.
type emitted struct {
	attemptName
	emissions []emission
	buffered  bool // the invocation has taken the emissions over
}

func (c *emitted) evaluate(t *tx) error {
	inv := t.attempt(c.app, c.id, c.attempt)
	if inv == nil || inv.refusal != nil {
		return nil
	}
	var f *exec.Failure
	if inv.function().Emit == spec.EmitAtomic {
		f = inv.buffer(c.emissions)
		c.buffered = f == nil
	} else {
		f = t.emit(inv, c.emissions)
	}
	if f != nil {
		inv.refusal = f
		t.halt(inv)
	}
	return nil
}

// done is the command for the end of an attempt.
type done struct {
	attemptName
	emissions []emission
	failure   *exec.Failure
}

func (c *done) evaluate(t *tx) error {
	t.takeStarts(t) // a short attempt starts and ends between two rounds
	inv := t.attempt(c.app, c.id, c.attempt)
	if inv == nil {
		return nil
	}
	t.heardOf(inv)
	f := c.failure
	if inv.refusal != nil {
		f, inv.refusal = inv.refusal, nil
	} else {
		f = t.takeResult(inv, c.emissions, f)
	}
	t.letGoBuffered(inv)
	ended := store.Attempt{Number: inv.attempt, Ended: t.at}
	if f != nil {
		ended.Failure = t.failure(inv, f)
	}
	t.noteAttempt(inv, ended)
	if inv.session.pending[inv.number] != inv {
		return nil // what it put has cancelled it
	}
	t.parking.giveBack(inv)
	if f != nil {
		t.tell(inv, f)
		t.retryOrGiveUp(inv, f)
		return nil
	}
	t.finish(inv, store.InvocationSucceeded)
	return nil
}

// takeResult applies the emissions that an attempt's end lets through, and
// returns why the attempt has failed.
func (t *tx) takeResult(inv *invocation, emissions []emission, f *exec.Failure) *exec.Failure {
	if inv.function().Emit != spec.EmitAtomic {
		if refused := t.emit(inv, emissions); refused != nil {
			return refused
		}
		return f
	}
	if f != nil {
		return f // an atomic attempt that fails shows nothing
	}
	if refused := inv.buffer(emissions); refused != nil {
		return refused
	}
	all := inv.buffered
	var fresh uint64
	seen := make(map[objectName]*payload, len(all))
	for i := range all {
		if refused := all[i].once(seen); refused != nil {
			return refused
		}
		existing, refused := t.check(inv, &all[i], fresh)
		if refused != nil {
			return refused
		}
		if !existing && all[i].puts() {
			fresh++
		}
	}
	return t.emit(inv, all)
}

// bufferedMost bounds what an atomic attempt may put, apart from the bytes of
// large objects: it stays in memory, and becomes part of one entry.
const bufferedMost = 16 << 20

// buffer keeps emissions until the attempt has succeeded.
func (inv *invocation) buffer(emissions []emission) *exec.Failure {
	for i := range emissions {
		e := &emissions[i]
		inv.bufferedBytes += int64(len(e.payload.inline)+len(e.Key)) + 512
		inv.bufferedBytes += int64(len(e.ContentType))
		for name, value := range e.Meta {
			inv.bufferedBytes += int64(len(name) + len(value))
		}
		for _, key := range e.JoinKeys {
			inv.bufferedBytes += int64(len(key))
		}
	}
	if inv.bufferedBytes > bufferedMost {
		return &exec.Failure{Kind: exec.Refused, Message: fmt.Sprintf(
			"what an attempt of a function with emit: atomic puts is kept in memory until it succeeds, and is more than %s: use emit: stream, or fewer and larger objects",
			spec.FormatSize(bufferedMost))}
	}
	inv.buffered = append(inv.buffered, emissions...)
	return nil
}

func (inv *invocation) function() *spec.Function {
	if fn := inv.session.plan.app.Functions[inv.rec.Function]; fn != nil {
		return fn
	}
	return &spec.Function{Name: inv.rec.Function, Emit: spec.EmitStream}
}

// emit applies emissions in order, up to the first that is refused.
func (t *tx) emit(inv *invocation, emissions []emission) *exec.Failure {
	defer t.causedBy(inv)()
	for i := range emissions {
		e := &emissions[i]
		existing, f := t.check(inv, e, 0)
		switch {
		case f != nil:
			return f
		case e.JoinTrigger != "":
			t.join(inv, e)
		case e.Child != nil && !existing:
			t.startChild(inv, e)
		case !existing:
			o := t.object(inv, e)
			t.store(inv.session, &o)
		}
	}
	return nil
}

// causedBy says on whose behalf objects are counted until the returned function is called.
func (t *tx) causedBy(inv *invocation) func() {
	t.cause, t.trace = inv.rec.Function, inv.rec.Traceparent
	return func() { t.cause, t.trace = "", "" }
}

type objectName struct {
	bucket spec.BucketName
	key    spec.Key
}

// once tells why an emission contradicts an earlier one of the same attempt.
func (e *emission) once(seen map[objectName]*payload) *exec.Failure {
	if !e.puts() || e.Key == "" {
		return nil
	}
	name := objectName{e.Bucket, e.Key}
	if earlier, ok := seen[name]; ok && !earlier.same(e.payload) {
		return &exec.Failure{Kind: exec.Conflict, Message: fmt.Sprintf("the attempt puts object %q into bucket %q twice, with different bytes: objects of a session are immutable", e.Key, e.Bucket)}
	}
	seen[name] = e.payload
	return nil
}

// object is what an emission puts.
func (t *tx) object(inv *invocation, e *emission) incoming {
	o := incoming{
		bucket:      e.Bucket,
		key:         e.Key,
		payload:     e.payload,
		contentType: e.ContentType,
		meta:        e.Meta,
		output:      e.Output,
		producer:    inv.number,
		repeats:     inv.attempt > 1 && inv.function().Emit != spec.EmitAtomic,
	}
	if o.key == "" {
		o.key = madeKey(inv.number, e.Seq)
	}
	if e.DeliverAfter > 0 {
		o.deliver = t.at + store.Micros(e.DeliverAfter.Microseconds())
	}
	return o
}

// madeKey is the key of an object that its function gave none: the same for
// every attempt of the invocation.
func madeKey(invocation, seq uint64) spec.Key {
	return spec.Key("~" + strconv.FormatUint(invocation, 10) + "-" + strconv.FormatUint(seq, 10))
}

// described tells what is wrong with what an emission says of its object. The API
// checks the same of what comes from outside.
func (e *emission) described() error {
	if err := spec.ValidContentType(e.ContentType); err != nil {
		return err
	}
	return spec.ValidMeta(e.Meta)
}

// check tells why an emission can't be applied, or whether what it puts is there
// already. before is how many objects will be put before it.
func (t *tx) check(inv *invocation, e *emission, before uint64) (existing bool, f *exec.Failure) {
	if e.Child != nil {
		return t.checkChild(inv, e)
	}
	s := inv.session
	refuse := func(format string, args ...any) (bool, *exec.Failure) {
		return false, &exec.Failure{Kind: exec.Refused, Message: fmt.Sprintf(format, args...)}
	}
	b, ok := s.plan.app.Bucket(e.Bucket)
	if !ok {
		if name, inbox := spec.FunctionOfInbox(e.Bucket); inbox {
			return refuse("there is no function %q in app %q to send to", name, s.name.app)
		}
		return refuse("there is no bucket %q in app %q", e.Bucket, s.name.app)
	}
	if e.JoinTrigger != "" {
		tr := findTrigger(s.plan.app, b.Name, e.JoinTrigger)
		if tr == nil || tr.Primitive != spec.DynamicJoin {
			return refuse("bucket %q has no dynamic_join trigger %q to name a set for", e.Bucket, e.JoinTrigger)
		}
		for _, key := range e.JoinKeys {
			if err := spec.ValidKey(string(key)); err != nil {
				return refuse("join on %s/%s: %s", e.Bucket, e.JoinTrigger, err)
			}
		}
		if fault := t.joinFault(s, b.Name, tr, e.JoinKeys); fault != "" {
			return refuse("join on %s/%s: %s", e.Bucket, e.JoinTrigger, fault)
		}
		return false, nil
	}
	if e.Key != "" {
		if err := spec.ValidKey(string(e.Key)); err != nil {
			return refuse("put into bucket %q: %s", e.Bucket, err)
		}
	}
	if err := e.described(); err != nil {
		return refuse("put into bucket %q: %s", e.Bucket, err)
	}
	if limit := s.plan.app.Limits.MaxObjectBytes; limit > 0 && e.payload.size > limit {
		return refuse("the object for bucket %q has %d bytes, the app's limit is %d (limits.max_object_size)", e.Bucket, e.payload.size, limit)
	}
	o := t.object(inv, e)
	there, err := t.place(s, &o)
	if err == nil && there == nil && !e.payload.stored {
		err = t.staged(s.name.app, e.payload)
	}
	if err != nil {
		return false, notPut(err)
	}
	if limit := s.plan.app.Limits.MaxSessionObjects; there == nil && limit > 0 && s.rec.Objects+before >= uint64(limit) {
		return refuse("session %s has as many objects as the app allows, %d (limits.max_session_objects)", s.name.session, limit)
	}
	return there != nil, nil
}

// notPut is why an attempt fails whose object could not be put. One that is only to be
// put again has the attempt run again, as if its node were gone.
func notPut(err error) *exec.Failure {
	if errors.Is(err, errThinned) {
		return &exec.Failure{Kind: exec.Lost, Message: err.Error()}
	}
	return &exec.Failure{Kind: exec.Conflict, Message: err.Error()}
}

// join names a set at run time. A set that an earlier attempt named is named.
func (t *tx) join(inv *invocation, e *emission) {
	if slices.Contains(inv.rec.Joins, e.Seq) {
		return
	}
	t.steps.Pass(failpoint.Named, inv.session.name.app)
	inv.rec.Joins = append(inv.rec.Joins, e.Seq)
	t.mark(inv)
	tr := findTrigger(inv.session.plan.app, e.Bucket, e.JoinTrigger)
	t.nameSet(inv.session, e.Bucket, tr, e.JoinKeys)
}

// noteAttempt records what is new of an attempt: its start, its end, or both.
func (t *tx) noteAttempt(inv *invocation, a store.Attempt) {
	list := inv.rec.Attempts
	if n := len(list); n > 0 && list[n-1].Number == a.Number {
		last := &list[n-1]
		if a.Started != 0 {
			last.Started, last.Executor = a.Started, a.Executor
		}
		if a.Ended != 0 {
			last.Ended, last.Failure = a.Ended, a.Failure
		}
		return
	}
	if a.Started == 0 {
		a.Started = a.Ended
	}
	if len(list) >= attemptsKept {
		list = slices.Delete(list, 0, len(list)-attemptsKept+1)
	}
	inv.rec.Attempts = append(list, a)
}

// look is the command that finds an object of a session. It changes nothing, but
// its answer waits for what it rests on, unless that is ephemeral.
type look struct {
	name   sessionName
	bucket spec.BucketName
	key    spec.Key
	rec    store.Object
}

func (c *look) lingers(t *tx) bool {
	s := t.sessions[c.name]
	return s != nil && s.plan.ephemeral(c.bucket)
}

func (c *look) evaluate(t *tx) error {
	value, ok := t.get(store.AppendSessionObjectKey(nil, t.shard(), c.name.app, c.bucket, c.name.session, c.key))
	if !ok {
		return spec.Errorf(spec.CodeNotFound, "session %s has no object %q in bucket %q", c.name.session, c.key, c.bucket)
	}
	rec, err := store.DecodeObject(value)
	if err != nil {
		t.broken(err)
		return err
	}
	rec.Inline = slices.Clone(rec.Inline)
	c.rec = rec
	return nil
}
