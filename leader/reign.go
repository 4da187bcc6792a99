package leader

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pheromone-run/pheromone/internal/failpoint"
	"github.com/pheromone-run/pheromone/raft/shard"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/spec/wire"
	"github.com/pheromone-run/pheromone/store"
	"github.com/pheromone-run/pheromone/triggers"
)

// Bounds of an entry. Larger ones cost leaderships of other shards: measured for
// raft/shard.
const (
	entryBytes    = 64 << 10 // an entry is closed when its batch reaches this
	entryCommands = 512
)

// reign is the time of one term: it owns the working state of the shard. All
// fields below intake belong to the loop's goroutine but for those that say
// otherwise.
type reign struct {
	leader *Leader
	term   term
	intake *intake

	ctx     context.Context // ends when no more commands are taken
	end     context.CancelFunc
	gate    sync.RWMutex  // held for reading while a request is queued
	settled chan struct{} // closed when every answer has been given

	counters   store.Counters
	changes    changeLog
	sessions   map[sessionName]*session
	machines   map[machineName]*machine // of triggers of scope bucket
	pending    map[spec.AppName]int     // invocations not ended, by app
	pendingOf  map[functionName]int     // the same by function
	deployedAt uint64                   // index of the apps that were taken over
	newest     map[spec.AppName]*plan   // of the deployed apps
	born       map[spec.AppName]uint64  // the incarnations of apps that the shard's data are of
	plans      map[planName]*plan
	resting    []*session // ended ones that leave memory once they are applied
	idle       []idling   // running ones that the store has whole, by when they came to rest
	parking    parking
	sweeps     map[store.Timer]uint64 // the entries that the sweeps of held objects rest on
	stash      *request               // an exclusive command that must have a round of its own
	timers     timers
	lingering  *tx // the entry that is not proposed yet, nil if there is none
	lull       lull
	overlay    overlay
	writes     store.Batch // of the entry in the making
	changed    changed     // by it
	scratch    scratch
	slab       slab
	rooms      []*triggers.Room // of steps that are over
	outbox     *outbox

	// slots and extra have one token for each entry in flight, freed by its completion:
	// of the window, and beyond it.
	slots, extra chan struct{}

	failed error // why the working state can't be trusted any more

	// inflight is shared with the term's completion goroutine.
	inflight struct {
		sync.Mutex
		entries []*entry
		bytes   int
		spare   []*entry
	}
	promised   atomic.Uint64 // the last entry that answers may rest on before it is applied
	appliedSeq atomic.Uint64 // count of the entries applied in this term
	proposed   uint64        // count of the entries proposed

	stalls   stalls
	starts   starts
	behind   behind
	loading  sync.WaitGroup // reads of large inputs, begun by effects
	pendingN atomic.Int64   // for status
	mailN    atomic.Int64   // messages in the outbox, as evaluated
}

type sessionName struct {
	app     spec.AppName
	session spec.SessionID
}

// machineName names a trigger in a scope; session is empty for scope bucket.
type machineName struct {
	app     spec.AppName
	session spec.SessionID
	bucket  spec.BucketName
	trigger spec.TriggerName
}

// machine is a trigger's state machine with what the store knows of it.
type machine struct {
	triggers.Machine // nil while the trigger is stalled
	spec             *spec.Trigger
	name             machineName
	timer            store.Micros // armed in the store; 0 if none
	known            bool         // the store has a state of it
	dirty            bool

	header  []byte // as of the last step that changed it, or the last write; see retains
	stale   bool   // a step has changed the header since
	stalled string // why there is no machine; empty if there is one
	stack   string // of the panic that took the machine
	backlog uint64 // from this position on, items have come that no machine has counted; 0 for none
	tail    uint64 // the last position that was added to the backlog in this reign

	headerBytes int // of the header, with the sets named since it was written
	// widest is the size of the largest record that the trigger holds, in scope bucket.
	widest int
	// firm is the entry that has to be applied before the trigger fires early.
	firm uint64
}

