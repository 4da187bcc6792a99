package leader

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// sink is the reign as its attempts see it. A reign that is over takes nothing
// more: its attempts have been superseded.
type sink reign

var _ exec.Sink = (*sink)(nil)

// startDelay is how long a started attempt waits at most for an entry to be
// written with.
const startDelay = 50 * time.Millisecond

// starts collects attempts that executors have taken. They are written with the
// next entry and not waited for.
type starts struct {
	sync.Mutex
	list  []start
	armed bool
}

type start struct {
	app      spec.AppName
	id       spec.InvocationID
	attempt  int
	executor string
	at       time.Time
}

func (k *sink) Started(task *exec.Task, executor string) {
	r := (*reign)(k)
	r.starts.Lock()
	defer r.starts.Unlock()
	r.starts.list = append(r.starts.list, start{task.App, task.Invocation, task.Attempt, executor, r.now()})
	if !r.starts.armed {
		r.starts.armed = true
		time.AfterFunc(startDelay, func() {
			select {
			case r.intake <- &request{command: wake{}}:
			case <-r.over:
			default: // the loop is busy and takes the starts anyway
			}
		})
	}
}

// wake has the loop do a round.
type wake struct{}

func (wake) evaluate(*tx) error { return nil }

// takeStarts notes the attempts that have been started since the last round.
func (r *reign) takeStarts(t *tx) {
	r.starts.Lock()
	list := r.starts.list
	r.starts.list, r.starts.armed = nil, false
	r.starts.Unlock()
	for _, st := range list {
		if inv := t.attempt(st.app, st.id, st.attempt); inv != nil {
			t.noteAttempt(inv, store.Attempt{Number: inv.attempt, Started: micros(st.at), Executor: st.executor})
			t.mark(inv)
		}
	}
}

func (k *sink) Emit(task *exec.Task, emissions []exec.Emission) error {
	return (*reign)(k).hand(task, emissions, func(puts []emission) command {
		return &emitted{attemptOf(task), puts}
	})
}

func (k *sink) Done(task *exec.Task, emissions []exec.Emission, f *exec.Failure) {
	r := (*reign)(k)
	err := r.hand(task, emissions, func(puts []emission) command {
		return &done{attemptOf(task), puts, f}
	})
	var refused *spec.Error
	if errors.As(err, &refused) && refused.Code == spec.CodeTooLarge {
		_ = r.hand(task, nil, func([]emission) command {
			return &done{attemptOf(task), nil, &exec.Failure{Kind: exec.Refused, Message: refused.Message}}
		})
	}
	// Any other error means that the reign is over: the next one runs the attempt again.
}

func (k *sink) Get(ctx context.Context, task *exec.Task, bucket spec.BucketName, key spec.Key) (exec.Input, error) {
	r := (*reign)(k)
	c := &look{name: sessionName{task.App, task.Invocation.Session}, bucket: bucket, key: key}
	if err := r.leader.do(ctx, c, 0); err != nil {
		return exec.Input{}, err
	}
	data, err := r.leader.bytesOf(task.App, &c.rec)
	if err != nil {
		return exec.Input{}, err
	}
	return exec.Input{Bucket: bucket, Key: key, Session: task.Invocation.Session, ContentType: c.rec.ContentType, Meta: c.rec.Meta, Data: data}, nil
}

// emission is an exec.Emission with its bytes where they are to be.
type emission struct {
	exec.Emission
	payload *payload
}

// hand stages what is large and passes the command to the loop, waiting while
// the loop has too much waiting.
func (r *reign) hand(task *exec.Task, emissions []exec.Emission, to func([]emission) command) error {
	puts := make([]emission, len(emissions))
	var weight int64
	for i := range puts {
		puts[i].Emission = emissions[i]
		p, err := r.leader.stageBytes(context.Background(), task.App, emissions[i].Data)
		if err != nil {
			return err
		}
		puts[i].payload, puts[i].Data = p, nil
		weight += int64(len(p.inline)) + 128
	}
	weight = min(weight, intakeBytes/4)
	if err := r.leader.bytes.Acquire(context.Background(), weight); err != nil {
		return err
	}
	c := &handed{to(puts), r.leader, task.App, puts, weight}
	select {
	case r.intake <- &request{command: c}:
		return nil
	case <-r.over:
		r.leader.bytes.Release(weight)
		c.letGo(nil)
		return errTermOver(r.leader.cfg.Shard)
	}
}

// handed is a command with what its attempt handed over: it gives back what that
// took of the intake once it is evaluated, and lets go of the blobs that no
// record came to refer to.
type handed struct {
	command
	leader    *Leader
	app       spec.AppName
	emissions []emission
	weight    int64
}

func (h *handed) evaluate(t *tx) error {
	h.leader.bytes.Release(h.weight)
	for i := range h.emissions {
		if h.emissions[i].payload.blob != nil {
			t.after(h.letGo)
			break
		}
	}
	return h.command.evaluate(t)
}

func (h *handed) letGo(lost error) {
	for i := range h.emissions {
		h.leader.letGo(h.app, h.emissions[i].payload, lost != nil)
	}
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
}

