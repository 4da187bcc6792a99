package leader

import (
	"bytes"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/spec"
)

// emission is an exec.Emission with its bytes where they are to be.
type emission struct {
	exec.Emission
	payload *payload
	small   payload // what payload points to if the bytes travel in the entry
}

// puts tells whether an emission puts an object into the session, and does not
// name a set or start a child session.
func (e *emission) puts() bool { return e.JoinTrigger == "" && e.Child == nil }

// roomEvery is how often a full disk, or a full outbox, is looked at again.
const roomEvery = 250 * time.Millisecond

// waitForRoom holds up what an attempt puts while the disk is full, or what would
// add to an outbox that is. The attempt waits with it, until its time is over.
func (r *reign) waitForRoom(task *exec.Task, emissions []exec.Emission) {
	for r.leader.cfg.DB.Writable() != nil || r.outboxFull() && r.leader.mailsAny(task, emissions) {
		select {
		case <-time.After(roomEvery):
		case <-r.ctx.Done():
			return
		}
	}
}

// mailsAny tells whether an emission of an attempt goes to a trigger on another shard.
func (l *Leader) mailsAny(task *exec.Task, emissions []exec.Emission) bool {
	app, _, ok := l.cfg.Apps.App(task.App, task.Version)
	return ok && slices.ContainsFunc(emissions, func(e exec.Emission) bool { return l.mails(app, e.Bucket) })
}

// hand stages what is large and passes the command to the loop, waiting while
// the loop has too much waiting.
func (r *reign) hand(task *exec.Task, emissions []exec.Emission, to handedTo) error {
	if len(emissions) > 0 {
		r.waitForRoom(task, emissions)
	}
	h := newHanded(r.leader, task.App, len(emissions))
	inline, err := h.stage(r, task, emissions)
	if err != nil {
		h.letGo(nil)
		return err
	}
	weight := min(inline+128*int64(len(emissions)), intakeBytes/4)
	if err := r.leader.room.acquire(r.ctx, task.App, weight); err != nil {
		h.letGo(nil)
		return errTermOver(r.leader.cfg.Shard)
	}
	h.weight = weight
	h.become(task, to)
	if !r.offer(r.ctx, &h.request) {
		h.refuse()
		return errTermOver(r.leader.cfg.Shard)
	}
	return nil
}

// stage has the bytes of emissions where they are to be. It returns how many of them
// travel in the entry.
func (h *handed) stage(r *reign, task *exec.Task, emissions []exec.Emission) (inline int64, err error) {
	large := 0
	for i := range emissions {
		put, data := &h.emissions[i], emissions[i].Data
		put.Emission = emissions[i]
		if len(data) > inlineMost(inline) {
			large++
			continue
		}
		if put.Data = nil; put.Lent {
			data = bytes.Clone(data)
		}
		put.payload = &put.small
		put.small = payload{inline: data, size: int64(len(data))}
		inline += put.small.size
	}
	if large == 0 {
		return inline, nil
	}
	return inline, h.stageLarge(r, task)
}

// stageLarge writes the bytes that do not travel in the entry, those of several blobs at
// a time: each one waits for the disks of other nodes.
func (h *handed) stageLarge(r *reign, task *exec.Task) error {
	staging, ctx := errgroup.WithContext(r.ctx)
	staging.SetLimit(handedStagedAtOnce)
	for i := range h.emissions {
		put, data := &h.emissions[i], h.emissions[i].Data
		if put.payload != nil {
			continue
		}
		put.Data = nil
		staging.Go(func() (err error) {
			if r.writesBehind(task, put) {
				put.payload = r.writeBehind(h.app, data, put.Lent)
			}
			if put.payload == nil {
				put.payload, err = h.leader.stageBlob(ctx, h.app, bytes.NewReader(data), int64(len(data)))
			}
			return err
		})
	}
	return staging.Wait()
}

// writesBehind tells whether an emission counts before its bytes are on disks.
func (r *reign) writesBehind(task *exec.Task, put *emission) bool {
	app, _, ok := r.leader.cfg.Apps.App(task.App, task.Version)
	return ok && put.puts() && durability(app, put.Bucket) == spec.Ephemeral
}

// inlineMost is how large bytes may be to travel in an entry that others do already.
func inlineMost(inline int64) int {
	if inline > handedInline {
		return handedInlineEach
	}
	return InlineBytes
}

// Bounds of what an attempt hands over at once, since it becomes part of one entry.
const (
	handedAtOnce = 1000 // emissions
	// handedInline is how many bytes travel in the entry. What comes after them is
	// staged like a large object, unless it is no larger than handedInlineEach.
	handedInline     = 256 << 10
	handedInlineEach = 1 << 10
	// handedStagedAtOnce is how many blobs of it are staged at a time, as many as a node
	// is sent at a time.
	handedStagedAtOnce = 8
)

// handed is a command with what its attempt handed over: it gives back what that
// took of the intake once it is evaluated, and lets go of the blobs that no
// record came to refer to. Most attempts hand over an object, once: all that it takes to
// evaluate that is in here.
type handed struct {
	command
	leader    *Leader
	app       spec.AppName
	emissions []emission
	weight    int64

	request request
	one     [1]emission
	end     done
}

func newHanded(l *Leader, app spec.AppName, emissions int) *handed {
	h := &handed{leader: l, app: app}
	h.request.command = h
	if emissions <= len(h.one) {
		h.emissions = h.one[:emissions]
	} else {
		h.emissions = make([]emission, emissions)
	}
	return h
}

// handedTo says what becomes of what an attempt hands over.
type handedTo struct {
	ended   bool          // it is over; else it goes on
	failure *exec.Failure // why it has failed
}

// become makes the command of it.
func (h *handed) become(task *exec.Task, to handedTo) {
	if to.ended {
		h.end = done{attemptOf(task), h.emissions, to.failure}
		h.command = &h.end
		return
	}
	h.command = &emitted{attemptName: attemptOf(task), emissions: h.emissions}
}

func (h *handed) evaluate(t *tx) error {
	h.leader.room.release(h.app, h.weight)
	err := h.command.evaluate(t)
	if e, ok := h.command.(*emitted); !ok || !e.buffered {
		t.letGoOf(h)
	}
	return err
}

// refuse gives back everything of a command that is not evaluated.
func (h *handed) refuse() {
	h.leader.room.release(h.app, h.weight)
	h.letGo(nil)
}

func (h *handed) letGo(lost error) {
	for i := range h.emissions {
		h.leader.letGo(h.app, h.emissions[i].payload, lost != nil)
	}
}

// letGoOf has the staged blobs let go of once it is known which of them are stored.
func (t *tx) letGoOf(h *handed) {
	for i := range h.emissions {
		if h.emissions[i].payload.blob != nil {
			t.after(h.letGo)
			return
		}
	}
}

// letGoBuffered forgets what an atomic attempt has handed over while it ran.
func (t *tx) letGoBuffered(inv *invocation) {
	if len(inv.buffered) > 0 {
		t.letGoOf(&handed{leader: t.leader, app: inv.session.name.app, emissions: inv.buffered})
		inv.buffered, inv.bufferedBytes = nil, 0
	}
}

// handEarly hands over all but the last few emissions, up to left, as an attempt
// that runs does: what one attempt puts must not make one entry of any size.
func (r *reign) handEarly(task *exec.Task, emissions []exec.Emission, left int) ([]exec.Emission, error) {
	for len(emissions) > left {
		n := min(len(emissions), handedAtOnce)
		if err := r.hand(task, emissions[:n], handedTo{}); err != nil {
			return nil, err
		}
		emissions = emissions[n:]
	}
	return emissions, nil
}
