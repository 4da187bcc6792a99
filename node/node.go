package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/pheromone-run/pheromone/api"
	"github.com/pheromone-run/pheromone/exec"
	"github.com/pheromone-run/pheromone/exec/artifact"
	"github.com/pheromone-run/pheromone/exec/logs"
	"github.com/pheromone-run/pheromone/exec/process"
	"github.com/pheromone-run/pheromone/exec/spread"
	"github.com/pheromone-run/pheromone/exec/wasm"
	"github.com/pheromone-run/pheromone/internal/watchdog"
	"github.com/pheromone-run/pheromone/node/blobs"
	"github.com/pheromone-run/pheromone/node/conductor"
	"github.com/pheromone-run/pheromone/node/form"
	"github.com/pheromone-run/pheromone/node/peer"
	"github.com/pheromone-run/pheromone/raft/control"
	"github.com/pheromone-run/pheromone/raft/shard"
	"github.com/pheromone-run/pheromone/spec"
	"github.com/pheromone-run/pheromone/store"
)

// Node is a running node. Start makes one, Close ends it.
type Node struct {
	cfg     Config
	started time.Time

	db        *store.DB
	control   *control.Group
	host      *shard.Host
	artifacts *artifact.Store
	logs      *logs.Logs
	pool      *exec.Pool
	processes *process.Runtime // behind the pool
	spread    *spread.Runtime  // before the pool in a cluster; nil for a node that is alone
	server    *api.Server
	listener  net.Listener
	disk      *watchdog.Watchdog // nil if the disk is not watched

	// Other nodes; nil for a node that is alone.
	network *peer.Network
	caller  *peer.Caller
	methods map[string]peer.Handler // what others may ask
	record  *form.Record
	former  *form.Former
	keeper  atomic.Pointer[form.Keeper] // once the control group is open
	open    atomic.Bool                 // all parts are started

	locals    locals
	hints     hints
	lookouts  lookouts
	questions *questions
	conductor *conductor.Conductor
	blobs     *blobs.Blobs // nil for a node that is alone

	hashing chan struct{} // holds one token while ShardHash reads a shard

	ready    atomic.Bool
	stopping atomic.Bool

	ctx    context.Context // ends when the node stops
	cancel context.CancelFunc
	tasks  tasks
	ended  chan struct{} // closed when Close is done
	once   sync.Once
	failed atomic.Pointer[error]
}

// Start opens the data folder and starts everything. It returns once the node
// takes commands, or with what stood in the way; then nothing is left running. A
// node of a cluster may have to wait for others: Start returns before, Ready says
// when it takes commands, and Wait what made that impossible.
func Start(ctx context.Context, cfg Config) (*Node, error) {
	cfg = cfg.withDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, spec.Errorf(spec.CodeInvalid, "configuration: %w", err)
	}
	n := &Node{cfg: cfg, started: time.Now(), methods: map[string]peer.Handler{}, hashing: make(chan struct{}, 1), ended: make(chan struct{})}
	n.locals.all.Store(&map[spec.ShardID]*local{})
	n.questions = newQuestions(n)
	n.answerExecs()
	n.ctx, n.cancel = context.WithCancel(context.Background())
	if err := n.start(ctx); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *Node) start(ctx context.Context) error {
	// The address is taken first: it is what most often stands in the way.
	var err error
	if n.listener, err = net.Listen("tcp", n.cfg.Listen); err != nil {
		return fmt.Errorf("listen on %s: %w", n.cfg.Listen, err)
	}
	if err := n.openStore(); err != nil {
		return err
	}
	clustered, err := n.clustered()
	if err != nil {
		return err
	}
	n.watchDisk(clustered)
	if clustered {
		return n.startClustered()
	}
	if err := n.openAlone(ctx); err != nil {
		return err
	}
	if err := n.startParts(ctx); err != nil {
		return err
	}
	return n.serve()
}

// startParts starts what works on the data, once the control group tells what and
// where that is.
func (n *Node) startParts(ctx context.Context) error {
	if err := n.startExecutors(); err != nil {
		return err
	}
	n.startBlobs()
	if err := n.startShards(); err != nil {
		return err
	}
	if err := n.waitLeaders(ctx); err != nil {
		return err
	}
	if err := n.removeArtifacts(ctx); err != nil {
		return err
	}
	n.tasks.Go(n.followApps)
	if n.network != nil {
		n.tasks.Go(n.followPlacement)
		n.tasks.Go(func() { n.conductor.Run(n.ctx, n.control) })
	}
	n.ready.Store(true)
	n.open.Store(true)
	return nil
}

func (n *Node) openStore() error {
	err := refuseForeign(n.cfg.DataDir)
	if err != nil {
		return err
	}
	n.db, err = store.Open(n.path(storeFolder), store.Options{
		Node: n.cfg.Name, Log: n.cfg.Log, ReserveBytes: n.cfg.ReserveBytes, Fatal: n.fatal,
	})
	return err
}

// openAlone opens the control group of a node without others.
func (n *Node) openAlone(ctx context.Context) error {
	var err error
	if n.control, err = control.Open(ctx, control.Config{
		Node: n.cfg.Name, Dir: n.path(controlFolder), DB: n.db, Log: n.cfg.Log,
	}); err != nil {
		return fmt.Errorf("open the control group: %w", err)
	}
	if _, err := n.control.Apply(ctx, &control.InitPlacement{Shards: n.cfg.Shards, Nodes: []string{n.cfg.Name}}); err != nil {
		return fmt.Errorf("place the shards: %w", err)
	}
	return n.checkPlacement()
}

