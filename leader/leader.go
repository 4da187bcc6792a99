package leader

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/raft/shard"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// Bounds of what waits for the loop.
const (
	intakeBytes = 64 << 20 // payload bytes queued before callers wait
	// admissionWait is how long a client's command waits for a leader or for room
	// before it is told to try again.
	admissionWait = 5 * time.Second
)

// Replica is a shard's raft group as the leader sees it; *shard.Shard is one.
type Replica interface {
	Lead(ctx context.Context) (*shard.Term, error)
	ReadIndex(ctx context.Context) error
	Led() (here, known bool, changed <-chan struct{})
	Applied() <-chan struct{}
}

// term is what a reign needs of a *shard.Term.
type term interface {
	Epoch() uint64
	Propose(body []byte, done func(error)) error
	Resign()
	Done() <-chan struct{}
	Err() error
}

// ErrNotTaken says that a command was not evaluated and never will be: whoever
// leads the shard can be asked for it again.
var ErrNotTaken = errors.New("the command was not taken")

// Apps answers what is deployed; the node's copy of the control state is one.
type Apps interface {
	// App returns a version of an app, the newest for version 0. A version that is
	// not kept any more is answered with the oldest one that is.
	App(name spec.AppName, version uint64) (*spec.App, uint64, bool)
	// Names lists the deployed apps.
	Names() []spec.AppName
	// Index counts what has happened to them, as far as is known here: a shard that
	// was led by a node that knew more must not be led by one that knows less. Await
	// waits until the index is at least so high.
	Index() uint64
	Await(ctx context.Context, index uint64) error
	// Incarnation counts how often an app was deployed again after it had been deleted.
	Incarnation(name spec.AppName) uint64
}

// Router delivers mail to the leader of the shard that owns a slot.
type Router interface {
	ShardOf(slot spec.Slot) spec.ShardID
	// Deliver hands a message over to the leader of a shard, which takes it (TakeMail),
	// and returns once the receiver's entry is applied. A blob of its object is in the
	// store of this node, in the sender's shard.
	Deliver(ctx context.Context, to spec.ShardID, m Mail) error
}

// Copies keeps copies of staged blobs on the shard's other replicas.
type Copies interface {
	// Spread returns once a majority of the replicas that vote, with this one, has a
	// blob on disk that is staged here, marked as staged. It is CodeUnavailable if too
	// few could be reached in time. Others may vote before an entry refers to the blob:
	// enough tells whether a majority of those that vote now is known to have it.
	Spread(ctx context.Context, shard spec.ShardID, app spec.AppName, blob store.Blob) (enough func() bool, err error)
	// Discard has the copies of a blob removed that no entry will ever refer to. It
	// does not wait.
	Discard(shard spec.ShardID, app spec.AppName, blob store.Blob)
}

// Config is what a Leader needs. All fields but Copies, Tell, the bounds, Now
// and Log are required.
type Config struct {
	Shard   spec.ShardID
	DB      *store.DB
	Replica Replica
	Apps    Apps
	Router  Router
	Copies  Copies // nil: the shard has one replica
	Runtime exec.Runtime
	// Tell takes lines about attempts that failed, for the app's log. It must not
	// block. Nobody is told if it is nil.
	Tell func(exec.LogRecord)
	// FiringBytes bounds what the firings of one entry write; 48 MiB if it is 0.
	FiringBytes int
	// ChangesKept is how many changes of key-value objects the change log reaches
	// back, 200,000 if it is 0, unless they have more than ChangeBytesKept, 256 MiB
	// if it is 0.
	ChangesKept     int
	ChangeBytesKept int64
	// Memory bounds what is kept in memory of what waits.
	Memory MemoryBounds
	// Mail bounds what is kept of messages to other shards.
	Mail MailBounds
	// Now is the clock; time.Now if nil.
	Now func() time.Time
	Log *slog.Logger
}

