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
func (r *reign) hand(task *exec.Task, emissions []exec.Emission, to func([]emission) command) error {
	if len(emissions) > 0 {
		r.waitForRoom(task, emissions)
	}
	puts := make([]emission, len(emissions))
	h := &handed{leader: r.leader, app: task.App, emissions: puts}
	inline, err := h.stage(r, task, emissions)
	if err != nil {
		h.letGo(nil)
		return err
	}
	weight := min(inline+128*int64(len(puts)), intakeBytes/4)
	if err := r.leader.room.acquire(r.ctx, task.App, weight); err != nil {
		h.letGo(nil)
		return errTermOver(r.leader.cfg.Shard)
	}
	h.command, h.weight = to(puts), weight
	if !r.offer(r.ctx, &request{command: h}) {
		h.refuse()
		return errTermOver(r.leader.cfg.Shard)
	}
	return nil
}

// stage has the bytes of emissions where they are to be, those of several blobs at a
// time: each one waits for the disks of other nodes. It returns how many bytes travel
// in the entry.
func (h *handed) stage(r *reign, task *exec.Task, emissions []exec.Emission) (inline int64, err error) {
	ctx := r.ctx
	payloads := make([]payload, len(emissions))
	var staging *errgroup.Group // of what is large, if anything is
	for i := range emissions {
		put, data := &h.emissions[i], emissions[i].Data
		put.Emission, put.Data = emissions[i], nil
		if len(data) <= inlineMost(inline) {
			if emissions[i].Lent {
				data = bytes.Clone(data)
			}
			payloads[i] = payload{inline: data, size: int64(len(data))}
			put.payload = &payloads[i]
			inline += put.payload.size
			continue
		}
		if staging == nil {
			staging, ctx = errgroup.WithContext(ctx)
			staging.SetLimit(handedStagedAtOnce)
		}
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
	if staging == nil {
		return inline, nil
	}
	return inline, staging.Wait()
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
// record came to refer to.
type handed struct {
	command
	leader    *Leader
	app       spec.AppName
	emissions []emission
	weight    int64
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
		err := r.hand(task, emissions[:n], func(puts []emission) command {
			return &emitted{attemptName: attemptOf(task), emissions: puts}
		})
		if err != nil {
			return nil, err
		}
		emissions = emissions[n:]
	}
	return emissions, nil
}
