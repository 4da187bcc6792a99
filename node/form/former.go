package form

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pheromone-run/pheromone/raft/control"
	"github.com/pheromone-run/pheromone/spec"
)

// Config is the configuration of a Former.
type Config struct {
	// Self is this node, without its Install.
	Self Node
	// Join are addresses of nodes of the cluster; this one's own may be among them.
	Join []string
	// Expect is how many nodes found the cluster. With 0 the node waits for one
	// that takes it in, or for Init.
	Expect int
	// Shards and Replicas are those of a cluster that this node decides on.
	Shards, Replicas int
	// Ask asks the node at an address. Its errors are those of peer.Caller.Call.
	Ask func(ctx context.Context, address, method string, args, result any) error
	// Pace is how long it is from one look at the other nodes to the next, at first;
	// later ten times as long. Default 100 ms.
	Pace time.Duration
	// Now is the clock that is compared with other nodes'. Default time.Now.
	Now func() time.Time
	Log *slog.Logger // default: nowhere
}

// Former finds a node's cluster.
type Former struct {
	cfg    Config
	record *Record
	began  time.Time
	group  atomic.Pointer[control.Group] // once it is open
	again  chan struct{}                 // capacity 1: a look is asked for
	asked  chan request
	ended  chan struct{} // closed when Run returns

	mu struct {
		sync.Mutex
		seeds   []string
		met     map[string]bool      // the installs of the last look, and whether they had looked around
		waiting string               // what Run waits for
		clocks  map[string]time.Time // when a clock that is apart was last told of, by address
	}
}

const (
	askWait  = 3 * time.Second // for the answer of one node
	sayAgain = 30 * time.Second
	// saySoonest keeps what is said apart: the reasons may change with each look.
	saySoonest = 2 * time.Second
)

// New makes the Former of a node whose Record has begun.
func New(cfg Config, record *Record) *Former {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Pace == 0 {
		cfg.Pace = 100 * time.Millisecond
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	f := &Former{cfg: cfg, record: record, began: time.Now(), again: make(chan struct{}, 1), asked: make(chan request), ended: make(chan struct{})}
	f.mu.clocks = map[string]time.Time{}
	f.mu.waiting = "it has not looked for the other nodes yet"
	return f
}

// Opened tells the Former of the control group, which knows the members.
func (f *Former) Opened(group *control.Group) { f.group.Store(group) }

// Waiting tells what a node that belongs to no cluster waits for.
func (f *Former) Waiting() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.mu.waiting
}

// heard has the node look again at once if what another one says is news.
func (f *Former) heard(h Hello) {
	f.mu.Lock()
	looked, met := f.mu.met[h.Node.Install]
	f.mu.Unlock()
	if met && looked == (len(h.Seeds) > 0) {
		return
	}
	select {
	case f.again <- struct{}{}:
	default:
	}
}

// Run returns once the node belongs to a cluster, or with what makes that
// impossible.
func (f *Former) Run(ctx context.Context) error {
	defer close(f.ended)
	pause, said := f.cfg.Pace, notice{log: f.cfg.Log}
	for f.record.Cluster() == "" {
		waiting, err := f.look(ctx)
		if err != nil {
			return err
		}
		if f.record.Cluster() != "" {
			break
		}
		f.mu.Lock()
		f.mu.waiting = waiting
		f.mu.Unlock()
		said.say(waiting)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
			pause = min(2*pause, 10*f.cfg.Pace)
		case <-f.again:
			// Whoever makes the node look again is not to keep it busy.
			select {
			case <-time.After(f.cfg.Pace / 2):
			case <-ctx.Done():
			}
		case r := <-f.asked:
			r.done <- r.do(ctx)
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// notice says what is waited for when that changes, and again after a while.
type notice struct {
	log  *slog.Logger
	last string
	at   time.Time
}

func (n *notice) say(waiting string) {
	since := time.Since(n.at)
	if since < saySoonest || waiting == n.last && since < sayAgain {
		return
	}
	n.last, n.at = waiting, time.Now()
	n.log.Info("the node waits for its cluster", "reason", waiting)
}

// view is what a look saw at one address.
type view struct {
	address string
	answer  Answer
	err     error
	// ahead is how far the other clock is ahead of this one.
	ahead time.Duration
}

// see asks the nodes at some addresses who they are.
func (f *Former) see(ctx context.Context, addresses []string) []view {
	views, hello := make([]view, len(addresses)), f.hello()
	var asked sync.WaitGroup
	for i, address := range addresses {
		asked.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, askWait)
			defer cancel()
			v := &views[i]
			v.address = address
			sent := time.Now()
			v.err = f.cfg.Ask(ctx, address, MethodHello, hello, &v.answer)
			trip := time.Since(sent)
			v.ahead = v.answer.Now.Sub(f.cfg.Now()) + trip/2
		})
	}
	asked.Wait()
	return views
}