// assume loads what was pending when the term before ended, and marks the
// attempts that ended with it as lost.
func assume(ctx context.Context, l *Leader, term term) (*reign, error) {
	r := &reign{
		leader:    l,
		term:      term,
		intake:    newIntake(time.Now),
		settled:   make(chan struct{}),
		sessions:  make(map[sessionName]*session),
		machines:  make(map[machineName]*machine),
		pending:   make(map[spec.AppName]int),
		pendingOf: make(map[functionName]int),
		newest:    make(map[spec.AppName]*plan),
		born:      make(map[spec.AppName]uint64),
		plans:     make(map[planName]*plan),
		sweeps:    make(map[store.Timer]uint64),
		parking:   newParking(l.cfg.Memory.Dispatched),
		overlay:   newOverlay(),
		slots:     make(chan struct{}, window),
		extra:     make(chan struct{}, beyond),
		behind:    behind{most: l.cfg.Memory.Behind},
	}
	r.lull.init()
	r.stalls.byName = make(map[machineName]wire.StalledTrigger)
	r.ctx, r.end = context.WithCancel(context.Background())
	r.outbox = newOutbox(r)
	r.timers.init(l.cfg.Memory.Timers)
	if err := r.recover(ctx); err != nil {
		r.abandon()
		return nil, err
	}
	return r, nil
}

// serve evaluates and proposes until the term or ctx ends.
func (r *reign) serve(ctx context.Context) error {
	for {
		first := r.stash
		r.stash = nil
		if first == nil {
			var err error
			if first, err = r.awaitCommand(ctx); err != nil {
				r.part()
				return err
			}
		}
		// Timers read the store, as exclusive commands do. Under load nobody looks at clocks.
		if now := r.now(); first == nil || isExclusive(first.command) || r.timers.isDue(micros(now)) || r.lingersTooLong(now) {
			if err := r.hasten(); err != nil {
				r.refuse(first)
				return err
			}
		}
		if first != nil && isExclusive(first.command) {
			if err := r.drain(); err != nil {
				r.refuse(first)
				return err
			}
		}
		tx := r.lingering
		if r.lingering = nil; tx == nil {
			// An entry more in flight must be allowed before anything is evaluated.
			slot, err := r.awaitSlot(first)
			if err != nil {
				r.refuse(first)
				return err
			}
			r.forgetApplied()
			tx = r.begin(slot)
		}
		if err := r.round(tx, first); err != nil {
			return err
		}
		if first != nil && isExclusive(first.command) { // what it deleted must be seen to be gone
			if err := r.drain(); err != nil {
				return err
			}
		}
	}
}

// awaitCommand waits until there is a command, or a timer is due (nil).
func (r *reign) awaitCommand(ctx context.Context) (*request, error) {
	for {
		select {
		case <-r.term.Done():
			return nil, r.term.Err()
		case <-ctx.Done():
			return nil, ctx.Err()
		default:
		}
		if req := r.intake.take(); req != nil {
			return req, nil
		}
		select {
		case <-r.intake.ready:
		case <-r.timers.due():
			return nil, nil
		case <-r.lull.over():
			if !r.lingersTooLong(r.now()) {
				continue // what it waits for wakes the loop
			}
			if err := r.hasten(); err != nil {
				return nil, err
			}
		case <-r.term.Done():
		case <-ctx.Done():
		}
	}
}

// round evaluates what waits, first and after it, and proposes it as one entry, unless
// nobody waits for that.
func (r *reign) round(tx *tx, first *request) error {
	tx.at = micros(r.now())
	exclusive := first != nil && isExclusive(first.command)
	if !exclusive {
		r.takeStarts(tx)
		r.fireTimers(tx)
	}
	taken := len(tx.taken)
	for n, req := 1, first; req != nil; n++ {
		tx.run(req)
		tx.taken = append(tx.taken, req)
		req = nil
		if n < entryCommands && !tx.full() && !exclusive {
			req = r.intake.take()
		}
		if req != nil && isExclusive(req.command) {
			r.stash, req = req, nil
		}
	}
	if !exclusive {
		tx.unpark()
	}
	tx.settleMoved()
	r.remind()
	unwaited := tx.lazy && !tx.urgent
	if unwaited {
		r.intake.giveBack(tx.taken[taken:])
		clear(tx.taken[taken:])
		tx.taken = tx.taken[:taken]
	}
	tooLong := tx.left && r.lull.wasOver(r.now())
	if (unwaited && !tooLong || tx.unwritten()) && !tx.full() && r.failed == nil && r.leader.firm.Load() == 0 {
		r.leave(tx)
		return nil
	}
	return r.close(tx)
}

// close writes what the transaction left dirty, and proposes it.
func (r *reign) close(tx *tx) error {
	tx.flush()
	if r.failed != nil {
		tx.finished(r.failed)
		return fmt.Errorf("working state lost: %w", r.failed)
	}
	if err := tx.awaitBytes(); err != nil {
		tx.finished(err)
		return err
	}
	r.behind.paused.Store(false)
	return r.propose(tx)
}

