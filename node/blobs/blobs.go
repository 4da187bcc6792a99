package blobs

import (
	"context"
	"io"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// Config is what Blobs needs. All fields down to CaughtUp are required.
type Config struct {
	Node string
	DB   *store.DB
	// Call asks another node, as peer.Caller does, by its name.
	Call func(ctx context.Context, node, method string, args any, body io.Reader, result any) (io.ReadCloser, error)
	// Replicas lists the other replicas of a shard: those that the placement has, and
	// those that vote in its raft group. The two are not the same while members
	// change, and on a node that hears late of a change of the placement.
	// votes tells that the replica here votes, too, and that it is known which do.
	Replicas func(spec.ShardID) (others []Replica, votes bool)
	// Shards lists the shards that have a replica here.
	Shards func() []spec.ShardID
	// Member tells whether a node is one of the cluster.
	Member func(node string) bool
	// CaughtUp returns once the replica here has applied all that was committed before
	// the call.
	CaughtUp func(context.Context, spec.ShardID) error

	Now func() time.Time
	Log *slog.Logger
}

// Replica is a replica on another node.
type Replica struct {
	Number uint64
	Node   string // empty if it is not known where it is
	Votes  bool   // in the raft group, as of what the replica here has applied
}

// Blobs is a node's side of it. It is safe for concurrent use.
type Blobs struct {
	cfg    Config
	ctx    context.Context // ends when the node stops
	cancel context.CancelFunc
	tasks  sync.WaitGroup

	incoming *semaphore.Weighted // copies that other nodes send
	outgoing *semaphore.Weighted // blobs that other nodes get
	repairs  *semaphore.Weighted
	late     *semaphore.Weighted // transfers that go on behind their majority
	look     chan struct{}       // has Run look for what is lacking
	drops    chan drop

	mu struct {
		sync.Mutex
		closed  bool
		slots   map[string]*semaphore.Weighted // transfers to each node
		spreads map[[16]byte]*spread           // the last one of each blob that is under way
		looks   map[spec.ShardID]*look
		lacking map[spec.ShardID]Lacking

		repaired, failed uint64 // repairs
	}
}

// Bounds of what is under way at once. A transfer holds two chunks in memory.
const (
	incomingMost = 16
	outgoingMost = 16
	repairsMost  = 4
	perNodeMost  = 8
	lateMost     = 256
	dropsMost    = 4096 // beyond, copies are left to the sweep

	lookEvery  = 30 * time.Second // for blobs that are lacking
	sweepEvery = 5 * time.Minute  // for copies that nothing refers to
	keepStaged = 10 * time.Minute // how old a copy has to be before it is swept
)

// New makes a node's side. Run does the work in the background.
func New(cfg Config) *Blobs {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	b := &Blobs{
		cfg:      cfg,
		incoming: semaphore.NewWeighted(incomingMost),
		outgoing: semaphore.NewWeighted(outgoingMost),
		repairs:  semaphore.NewWeighted(repairsMost),
		late:     semaphore.NewWeighted(lateMost),
		look:     make(chan struct{}, 1),
		drops:    make(chan drop, dropsMost),
	}
	b.mu.slots = make(map[string]*semaphore.Weighted)
	b.mu.spreads = make(map[[16]byte]*spread)
	b.mu.looks = make(map[spec.ShardID]*look)
	b.mu.lacking = make(map[spec.ShardID]Lacking)
	b.ctx, b.cancel = context.WithCancel(context.Background())
	cfg.DB.RepairWith(b.Repair)
	return b
}

// Run looks for blobs that are lacking and for copies that nothing refers to, until
// ctx ends. It returns when all transfers have ended.
func (b *Blobs) Run(ctx context.Context) {
	b.tasks.Go(b.sendDrops)
	look, sweep := time.NewTicker(lookEvery), time.NewTicker(sweepEvery)
	defer look.Stop()
	defer sweep.Stop()
	b.Look()
	for {
		select {
		case <-b.look:
			b.repairAll(ctx)
		case <-look.C:
			b.repairAll(ctx)
		case <-sweep.C:
			b.Sweep(ctx)
		case <-ctx.Done():
			b.close()
			return
		}
	}
}

// Look has what is lacking looked for now.
func (b *Blobs) Look() {
	select {
	case b.look <- struct{}{}:
	default:
	}
}

func (b *Blobs) close() {
	b.mu.Lock()
	b.mu.closed = true
	b.mu.Unlock()
	b.cancel()
	b.tasks.Wait()
}

// begin runs f beside the caller, unless the node stops.
func (b *Blobs) begin(f func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.mu.closed {
		return false
	}
	b.tasks.Go(f)
	return true
}

// slotsTo bounds the transfers to a node.
func (b *Blobs) slotsTo(node string) *semaphore.Weighted {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.mu.slots[node]
	if s == nil {
		s = semaphore.NewWeighted(perNodeMost)
		b.mu.slots[node] = s
	}
	return s
}

// transferWait bounds how long the bytes of a blob may take from node to node.
func transferWait(blob *store.Blob) time.Duration {
	const once, perMiB = 10 * time.Second, 200 * time.Millisecond
	return once + time.Duration(blob.Size>>20)*perMiB
}
