package leader

import (
	"time"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/internal/failpoint"
	"github.com/pheromone-run/pheromone/spec"
)

const (
	// inputsAtOnce is up to how many small inputs are read where the effects run.
	inputsAtOnce = 64
	// knownBytes is up to which size the only input of an attempt stays in memory, if it
	// is there anyway because it has just been put: most are, and need not be read again.
	knownBytes = 1 << 10
)

// handout is an attempt as the executors are given it.
type handout struct {
	task   exec.Task
	inputs inputs
	flight flight
}

// handOut gives the next attempt to the executors: once the round is applied, or
// once it is proposed if the invocation may go out early.
func (t *tx) handOut(inv *invocation) {
	inv.attempt++
	t.parking.take(inv)
	t.steps.Pass(failpoint.Dispatched, inv.session.name.app)
	out := &inv.first
	if out.task.Sink != nil { // the executors may still look at what the attempt before was given
		out = &handout{}
	}
	out.inputs = inputs{known: t.knows(inv), db: t.leader.cfg.DB, shard: t.shard(), app: inv.session.name.app, session: inv.session.name.session, number: inv.number, refs: inv.rec.Inputs, behind: &t.behind}
	early := t.early(inv)
	if out.inputs.known {
		out.inputs.first = t.counting
	}
	if early {
		t.inFlight(out)
	}
	t.describe(inv, out)
	if early {
		t.outgoing(out)
		return
	}
	t.urgent = true
	t.follow(out)
}

// knows tells whether the only input of an invocation is the object that is being counted.
func (t *tx) knows(inv *invocation) bool {
	if len(inv.rec.Inputs) != 1 {
		return false
	}
	o, ref := &t.counting, &inv.rec.Inputs[0]
	return o.Revision != 0 && !ref.Held && ref.Revision == o.Revision && o.Blob == nil && len(o.Inline) <= knownBytes && len(o.Meta) == 0
}

func (h *handout) settle(r *reign, lost error) {
	if lost == nil {
		r.submit(&h.task)
	}
}

// halt has an attempt stopped that counts no more, once that is recorded or its term
// is over.
func (t *tx) halt(inv *invocation) {
	ref := t.refOf(inv)
	t.after(func(error) { t.leader.cfg.Runtime.Cancel(ref) })
}

// submit hands an attempt to the executors. They read its inputs if one is free, and
// what takes long must not hold up the effects of the entries that come after.
func (r *reign) submit(task *exec.Task) {
	if task.SizeAtMost == 0 {
		r.loading.Go(func() { r.submitNow(task) })
		return
	}
	r.submitNow(task)
}

func (r *reign) submitNow(task *exec.Task) {
	failpoint.At(failpoint.Submitting, task.App)
	r.leader.cfg.Runtime.Submit(task)
	failpoint.At(failpoint.Submitted, task.App)
}

// describe tells the executors of an invocation's present attempt.
func (t *tx) describe(inv *invocation, out *handout) {
	s := inv.session
	fn := s.plan.app.Functions[inv.rec.Function]
	if fn == nil { // the app's version is not kept any more and a later one lacks the function
		fn = &spec.Function{Name: inv.rec.Function, Runtime: "removed", Timeout: time.Second}
	}
	task := &out.task
	*task = exec.Task{
		App:            s.name.app,
		Version:        s.plan.version,
		Artifact:       s.plan.app.Artifact,
		Function:       fn,
		Invocation:     inv.id(),
		Attempt:        int(inv.attempt),
		Shard:          t.shard(),
		Epoch:          t.term.Epoch(),
		Bucket:         inv.rec.Bucket,
		Trigger:        inv.rec.Trigger,
		Group:          inv.rec.Group,
		Traceparent:    inv.rec.Traceparent,
		Timeout:        fn.Timeout,
		MaxObjectBytes: s.plan.app.Limits.MaxObjectBytes,
		Source:         &out.inputs,
		Sink:           (*sink)(t.reign),
	}
	if s.rec.Blobs == 0 && len(inv.rec.Inputs) <= inputsAtOnce {
		task.SizeAtMost = int64(max(1, len(inv.rec.Inputs))) * InlineBytes
	}
	if inv.rec.Window != 0 {
		task.Window = timeOf(inv.rec.Window)
	}
}