func (c *emitted) evaluate(t *tx) error {
	inv := t.attempt(c.app, c.id, c.attempt)
	if inv == nil || inv.refusal != nil {
		return nil
	}
	if inv.function().Emit == spec.EmitAtomic {
		inv.buffered = append(inv.buffered, c.emissions...)
		return nil
	}
	if f := t.emit(inv, c.emissions); f != nil {
		inv.refusal = f
		id, attempt := inv.id(), c.attempt
		t.onApplied(func() { t.leader.cfg.Runtime.Cancel(id, attempt) })
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
	inv := t.attempt(c.app, c.id, c.attempt)
	if inv == nil {
		return nil
	}
	f := c.failure
	if inv.refusal != nil {
		f, inv.refusal = inv.refusal, nil
	} else {
		f = t.takeResult(inv, c.emissions, f)
	}
	inv.buffered = nil
	ended := store.Attempt{Number: inv.attempt, Ended: t.at}
	if f != nil {
		ended.Failure = t.failure(inv, f)
	}
	t.noteAttempt(inv, ended)
	if inv.session.pending[inv.number] != inv {
		return nil // what it put has cancelled it
	}
	inv.dispatched = false
	if f != nil {
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
	all := append(inv.buffered, emissions...)
	for i := range all {
		if refused := t.check(inv, &all[i]); refused != nil {
			return refused
		}
	}
	return t.emit(inv, all)
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
		if f := t.check(inv, e); f != nil {
			return f
		}
		if e.JoinTrigger != "" {
			t.join(inv, e)
			continue
		}
		o := t.object(inv, e)
		if existing, err := t.place(inv.session, o); err != nil || existing != nil {
			continue // check has let it through, so it is there already
		}
		t.store(inv.session, o)
	}
	return nil
}

// causedBy says on whose behalf objects are counted until the returned function is called.
func (t *tx) causedBy(inv *invocation) func() {
	t.cause, t.trace = inv.rec.Function, inv.rec.Traceparent
	return func() { t.cause, t.trace = "", "" }
}

// object is what an emission puts.
func (t *tx) object(inv *invocation, e *emission) *incoming {
	o := &incoming{
		bucket:      e.Bucket,
		key:         e.Key,
		payload:     e.payload,
		contentType: e.ContentType,
		meta:        e.Meta,
		output:      e.Output,
		producer:    inv.number,
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

// check tells why an emission can't be applied, nil if it can.
func (t *tx) check(inv *invocation, e *emission) *exec.Failure {
	s := inv.session
	refuse := func(format string, args ...any) *exec.Failure {
		return &exec.Failure{Kind: exec.Refused, Message: fmt.Sprintf(format, args...)}
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
		return nil
	}
	if e.Key != "" {
		if err := spec.ValidKey(string(e.Key)); err != nil {
			return refuse("put into bucket %q: %s", e.Bucket, err)
		}
	}
	if limit := s.plan.app.Limits.MaxSessionObjects; limit > 0 && s.rec.Objects >= uint64(limit) {
		return refuse("session %s has %d objects already, which is the app's limit (limits.max_session_objects)", s.name.session, limit)
	}
	if limit := s.plan.app.Limits.MaxObjectBytes; limit > 0 && e.payload.size > limit {
		return refuse("the object for bucket %q has %d bytes, the app's limit is %d (limits.max_object_size)", e.Bucket, e.payload.size, limit)
	}
	if _, err := t.place(s, t.object(inv, e)); err != nil {
		return &exec.Failure{Kind: exec.Conflict, Message: err.Error()}
	}
	return nil
}

// join names a set at run time. A set that an earlier attempt named is named.
func (t *tx) join(inv *invocation, e *emission) {
	if slices.Contains(inv.rec.Joins, e.Seq) {
		return
	}
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

// deadLetter is the object that a function's failure becomes.
type deadLetter struct {
	Function   spec.FunctionName `json:"function"`
	Invocation string            `json:"invocation"`
	Kind       string            `json:"kind"`
	Message    string            `json:"message"`
	Detail     string            `json:"detail,omitempty"`
	Attempts   uint32            `json:"attempts"`
	Inputs     []deadLetterInput `json:"inputs"`
}

type deadLetterInput struct {
	Bucket  spec.BucketName `json:"bucket"`
	Key     spec.Key        `json:"key"`
	Session spec.SessionID  `json:"session"`
}

// deadLetterInputs bounds the inputs that a dead letter lists.
const deadLetterInputs = 100

func (t *tx) putDeadLetter(inv *invocation, bucket spec.BucketName, f *store.Failure) {
	s := inv.session
	letter := deadLetter{
		Function: f.Function, Invocation: inv.id().String(), Kind: f.Kind,
		Message: f.Message, Detail: f.Detail, Attempts: f.Attempts, Inputs: []deadLetterInput{},
	}
	for _, in := range inv.rec.Inputs[:min(len(inv.rec.Inputs), deadLetterInputs)] {
		session := s.name.session
		if in.Held {
			session = in.Source
		}
		letter.Inputs = append(letter.Inputs, deadLetterInput{in.Bucket, in.Key, session})
	}
	body, err := json.Marshal(letter)
	if err != nil {
		t.broken(fmt.Errorf("encode dead letter: %w", err))
		return
	}
	o := &incoming{
		bucket:      bucket,
		key:         spec.Key(fmt.Sprintf("%s-%d", inv.rec.Function, inv.number)),
		payload:     &payload{inline: body, size: int64(len(body))},
		contentType: "application/json",
		producer:    inv.number,
	}
	defer t.causedBy(inv)()
	if existing, err := t.place(s, o); err == nil && existing == nil {
		t.store(s, o)
	}
}

// look is the command that finds an object of a session. It changes nothing, but
// its answer waits for what it rests on.
type look struct {
	name   sessionName
	bucket spec.BucketName
	key    spec.Key
	rec    store.Object
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