// MemoryBounds bounds what a leader keeps in memory of what waits; what is beyond them
// is read from the store when its time comes. A bound of 0 is its default.
type MemoryBounds struct {
	// Dispatched is how many attempts of a function may be with the executors, running
	// or waiting: 16,384.
	Dispatched int
	// Sessions is how many running sessions are kept of which nothing runs: 4,096.
	Sessions int
	// Timers is how many timers are loaded: 16,384.
	Timers int
	// Behind is how many bytes of large objects of ephemeral buckets are on their way to
	// the disks: 64 MiB. Larger ones, and those that come while so many are, are written first.
	Behind int
}

func (b MemoryBounds) withDefaults() MemoryBounds {
	b.Dispatched = cmp.Or(b.Dispatched, 16<<10)
	b.Sessions = cmp.Or(b.Sessions, 4<<10)
	b.Timers = cmp.Or(b.Timers, 16<<10)
	b.Behind = cmp.Or(b.Behind, 64<<20)
	return b
}

// Leader runs the workflows of one shard while this node leads it. It is safe
// for concurrent use.
type Leader struct {
	cfg Config
	hub *hub
	own func(*shard.Term) term // the identity; tests hold up what is proposed

	room *room
	firm atomic.Int64 // how many want nothing to linger
	// behindFrom is when bytes are written behind their objects again; nil if they are.
	behindFrom atomic.Pointer[time.Time]
	reading    atomic.Int64 // how many puts are read to be written behind their objects
	largest    atomic.Int64 // bytes of the largest entry proposed

	confirmed atomic.Pointer[time.Time] // when the local store was last known to hold everything; nil: never
	asking    atomic.Bool

	mu struct {
		sync.Mutex
		reign   *reign        // nil while this node does not lead the shard
		changed chan struct{} // closed and replaced whenever reign changes
	}
}

// New makes the leader of one shard. Run makes it work.
func New(cfg Config) *Leader {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	cfg.FiringBytes = cmp.Or(cfg.FiringBytes, defaultFiringBytes)
	cfg.ChangesKept = cmp.Or(cfg.ChangesKept, defaultChangesKept)
	cfg.ChangeBytesKept = cmp.Or(cfg.ChangeBytesKept, defaultChangeBytesKept)
	cfg.Memory = cfg.Memory.withDefaults()
	cfg.Mail = cfg.Mail.withDefaults()
	if cfg.Tell == nil {
		cfg.Tell = func(exec.LogRecord) {}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	cfg.Log = cfg.Log.With("shard", uint64(cfg.Shard))
	l := &Leader{cfg: cfg, hub: newHub(), room: newRoom(), own: func(t *shard.Term) term { return t }}
	l.mu.changed = make(chan struct{})
	return l
}

// Run leads the shard whenever this replica is elected, until ctx ends. It
// returns ctx's error, or the reason why the shard can't be led at all.
func (l *Leader) Run(ctx context.Context) error {
	for {
		term, err := l.cfg.Replica.Lead(ctx)
		if err != nil {
			return fmt.Errorf("lead shard %d: %w", l.cfg.Shard, err)
		}
		r, err := assume(ctx, l, l.own(term))
		if ctx.Err() != nil {
			if r != nil {
				r.abandon()
			}
			return ctx.Err()
		}
		if errors.Is(err, shard.ErrTermOver) {
			l.cfg.Log.Warn("term over before it was assumed, claiming again", "epoch", term.Epoch(), "reason", err)
			continue
		}
		if err != nil {
			return fmt.Errorf("assume shard %d in epoch %d: %w", l.cfg.Shard, term.Epoch(), err)
		}
		l.enthrone(r)
		err = r.serve(ctx)
		l.enthrone(nil)
		r.abandon()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !errors.Is(err, shard.ErrTermOver) {
			return fmt.Errorf("lead shard %d: %w", l.cfg.Shard, err)
		}
		l.cfg.Log.Warn("term over, claiming again", "epoch", term.Epoch(), "reason", err)
	}
}

func (l *Leader) enthrone(r *reign) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.reign = r
	close(l.mu.changed)
	l.mu.changed = make(chan struct{})
}

// reigning returns the reign that takes commands now, nil if there is none.
func (l *Leader) reigning() *reign {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.reign
}

// Leading tells whether commands are taken now.
func (l *Leader) Leading() bool { return l.reigning() != nil }

// LargestEntry returns the size of the largest raft entry that was proposed, in
// bytes. It stays below MaxEntryBytes.
func (l *Leader) LargestEntry() int { return int(l.largest.Load()) }

