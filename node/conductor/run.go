package conductor

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/pheromone-run/pheromone/raft/control"
	"github.com/pheromone-run/pheromone/raft/shard"
	"github.com/pheromone-run/pheromone/spec"
)

// Control is what the conductor needs of the control group; *control.Group is one.
type Control interface {
	State() *control.State
	Changed() <-chan struct{}
	IsLeader() bool
	LeaderChanged() <-chan struct{}
	ReadBarrier(ctx context.Context) error
	Apply(ctx context.Context, c control.Command) (control.Result, error)
	Servers() []control.Server
	LastContact(name string) (time.Time, bool)
	AddServer(ctx context.Context, name, address string, voter bool) error
	RemoveServer(ctx context.Context, name string) error
	TransferLeadership(ctx context.Context) error
}

// Caller asks another node, by its name. args and result are JSON.
type Caller func(ctx context.Context, node, method string, args, result any) error

// Replicas are the replicas on this node.
type Replicas interface {
	// Status lists those that this node has, whether they run or can't.
	Status() []Held
	// Shard returns the one that runs.
	Shard(id spec.ShardID) (*shard.Shard, bool)
	// Lacks tells whether bytes of large objects are not here yet that entries refer to
	// which are applied here. It does so also if that is not known when ctx ends.
	Lacks(ctx context.Context, id spec.ShardID) bool
}

// Held is a replica that a node has.
type Held struct {
	Shard   spec.ShardID
	Replica uint64
	// Lost says that it can't run because what it had is gone.
	Lost bool
	// Moves says that the shard may get or lose a voter: only then it is looked whether
	// bytes are lacking.
	Moves bool
	// Load is how much the shard has to do, if it is led here: what is pending, and
	// what comes in a second.
	Load float64
}

// Config is the configuration of a Conductor. Node, Call and Replicas are required.
type Config struct {
	Node     string // this node's name
	Call     Caller
	Replicas Replicas
	Settings Settings
	// Founded returns how many replicas of a shard the cluster was founded with, 0 if
	// this node does not know. Default: it does not.
	Founded func() int
	Log     *slog.Logger // default: nowhere
}

// Conductor is a node's part in conducting: it answers the conductor of the
// cluster, and is it while its node leads the control group.
type Conductor struct {
	cfg     Config
	control Control // set by Run
}

// Rhythm of the work.
const (
	// interval is how often the conductor looks while nothing changes.
	interval = time.Second
	// breath lies between two looks at least.
	breath = 100 * time.Millisecond
	// statusWait bounds how long a node may take to say where it stands, and carryWait
	// how long a step may take.
	statusWait = time.Second
	carryWait  = 15 * time.Second
	// transferWait bounds how long a lead may take to go to another replica: until it
	// is there, or that is given up, the shard takes nothing.
	transferWait = 3 * time.Second
	// restFirst is how long a shard is left alone after a step of it failed; it doubles
	// up to restMost.
	restFirst = 2 * time.Second
	restMost  = time.Minute
	// stoodStill lies between two looks only if this node itself was held up: then it
	// can't tell how long others have been silent.
	stoodStill = carryWait + 5*time.Second
	// asksMost bounds the nodes that are asked at a time.
	asksMost = 64
)

// New makes a Conductor.
func New(cfg Config) (*Conductor, error) {
	var errs []error
	if cfg.Node == "" {
		errs = append(errs, errors.New("the node has no name"))
	}
	if cfg.Call == nil || cfg.Replicas == nil {
		errs = append(errs, errors.New("it needs a way to call nodes, and the replicas"))
	}
	if err := cfg.Settings.Validate(); err != nil {
		errs = append(errs, err)
	}
	if len(errs) > 0 {
		return nil, spec.Errorf(spec.CodeInvalid, "conductor: %w", errors.Join(errs...))
	}
	cfg.Settings = cfg.Settings.withDefaults()
	if cfg.Founded == nil {
		cfg.Founded = func() int { return 0 }
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Conductor{cfg: cfg}, nil
}

// Run conducts whenever this node leads the control group, until ctx ends. It is
// called once.
func (c *Conductor) Run(ctx context.Context, group Control) {
	c.control = group
	for ctx.Err() == nil {
		changed := c.control.LeaderChanged()
		if c.control.IsLeader() {
			c.conduct(ctx)
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// conduct works until this node does not lead any more.
func (c *Conductor) conduct(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		defer cancel()
		c.waitDeposed(ctx)
	})
	defer watch.Wait()
	defer cancel()
	c.cfg.Log.Info("this node conducts the cluster")
	m := newMemory(time.Now())
	for ctx.Err() == nil {
		changed := c.control.Changed()
		done := c.round(ctx, m)
		c.pause(ctx, breath, nil)
		if !done {
			c.pause(ctx, interval-breath, changed)
		}
	}
	c.cfg.Log.Info("this node does not conduct the cluster any more")
}

// waitDeposed waits until this node does not lead the control group.
func (c *Conductor) waitDeposed(ctx context.Context) {
	for {
		changed := c.control.LeaderChanged()
		if !c.control.IsLeader() {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

func (c *Conductor) pause(ctx context.Context, d time.Duration, changed <-chan struct{}) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-changed:
	case <-ctx.Done():
	}
}

// round looks once and does what there is to do. It tells whether a step was done.
func (c *Conductor) round(ctx context.Context, m *memory) bool {
	if err := c.prepare(ctx, m); err != nil {
		c.cfg.Log.Debug("the state of the control group is not known yet", "reason", err)
		return false
	}
	view := c.collect(ctx, m)
	if ctx.Err() != nil {
		return false
	}
	return c.carryOut(ctx, m, view.State, Plan(view))
}

// prepare waits once for what the leader before has agreed on, and has the cluster
// know how many replicas there are to be, whatever the settings of other nodes say.
func (c *Conductor) prepare(ctx context.Context, m *memory) error {
	ctx, cancel := context.WithTimeout(ctx, carryWait)
	defer cancel()
	if !m.current {
		if err := c.control.ReadBarrier(ctx); err != nil {
			return err
		}
		m.current = true
	}
	state := c.control.State()
	if state.Settings[ReplicasKey] != "" || len(state.Placement.Shards) == 0 {
		return nil
	}
	replicas := cmp.Or(c.cfg.Founded(), c.cfg.Settings.Replicas)
	return c.apply(ctx, &control.Set{Key: ReplicasKey, Value: strconv.Itoa(replicas)})
}