// propose sends the transaction's batch on its way, or, if nothing changed, lets
// its effects run after what is in flight already. What need not wait for that goes
// out at once.
func (r *reign) propose(tx *tx) error {
	r.counters = tx.counters
	r.promise(tx)
	if tx.batch.Empty() {
		<-tx.slot
		tx.goOut()
		r.inflight.Lock()
		if n := len(r.inflight.entries); n > 0 {
			tx.entry.join(r.inflight.entries[n-1])
			r.inflight.Unlock()
			r.spare(tx.entry)
			return nil
		}
		r.inflight.Unlock()
		tx.finished(nil)
		return nil
	}
	r.proposed++
	r.leader.largest.Store(max(r.leader.largest.Load(), int64(tx.batch.Len())))
	body := tx.batch.Repr()
	e := tx.entry
	e.bytes = len(body)
	r.inflight.Lock()
	r.inflight.entries = append(r.inflight.entries, e)
	r.inflight.bytes += e.bytes
	r.inflight.Unlock()
	tx.steps.Propose(body)
	if err := r.term.Propose(body, r.applied); err != nil {
		return err // the entry is settled by abandon
	}
	tx.goOut()
	return nil
}

// applied is called by the term's completion goroutine, in order of the
// proposals: these are the watch callbacks of the shard.
func (r *reign) applied(err error) {
	r.inflight.Lock()
	e := r.inflight.entries[0]
	r.inflight.entries = slices.Delete(r.inflight.entries, 0, 1) // they are few
	r.inflight.bytes -= e.bytes
	r.inflight.Unlock()
	if err == nil {
		e.steps.At(failpoint.Reported)
		r.appliedSeq.Store(e.seq)
	}
	<-e.slot
	e.settle(r, err)
	if err == nil {
		e.steps.At(failpoint.Effected)
	}
	r.spare(e)
}

// forgetApplied drops from memory what the store holds by now.
func (r *reign) forgetApplied() {
	applied := r.appliedSeq.Load()
	r.overlay.forget(applied)
	r.forgetResting(applied)
	r.forgetIdle(applied)
	r.timers.land(applied)
}

// exclusive commands read the store behind the overlay's back: they are evaluated
// alone, with nothing in flight.
type exclusive interface{ exclusive() }

func isExclusive(c command) bool {
	_, ok := c.(exclusive)
	return ok
}

// offer queues a request for the loop. It returns false if the reign is over or
// ctx has ended before there was room.
func (r *reign) offer(ctx context.Context, req *request) bool {
	r.gate.RLock()
	defer r.gate.RUnlock()
	if r.ctx.Err() != nil {
		return false
	}
	if r.intake.tryOffer(req) {
		return true
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(r.ctx, cancel)()
	return r.intake.offer(ctx, req) == nil
}

// tryOffer queues a request for the loop if there is room for it now.
func (r *reign) tryOffer(req *request) bool {
	r.gate.RLock()
	defer r.gate.RUnlock()
	return r.ctx.Err() == nil && r.intake.tryOffer(req)
}

// refuse answers a request that came too late.
func (r *reign) refuse(req *request) {
	if req == nil {
		return
	}
	if h, ok := req.command.(*handed); ok {
		h.refuse()
	}
	if req.answer != nil {
		req.answer <- errNotTaken(r.leader.cfg.Shard)
	}
}

// abandon waits until every proposal is settled, answers what was not evaluated
// and stops the attempts of this reign: their results could not be taken.
func (r *reign) abandon() {
	r.end()
	r.gate.Lock() // who was queueing a request has done so, or has given up
	r.timers.stop()
	r.lull.stop()
	r.gate.Unlock()
	r.outbox.stop()
	r.term.Resign()
	<-r.term.Done()
	r.loading.Wait()
	r.inflight.Lock()
	left := r.inflight.entries
	r.inflight.entries = nil
	r.inflight.Unlock()
	for _, e := range left { // proposals the term did not take
		e.settle(r, shard.ErrTermOver)
	}
	r.forsake()
	for _, req := range r.intake.rest() {
		r.refuse(req)
	}
	close(r.settled)
	for _, s := range r.sessions {
		for _, inv := range s.pending {
			for i := range inv.buffered {
				r.leader.letGo(s.name.app, inv.buffered[i].payload, true)
			}
			if inv.dispatched {
				r.leader.cfg.Runtime.Cancel(r.refOf(inv))
			}
		}
	}
}

func (r *reign) now() time.Time { return r.leader.cfg.Now() }