// checkPlacement refuses data that was laid out in another way than is asked for.
func (n *Node) checkPlacement() error {
	placed := n.control.State().Placement.Shards
	if len(placed) == 0 {
		return errors.New("the data folder has no shards")
	}
	for id, s := range placed {
		if len(s.Replicas) != 1 {
			return fmt.Errorf("shard %d has %d replicas: the data belongs to a cluster, and this version runs one node", id, len(s.Replicas))
		}
		for _, r := range s.Replicas {
			if r.Node != n.cfg.Name {
				return fmt.Errorf("shard %d lives on node %q, this node is %q: start it with the name the data was made with", id, r.Node, n.cfg.Name)
			}
		}
	}
	return nil
}

func (n *Node) startExecutors() error {
	var err error
	if n.artifacts, err = artifact.Open(n.path(artifactsFolder), n.fetchArtifact); err != nil {
		return fmt.Errorf("open the artifacts: %w", err)
	}
	if n.logs, err = logs.Open(n.path(logsFolder), logs.Settings{Logger: n.cfg.Log}); err != nil {
		return fmt.Errorf("open the functions' logs: %w", err)
	}
	processes, err := process.New(process.Settings{
		Scratch: n.path(scratchFolder), Artifacts: n.artifacts, Log: n.logs.Append, Logger: n.cfg.Log,
		SharedBytes: n.cfg.SharedBytes,
	})
	if err != nil {
		return fmt.Errorf("start the executors: %w", err)
	}
	n.processes = processes
	runtimes := map[spec.Runtime]exec.Runtime{spec.RuntimeProcess: processes}
	if len(n.cfg.ModuleHost) > 0 {
		modules, err := wasm.New(wasm.Settings{
			Host: n.cfg.ModuleHost, Cache: n.path(modulesFolder),
			Process: process.Settings{Scratch: n.path(hostsFolder), Artifacts: n.artifacts, Log: n.logs.Append, Logger: n.cfg.Log},
		})
		if err != nil {
			return errors.Join(fmt.Errorf("start the executors of modules: %w", err), processes.Close())
		}
		runtimes[spec.RuntimeWasm] = modules
	}
	if n.cfg.Inproc != nil {
		runtimes[spec.RuntimeInproc] = n.cfg.Inproc
	}
	n.pool = exec.New(runtimes, exec.Settings{InputBytes: n.cfg.InputBytes})
	n.spreadExecs()
	return nil
}

// leadWait bounds how long a start waits for its shards.
const leadWait = time.Minute

// waitLeaders waits until this node's shards take commands. In a cluster they are
// led elsewhere, too, and may have to wait for other nodes: Ready tells of that.
func (n *Node) waitLeaders(ctx context.Context) error {
	if n.network != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, leadWait)
	defer cancel()
	for _, l := range n.localShards() {
		if err := l.leader.WaitLeading(ctx); err != nil {
			return fmt.Errorf("shard %d does not take commands: %w", l.id, err)
		}
	}
	return nil
}

func (n *Node) serve() error {
	registry := prometheus.NewRegistry()
	registry.MustRegister(&collector{n}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	n.server = api.New(api.Config{Version: n.cfg.Version, Registry: registry, Gate: n.gate}, n, n.cfg.Log)
	n.tasks.Go(func() {
		if err := n.server.Serve(n.listener); err != nil && n.ctx.Err() == nil {
			n.fatal(fmt.Errorf("serve the API: %w", err))
		}
	})
	return nil
}

// URL is where the API is.
func (n *Node) URL() string { return "http://" + n.listener.Addr().String() }

// Wait returns once the node is closed, with the reason if it closed itself.
func (n *Node) Wait() error {
	<-n.ended
	if err := n.failed.Load(); err != nil {
		return *err
	}
	return nil
}

// shutdownWait bounds how long requests may take to end.
const shutdownWait = 3 * time.Second

// Close stops the node: requests end, executors are killed, what was accepted
// goes on at the next start. It may be called more than once.
func (n *Node) Close() error {
	var err error
	n.once.Do(func() {
		err = n.close()
		close(n.ended)
	})
	<-n.ended
	return err
}

func (n *Node) close() error {
	var errs []error
	n.ready.Store(false)
	n.stopping.Store(true)
	if n.disk != nil {
		n.disk.Close()
	}
	if n.server != nil {
		ctx, cancel := context.WithTimeout(context.Background(), shutdownWait)
		errs = append(errs, n.server.Shutdown(ctx))
		cancel()
	} else if n.listener != nil {
		errs = append(errs, n.listener.Close())
	}
	// Leaders end before executors do, so that attempts that are killed now are not
	// taken for failed: they run again after the next start.
	n.cancel()
	if n.network != nil {
		errs = append(errs, n.network.Channel(peer.Calls).Close())
	}
	n.tasks.end()
	n.handOver()
	if n.pool != nil {
		errs = append(errs, n.executors().Close())
	}
	if n.host != nil {
		errs = append(errs, n.host.Close())
	}
	if n.control != nil {
		errs = append(errs, n.control.Close())
	}
	if n.network != nil {
		errs = append(errs, n.network.Close())
	}
	if n.logs != nil {
		errs = append(errs, n.logs.Close())
	}
	if n.db != nil {
		errs = append(errs, n.db.Close())
	}
	return errors.Join(errs...)
}

func errStopping(node string) error {
	return spec.Errorf(spec.CodeUnavailable, "node %s is stopping", node)
}

// fatal ends the process: after a failed sync or a broken invariant nothing that
// the node would say could be relied on.
func (n *Node) fatal(err error) {
	n.failed.CompareAndSwap(nil, &err)
	if n.cfg.Fatal != nil {
		n.cfg.Fatal(err)
		return
	}
	n.cfg.Log.Error("the node can't go on and ends itself", "reason", err)
	os.Exit(1)
}

func (n *Node) path(name string) string { return filepath.Join(n.cfg.DataDir, name) }