// look looks at the other nodes once and takes the step that this makes possible.
// Otherwise it returns what the node waits for.
func (f *Former) look(ctx context.Context) (waiting string, err error) {
	s, waiting, err := f.lookAround(ctx)
	if err != nil || f.record.Cluster() != "" || len(s.members) > 0 {
		return waiting, err
	}
	return f.found(ctx, s)
}

// addresses are those that this node was given and its own, where nobody else
// should be.
func (f *Former) addresses() []string {
	addresses := []string{f.cfg.Self.Address}
	for _, address := range f.cfg.Join {
		if !slices.Contains(addresses, address) {
			addresses = append(addresses, address)
		}
	}
	return addresses
}

// lookAround looks at the other nodes once, and takes this one into the cluster that
// it sees, if it sees one.
func (f *Former) lookAround(ctx context.Context) (s seen, waiting string, err error) {
	views := f.see(ctx, f.addresses())
	if ctx.Err() != nil {
		return s, "", ctx.Err()
	}
	s = f.sort(views)
	f.mu.Lock()
	f.mu.seeds, f.mu.met = s.seeds, map[string]bool{}
	for _, v := range s.waiting {
		f.mu.met[v.answer.Node.Install] = len(v.answer.Seeds) > 0
	}
	f.mu.Unlock()
	if err := f.obstacle(s); err != nil {
		return s, "", err
	}
	for _, v := range s.members {
		if v.answer.Standing == standingMember {
			return s, "", f.belong(v)
		}
	}
	if len(s.members) > 0 {
		waiting, err = f.join(ctx, s.members)
	}
	return s, waiting, err
}

// seen is what a look saw, sorted.
type seen struct {
	members []view   // of a cluster
	waiting []view   // those that belong to none, each once
	absent  []view   // where nobody answers as a node that can be talked to
	instead *view    // another node at this one's address
	seeds   []string // the addresses that were given and this node's own, in order
	first   bool     // the first of them is this node's own
}

func (f *Former) sort(views []view) seen {
	var s seen
	own := f.cfg.Self.Address
	s.seeds = slices.Clone(f.cfg.Join)
	alias := ""
	installs := map[string]bool{}
	for _, v := range views {
		switch {
		case itself(v):
			if v.address != own {
				alias = v.address
			}
		case v.address == own && v.err == nil:
			s.instead = &v
		case v.address == own && refused(v) == nil: // others may reach it all the same
		case v.err != nil:
			s.absent = append(s.absent, v)
		case v.answer.Cluster != "":
			s.members = append(s.members, v)
		case !installs[v.answer.Node.Install]:
			installs[v.answer.Node.Install] = true
			s.waiting = append(s.waiting, v)
		}
	}
	switch {
	case slices.Contains(s.seeds, own):
	case alias != "":
		own = alias
	default:
		s.seeds = append(s.seeds, own)
	}
	slices.Sort(s.seeds)
	s.seeds = slices.Compact(s.seeds)
	s.first = s.seeds[0] == own
	return s
}

// request is what a user asks of a node without a cluster; Run does it.
type request struct {
	do   func(context.Context) error
	done chan error // capacity 1
}

func (f *Former) ask(ctx context.Context, do func(context.Context) error) error {
	if id := f.record.Cluster(); id != "" {
		return errFounded(id)
	}
	r := request{do, make(chan error, 1)}
	select {
	case f.asked <- r:
	case <-f.ended:
		return errFounded(f.record.Cluster())
	case <-ctx.Done():
		return spec.Errorf(spec.CodeUnavailable, "the node is busy with the other nodes: %w", ctx.Err())
	}
	select {
	case err := <-r.done:
		return err
	case <-ctx.Done():
		return spec.Errorf(spec.CodeTimeout, "the node goes on, and it is not known yet what comes of it: %w", ctx.Err())
	}
}

// Init founds a cluster of this node and those it sees at the addresses it was
// given. voters, if there are any, names those that make the control group.
func (f *Former) Init(ctx context.Context, voters []string) error {
	return f.ask(ctx, func(ctx context.Context) error { return f.init(ctx, voters) })
}

// JoinAt has this node join the cluster of the node at an address.
func (f *Former) JoinAt(ctx context.Context, address string) error {
	return f.ask(ctx, func(ctx context.Context) error { return f.joinAt(ctx, address) })
}

func errFounded(cluster string) error {
	return spec.Errorf(spec.CodeConflict, "the node belongs to cluster %s already", cluster).
		WithHint("pheromone cluster status shows it")
}