// current waits for a reign. It does not wait while another replica leads.
func (l *Leader) current(ctx context.Context) (*reign, error) {
	for {
		l.mu.Lock()
		r, changed := l.mu.reign, l.mu.changed
		l.mu.Unlock()
		if r != nil {
			return r, nil
		}
		here, known, moved := l.cfg.Replica.Led()
		if known && !here {
			return nil, spec.Errorf(spec.CodeUnavailable, "shard %d is led by another replica: %w", l.cfg.Shard, ErrNotTaken)
		}
		select {
		case <-changed:
		case <-moved:
		case <-ctx.Done():
			return nil, spec.Errorf(spec.CodeUnavailable, "shard %d has no leader just now: %w", l.cfg.Shard, ErrNotTaken)
		}
	}
}

// do has a command evaluated and waits until what it did is applied, or, where nobody
// waits for that, only evaluated. The command's own fields hold its answer then.
func (l *Leader) do(ctx context.Context, c command, size int) error {
	app, weight := ownerOf(c), int64(min(size, intakeBytes/4))
	req := &request{command: c, answer: make(chan error, 1)}
	r := l.admitNow(ctx, req, app, weight)
	if r == nil {
		var err error
		if r, err = l.admit(ctx, req, app, weight); err != nil {
			return err
		}
	}
	defer l.room.release(app, weight)
	select {
	case err := <-req.answer:
		return err
	case <-ctx.Done():
		return spec.Errorf(spec.CodeTimeout, "the request was handed over and its outcome is not known: %w", ctx.Err())
	case <-r.settled:
		// Every answer that was to come has come before settled is closed.
		select {
		case err := <-req.answer:
			return err
		default:
			return errTermOver(l.cfg.Shard)
		}
	}
}

// admitNow queues a request if there is a reign with a place and room for it, as there
// mostly is: then nothing has to be made to wait with. nil says that there is not.
func (l *Leader) admitNow(ctx context.Context, req *request, app spec.AppName, weight int64) *reign {
	r := l.reigning()
	if r == nil || ctx.Err() != nil || !l.room.tryAcquire(app, weight) {
		return nil
	}
	if !r.tryOffer(req) {
		l.room.release(app, weight)
		return nil
	}
	return r
}

// admit queues a request, with its bytes taken from the room, and waits for
// admissionWait at most until that can be done.
func (l *Leader) admit(ctx context.Context, req *request, app spec.AppName, weight int64) (*reign, error) {
	admission, cancel := context.WithTimeout(ctx, admissionWait)
	defer cancel()
	r, err := l.current(admission)
	if err != nil {
		return nil, err
	}
	if err := l.room.acquire(admission, app, weight); err != nil {
		return nil, spec.Errorf(spec.CodeOverloaded, "shard %d has more waiting than it takes", l.cfg.Shard)
	}
	if r.offer(admission, req) {
		return r, nil
	}
	l.room.release(app, weight)
	if r.ctx.Err() != nil {
		return nil, errNotTaken(l.cfg.Shard)
	}
	return nil, spec.Errorf(spec.CodeOverloaded, "shard %d has more waiting than it takes", l.cfg.Shard)
}

func errNotTaken(id spec.ShardID) error {
	return spec.Errorf(spec.CodeUnavailable, "shard %d changed its leader: %w", id, ErrNotTaken)
}

func errTermOver(id spec.ShardID) error {
	return spec.Errorf(spec.CodeUnavailable, "shard %d changed its leader: the outcome is not known, ask again with the same idempotency key", id)
}

// command is something that changes the shard. evaluate runs on the loop; an
// error it returns is the caller's answer and must come before any write.
type command interface {
	evaluate(tx *tx) error
}

// request is a command with the place its answer goes to. A nil answer is for
// commands that nobody waits for.
type request struct {
	command command
	answer  chan error // capacity 1
	err     error      // the answer, once the command is evaluated
	lane    *lane      // that it came through
}

// WaitLeading returns once commands are taken.
func (l *Leader) WaitLeading(ctx context.Context) error {
	_, err := l.current(ctx)
	return err
}
